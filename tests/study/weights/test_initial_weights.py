"""What models start from: published detectors, files of other code, runs."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from tests.helpers import models as detectors
from tests.helpers.cli import vocseg
from tests.helpers.trainings import QUICK, SMALL
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.models.backbones import WeightsError, tiny
from vocseg_lib.models.config import COCO_SCALES, MODELS, NO_EPSILON
from vocseg_lib.models.official_weights import COCO_NAMES, COCO_SLOTS, load_official
from vocseg_lib.study import initial_weights
from vocseg_lib.study.recipes import RECIPES, get_recipe
from vocseg_lib.study.run import build_model, load_model, load_run
from vocseg_lib.study.study import open_study
from vocseg_lib.utils.files import read_json

IDS = {"aeroplane": 5, "bicycle": 2, "bird": 16, "boat": 9, "bottle": 44, "bus": 6, "car": 3}
IDS |= {"cat": 17, "chair": 62, "cow": 21, "diningtable": 67, "dog": 18, "horse": 19}
IDS |= {"motorbike": 4, "person": 1, "pottedplant": 64, "sheep": 20, "sofa": 63, "train": 7}
IDS |= {"tvmonitor": 72}
"""COCO's category ids of VOC's classes, from both lists."""
SIZES = {"image_size": 138, "short_side": 160, "proposals": 400}  # as in `detectors`


def pictures():
    """In double precision: random weights multiply what rounding does."""
    torch.manual_seed(3)
    return [detectors.picture(*size).double() for size in ((120, 160), (200, 100), (90, 91))]


def check_same(ours, theirs, labels=None):
    """The same detections; `labels`: of ours, by theirs."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert len(a["scores"]) == len(b["scores"]) > 0
        expected = b["labels"].tolist()
        assert a["labels"].tolist() == [labels[k] for k in expected] if labels else expected
        for name in ("boxes", "scores"):
            torch.testing.assert_close(a[name].double(), b[name].double(), atol=1e-4, rtol=1e-4)
        masks = b["masks"][:, 0] > 0.5 if b["masks"].ndim == 4 else b["masks"]
        assert (a["masks"] != masks).float().mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_the_detector_in_a_file_detects_the_same(files, name):
    path, theirs = files[name]
    recipe = QUICK.with_changes(init=str(path), **SIZES)
    recipe = initial_weights.with_network_of_init(recipe, path.parent)
    names = COCO_NAMES if name == "yolact" else COCO_SLOTS
    model = build_model(recipe, name, names).eval().double()
    check_same(model(pictures()), deepcopy(theirs).double()(pictures()))


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_vocs_classes_are_cocos_rows(files, name, capsys):
    """Against the other model with all other rows taken away."""
    path, theirs = files[name]
    ids = [0] + [IDS[n] for n in CLASS_NAMES]
    if name == "yolact":
        ids = [k and COCO_NAMES.index(COCO_SLOTS[k - 1]) + 1 for k in ids]
        theirs = detectors.yolact()
        layer = theirs.head.classes[0]
        rows = [81 * prior + k for prior in range(3) for k in ids]
        theirs.head.sizes = (21, *theirs.head.sizes[1:])
        layers = [(layer, rows)]
    else:
        theirs = detectors.mask_rcnn()
        heads = theirs.roi_heads
        layers = [(heads.box_predictor.cls_score, ids)]
        layers += [(heads.box_predictor.bbox_pred, [4 * k + c for k in ids for c in range(4)])]
        layers += [(heads.mask_predictor.mask_fcn_logits, ids)]
    for layer, rows in layers:
        layer.weight, layer.bias = nn.Parameter(layer.weight[rows]), nn.Parameter(layer.bias[rows])
    recipe = QUICK.with_changes(init=str(path), **SIZES)
    recipe = initial_weights.with_network_of_init(recipe, path.parent)
    model = build_model(recipe, name).eval().double()
    check_same(model(pictures()), theirs.double()(pictures()))
    assert "20 of 20 classes kept" in capsys.readouterr().out
    own = replace(recipe, **{name: replace(recipe.model_config(name), backbone="tiny")})
    with pytest.raises(ValueError, match="backbone=resnet50"):
        build_model(own, name)


def test_the_network_is_taken_from_the_file(files, tmp_path):
    yolact, mask_rcnn = (str(files[name][0]) for name in MODELS)
    taken = initial_weights.with_network_of_init(get_recipe("laptop " + f"init={yolact}"), tmp_path)
    config = taken.yolact
    assert (config.backbone, config.channels, config.scales) == ("resnet50", 256, COCO_SCALES)
    assert (config.square_priors, config.normalization) == (True, "official")
    assert taken.mask_rcnn.backbone == "mobilenet_v2"
    with pytest.raises(WeightsError, match=r"a\.bin.*yolact"):
        build_model(taken, "mask_rcnn")
    old = torch.load(mask_rcnn)
    for new, before in (("inner_blocks.0.0.", "inner_blocks.0."), ("head.conv.0.0.", "head.conv.")):
        old = {k.replace(new, before): v for k, v in old.items()}
    torch.save(old, tmp_path / "old.pth")
    with torch.no_grad():
        for load in (load_model, load_official):  # batch norm folded, and as it is
            model = load(tmp_path / "old.pth")
            assert model.config.batch_norm_eps == 1e-5
        old = {k: v for k, v in old.items() if not k.endswith("batches_tracked")}
        torch.save(old, tmp_path / "old.pth")
        for load in (load_model, load_official):
            model = load(tmp_path / "old.pth")
            assert model.config.batch_norm_eps == NO_EPSILON
            assert len(model([detectors.picture(64, 64)])) == 1
    for name in ("coco", "finetune"):
        recipe = RECIPES[name]
        assert initial_weights.with_network_of_init(recipe, tmp_path) == recipe


