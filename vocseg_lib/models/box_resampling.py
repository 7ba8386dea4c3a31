"""Masks brought to the size of their image in their boxes alone, for a CPU.

Bilinear resampling is separable: the pixels in a box are `rows @ cells @ columns`.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks
from vocseg_lib.utils.masks import box_rows_and_columns


def upsample_masks_in_boxes(
    logits: Float[Tensor, "n h w"], boxes: Float[Tensor, "n 4"] | None, height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """The pixels of `upsample_masks`, which is used where there is no crop."""
    if boxes is None or not logits.is_cpu:
        return upsample_masks(logits, boxes, height, width)
    out = _empty_masks(len(logits), height, width)
    size = logits.shape[1:]
    weights = _weights(size[0], height), _weights(size[1], width)
    cells = zip(*map(_slices, box_rows_and_columns(boxes, *size)), strict=True)
    for k, (y, x) in enumerate(cells):
        pixels = [_pixels_of(*line) for line in ((y, size[0], height), (x, size[1], width))]
        rows, columns = weights[0][pixels[0], y], weights[1][pixels[1], x]
        torch.gt(rows @ logits[k, y, x].sigmoid() @ columns.T, 0.5, out=out[k, *pixels])
    return out


def paste_masks_in_boxes(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """The pixels of `paste_masks`."""
    if not masks.is_cpu:
        return paste_masks(masks, boxes, height, width)
    out = _empty_masks(len(masks), height, width)
    # As torchvision: padded by a cell; whole pixels, the far corner included.
    masks, scale = expand_masks(masks, 1)
    for k, (x1, y1, x2, y2) in enumerate(expand_boxes(boxes, scale).long().tolist()):
        y, x = slice(max(y1, 0), min(y2 + 1, height)), slice(max(x1, 0), min(x2 + 1, width))
        rows = _weights(masks.shape[1], y2 + 1 - y1)[y.start - y1 : y.stop - y1]
        columns = _weights(masks.shape[2], x2 + 1 - x1)[x.start - x1 : x.stop - x1]
        torch.gt(rows @ masks[k] @ columns.T, 0.5, out=out[k, y, x])
    return out


def _empty_masks(count: int, height: int, width: int) -> Bool[Tensor, "n h w"]:
    # numpy gets memory that is zero already; torch.zeros writes all of it.
    return torch.from_numpy(np.zeros((count, height, width), bool))


@lru_cache(maxsize=256)
def _weights(cells: int, pixels: int) -> Float[Tensor, "{pixels} {cells}"]:
    """Bilinear weights of the cells of a line for each of its pixels."""
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        return F.interpolate(torch.eye(cells)[None], pixels, mode="linear")[0].T.contiguous()


def _slices(inside: Bool[Tensor, "n length"]) -> list[slice]:
    """The one run of True in each row."""
    first = inside.int().argmax(1)
    ends = torch.stack([first, first + inside.sum(1)], 1)
    return [slice(*row) for row in ends.tolist()]


def _pixels_of(cells: slice, size: int, length: int) -> slice:
    """The pixels of a line of `length` that take from these of its `size` cells."""
    first, last = (cells.start - 0.5) * length / size, (cells.stop + 0.5) * length / size
    return slice(max(int(first), 0), min(int(last) + 1, length))
