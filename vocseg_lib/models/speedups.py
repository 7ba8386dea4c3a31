"""Parts of the models that compute the same numbers faster on a CPU; see `speed_up`."""

from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vocseg_lib.models.box_resampling import PASTING, UPSAMPLING
from vocseg_lib.models.mask_rcnn import MaskRCNN
from vocseg_lib.models.yolact import PredictionHead, ProtoNet, Yolact


def speed_up(model: nn.Module) -> nn.Module:
    """Exchange parts of a model, in place, for faster ones with equal numbers; returns the model.

    Parameters and state dict stay the same. On other devices than a CPU, where the faster parts
    have not been run, they do what the plain ones do.
    """
    modules = list(model.modules())
    for conv, norm in pairwise(modules):  # in order of registration
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and conv.bias is None:
            conv.__class__, norm.__class__ = FoldingConv2d, FoldedBatchNorm2d
            # In a tuple: the norm stays registered once, where it was.
            conv._norm, conv._folded = (norm,), (None, None)
    for module in modules:
        module.__class__ = FASTER.get(type(module), type(module))
        if isinstance(module, Yolact):
            module.resize_masks, module.encode_masks = UPSAMPLING.resize, UPSAMPLING.encode
        elif isinstance(module, MaskRCNN):
            module.resize_masks, module.encode_masks = PASTING.resize, PASTING.encode
    return model


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that its `FoldingConv2d` applies in eval mode on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.is_cpu and not self.training else super().forward(x)


class FoldingConv2d(nn.Conv2d):
    """A convolution that also does the work of the batch norm after it while that is in eval mode.

    Without gradients the folded weights are kept until a tensor that they come from changes;
    writing through `.data` is not noticed until the next `train()` or `eval()`.
    """

    def train(self, mode: bool = True) -> "FoldingConv2d":
        self._folded = (None, None)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self._norm[0].training or not x.is_cpu:
            return super().forward(x)
        return self._conv_forward(x, *self._weight_and_bias())

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        (norm,) = self._norm
        parts = (self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        changing = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if changing or any(part.is_inference() for part in parts):
            return _fold(*parts, norm.eps)
        mixed = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        key = (mixed, *((part.data_ptr(), part._version) for part in parts))
        if self._folded[0] != key:
            weight, bias = _fold(*parts, norm.eps)
            self._folded = key, (weight.to(mixed or weight.dtype), bias.to(mixed or bias.dtype))
        return self._folded[1]


def _fold(weight, scale, shift, mean, variance, eps: float) -> tuple[Tensor, Tensor]:
    factor = scale * (variance + eps).rsqrt()
    return weight * factor[:, None, None, None], shift - mean * factor


class FastProtoNet(ProtoNet):
    """`ProtoNet` with `UpsampledConv`."""

    def forward(self, p3: Tensor) -> Tensor:
        if not p3.is_cpu:
            return super().forward(p3)
        doubled, last = self.after
        return last(UpsampledConv.apply(self.before(p3), doubled[0].weight, doubled[0].bias))


class JointHead(PredictionHead):
    """`PredictionHead` whose three branches are one convolution; with `SparseGradientConv`."""

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        if not levels[0].is_cpu:
            return super().forward(levels)
        branches = (self.classes[0], self.box[0], self.coefficients[0])
        weight = torch.cat([branch.weight for branch in branches])
        bias = torch.cat([branch.bias for branch in branches])
        shared, conv, cells = self.shared[0], SparseGradientConv.apply, []
        for level in levels:
            x = conv(conv(level, shared.weight, shared.bias).relu_(), weight, bias)
            cells.append(x.permute(0, 2, 3, 1).flatten(1, 2))
        parts = torch.cat(cells, 1).split([len(branch.bias) for branch in branches], 2)
        parts = zip(parts, self.sizes, strict=True)
        classes, box, coefficients = (part.reshape(len(part), -1, size) for part, size in parts)
        return classes, box, coefficients.tanh()


FASTER = {ProtoNet: FastProtoNet, PredictionHead: JointHead}


class UpsampledConv(torch.autograd.Function):
    """`relu(conv2d(interpolate(x, 2 x, bilinear), weight, bias, padding=1))`, faster backward.

    Backward, the gradient is shifted and brought to the small map, per tap of the kernel; there
    both gradients are products of matrices: a quarter of the multiplications.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        out = F.conv2d(large, weight, bias, padding=1).relu_()
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        x, weight, out = ctx.saved_tensors
        # The gradient before the ReLU, padded by a pixel.
        batch, outputs, height, width = gradient.shape
        padded = gradient.new_zeros(batch, height + 2, width + 2, outputs)
        inside = padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
        torch.ops.aten.threshold_backward.grad_input(gradient, out, 0, grad_input=inside)
        # Both gradients, tap by tap.
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
        grad_x = grad_small.view(batch, height // 2, width // 2, -1).permute(0, 3, 1, 2).to(x.dtype)
        grad_weight = grad_taps.permute(2, 3, 0, 1).to(weight.dtype)
        return grad_x, grad_weight, padded.sum((0, 1, 2)).to(weight.dtype)


class SparseGradientConv(torch.autograd.Function):
    """`conv2d(x, weight, bias, padding=1)`, 3 x 3; backward reads only pixels with a gradient.

    YOLACT's box and mask losses are over positives, its class loss also over up to three times as
    many negatives: a few hundred of 19,248 priors.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        image, row, column = gradient.any(1).nonzero(as_tuple=True)
        # The outputs at these pixels again, as products with 3 x 3 patches, now for autograd.
        with torch.enable_grad():
            x, weight, bias = (tensor.to(gradient.dtype) for tensor in inputs)
            padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
            numbers = torch.arange(padded[..., 0].numel()).view(padded.shape[:3])
            windows = numbers.unfold(1, 3, 1).unfold(2, 3, 1)[image, row, column]
            patches = padded.flatten(0, 2).index_select(0, windows.flatten())
            weight = weight.permute(0, 2, 3, 1).flatten(1)
            out = F.linear(patches.view(-1, weight.shape[1]), weight, bias)
        return torch.autograd.grad(out, inputs, gradient.permute(0, 2, 3, 1)[image, row, column])
