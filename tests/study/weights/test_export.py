"""Weights for others: safetensors and a model card."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from tests.helpers.cli import vocseg
from vocseg_lib import load_model
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.models.config import MODELS
from vocseg_lib.study.export import export_weights
from vocseg_lib.study.run import build_model, load_run
from vocseg_lib.study.train import train_model
from vocseg_lib.utils.files import read_json


@pytest.mark.parametrize("name", MODELS)
def test_a_run_is_exported_and_used(trained, devkit, tmp_path, name, capsys):
    run, out = trained.run_folder(name), tmp_path / "out" / "w.safetensors"
    done = vocseg("export-weights", run, "--out", out, "--precision", "fp32", "--data", devkit)
    assert (done.exit_code, str(out) in done.stdout) == (0, True), done.output
    own, config, _ = load_run(run, "cpu")
    model = load_model(out, "cpu")
    assert (model.class_names, model.training) == (trained.class_names, False)
    assert all(map(torch.equal, own.state_dict().values(), model.state_dict().values()))
    with safe_open(out, "pt") as file:
        header = json.loads(file.metadata()["vocseg"])
    assert header["config"] == config
    assert header["metrics"] == read_json(run / "metrics.json")
    # In half precision, in the run folder; as a start; for pictures.
    assert vocseg("export-weights", run, "--data", devkit).exit_code == 0
    half = run / f"{name}.safetensors"
    assert half.stat().st_size < 0.6 * out.stat().st_size
    for (key, value), expected in zip(
        load_model(half, "cpu").state_dict().items(), own.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3, msg=key)
    build_model(trained.recipe.with_changes(init=str(half)), name, ["cat", "zebra"])
    assert "1 of 2 classes kept; new: zebra" in capsys.readouterr().out
    picture = devkit / "JPEGImages" / f"{trained.dataset('val').names[0]}.jpg"
    done = vocseg("predict", half, "--image", picture, "--out", tmp_path / "p.json")
    assert done.exit_code == 0, done.output


def test_the_card_comes_from_the_runs_files(trained, devkit, tmp_path):
    run, out = trained.run_folder("yolact"), tmp_path / "w.safetensors"
    metrics = read_json(run / "metrics.json")
    for name in ("run.json", "gone"):
        if name == "gone":
            content = read_json(run / "run.json")
            content["sessions"] = [s | {"devkit": "/gone"} for s in content["sessions"]]
            (run / "run.json").write_text(json.dumps(content))
        assert vocseg("export-weights", run, "--out", out).exit_code == 0
        card = out.with_suffix(".md").read_text()
        assert all(class_name in card for class_name in trained.class_names)
        assert f"| mask | {metrics['mask_AP']:.1f}" in card
        assert ("| `train.iterations` | 4 | 12000 |" in card, "Synthetic" in card) == (
            True,
            name != "gone",
        )
        assert card.count("[") == 1 + 6 * (name != "gone")
        assert 'load_model("w.safetensors")' in card


def test_the_card_tells_what_the_run_started_from(trained, tmp_path):
    run = trained.run_folder("yolact")
    recipe = trained.recipe.with_changes(init=str(run), selection_share=0.25)
    second = replace(trained, recipe=recipe, results=tmp_path / "second")
    train_model(second, "yolact")
    card = export_weights(second.run_folder("yolact"))[1].read_text()
    before = read_json(run / "metrics.json")["iterations"]
    assert f"run of {before} iterations by recipe `quick`, which started from random" in card
    assert "seed 0, 0 minutes on " in card
    assert f", torch {torch.__version__}," in card
    assert "12 images of train, 3 of which chose the weights" in card


def test_what_cannot_be_exported_or_read_is_named(trained, tmp_path):
    run = trained.run_folder("yolact")
    done = vocseg("export-weights", run, "--out", tmp_path / "w.pt")
    assert (done.exit_code, "safetensors" in done.stderr) == (2, True)
    best = load_checkpoint(run / "best.pt")
    best["model"]["head.box.0.weight"][0, 0, 0, 0] = 1e6
    save_checkpoint(run / "best.pt", best)
    done = vocseg("export-weights", run)
    assert (done.exit_code, "head.box.0.weight" in done.stderr) == (2, True)
    assert vocseg("export-weights", run, "--precision", "fp32").exit_code == 0
    whole = (run / "yolact.safetensors").read_bytes()
    for content in (whole[:2_000], whole[:-9], b"\x10\0\0\0\0\0\0\0{}              "):
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"w\.safetensors"):
            load_model(tmp_path / "w.safetensors", "cpu")
