"""Weights that come with the repository: from a checkout, or from the project's address."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.cli import vocseg
from tests.helpers.server import serve, urls
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.predict import predict
from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.study import initial_weights
from vocseg_lib.study.export import export_weights
from vocseg_lib.study.initial_weights import find_weights
from vocseg_lib.study.recipes import MODEL_TITLES, PILOT_WEIGHTS
from vocseg_lib.study.results import open_files, open_results
from vocseg_lib.study.run import build_model, load_model, load_run
from vocseg_lib.study.study import open_study
from vocseg_lib.study.train import train_model
from vocseg_lib.utils.environment import git_commit
from vocseg_lib.utils.files import read_json

ROOT = Path(__file__).parents[3]


@pytest.fixture
def weights(trained, tmp_path, monkeypatch):
    """The weights' folder of a checkout, with those of a short training."""
    folder = tmp_path / "weights"
    for name in MODEL_TITLES:
        path, _ = export_weights(
            trained.run_folder(name), folder / f"pilot_{name}.safetensors", data=trained.devkit
        )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(initial_weights.PILOT_SHA256, name, digest)
    monkeypatch.setattr(initial_weights, "WEIGHTS_FOLDER", folder)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folder


@pytest.mark.usefixtures("weights")
def test_pictures_are_predicted_without_training(trained, tmp_path):
    names = VocDataset(trained.devkit, "val").names[:2]
    images = [trained.devkit / "JPEGImages" / f"{name}.jpg" for name in names]
    out = tmp_path / "out"
    command = ("predict", "--device", "cpu", "--image", *images, "--out")
    for _ in range(2):  # also over what was written before
        done = vocseg(*command, out)
        assert done.exit_code == 0, done.output
    for name in MODEL_TITLES:
        assert read_json(out / name / "predictions.json")["header"]["model"] == name
    for path in (out / "side_by_side" / f"{name}.png" for name in names):
        height, width, _ = np.array(Image.open(path)).shape
        assert width > 1.5 * height > 300
    Image.new("RGB", (9, 9)).save(path)
    done = vocseg(*command, out)
    assert (done.exit_code, path.name in done.stderr) == (2, True)
    done = vocseg(*command, tmp_path / "p.json")
    assert (done.exit_code, "pilot/yolact, pilot/mask_rcnn" in done.stderr) == (2, True)
    done = vocseg(*command, tmp_path / "p.json", "--weights", "pilot/yolactt")
    assert (done.exit_code, "pilot/yolact, pilot/mask_rcnn" in done.stderr) == (2, True)
    with pytest.raises(FileNotFoundError, match="pilot/yolact, pilot/mask_rcnn"):
        load_model("pilot")
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    Image.open(images[0]).save(tmp_path / "pictures" / "a.png")
    command = ("predict", "--weights", "pilot/yolact", "--image", tmp_path / "pictures", "--out")
    done = vocseg(*command, tmp_path / "p.json")
    assert done.exit_code == 0, done.output
    assert "pictures: folders not searched: more" in done.stderr


@pytest.mark.usefixtures("weights")
def test_a_study_of_them_trains_nothing(trained, tmp_path):
    study = open_study("quick iterations=0", trained.devkit, tmp_path / "results", "pilot")
    for name in MODEL_TITLES:
        train_model(study, name)
    for title, evaluation in open_results(study).evaluations.items():
        expected = open_results(trained).evaluations[title].summary["mask_AP50"]
        assert evaluation.summary["mask_AP50"] == pytest.approx(expected, abs=0.5)  # fp16


def test_outside_of_a_checkout_they_are_downloaded(weights, trained, monkeypatch):
    file = weights / "pilot_yolact.safetensors"
    ours = load_model("pilot/yolact", "cpu").state_dict()
    damaged = weights / "pilot_mask_rcnn.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"{damaged.name} is damaged .SHA-256"):
        load_model("pilot/mask_rcnn")
    monkeypatch.setattr(initial_weights, "WEIGHTS_FOLDER", weights / "missing")
    with serve(file.read_bytes()) as server:
        url = urls(server, "")[0].rstrip("/")
        monkeypatch.setattr(initial_weights, "repository_url", lambda: url)
        recipe = trained.recipe.with_changes(init="pilot/yolact")
        for model in (load_model("pilot/yolact", "cpu"), build_model(recipe, "yolact")):
            for key, value in model.state_dict().items():
                assert torch.equal(value.cpu(), ours[key]), key
        commit = git_commit().removesuffix("-dirty")
        assert server.requests == [(f"/raw/{commit}/weights/{file.name}", None)]
        # The file of the other model is not of this digest.
        with pytest.raises(WeightsError, match=r"pilot_mask_rcnn.*SHA-256"):
            load_model("pilot/mask_rcnn")
    with pytest.raises(WeightsError, match="yolact"):
        build_model(recipe, "mask_rcnn")
    assert {*PILOT_WEIGHTS.values()} == {*MODEL_TITLES}


@pytest.mark.parametrize(("name", "model_name"), PILOT_WEIGHTS.items())
def test_the_repositorys_weights_have_the_ap_of_their_cards(name, model_name, real_devkit):
    file = find_weights(name)
    assert file.parent == initial_weights.WEIGHTS_FOLDER
    assert file.stat().st_size < initial_weights.PILOT_BYTES
    model, config, best = load_run(name, "cpu")
    ap50 = best["metrics"]["mask_AP50"]
    assert f"| mask | {best['metrics']['mask_AP']:.1f} [" in file.with_suffix(".md").read_text()
    stored = ROOT / "results" / "pilot" / "weights" / f"{model_name}_seed0.json.gz"
    (evaluation,) = open_files([stored], real_devkit).evaluations.values()
    assert evaluation.summary["mask_AP50"] == pytest.approx(ap50, abs=1e-3)
    dataset = VocDataset(real_devkit, "val", masks=False)
    dataset.names = dataset.names[:4]
    scores = [
        sorted(d["score"] for d in detections if d["image_id"] <= 4)[-20:]
        for detections in (
            predict(model, dataset, progress=False)["detections"],
            read_predictions(stored)["detections"],
        )
    ]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    assert config["recipe"]["name"] == "laptop"
