"""Batch norm that its convolution takes over whenever it is a constant affine map: in inference, and when it is frozen."""

from itertools import pairwise, product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

DENSE = 0.25
"""Share of pixels with a gradient above which picking them out does not pay."""


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm after a `FoldingConv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class FoldingConv2d(nn.Conv2d):
    """A convolution without bias that does the work of the `BatchNorm2d` after it, too, while that is in eval mode.

    One pass over the weights takes the place of one over the feature map, in training with frozen batch norm as well. Without
    gradients the folded weights are kept until one of the tensors that they come from changes (writing through `.data`
    goes unnoticed until the next `train()` or `eval()`).
    """

    def __init__(self, conv: nn.Conv2d, norm: BatchNorm2d):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            bias=False,
            device="meta",
        )
        self.weight = conv.weight
        self._norm = (norm,)  # in a tuple, so that it stays registered in one place: where it was
        self._kept = (None, None)

    def train(self, mode: bool = True) -> "FoldingConv2d":
        self._kept = (None, None)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self._norm[0].training:
            return super().forward(x)
        return self._conv_forward(x, *self._folded(x.device.type))

    def _folded(self, device_type: str) -> tuple[Tensor, Tensor]:
        (norm,) = self._norm
        parts = (self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or any(part.is_inference() for part in parts)
        ):
            return fold(*parts, norm.eps)
        autocast = (
            torch.get_autocast_dtype(device_type)
            if torch.is_autocast_enabled(device_type)
            else None
        )
        key = (autocast, *((part.data_ptr(), part._version) for part in parts))
        if self._kept[0] != key:
            self._kept = (
                key,
                tuple(part.to(autocast or part.dtype) for part in fold(*parts, norm.eps)),
            )
        return self._kept[1]


def fold(
    weight: Float[Tensor, "o i h w"],
    scale: Float[Tensor, " o"],
    shift: Float[Tensor, " o"],
    mean: Float[Tensor, " o"],
    variance: Float[Tensor, " o"],
    eps: float,
) -> tuple[Float[Tensor, "o i h w"], Float[Tensor, " o"]]:
    """Weight and bias of the convolution that equals a convolution without bias and the batch norm after it."""
    factor = scale * (variance + eps).rsqrt()
    return weight * factor[:, None, None, None], shift - mean * factor


def fold_batch_norm(network: nn.Module) -> None:
    """Make each convolution that a `BatchNorm2d` follows, in order of registration, a `FoldingConv2d`."""
    modules = list(network.named_modules())
    for (name, conv), (_, norm) in pairwise(modules):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, FoldingConv2d(conv, norm))


class UpsampledConv(torch.autograd.Function):
    """`relu(conv2d(interpolate(x, 2 x, bilinear), weight, bias, padding=1))`, the costliest step of YOLACT's prototypes.

    Forward is just that. Going back, the gradient is shifted and brought to the small map, tap by tap of the kernel, and
    there both gradients are products of matrices: a quarter of the multiplications.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        out = F.conv2d(large, weight, bias, padding=1).relu_()
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, out = ctx.saved_tensors
        batch, outputs, height, width = gradient.shape
        padded = gradient.new_zeros(batch, height + 2, width + 2, outputs)
        inside = padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
        torch.ops.aten.threshold_backward.grad_input(gradient, out, 0, grad_input=inside)
        small_size = [batch, outputs, height // 2, width // 2]
        small = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).to(gradient.dtype)
        taps = weight.permute(2, 3, 0, 1).to(gradient.dtype)
        grad_small, grad_taps = torch.zeros_like(small), torch.empty_like(taps)
        shifted = padded.new_empty(batch, height, width, outputs)
        for i, j in product(range(3), repeat=2):
            shifted.copy_(padded[:, 2 - i : 2 - i + height, 2 - j : 2 - j + width])
            at_small = torch.ops.aten.upsample_bilinear2d_backward(
                shifted.permute(0, 3, 1, 2), [height, width], small_size, align_corners=False
            )
            at_small = at_small.permute(0, 2, 3, 1).reshape(-1, outputs)
            grad_small.addmm_(at_small, taps[i, j])
            torch.mm(at_small.T, small, out=grad_taps[i, j])
        grad_x = grad_small.view(batch, height // 2, width // 2, -1).permute(0, 3, 1, 2)
        grad_weight = grad_taps.permute(2, 3, 0, 1)
        return (
            grad_x.to(x.dtype),
            grad_weight.to(weight.dtype),
            padded.sum((0, 1, 2)).to(weight.dtype),
        )


class SparseGradientConv(torch.autograd.Function):
    """`conv2d(x, weight, bias, padding=1)` of 3 x 3, whose backward pass looks only at the pixels that have a gradient.

    YOLACT's class, box and coefficient losses are taken at the positives and three times as many negatives: a few hundred
    of 19,248 priors. The gradient of all other pixels of its head is zero.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        batch, outputs, height, width = gradient.shape
        image, row, column = gradient.any(1).nonzero(as_tuple=True)
        if len(image) > DENSE * batch * height * width:
            rest = [outputs], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True]
            half = gradient.dtype
            dense = torch.ops.aten.convolution_backward(
                gradient, x.to(half), weight.to(half), *rest
            )
            return dense[0].to(x.dtype), dense[1].to(weight.dtype), dense[2].to(weight.dtype)
        gradient = gradient.permute(0, 2, 3, 1)[image, row, column]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).flatten(0, 2).to(gradient.dtype)
        offsets = torch.arange(3, device=x.device)
        corner = (image * (height + 2) + row) * (width + 2) + column
        pixels = (corner[:, None, None] + offsets[:, None] * (width + 2) + offsets).flatten()
        taps = weight.permute(0, 2, 3, 1)  # rows of taps as the pixels of a patch follow each other
        grad_taps = gradient.T @ padded[pixels].view(len(gradient), taps[0].numel())
        grad_padded = torch.zeros_like(padded)
        grad_padded.index_add_(
            0,
            pixels,
            (gradient @ taps.reshape(outputs, -1).to(gradient.dtype)).view(-1, x.shape[1]),
        )
        grad_x = grad_padded.view(batch, height + 2, width + 2, -1)[:, 1:-1, 1:-1].permute(
            0, 3, 1, 2
        )
        grad_weight = grad_taps.view_as(taps).permute(0, 3, 1, 2)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), gradient.sum(0).to(weight.dtype)
