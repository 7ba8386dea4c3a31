"""Masks brought to the size of their image in their boxes alone, for a CPU.

Bilinear resampling is separable: the pixels in a box are `rows @ cells @ columns`.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks
from vocseg_lib.utils.masks import CHUNK_PIXELS, box_rows_and_columns
from vocseg_lib.utils.rle import encode_edges

ROUNDING = 2.0**-22
"""Values as near to the threshold may be on its other side when they are computed differently."""
_Small, _Boxes = Float[Tensor, "n h w"], Float[Tensor, "n 4"]
_CropsOf = Callable[..., Iterator["Crop"]]


class Crop(NamedTuple):
    """The pixels of a mask in a rectangle of its image, outside of which there are none."""

    top: int
    left: int
    columns: Bool[np.ndarray, "columns rows"]  # as codes are: down the columns


def upsampled_crops(
    logits: _Small, boxes: _Boxes | None, height: int, width: int
) -> Iterator[Crop]:
    """The pixels of `upsample_masks`."""
    if boxes is None:  # pixels lie between cells of which one, at least, is as high
        inside_y, inside_x = ((logits > -8 * ROUNDING).amax(axis) for axis in (2, 1))
    else:
        inside_y, inside_x = box_rows_and_columns(boxes, *logits.shape[1:])
    padding = int(boxes is None)
    lines = _lines(inside_y, height, padding), _lines(inside_x, width, padding)
    for k, ((y, to_y, rows), (x, to_x, columns)) in enumerate(zip(*lines, strict=True)):
        values = columns @ (rows @ logits[k, y, x].sigmoid()).T
        crop = _crop(values, to_y.start, to_x.start)
        if crop is None:
            one = logits[k : k + 1], None if boxes is None else boxes[k : k + 1]
            pixels = upsample_masks(*one, height, width)[0, to_y, to_x]
            crop = Crop(to_y.start, to_x.start, pixels.T.numpy())
        yield crop


def _lines(
    inside: Bool[Tensor, "n cells"], length: int, padding: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Per mask: its cells, the pixels of a line of `length` that take from them, their weights."""
    size, cells = inside.shape[1], torch.arange(inside.shape[1])
    first = torch.where(inside, cells, size).amin(1).sub(padding).clamp(min=0)
    last = torch.where(inside, cells + 1, 0).amax(1).add(padding).clamp(max=size)
    for start, stop in zip(first.minimum(last).tolist(), last.tolist(), strict=True):
        low, high = int((start - 0.5) * length / size), int((stop + 0.5) * length / size)
        pixels = slice(max(low, 0), min(high + 1, length))
        yield slice(start, stop), pixels, _weights(size, length)[pixels, start:stop]


def pasted_crops(masks: _Small, boxes: _Boxes, height: int, width: int) -> Iterator[Crop]:
    """The pixels of `paste_masks`."""
    # As torchvision: padded by a cell; whole pixels, the far corner included.
    masks, scale = expand_masks(masks, 1)
    for mask, (x1, y1, x2, y2) in zip(
        masks, expand_boxes(boxes, scale).long().tolist(), strict=True
    ):
        y, x = slice(max(y1, 0), min(y2 + 1, height)), slice(max(x1, 0), min(x2 + 1, width))
        in_y, in_x = slice(y.start - y1, y.stop - y1), slice(x.start - x1, x.stop - x1)
        size = max(y2 + 1 - y1, 1), max(x2 + 1 - x1, 1)
        rows, columns = (
            _weights(mask.shape[0], size[0])[in_y],
            _weights(mask.shape[1], size[1])[in_x],
        )
        crop = _crop(columns @ (rows @ mask).T, y.start, x.start)
        if crop is None:
            pixels = F.interpolate(mask[None, None], size, mode="bilinear")[0, 0, in_y, in_x] > 0.5
            crop = Crop(y.start, x.start, pixels.T.numpy())
        yield crop


