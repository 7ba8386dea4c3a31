import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from vocseg_lib.__main__ import main
from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import split_ids
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.study.cli_options import build_parser
from vocseg_lib.study.recipes import PROFILES
from vocseg_lib.study.results import evaluate_files

COMMANDS = "fetch verify import-coco train estimate predict evaluate failures describe export-coco bench report smoke".split()


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["vocseg_lib", *map(str, arguments)])
    try:
        code = main()
    except SystemExit as error:
        code = error.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def tiny_profile(monkeypatch):
    from dataclasses import replace

    small = {
        "image_size": 64,
        "short_side": 64,
        "channels": 16,
        "proposals": 32,
        "rois_per_image": 16,
    }
    tiny = replace(PROFILES["quick"], **small, iterations=2, batch_size=2, eval_every=2)
    monkeypatch.setitem(PROFILES, "quick", tiny)


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))],
    ids=lambda p: p.name,
)
def test_commands_that_the_pages_name_are_there(page):
    text = page.read_text().replace("\\\n", " ")
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"python -m vocseg_lib (\w[^`\n#]*)", text):
        build_parser().parse_args(shlex.split(command))
    setting = r' ([A-Z]+)=(?:"[^"]*"|\S*)'
    for target, settings in re.findall(
        rf"(?:^|`)make ([a-z]+)((?:{setting.replace('(', '(?:', 1)})*)", text, re.MULTILINE
    ):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        for name in re.findall(setting, settings):
            assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), name


