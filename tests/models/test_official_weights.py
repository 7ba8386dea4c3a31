from functools import cache

import pytest
import torch
from torchvision.models import resnet50

from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.models.config import COCO_SCALES, PASCAL_SCALES
from vocseg_lib.models.official_weights import load_official


@cache
def official_state(classes: int) -> dict:
    """A state dict with the names and sizes of dbolya/yolact's YOLACT-550 on ResNet-50."""
    shapes = {}
    for name, value in resnet50(weights=None).state_dict().items():
        if not name.startswith("fc.") and "num_batches" not in name:
            stage, _, rest = name.partition(".")
            official = f"layers.{int(stage[5:]) - 1}.{rest}" if stage.startswith("layer") else name
            shapes[f"backbone.{official}"] = value.shape
    convolutions = {"semantic_seg_conv": (classes - 1, 256, 1), "proto_net.10": (32, 256, 1)}
    for i, channels in enumerate((2048, 1024, 512)):
        convolutions[f"fpn.lat_layers.{i}"] = (256, channels, 1)
        convolutions[f"fpn.pred_layers.{i}"] = (256, 256, 3)
    convolutions |= {f"fpn.downsample_layers.{i}": (256, 256, 3) for i in range(2)}
    convolutions |= {f"proto_net.{i}": (256, 256, 3) for i in (0, 2, 4, 8)}
    layers = {"upfeature.0": 256, "bbox_layer": 12, "conf_layer": 3 * classes, "mask_layer": 96}
    for name, outputs in layers.items():
        convolutions[f"prediction_layers.0.{name}"] = (outputs, 256, 3)
    for name, (outputs, inputs, kernel) in convolutions.items():
        shapes |= {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def load(tmp_path):
    def load_saved(state: dict):
        torch.save(state, tmp_path / "yolact.pth")
        return load_official(tmp_path / "yolact.pth")

    return load_saved


def test_every_value_goes_to_its_parameter(load):
    coco = official_state(81)
    # Old checkpoints have some layers twice.
    twice = ("backbone.layer1.0.conv1.weight", "fpn.downsample_layers.2.weight")
    model = load(coco | dict.fromkeys(twice, torch.zeros(1)))
    state = model.state_dict()
    assert len([name for name in state if "num_batches" not in name]) == len(coco)
    for name, official in {
        "body.conv1.weight": "backbone.conv1.weight",
        "body.layer3.5.bn2.running_var": "backbone.layers.2.5.bn2.running_var",
        "body.layer4.0.downsample.0.weight": "backbone.layers.3.0.downsample.0.weight",
        "pyramid.lateral.0.0.weight": "fpn.lat_layers.2.weight",  # official: from C5
        "pyramid.smooth.2.0.bias": "fpn.pred_layers.0.bias",
        "pyramid.down.1.0.weight": "fpn.downsample_layers.1.weight",
        "protonet.before.2.0.weight": "proto_net.4.weight",
        "protonet.after.0.0.weight": "proto_net.8.weight",
        "protonet.after.1.0.bias": "proto_net.10.bias",
        "head.shared.0.bias": "prediction_layers.0.upfeature.0.bias",
        "head.classes.0.weight": "prediction_layers.0.conf_layer.weight",
        "head.box.0.weight": "prediction_layers.0.bbox_layer.weight",
        "head.coefficients.0.weight": "prediction_layers.0.mask_layer.weight",
        "semantic.0.weight": "semantic_seg_conv.weight",
    }.items():
        assert torch.equal(state[name], coco[official]), name
    assert not model.training
    assert (model.config.scales, model.config.square_priors) == (COCO_SCALES, True)


def test_pascal_has_its_own_priors(load):
    model = load(official_state(21))
    assert (model.config.scales, model.config.square_priors) == (PASCAL_SCALES, False)
    assert sum(p.numel() for p in model.parameters()) == 30_734_623


def test_what_does_not_fit_is_reported(load, tmp_path):
    coco, one = official_state(81), torch.zeros(1)
    bias = {k: v for k, v in coco.items() if k != "proto_net.10.bias"}
    for state, problem in (
        (bias, r"protonet\.after\.1\.0\.bias"),
        (coco | {"fpn.lat_layers.2.weight": one}, r"pyramid\.lateral\.0\.0\.weight"),
        (coco | {"maskiou_net.0.weight": one}, r"maskiou_net\.0\.weight"),
        ({"a": one}, r"yolact\.pth"),
    ):
        with pytest.raises(WeightsError, match=problem):
            load(state)
    (tmp_path / "torn.pth").write_bytes(b"torn")
    for name, error in (("torn", WeightsError), ("missing", FileNotFoundError)):
        with pytest.raises(error, match=name):
            load_official(tmp_path / f"{name}.pth")
