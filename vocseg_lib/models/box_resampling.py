"""Masks brought to the size of their image in their boxes alone, for a CPU.

Bilinear resampling is separable: the pixels in a box are `rows @ cells @ columns`.
"""

from collections.abc import Iterator
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
    inside_y, inside_x = box_rows_and_columns(boxes, *logits.shape[1:])
    lines = zip(_lines(inside_y, height), _lines(inside_x, width), strict=True)
    for k, ((y, to_y, rows), (x, to_x, columns)) in enumerate(lines):
        torch.gt(rows @ logits[k, y, x].sigmoid() @ columns.T, 0.5, out=out[k, to_y, to_x])
    return out


def _lines(inside: Bool[Tensor, "n cells"], length: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Per mask: its cells, the pixels of a line of `length` that take from them, their weights."""
    size, first = inside.shape[1], inside.int().argmax(1)
    for start, stop in zip(first.tolist(), (first + inside.sum(1)).tolist(), strict=True):
        low, high = int((start - 0.5) * length / size), int((stop + 0.5) * length / size)
        pixels = slice(max(low, 0), high + 1)
        yield slice(start, stop), pixels, _weights(size, length)[pixels, start:stop]


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
