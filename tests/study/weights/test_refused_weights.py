"""Weights that do not fit what is asked for, or are no weights."""

import pytest
import torch

from tests.helpers.cli import vocseg
from tests.helpers.trainings import QUICK, SMALL
from vocseg_lib.models.backbones import WeightsError, build_backbone
from vocseg_lib.models.config import MODELS, NETWORK_FIELDS
from vocseg_lib.study import initial_weights
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.run import build_model
from vocseg_lib.study.study import open_study, reproduce


def test_what_is_no_published_file_is_one_clear_line(published, devkit, tmp_path):
    arguments = ("--model", "yolact", "--data", devkit, "--results", tmp_path, "--device", "cpu")
    for path, reason in (("wrong", "SHA-256"), ("cut", "lost"), ("page", "web page")):
        published("yolact", path, b"some content")
        done = vocseg("train", "--profile", "coco", *arguments)
        *_, line = done.stderr.strip().splitlines()
        assert done.exit_code == 2
        for part in ("train: no published weights", f"/{path}: ", reason, "init=FILE"):
            assert part in line


def trained_from(files, devkit, results):
    """The run folder of a short training that starts from the official YOLACT's file."""
    arguments = ("--model", "yolact", "--data", devkit, "--results", results, "--device", "cpu")
    changes = (*SMALL, "iterations=1", "warmup_iterations=0")
    done = vocseg("train", *arguments, "--init", files["yolact"][0], "--set", *changes)
    assert done.exit_code == 0, done.stderr
    return results / "runs" / "yolact"


def test_fields_that_are_asked_for_must_be_the_weights_own(published, files, devkit, tmp_path):
    published("yolact", "yolact.pth")
    changes = {"init": "coco", "channels": 128}
    study = open_study("laptop", devkit, tmp_path, changes=changes)
    assert study.recipe.yolact.backbone == "resnet50"  # not asked for
    with pytest.raises(ValueError, match="channels=256"):
        build_model(study.recipe, "yolact")
    # Without COCO's weights, its recipes are as any other.
    for init in ("imagenet", "none"):
        plain = open_study("finetune", devkit, tmp_path, init).recipe
        for name, kind in MODELS.items():
            of_network = [getattr(kind(), f) for f in NETWORK_FIELDS[name]]
            assert [
                getattr(plain.model_config(name), f) for f in NETWORK_FIELDS[name]
            ] == of_network
    # Nor can a training that is reproduced have others.
    run = trained_from(files, devkit, tmp_path / "first")
    study, _ = reproduce(run, results=tmp_path / "again", changes={"channels": 128})
    with pytest.raises(ValueError, match="channels=256"):
        build_model(study.recipe, "yolact")
    # Batch norm without an epsilon cannot learn.
    arguments = ("--model", "mask_rcnn", "--data", devkit, "--results", tmp_path, "--device", "cpu")
    old = {k: v for k, v in torch.load(files["mask_rcnn"][0]).items() if "tracked" not in k}
    torch.save(old, tmp_path / "frozen.pth")
    done = vocseg("train", *arguments, "--init", tmp_path / "frozen.pth", "--set", *SMALL)
    assert (done.exit_code, "batch_norm=frozen" in done.stderr) == (2, True), done.stderr


def test_without_training_all_of_a_detector_must_be_there(files, devkit, tmp_path):
    yolact = torch.load(files["yolact"][0])
    for part in ("mask_layer", "semantic"):  # the latter is not needed
        state = {k: v for k, v in yolact.items() if part not in k}
        torch.save(state, tmp_path / f"{part}.pth")
    torch.save(build_backbone("tiny", None).body.state_dict(), tmp_path / "backbone.pth")
    arguments = ("--profile", "coco", "--model", "yolact", "--data", devkit, "--device", "cpu")
    arguments += ("--results", tmp_path, "--set", *SMALL)
    problems = {"mask_layer.pth": "head.coefficients.0.weight", "backbone.pth": "no detector"}
    for init, problem in problems.items() | {("none", "init=none is no detector")}:
        init = init if init == "none" else tmp_path / init
        done = vocseg("train", *arguments, "--init", init)
        assert (done.exit_code, problem in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "runs" / "yolact" / "predictions.json").exists()
    done = vocseg("train", *arguments, "--init", tmp_path / "semantic.pth")
    assert done.exit_code == 0, done.stderr
    # Its model card says that they were not trained on this data.
    done = vocseg("export-weights", tmp_path / "runs" / "yolact")
    card = (tmp_path / "runs" / "yolact" / "yolact.md").read_text()
    assert (done.exit_code, "not trained on it" in card) == (0, True), done.output
    assert "like those it was trained on" not in card


def test_what_a_file_does_not_tell_can_be_said(files, tmp_path):
    state = {k: v for k, v in torch.load(files["mask_rcnn"][0]).items() if "tracked" not in k}
    torch.save(state, tmp_path / "frozen.pth")
    recipe = get_recipe(f"quick init={tmp_path / 'frozen.pth'} batch_norm_eps=1e-5")
    recipe = initial_weights.with_network_of_init(recipe, tmp_path, {"batch_norm_eps"})
    assert build_model(recipe, "mask_rcnn").config.batch_norm_eps == 1e-5


def test_other_architectures_are_refused(files, tmp_path):
    yolact, mask_rcnn = (torch.load(files[name][0]) for name in MODELS)
    boxes = torch.zeros(36, 256, 3, 3)
    wrong = {
        "priors": yolact | {"prediction_layers.0.bbox_layer.bias": boxes[:, 0, 0, 0]},
        "prototypes": yolact | {"prediction_layers.0.mask_layer.bias": torch.zeros(192)},
        "scores": yolact | {"maskiou_net.0.weight": boxes},
        "backbone": {k: v for k, v in yolact.items() if ".layers.2." not in k},
        "masks": {k: v for k, v in mask_rcnn.items() if "mask" not in k},
        "v2": {k: v for k, v in mask_rcnn.items() if "fc6" not in k},
    }
    for name, state in wrong.items():
        torch.save({"model": state}, tmp_path / f"{name}.pth")
        recipe = QUICK.with_changes(init=str(tmp_path / f"{name}.pth"))
        with pytest.raises(WeightsError, match=rf"{name}\.pth"):
            build_model(recipe, "mask_rcnn" if name in ("masks", "v2") else "yolact")
    # YOLACT++ has convolutions with offsets in its body.
    extra = {"backbone.layers.1.0.conv2.conv_offset_mask.weight": torch.zeros(1)}
    torch.save(yolact | extra, tmp_path / "plus.pth")
    recipe = get_recipe(f"quick init={tmp_path / 'plus.pth'}")
    with pytest.raises(ValueError, match="conv_offset_mask"):
        build_model(initial_weights.with_network_of_init(recipe, tmp_path), "yolact")
