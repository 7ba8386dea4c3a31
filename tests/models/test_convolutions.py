import pytest
import torch
import torch.nn.functional as F

from vocseg_lib.models.speedups import SparseGradientConv, UpsampledConv


def plainly(x, weight, bias):
    return F.conv2d(
        F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
        weight,
        bias,
        padding=1,
    ).relu()


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7)])
def test_forward_and_gradients_equal_the_plain_steps(size):
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    weight, bias = torch.randn(8, 6, 3, 3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    gradient = torch.randn(2, 8, 2 * size[0], 2 * size[1], dtype=torch.float64)
    results = []
    for function in (UpsampledConv.apply, plainly):
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
        out = function(*inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, gradient)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_sparse_gradients_equal_dense_ones(share):
    torch.manual_seed(0)
    x, weight = (
        torch.randn(2, 6, 5, 7, dtype=torch.float64),
        torch.randn(8, 6, 3, 3, dtype=torch.float64),
    )
    gradient = torch.randn(2, 8, 5, 7, dtype=torch.float64) * (torch.rand(2, 1, 5, 7) < share)
    results = []
    for function in (SparseGradientConv.apply, lambda *inputs: F.conv2d(*inputs, padding=1)):
        inputs = [
            t.clone().requires_grad_() for t in (x, weight, torch.zeros(8, dtype=torch.float64))
        ]
        out = function(*inputs)
        results.append((out.detach(), *torch.autograd.grad(out, inputs, gradient)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs)


def test_under_autocast():
    x, weight, bias = (
        torch.randn(1, 4, 6, 6, requires_grad=True),
        torch.randn(4, 4, 3, 3, requires_grad=True),
        torch.zeros(4),
    )
    with torch.autocast("cpu", torch.bfloat16):
        out = UpsampledConv.apply(x, weight, bias)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad.dtype == weight.grad.dtype == torch.float32
    gradient = torch.autograd.grad(plainly(x, weight, bias).sum(), weight)[0]
    assert (weight.grad - gradient).norm() < 0.02 * gradient.norm()
