import pickle
from functools import cache
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from torchvision.models import get_model_weights, resnet50

from vocseg_lib.models.backbones import WeightsError, build_backbone
from vocseg_lib.models.config import COCO_SCALES, PASCAL_SCALES
from vocseg_lib.models.official_weights import load_official
from vocseg_lib.utils.weights import load_weights, read_weights


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
        (coco | {"maskiou_net.0.weight": one}, r"YOLACT\+\+"),
        ({"a": one}, r"yolact\.pth"),
    ):
        with pytest.raises(WeightsError, match=problem):
            load(state)
    (tmp_path / "torn.pth").write_bytes(b"torn")
    for name, error in (("torn", WeightsError), ("missing", FileNotFoundError)):
        with pytest.raises(error, match=name):
            load_official(tmp_path / f"{name}.pth")


def endless(values: list) -> list:
    values.append(values)
    return values


def doubled(kind: type) -> object:
    value = kind([1])
    for _ in range(30):
        value = kind([value, value])
    return value


LINEAR = torch.nn.Linear(2, 3)
ODD = {
    "endless": lambda: endless([]),
    "endless in a dict": lambda: {"a": {"b": endless([1])}},
    "doubled lists": lambda: {"a": doubled(list)},
    "doubled tuples": lambda: {"a": doubled(tuple)},
    "long texts": lambda: ["a" * 1_000_000] * 1_000,
    "many keys": lambda: {str(k): k for k in range(200_000)},
    "expanded": lambda: {"a": torch.zeros(1).expand(1_000_000, 1_000_000)},
    "again and again": lambda: [torch.zeros(1_000_000)] * 1_000,
}
ODD_TENSORS = {
    "sparse": lambda: torch.eye(3, 2).to_sparse(),
    "rows": lambda: torch.eye(3, 2).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(3, 2), 1.0, 0, torch.quint8),
    "complex": lambda: torch.eye(3, 2, dtype=torch.complex64),
    "eight bits": lambda: torch.eye(3, 2).to(torch.float8_e4m3fn),
    "no memory": lambda: torch.zeros(3, 2, device="meta"),
    "integers": lambda: torch.eye(3, 2, dtype=torch.int64),
    "nan": lambda: torch.full((3, 2), torch.nan),
    "shape": lambda: torch.eye(2, 3),
    "number": lambda: 1.0,
    "none": lambda: None,
    "list": lambda: [[1.0, 0.0]] * 3,
    "dict": lambda: {"weight": torch.eye(3, 2)},
}


@pytest.mark.parametrize("kind", ODD)
def test_content_that_is_endless_to_walk_is_refused(tmp_path, kind):
    path = tmp_path / "weights.pth"
    torch.save(ODD[kind](), path)
    for load in (read_weights, load_official):
        with pytest.raises((ValueError, WeightsError), match=r"weights\.pth") as caught:
            load(path)
        assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("kind", ODD_TENSORS)
@pytest.mark.filterwarnings("ignore")
def test_values_that_are_no_weights_are_named(tmp_path, kind):
    path = tmp_path / "weights.pth"
    torch.save({"weight": ODD_TENSORS[kind](), "bias": torch.zeros(3)}, path)
    before = [p.clone() for p in LINEAR.parameters()]
    with pytest.raises(ValueError, match=r"weights\.pth.*weight"):
        load_weights(LINEAR, read_weights(path), path)
    assert all(map(torch.equal, before, LINEAR.parameters()))


@pytest.mark.parametrize("key", [7, None, ("a", 1), "k" * 1_000_000])
def test_odd_keys_are_named_in_one_line(tmp_path, key):
    torch.save({**LINEAR.state_dict(), key: torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        load_weights(LINEAR, read_weights(tmp_path / "weights.pth"), tmp_path / "weights.pth")
    assert str(key)[:20] in str(caught.value)
    assert len(str(caught.value)) < 1_000


class Runs:
    """A pickle of it creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_not_run(tmp_path, monkeypatch):
    mark, cache = tmp_path / "mark", tmp_path / "checkpoints"
    cache.mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    published = get_model_weights("resnet50").IMAGENET1K_V1.url.rpartition("/")[2]
    files = {cache / published: lambda _: build_backbone("resnet50")}
    files[tmp_path / "own.pth"] = load_official
    for path, load in files.items():
        for content in ({"a": Runs(mark)}, Runs(mark)):
            for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
                write(content, path)
                with pytest.raises(WeightsError, match=path.parent.name) as caught:
                    load(path)
                assert not mark.exists()
                assert "weights_only" not in str(caught.value)


def test_archives_that_grow_in_memory_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3_000_000)}, tmp_path / "a.pth")
    with ZipFile(tmp_path / "a.pth") as plain, ZipFile(tmp_path / "b.pth", "w", ZIP_DEFLATED) as b:
        for name in plain.namelist():
            b.writestr(name, plain.read(name))
    assert read_weights(tmp_path / "a.pth")["a"].shape == (3_000_000,)
    with pytest.raises(ValueError, match=r"b\.pth"):
        read_weights(tmp_path / "b.pth")