def test_help_reads_well(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s+\w", out, re.MULTILINE), command
        code, help_text, _ = call(monkeypatch, capsys, command, "--help")
        assert code == 0
        assert "usage: python -m vocseg_lib " + command in help_text


def test_verify_says_what_is_wrong_and_exits_with_one(monkeypatch, capsys, damageable):
    assert call(monkeypatch, capsys, "verify", damageable)[0] == 0
    bad = damageable / "JPEGImages" / f"{split_ids(damageable, 'val')[0]}.jpg"
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
    code, out, _ = call(
        monkeypatch,
        capsys,
        "train",
        "--model",
        model,
        "--data",
        devkit,
        "--results",
        tmp_path,
        "--device",
        "cpu",
    )
    assert code == 0
    assert str(run) in out
    code, _, _ = call(
        monkeypatch,
        capsys,
        "predict",
        run,
        "--data",
        devkit,
        "--out",
        tmp_path / "p.json",
        "--device",
        "cpu",
    )
    assert code == 0
    ours, theirs = (
        json.loads(path.read_text()) for path in (tmp_path / "p.json", run / "predictions.json")
    )
    assert ours["detections"] == theirs["detections"]
    code, out, _ = call(
        monkeypatch,
        capsys,
        "evaluate",
        "--predictions",
        tmp_path / "p.json",
        "--data",
        devkit,
        "--out",
        tmp_path / "m.json",
    )
    assert code == 0
    assert re.search(r"mask +AP50 +\S+ +\S+ +\S+\n", out)
    assert re.search(r"mask +mean_IoU +\S+", out)
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["mask_AP50"] == json.loads((run / "metrics.json").read_text())["mask_AP50"]


def test_predictions_are_drawn_into_pictures(monkeypatch, capsys, devkit, tmp_path, tiny_profile):
    same = ("--data", devkit, "--results", tmp_path, "--device", "cpu")
    assert call(monkeypatch, capsys, "train", "--model", "mask_rcnn", *same)[0] == 0
    run, pictures = tmp_path / "runs" / "mask_rcnn", sorted((devkit / "JPEGImages").iterdir())[:2]
    (tmp_path / "notes.txt").write_text("no picture")
    drawn = (
        "predict",
        "--weights",
        run / "best.pt",
        "--out",
        tmp_path / "drawn",
        "--score",
        "0",
        "--device",
        "cpu",
        "--image",
    )
    code, out, err = call(monkeypatch, capsys, *drawn, *pictures, tmp_path / "notes.txt")
    assert code == 0
    for picture in pictures:
        assert re.search(rf"{picture}: .* -> {tmp_path / 'drawn' / picture.stem}.png", out)
        with (
            Image.open(picture) as before,
            Image.open(tmp_path / "drawn" / f"{picture.stem}.png") as after,
        ):
            assert before.size == after.size
    assert f"{tmp_path / 'notes.txt'} cannot be read as a picture" in err
    code, _, err = call(monkeypatch, capsys, *drawn, tmp_path / "notes.txt")
    assert code == 1
    assert "passed over 1 files" in err


def test_coco_annotations_are_imported(monkeypatch, capsys, devkit, tmp_path):
    exported = [
        ("export-coco", devkit, "--split", split, "--out", tmp_path / f"{split}.json")
        for split in ("train", "val")
    ]
    assert all(call(monkeypatch, capsys, *command)[0] == 0 for command in exported)
    files = (
        tmp_path / "train.json",
        "--images",
        devkit / "JPEGImages",
        "--out",
        tmp_path / "devkit",
    )
    code, out, _ = call(monkeypatch, capsys, "import-coco", *files)
    assert code == 0
    assert str(tmp_path / "devkit") in out
    assert split_ids(tmp_path / "devkit", "val") == split_ids(devkit, "val")
    code, _, err = call(
        monkeypatch, capsys, "import-coco", tmp_path / "train.json", "--out", tmp_path / "other"
    )
    assert code == 2
    assert "say where the images are" in err


def test_a_training_is_stopped_continued_and_repeated(
    monkeypatch, capsys, devkit, tmp_path, tiny_profile
):
    same = (
        "--model",
        "yolact",
        "--data",
        devkit,
        "--results",
        tmp_path / "a",
        "--device",
        "cpu",
        "--mirror",
        tmp_path / "b",
    )
    code, out, _ = call(monkeypatch, capsys, "train", *same, "--max-hours", "0.0000001")
    assert code == 0
    assert "stopped after 1e-07 h at iteration 1; the same command goes on" in out
    code, out, _ = call(monkeypatch, capsys, "train", *same)
    assert code == 0
    assert "best mask AP50" in out
    run = tmp_path / "a" / "runs" / "yolact"
    code, _, err = call(monkeypatch, capsys, "train", *same, "--set", "learning_rate=0.5")
    assert code == 2
    assert "learning_rate: 0.001 there, 0.5 now" in err
    assert "--accept-changes" in err
    code, _, _ = call(
        monkeypatch, capsys, "train", *same, "--set", "iterations=3", "--accept-changes"
    )
    assert code == 0
    assert json.loads((run / "metrics.json").read_text())["train_minutes"] > 0
    mirrored = {path.name for path in (tmp_path / "b" / "runs" / "yolact").iterdir()}
    assert mirrored == {path.name for path in run.iterdir()}

    again = ("train", "--from", run, "--results", tmp_path / "c", "--device", "cpu")
    with pytest.warns(UserWarning, match=r"had other settings up to iteration 2 \(iterations\)"):
        code, out, _ = call(monkeypatch, capsys, *again)
    assert code == 0
    repeat = tmp_path / "c" / "runs" / "yolact"
    assert str(repeat) in out
    recipes = [json.loads((folder / "recipe.json").read_text()) for folder in (run, repeat)]
    assert recipes[0] == recipes[1]
    calls = json.loads((repeat / "run.json").read_text())["calls"]
    assert calls[0]["devkit"] == str(devkit.resolve())


def test_a_repeated_training_is_the_same(monkeypatch, capsys, devkit, tmp_path, tiny_profile):
    same = ("--data", devkit, "--device", "cpu")
    assert (
        call(
            monkeypatch, capsys, "train", "--model", "mask_rcnn", *same, "--results", tmp_path / "a"
        )[0]
        == 0
    )
    run = tmp_path / "a" / "runs" / "mask_rcnn"
    assert (
        call(
            monkeypatch,
            capsys,
            "train",
            "--from",
            run,
            "--device",
            "cpu",
            "--results",
            tmp_path / "b",
        )[0]
        == 0
    )
    ours, theirs = (
        load_checkpoint(tmp_path / name / "runs" / "mask_rcnn" / "best.pt")["model"]
        for name in "ab"
    )
    assert checksum(ours) == checksum(theirs)
    other = synthetic.write(tmp_path / "other", train=4, val=2, seed=9)
    code, _, err = call(
        monkeypatch, capsys, "train", "--from", run, "--data", other, "--results", tmp_path / "c"
    )
    assert code == 2
    assert "is not the data of" in err


def test_estimate(monkeypatch, capsys, devkit, tiny_profile):
    code, out, _ = call(
        monkeypatch, capsys, "estimate", "--model", "yolact", "--data", devkit, "--gpu", "t4"
    )
    assert code == 0
    assert re.search(r"yolact: about \d+ min and \S+ of 15.8 GB on Tesla T4", out)


def test_smoke(monkeypatch, capsys, devkit, tmp_path, tiny_profile):
    monkeypatch.setattr("benchmarks.gpu_check.MODES", {"fp32": {}})  # compiling takes minutes
    arguments = (
        "--profile",
        "quick",
        "--data",
        devkit,
        "--iterations",
        "3",
        "--out",
        tmp_path / "s.json",
        "--device",
        "cpu",
    )
    code, out, _ = call(monkeypatch, capsys, "smoke", *arguments)
    assert code == 0
    assert "mask_rcnn fp32" in out
    assert len(json.loads((tmp_path / "s.json").read_text())["runs"]) == 2


def test_mistakes_get_one_line_and_exit_code_two(monkeypatch, capsys, devkit, tmp_path):
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    image = {"id": 1, "name": "other", "height": 1, "width": 1}
    (tmp_path / "other.json").write_text(
        json.dumps({"header": {"images": [image]}, "detections": []})
    )
    mistakes = [
        ("verify", tmp_path),
        ("train", "--model", "yolact", "--data", tmp_path / "nowhere"),
        ("predict", tmp_path, "--data", devkit, "--out", tmp_path / "p.json"),
        ("evaluate", "--predictions", tmp_path / "torn.json", "--data", devkit),
        ("predict", "--image", tmp_path),
        ("predict", tmp_path),
        ("predict", tmp_path, "--image", tmp_path / "nowhere.jpg"),
        ("predict", tmp_path, "--data", devkit),
        ("predict", tmp_path, "--image", tmp_path, "--score", "high"),
        ("predict", tmp_path, "--image", tmp_path, "--score", "3"),
        ("import-coco", tmp_path / "torn.json", "--out", tmp_path / "devkit"),
        ("import-coco", tmp_path / "nowhere.json", "--out", tmp_path / "devkit"),
        ("train", "--model", "yolact", "--data", tmp_path / "torn.json"),
        ("report", tmp_path / "nowhere"),
        ("evaluate", "--predictions", tmp_path / "nowhere.json", "--data", devkit),
        ("evaluate", "--predictions", tmp_path / "torn.json", "--data", devkit, "--split", "test"),
        ("train", "--model", "unet"),
        ("train", "--model", "yolact", "--device", "banana"),
        ("evaluate", "--predictions", tmp_path / "other.json", "--data", devkit),
        (
            "evaluate",
            "--predictions",
            tmp_path / "torn.json",
            "--data",
            devkit,
            "--resamples",
            "-1",
        ),
        ("export-coco", tmp_path, "--out", tmp_path / "c.json"),
        ("train", "--data", devkit),
        ("train", "--model", "yolact", "--max-hours", "0"),
        ("train", "--model", "yolact", "--set", "learning_rate"),
        ("train", "--model", "yolact", "--set", "batch_size=many"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "batch_size=0"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "augmentation=none of these"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "optimizer=foo"),
        ("estimate", "--model", "yolact", "--data", devkit, "--set", "optimizer=foo"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "schedule=foo"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "lr_milestones=5"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "lr_milestones=('a',)"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "max_bad_fraction=-1"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "learning_rate=1e400"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "learning_rate=0"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "image_size=1"),
        ("train", "--model", "yolact", "--data", devkit, "--set", "batch_norm=foo"),
        ("train", "--from", tmp_path / "list.json", "--data", devkit),
        ("train", "--from", tmp_path / "nowhere"),
        ("estimate", "--model", "yolact", "--gpu", "k80"),
    ]
    for arguments in mistakes:
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert code == 2, arguments
        assert "Traceback" not in err
        assert arguments[0] in err
        if "--set" in arguments:
            assert arguments[-1].split("=")[0] in err


def found_in(devkit):
    truth = voc_to_coco(devkit, "val")
    return truth, [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
        for a in truth["annotations"]
    ]


def test_predictions_from_elsewhere_are_judged_by_a_devkit_or_its_export(
    monkeypatch, capsys, devkit, tmp_path
):
    _, found = found_in(devkit)
    (tmp_path / "p.json").write_text(json.dumps(found))
    code, out, _ = call(monkeypatch, capsys, "export-coco", devkit, "--out", tmp_path / "c.json")
    assert code == 0
    assert "6 images" in out
    said = []
    for data in (devkit, tmp_path / "c.json"):
        arguments = (
            "--predictions",
            tmp_path / "p.json",
            "--data",
            data,
            "--resamples",
            "20",
            "--out",
            tmp_path / "m.json",
        )
        code, out, _ = call(monkeypatch, capsys, "evaluate", *arguments)
        assert code == 0
        said.append(out)
        metrics = json.loads((tmp_path / "m.json").read_text())
        for name in (
            "mask_AP",
            "box_AP75",
            "mask_voc_AP70",
            "mask_AP_without_void",
            "mask_mean_IoU",
        ):
            assert metrics[name] == 100, name
        assert {"kind", "metric", "class", "value", "low", "high"} == metrics["table"][0].keys()
    assert said[0] == said[1]
    boxes = [{k: d[k] for k in ("image_id", "category_id", "bbox", "score")} for d in found]
    (tmp_path / "p.json").write_text(json.dumps(boxes))
    code, out, _ = call(
        monkeypatch,
        capsys,
        "evaluate",
        "--predictions",
        tmp_path / "p.json",
        "--data",
        devkit,
        "--resamples",
        "0",
    )
    assert code == 0
    assert "mask" not in out
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "p.json").write_text(json.dumps(found))
    _, judged = evaluate_files([tmp_path / "p.json", tmp_path / "more" / "p.json"], devkit)
    assert [evaluation.kinds for evaluation in judged.values()] == [["box"], ["mask", "box"]]


