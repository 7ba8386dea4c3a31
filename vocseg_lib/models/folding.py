"""Batch norm that its convolution takes over whenever it is a constant affine map: in inference, and when it is frozen."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm after a `FoldingConv2d`. Frozen, it stays in eval mode and does not learn; the state dict is the same."""

    def __init__(self, channels: int, frozen: bool = False):
        super().__init__(channels)
        self.frozen = frozen
        self.requires_grad_(not frozen).train()

    def train(self, mode: bool = True) -> "BatchNorm2d":
        return super().train(mode and not self.frozen)

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
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(part.is_inference() for part in parts):
            return fold(*parts, norm.eps)
        autocast = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
        key = (autocast, *((part.data_ptr(), part._version) for part in parts))
        if self._kept[0] != key:
            self._kept = key, tuple(part.to(autocast or part.dtype) for part in fold(*parts, norm.eps))
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
