import json
import re

import pytest

from vocseg_lib import __main__ as cli
from vocseg_lib import voc
from vocseg_lib.recipes import PROFILES


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["vocseg_lib", *map(str, arguments)])
    try:
        code = cli.main()
    except SystemExit as error:
        code = error.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def tiny_profile(monkeypatch):
    from dataclasses import replace

    small = {"image_size": 64, "short_side": 64, "channels": 16, "proposals": 32, "rois_per_image": 16}
    tiny = replace(PROFILES["quick"], **small, iterations=2, batch_size=2, score_every=2)
    monkeypatch.setitem(PROFILES, "quick", tiny)


def test_help_reads_well(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "--help")
    assert code == 0
    for command in ("fetch", "verify", "train", "predict", "evaluate"):
        assert re.search(rf"^    {command} +\w", out, re.MULTILINE), command
        code, help_text, _ = call(monkeypatch, capsys, command, "--help")
        assert code == 0
        assert "usage: python -m vocseg_lib " + command in help_text


def test_verify_says_what_is_wrong_and_exits_with_one(monkeypatch, capsys, damageable):
    assert call(monkeypatch, capsys, "verify", damageable)[0] == 0
    bad = damageable / "JPEGImages" / f"{voc.split_ids(damageable, 'val')[0]}.jpg"
    bad.unlink()
    code, out, _ = call(monkeypatch, capsys, "verify", damageable)
    assert code == 1
    assert f"missing: {bad}" in out
    assert "1 problems" in out


def test_fetch_uses_what_is_there(monkeypatch, capsys, damageable):
    code, out, _ = call(monkeypatch, capsys, "fetch", damageable.parent.parent)
    assert code == 0
    assert str(damageable) in out


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_train_predict_evaluate(monkeypatch, capsys, devkit, tmp_path, tiny_profile, model):
    run = tmp_path / "runs" / model
    code, out, _ = call(monkeypatch, capsys, "train", "--model", model, "--data", devkit, "--results", tmp_path, "--device", "cpu")
    assert code == 0
    assert str(run) in out
    code, _, _ = call(monkeypatch, capsys, "predict", run, "--data", devkit, "--out", tmp_path / "p.json", "--device", "cpu")
    assert code == 0
    ours, theirs = (json.loads(path.read_text()) for path in (tmp_path / "p.json", run / "predictions.json"))
    assert ours["detections"] == theirs["detections"]
    code, out, _ = call(monkeypatch, capsys, "evaluate", tmp_path / "p.json", "--data", devkit, "--out", tmp_path / "m.json")
    assert code == 0
    assert "mask_AP50" in out
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["mask_AP50"] == json.loads((run / "metrics.json").read_text())["mask_AP50"]


def test_mistakes_get_one_line_and_exit_code_two(monkeypatch, capsys, devkit, tmp_path):
    (tmp_path / "torn.json").write_text("{")
    image = {"id": 1, "name": "other", "height": 1, "width": 1}
    (tmp_path / "other.json").write_text(json.dumps({"header": {"images": [image]}, "detections": []}))
    mistakes = [
        ("verify", tmp_path),
        ("train", "--model", "yolact", "--data", tmp_path / "nowhere"),
        ("predict", tmp_path, "--data", devkit, "--out", tmp_path / "p.json"),
        ("evaluate", tmp_path / "torn.json", "--data", devkit),
        ("evaluate", tmp_path / "nowhere.json", "--data", devkit),
        ("evaluate", tmp_path / "torn.json", "--data", devkit, "--split", "test"),
        ("train", "--model", "unet"),
        ("train", "--model", "yolact", "--device", "banana"),
        ("evaluate", tmp_path / "other.json", "--data", devkit),
    ]
    for arguments in mistakes:
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert code == 2, arguments
        assert "Traceback" not in err
        assert arguments[0] in err