def test_malformed_prediction_files_get_one_line(monkeypatch, capsys, devkit, tmp_path):
    _, found = found_in(devkit)
    first, rest = found[0], found[1:]
    mask = first["segmentation"]
    files = {
        "is not JSON": "[{",
        "is not JSON: maximum recursion": "[" * 100_000,
        "no prediction file": '{"annotations": []}',
        "no prediction file: its header": '{"header": 3, "detections": []}',
        "an image without id": '{"header": {"images": [3]}, "detections": []}',
        "detection 0 is 'x'": json.dumps(["x", *rest]),
        "detection 0 has no score": json.dumps(
            [{k: v for k, v in first.items() if k != "score"}, *rest]
        ),
        "detection 0 has no segmentation": json.dumps(
            [{k: v for k, v in first.items() if k != "segmentation"}, *rest]
        ),
        "detection 0 has image_id 99": json.dumps([{**first, "image_id": 99}, *rest]),
        "detection 0 has category_id 21": json.dumps([{**first, "category_id": 21}, *rest]),
        "detection 0 has score nan": json.dumps([{**first, "score": float("nan")}, *rest]),
        "detection 0 has bbox [1]": json.dumps([{**first, "bbox": [1]}, *rest]),
        "detection 0 has a mask of size [3, 4]": json.dumps(
            [{**first, "segmentation": {**mask, "size": [3, 4]}}, *rest]
        ),
        "detection 0 has a mask whose": json.dumps(
            [{**first, "segmentation": {**mask, "counts": mask["counts"][:-2]}}, *rest]
        ),
        "detection 0 has no mask": json.dumps([{**first, "segmentation": None}, *rest]),
    }
    for message, content in files.items():
        (tmp_path / "bad.json").write_text(content)
        code, _, err = call(
            monkeypatch,
            capsys,
            "evaluate",
            "--predictions",
            tmp_path / "bad.json",
            "--data",
            devkit,
        )
        assert code == 2, message
        assert message in err
        assert "bad.json" in err
        assert len(err.strip().splitlines()) == 1, err
    (tmp_path / "good.json").write_text(json.dumps(found))
    for message, content in {"is not JSON": "{", "no COCO ground truth": "[]"}.items():
        (tmp_path / "truth.json").write_text(content)
        arguments = ("--predictions", tmp_path / "good.json", "--data", tmp_path / "truth.json")
        code, _, err = call(monkeypatch, capsys, "evaluate", *arguments)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert message in err
        assert "truth.json" in err


