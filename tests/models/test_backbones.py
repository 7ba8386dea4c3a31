import pytest
import torch
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from vocseg_lib.models.backbones import WeightsError, build_backbone


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "tiny"])
def test_strides_and_channels(name):
    base = build_backbone(name, None)
    stages = IntermediateLayerGetter(base.body, {stage: stage for stage in base.stages})
    shapes = [tuple(x.shape[1:]) for x in stages(torch.rand(2, 3, 64, 64)).values()]
    strides = zip(base.channels, (4, 8, 16, 32), strict=True)
    assert shapes == [(channels, 64 // stride, 64 // stride) for channels, stride in strides]
    assert any(isinstance(module, nn.BatchNorm2d) for module in base.body.modules())


def test_weights_from_a_file(tmp_path, shared):
    source = build_backbone("tiny", None).body
    torch.save(source.state_dict(), tmp_path / "tiny.pt")
    loaded = build_backbone("tiny", tmp_path / "tiny.pt").body
    assert torch.equal(loaded[0][0].weight, source[0][0].weight)
    build_backbone("mobilenet_v2", shared / "weights" / "mobilenet_v2_imagenet.pth")


def test_weights_that_are_not_available_or_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no server there
    with pytest.raises(WeightsError, match="init=none") as caught:
        build_backbone("resnet50", "imagenet")
    assert "resnet50-0676ba61.pth" in str(caught.value)
    with pytest.raises(WeightsError, match="'tiny'"):
        build_backbone("tiny", "imagenet")
    (tmp_path / "torn.pth").write_bytes(b"torn")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for file in ("missing.pth", "torn.pth", "other.pth"):
        with pytest.raises(WeightsError, match=file):
            build_backbone("tiny", tmp_path / file)
    with pytest.raises(ValueError, match="vgg16"):
        build_backbone("vgg16")
