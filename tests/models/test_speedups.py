import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

from tests.helpers.models import small, target
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.models import speedups
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.speedups import SparseGradientConv, UpsampledConv, speed_up


def with_random_norms(model):
    """The model with batch norm that is not the identity."""
    for norm in batch_norm_layers(model):
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, std=0.1)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return model


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_a_sped_up_model_computes_the_same_numbers(name):
    plain = with_random_norms(small(name, score_threshold=0.01))
    fast = speed_up(copy.deepcopy(plain))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    images, targets = [torch.rand(3, 90, 120)] * 2, [target(90, 120)] * 2
    for frozen in (False, True):
        results = []
        for model in (plain, fast):
            torch.manual_seed(0)
            model.zero_grad()
            losses = set_train_mode(model, freeze_bn=frozen)(images, targets)
            sum(losses.values()).backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            results.append(({k: v.item() for k, v in losses.items()}, gradient))
        (expected, expected_gradient), (losses, gradient) = results
        assert losses == pytest.approx(expected, rel=1e-5)
        assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()
    with torch.inference_mode():
        out = plain.eval().network(images[:1])
        (expected,), (result,) = plain.postprocess(out), fast.eval().postprocess(out)
        (whole,) = fast(images[:1])
    assert len(expected["scores"]) > 0
    assert torch.allclose(whole["scores"], expected["scores"], atol=1e-4)
    assert torch.equal(result["boxes"], expected["boxes"])
    assert (result["masks"] != expected["masks"]).float().mean() < 1e-4
    plain.load_state_dict(fast.state_dict())
    fast.load_state_dict(plain.state_dict())


def test_elsewhere_than_on_a_cpu_nothing_is_exchanged(monkeypatch):
    model = speed_up(small("yolact")).to("meta").eval()
    for part in ("UpsampledConv", "SparseGradientConv", "_fold"):
        monkeypatch.setattr(speedups, part, None)
    logits = model._forward_layers(torch.zeros(1, 3, 96, 96, device="meta"))[0]["class_logits"]
    assert logits.shape == (1, 3 * (144 + 36 + 9 + 4 + 1), 21)
    masks = model.upsample_masks(torch.zeros(2, 24, 24, device="meta"), None, 50, 60)
    assert masks.shape == (2, 50, 60)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_folded_batch_norm_in_training(name):
    torch.manual_seed(0)
    plain, x = with_random_norms(build_backbone(name, None).body), torch.rand(2, 3, 48, 48)
    plain = IntermediateLayerGetter(plain, {"layer2" if name == "resnet50" else "6": "out"})
    fast, gradients = speed_up(copy.deepcopy(plain)), []
    for body in (plain, fast):
        out = set_train_mode(body, freeze_bn=True)(x)["out"]
        out.sum().backward()
        gradients.append((out.detach(), next(body.parameters()).grad))
    for expected, value in zip(*gradients, strict=True):
        assert (value - expected).norm() < 1e-4 * expected.norm()


def test_folded_weights_follow_their_sources():
    torch.manual_seed(0)
    plain = with_random_norms(build_backbone("tiny", None).body).eval()
    fast, x = speed_up(copy.deepcopy(plain)).eval(), torch.rand(1, 3, 64, 64)
    norm = next(m for m in fast.modules() if isinstance(m, nn.BatchNorm2d))
    scaled = {k: v * 1.5 for k, v in plain.state_dict().items()}
    changes = (
        lambda: next(fast.parameters()).mul_(2),
        lambda: norm.running_mean.add_(1),
        lambda: fast.load_state_dict(scaled),
    )
    with torch.no_grad():
        for change in changes:
            before = fast(x)
            assert torch.equal(fast(x), before)  # from the kept weights
            change()
            plain.load_state_dict(fast.state_dict())
            expected = plain(x)
            assert not torch.equal(fast(x), before)
            assert (fast(x) - expected).norm() < 1e-4 * expected.norm()


def test_a_copy_folds_its_own_batch_norm():
    body = speed_up(with_random_norms(build_backbone("tiny", None).body)).eval()
    copied = copy.deepcopy(body)
    assert copied[1].conv1._norm[0] is copied[1].bn1 is not body[1].bn1


def upsampled_conv(x, weight, bias):
    large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return F.conv2d(large, weight, bias, padding=1).relu()


def assert_same_gradients(function, plain, size, gradient):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, *size).double(), torch.randn(8, 6, 3, 3).double()
    results = []
    for each in (function, plain):
        inputs = [t.clone().requires_grad_() for t in (x, weight, torch.randn(8).double() * 0)]
        out = each(*inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, gradient)))
    for value, expected in zip(*results, strict=True):
        assert torch.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7)])
def test_upsampled_convolution(size):
    gradient = torch.randn(2, 8, 2 * size[0], 2 * size[1]).double()
    assert_same_gradients(UpsampledConv.apply, upsampled_conv, size, gradient)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
def test_sparse_gradients(fraction):
    gradient = torch.randn(2, 8, 5, 7).double() * (torch.rand(2, 1, 5, 7) < fraction)
    plain = lambda *inputs: F.conv2d(*inputs, padding=1)  # noqa: E731
    assert_same_gradients(SparseGradientConv.apply, plain, (5, 7), gradient)


def test_upsampled_convolution_under_autocast():
    x, weight = (torch.randn(s, requires_grad=True) for s in ((1, 4, 6, 6), (4, 4, 3, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        out = UpsampledConv.apply(x, weight, torch.zeros(4))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    expected = torch.autograd.grad(upsampled_conv(x, weight, torch.zeros(4)).sum(), weight)[0]
    assert (weight.grad - expected).norm() < 0.02 * expected.norm()