@pytest.mark.parametrize("name", MODELS)
def test_the_study_without_training_and_fine_tuning(published, devkit, tmp_path, name):
    requests = published(name, f"{name}.pth")
    for profile, changes in (("coco", []), ("finetune", ["iterations=2", "warmup_iterations=1"])):
        arguments = ("--model", name, "--data", devkit, "--results", tmp_path / profile)
        command = ("train", "--profile", profile, *arguments, "--device", "cpu")
        done = vocseg(*command, "--set", *SMALL, "proposals=100", *changes)
        assert (done.exit_code, "20 of 20 classes kept" in done.stdout) == (0, True), done.output
        run = tmp_path / profile / "runs" / name
        metrics, log = read_json(run / "metrics.json"), read_log(run / "log.jsonl")
        assert metrics["iterations"] <= (profile == "finetune") * 2
        assert log[-1]["iteration"] == len(changes)
        assert read_json(run / "predictions.json")["header"]["model"] == name
        # Once more: nothing is trained or evaluated again.
        before = (run / "predictions.json").stat().st_mtime_ns
        assert vocseg(*command, "--set", *SMALL, "proposals=100", *changes).exit_code == 0
        assert (run / "predictions.json").stat().st_mtime_ns == before
    assert requests == [(f"/{name}.pth", None)]


def test_a_run_is_a_start_for_other_classes(trained, devkit, tmp_path, capsys):
    run = trained.run_folder("yolact")
    names = ("zebra", *reversed(CLASS_NAMES))
    for init in (run, run / "best.pt", trained.results):
        recipe = open_study(trained.recipe, devkit, tmp_path, init=init).recipe
        model = build_model(recipe, "yolact", names)
        assert "20 of 21 classes kept; new: zebra" in capsys.readouterr().out
        own, _, _ = load_run(run, "cpu")
        ours, theirs = (m.head.classes[0].bias.reshape(3, -1) for m in (model, own))
        assert torch.equal(ours[:, 2:], theirs[:, 1:].flip(1))
        assert torch.equal(ours[:, 0], theirs[:, 0])
    starts = (devkit, "without best.pt"), ("nothing.pth", "coco"), ("none", None), ("None", None)
    for init, problem in starts:
        recipe = trained.recipe.with_changes(init=str(init))
        if problem:
            with pytest.raises(FileNotFoundError, match=problem):
                build_model(recipe, "yolact")
        else:
            assert recipe.yolact.init is None
    with pytest.raises(WeightsError, match="mask_rcnn"):
        build_model(trained.recipe.with_changes(init=str(run)), "mask_rcnn")
    with pytest.raises(WeightsError, match="resume"):
        build_model(trained.recipe.with_changes(init=str(run / "last.pt")), "yolact")


@pytest.mark.parametrize("name", MODELS)
def test_pictures_and_a_devkit_are_predicted_without_training(published, devkit, tmp_path, name):
    published(name, f"{name}.pth")
    image = devkit / "JPEGImages" / f"{VocDataset(devkit, 'val').names[0]}.jpg"
    command = ("predict", "--model", name, "--device", "cpu")
    done = vocseg(*command, "--image", image, "--out", tmp_path / "out", "--score", 0.9)
    assert done.exit_code == 0, done.output
    content = read_json(tmp_path / "out" / "predictions.json")
    names = COCO_NAMES if name == "yolact" else COCO_SLOTS
    assert tuple(c["name"] for c in content["categories"]) == names
    # Beside VOC's ground truth, detections of other classes are left out.
    assert vocseg("export-coco", devkit, "--out", tmp_path / "gt.json").exit_code == 0
    files = ("--predictions", tmp_path / "out" / "predictions.json")
    done = vocseg("evaluate", *files, "--data", tmp_path / "gt.json", "--resamples", 0)
    assert done.exit_code == 0, done.output
    done = vocseg("evaluate", *files, "--data", tmp_path / "out" / "predictions.json")
    assert (done.exit_code, "not ground truth" in done.stderr) == (2, True)
    if name == "yolact":  # the faster one
        done = vocseg(*command, "--data", devkit, "--out", tmp_path / "p.json")
        assert done.exit_code == 0, done.output
        config = read_json(tmp_path / "p.json")["header"]["config"]
        assert config["class_names"] == list(CLASS_NAMES)


@pytest.mark.parametrize("name", ["mobilenet_v2", "tiny"])
def test_a_backbone_is_told_by_its_file(devkit, tmp_path, name):
    network = tiny() if name == "tiny" else get_model(name)
    torch.save(network.state_dict(), tmp_path / "weights")
    profile = f"quick init={tmp_path / 'weights'}"
    taken = open_study(profile, devkit, tmp_path).recipe
    assert [taken.model_config(model).backbone for model in MODELS] == [name] * 2
    other = open_study(f"{profile} backbone=resnet50", devkit, tmp_path)
    with pytest.raises(WeightsError, match="resnet50"):
        build_model(other.recipe, "yolact")
