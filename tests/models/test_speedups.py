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
    logits = model.forward_layers(torch.zeros(1, 3, 96, 96, device="meta"))[0]["class_logits"]
    assert logits.shape == (1, 3 * (144 + 36 + 9 + 4 + 1), 21)
    masks = model.resize_masks(torch.zeros(2, 24, 24, device="meta"), None, 50, 60)
    assert masks.shape == (2, 50, 60)


def test_between_network_and_codes_nothing_waits_for_a_gpu():
    model = speed_up(small("yolact", max_detections=7)).to("meta").eval()
    with torch.inference_mode():  # the meta device has no values: reading one would be an error
        out = model.network([torch.zeros(3, 90, 120, device="meta")] * 2)
        detections = model.detect(out)
    assert [len(of_image["mask_logits"]) for of_image in detections] == [7, 7]


@pytest.mark.parametrize("uncropped", [False, True])
@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_codes_are_those_of_the_plain_masks(name, uncropped):
    torch.manual_seed(0)
    model = small(name, score_threshold=0.01).eval()
    with torch.inference_mode():
        (detections,) = model.detect(model.network([torch.rand(3, 90, 120)]))
        plain = model.encode(detections, (180, 241), uncropped)
        found = speed_up(model).encode(detections, (180, 241), uncropped)
    assert len(found["masks"]) == len(found["scores"]) > 0
    assert found["masks"] == plain["masks"]
    assert found.get("uncropped_masks") == plain.get("uncropped_masks")
    assert ("uncropped_masks" in found) == (uncropped and name == "yolact")


@pytest.mark.parametrize(("name", "stage"), [("resnet50", "layer2"), ("mobilenet_v2", "6")])
def test_folded_batch_norm_in_training(name, stage):
    torch.manual_seed(0)
    plain, x = with_random_norms(build_backbone(name, None).body), torch.rand(2, 3, 48, 48)
    plain = IntermediateLayerGetter(plain, {stage: "out"})
    fast, results = speed_up(copy.deepcopy(plain)), []
    for body in (plain, fast):
        out = set_train_mode(body, freeze_bn=True)(x)["out"]
        results.append((out, torch.autograd.grad(out.sum(), next(body.parameters()))[0]))
    for expected, value in zip(*results, strict=True):
        assert (value - expected).norm() < 1e-4 * expected.norm()


def test_folded_weights_follow_their_sources():
    torch.manual_seed(0)
    plain = with_random_norms(build_backbone("tiny", None).body).eval()
    fast, x = speed_up(copy.deepcopy(plain)).eval(), torch.rand(1, 3, 64, 64)
    scaled = {k: v * 1.5 for k, v in plain.state_dict().items()}
    changes = (
        lambda: next(fast.parameters()).mul_(2),
        lambda: batch_norm_layers(fast)[0].running_mean.add_(1),
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


def conv(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=1)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7)])
@pytest.mark.parametrize(
    ("fast", "plain", "scale"), [(UpsampledConv, upsampled_conv, 2), (SparseGradientConv, conv, 1)]
)
def test_gradients_are_the_plain_ones(fast, plain, scale, size, fraction):
    height, width = scale * size[0], scale * size[1]
    gradient = torch.randn(2, 8, height, width) * (torch.rand(2, 1, height, width) < fraction)
    shapes, results = ((2, 6, *size), (8, 6, 3, 3), (8,)), []
    inputs = [torch.randn(shape).double().requires_grad_() for shape in shapes]
    for function in (fast.apply, plain):
        out = function(*inputs)
        results.append((out, *torch.autograd.grad(out, inputs, gradient.double())))
    for value, expected in zip(*results, strict=True):
        assert torch.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fast", "plain"), [(UpsampledConv, upsampled_conv), (SparseGradientConv, conv)]
)
def test_gradients_under_autocast(fast, plain):
    torch.manual_seed(0)  # of which no output changes its side of the ReLU when rounded
    shapes = (1, 4, 6, 6), (4, 4, 3, 3), (4,)
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    with torch.autocast("cpu", torch.bfloat16):
        out = fast.apply(*inputs)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().sum(), inputs)
    expected = torch.autograd.grad(plain(*inputs).sum(), inputs)
    for value, gradient in zip(expected, gradients, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - value).norm() < 0.02 * value.norm()