def test_failures_of_files_from_elsewhere(monkeypatch, capsys, devkit, tmp_path):
    content = voc_to_coco(devkit, "val")
    kept = [{**a, "score": 0.9} for a in content["annotations"]]
    for name, found in {"all": kept, "some": kept[::2]}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    files, out, page = (
        [tmp_path / "all.json", tmp_path / "some.json"],
        tmp_path / "out.json",
        tmp_path / "page.html",
    )
    where = ["--predictions", *files, "--data", devkit]
    code, said, _ = call(
        monkeypatch,
        capsys,
        "failures",
        *where,
        "--out",
        out,
        "--gallery",
        page,
        "--set",
        "min_leakage=0.3",
    )
    assert code == 0
    assert f"some: {len(kept[::2])} detections, {len(kept)} objects" in said
    written = json.loads(out.read_text())
    assert written["thresholds"]["min_leakage"] == 0.3
    assert written["models"]["all"]["cases"] == []
    assert len(written["models"]["some"]["cases"]) >= 2 * len(
        kept[1::2]
    )  # missed by masks and by boxes
    assert page.stat().st_size > 10_000
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = ["--data", tmp_path / "truth.json"]
    wrong = {
        ("--predictions", *files, *files, "--data", devkit): "one or two",
        (*where, "--set", "leaks=1"): "sets no threshold",
        (*where, "--set", "min_leakage=much"): "has to be a number",
        (*where, "--set", "min_leakage=7"): "min_leakage is 7",
        ("--predictions", files[0], *truth, "--gallery", page): "--images",
        ("--predictions", tmp_path / "none.json", *truth): "none.json",
    }
    for arguments, message in wrong.items():
        code, _, error = call(monkeypatch, capsys, "failures", *arguments)
        assert (code, message in error) == (2, True), error
    code, _, error = call(
        monkeypatch,
        capsys,
        "failures",
        "--predictions",
        files[0],
        *truth,
        "--gallery",
        page,
        "--images",
        tmp_path,
    )
    assert code == 0  # unreadable pictures are named on the page