def _crop(values: Float[Tensor, "columns rows"], top: int, left: int) -> Crop | None:
    """Values > .5; None if rounding could have carried one of them over it."""
    low, high = (values.numpy() > 0.5 + rounding for rounding in (-ROUNDING, ROUNDING))
    return Crop(top, left, high) if np.count_nonzero(low) == np.count_nonzero(high) else None


def resize_in_boxes(
    crops: _CropsOf, plain: Callable, small: _Small, boxes: _Boxes | None, height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """The masks that `plain` makes."""
    if not small.is_cpu:
        return plain(small, boxes, height, width)
    # numpy gets memory that is zero already; torch.zeros writes all of it.
    masks = np.zeros((len(small), width, height), bool)
    for mask, (top, left, columns) in zip(masks, crops(small, boxes, height, width), strict=True):
        mask[left : left + len(columns), top : top + columns.shape[1]] = columns
    return torch.from_numpy(masks).transpose(1, 2)


def encode_in_boxes(
    crops: _CropsOf, small: _Small, boxes: _Boxes | None, height: int, width: int
) -> list[dict]:
    """Compressed codes of these masks, of which none has its image's size in between."""
    codes, part, pixels = [], [], 0
    for crop in crops(small, boxes, height, width):
        part.append(crop)
        pixels += crop.columns.size
        if pixels > CHUNK_PIXELS:
            codes += _encode_crops(part, height, width)
            part, pixels = [], 0
    return codes + _encode_crops(part, height, width)


def _encode_crops(crops: list[Crop], height: int, width: int) -> list[dict]:
    tops, lefts = (np.array([crop[k] for crop in crops], dtype=np.int64) for k in (0, 1))
    sizes = np.array([crop.columns.shape for crop in crops], dtype=np.int64).reshape(-1, 2)
    # All columns, one after the other; a zero below each ends its last run.
    strides = sizes[:, 1] + 1
    starts = np.append(1, sizes[:, 0] * strides).cumsum()
    flat = np.zeros(starts[-1], bool)
    for crop, start, end, stride in zip(crops, starts, starts[1:], strides, strict=False):
        flat[start:end].reshape(-1, stride)[:, :-1] = crop.columns
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    # From there to the image's columns.
    mask = np.repeat(np.arange(len(crops)), sizes[:, 0])  # of each column
    column = np.arange(len(mask)) - np.repeat(np.cumsum(sizes[:, 0]) - sizes[:, 0], sizes[:, 0])
    begins = starts[mask] + column * strides[mask]
    moves = (lefts[mask] + column) * height + tops[mask] - begins
    counts = np.diff(np.searchsorted(edges, begins), append=len(edges))
    edges += np.repeat(moves, counts)
    lengths = np.bincount(mask, counts, len(crops)).astype(np.int64)
    if (sizes[:, 1] == height).any():
        # A run down to the image's edge goes on at the top of the next column.
        of_mask = np.repeat(np.arange(len(crops)), lengths)
        goes_on = (edges[1:-1:2] == edges[2::2]) & (of_mask[1:-1:2] == of_mask[2::2])
        is_edge = np.ones(len(edges), dtype=bool)
        is_edge[1:-1] = ~np.repeat(goes_on, 2)
        edges, lengths = edges[is_edge], np.bincount(of_mask[is_edge], minlength=len(crops))
    return encode_edges(edges, lengths, height, width)


@lru_cache(maxsize=256)
def _weights(cells: int, pixels: int) -> Float[Tensor, "{pixels} {cells}"]:
    """Bilinear weights of the cells of a line for each of its pixels."""
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        return F.interpolate(torch.eye(cells)[None], pixels, mode="linear")[0].T.contiguous()


upsample_masks_in_boxes = partial(resize_in_boxes, upsampled_crops, upsample_masks)
paste_masks_in_boxes = partial(resize_in_boxes, pasted_crops, paste_masks)
encode_upsampled = partial(encode_in_boxes, upsampled_crops)
encode_pasted = partial(encode_in_boxes, pasted_crops)
