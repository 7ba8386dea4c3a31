"""Masks of their image's size, or the codes of such, from small masks; for a CPU.

Bilinear resampling is separable. Of a column that is resampled across already, each segment between
two cells is linear: it has one edge if its ends are on different sides of the threshold, else none.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks
from vocseg_lib.utils.masks import box_rows_and_columns
from vocseg_lib.utils.rle import encode_edges, encode_rle

ROUNDING = 2.0**-22  # between the values of a pixel that are computed in different ways
CELLS_TOGETHER = 8_000_000  # of columns, to bound memory
_Small, _Boxes, _Masks = Float[Tensor, "n h w"], Float[Tensor, "n 4"], Bool[Tensor, "n _ _"]
_Integers = Int64[np.ndarray, " _"]


class Line(NamedTuple):
    """Pixels of a line of cells. A segment begins at each cell; the first of all ends at cell 0."""

    lower: Int64[np.ndarray, " pixels"]  # the first of the two cells that a pixel is made of
    weight: Float32[np.ndarray, " pixels"]  # of the second one
    first: Int64[np.ndarray, " segments+1"]  # pixel of each segment
    begin: Float[np.ndarray, " segments+1"]  # of each segment, in pixels


class Columns(NamedTuple):
    """Masks resampled across: columns of cells, and how they are to be resampled down."""

    cells: Float32[np.ndarray, " cells"]  # a zero; then column by column, each with a zero at last
    shapes: Int64[np.ndarray, "n 2"]  # columns of each mask; cells of its columns, with their zero
    lefts: Int64[np.ndarray, " n"]  # column of the image
    starts: Int64[np.ndarray, " n"]  # cell of the line
    tops: Int64[np.ndarray, " n"]  # row of the image where the line begins
    lines: list[Line]


@lru_cache(maxsize=8)
def _weights(cells: int, pixels: int) -> Float[Tensor, "{pixels} {cells}"]:
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        return F.interpolate(torch.eye(cells)[None], pixels, mode="linear")[0].T.contiguous()


@lru_cache(maxsize=512)
def _line(cells: int, pixels: int) -> Line:
    weights = _weights(cells, pixels).numpy()
    lower = (weights > 0).argmax(1)
    weight = np.pad(weights, ((0, 0), (0, 1)))[np.arange(pixels), lower + 1]
    first = np.append(0, np.searchsorted(lower, np.arange(cells + 1)))
    begin = (np.arange(-1, cells + 1) + 0.5) * (pixels / cells) + 0.5
    begin[-2] = pixels  # the last cell lasts to the end
    return Line(lower, weight, first, begin)


def upsampled_columns(logits: _Small, boxes: _Boxes | None, height: int, width: int) -> Columns:
    """The columns of `upsample_masks`."""
    if boxes is None:  # pixels lie between cells of which one, at least, is as high
        inside = [(logits > -8 * ROUNDING).amax(axis) for axis in (2, 1)]
    else:
        inside = box_rows_and_columns(boxes, *logits.shape[1:])
    (top, bottom), (left, right) = (_ends(cells, int(boxes is None)) for cells in inside)
    across, down = _line(logits.shape[2], width), _line(logits.shape[1], height)
    lefts = across.first[left]  # the pixels that are made of these cells, also in part
    shapes = np.stack([across.first[right + 1] - lefts, bottom - top + 1], 1)
    begins = np.append(1, shapes.prod(1)).cumsum()
    cells, matrix = torch.zeros(begins[-1]), _weights(logits.shape[2], width)
    for k, (count, stride) in enumerate(shapes.tolist()):
        y, x = slice(top[k], bottom[k]), slice(left[k], right[k])
        out = cells.as_strided((count, stride - 1), (stride, 1), begins[k])
        weights = matrix[lefts[k] : lefts[k] + count, x]
        torch.mm(weights, logits[k, y, x].sigmoid().T, out=out)
    return Columns(cells.numpy(), shapes, lefts, top, np.zeros_like(top), [down] * len(logits))


def _ends(inside: Bool[Tensor, "n cells"], padding: int) -> tuple[_Integers, _Integers]:
    """The first of the cells that are inside, and the one after the last, padded."""
    size, cells = inside.shape[1], torch.arange(inside.shape[1])
    first = torch.where(inside, cells, size).amin(1).sub(padding).clamp(min=0)
    last = torch.where(inside, cells + 1, 0).amax(1).add(padding).clamp(max=size)
    return first.minimum(last).numpy(), last.numpy()


def pasted_columns(masks: _Small, boxes: _Boxes, height: int, width: int) -> Columns:
    """The columns of `paste_masks`."""
    # As torchvision: padded by a cell; whole pixels, the far corner included.
    masks, scale = expand_masks(masks, 1)
    x1, y1, x2, y2 = expand_boxes(boxes, scale).long().T.numpy()
    count, rows, size = masks.shape
    across = [_line(size, pixels) for pixels in np.maximum(x2 + 1 - x1, 1).tolist()]
    down = [_line(rows, pixels) for pixels in np.maximum(y2 + 1 - y1, 1).tolist()]
    lefts = np.clip(x1, 0, width)
    widths = np.maximum(np.clip(x2 + 1, 0, width) - lefts, 0) * (y2 >= y1)
    seen = [slice(*ends) for ends in zip(lefts - x1, lefts - x1 + widths, strict=True)]
    lower = np.concatenate([line.lower[part] for line, part in zip(across, seen, strict=True)])
    weight = np.concatenate([line.weight[part] for line, part in zip(across, seen, strict=True)])
    lower = torch.from_numpy(lower + np.repeat(np.arange(count) * size, widths))
    weight, columns = torch.from_numpy(weight)[:, None], masks.mT.reshape(-1, rows)
    following = columns[(lower + 1).clamp(max=len(columns) - 1)]
    cells = columns[lower] * (1 - weight) + following * weight
    shapes, cells = np.stack([widths, np.full(count, rows)], 1), F.pad(cells.flatten(), (1, 0))
    return Columns(cells.numpy(), shapes, lefts, np.zeros_like(y1), y1, down)


@np.errstate(invalid="ignore")  # NaNs are doubtful
def _edges(columns: Columns, height: int) -> tuple[_Integers, _Integers, set[int]]:
    """Edges of runs, as `encode_edges` takes them, and masks of which rounding decides a pixel."""
    cells, (counts, strides), starts = columns.cells, columns.shapes.T, columns.starts
    high, low = cells > 0.5 + ROUNDING, ~(cells <= 0.5 - ROUNDING)
    before = np.flatnonzero(high[1:] != high[:-1])  # the cell before each edge
    # Of each column: its mask, its first cell, how many edges it has.
    mask, of_mask = np.repeat(np.arange(len(counts)), counts), np.append(0, counts.cumsum())
    begins = np.append(1, strides[mask]).cumsum()
    bounds = np.searchsorted(before, begins - 1)
    edges = np.diff(bounds)
    # Where the line through two cells is at the threshold.
    value = cells.take(before)
    rise = cells.take(before + 1) - value
    part = (0.5 - value) / rise
    segments, pixels = np.array([(len(x.first), len(x.lower)) for x in columns.lines]).T
    segment_of, pixel_of = np.cumsum(segments) - segments, np.cumsum(pixels) - pixels
    segment = before + np.repeat((segment_of + starts)[mask] - begins[:-1] + 1, edges)
    begin = np.concatenate([line.begin for line in columns.lines]) + np.repeat(pixel_of, segments)
    length = np.repeat(pixels / (segments - 2), segments)
    # The first pixel after it, of those of the segment that the image has.
    seen = np.clip([-columns.tops, height - columns.tops], 0, pixels).repeat(segments, axis=1)
    first = np.concatenate([line.first for line in columns.lines]).clip(*seen)
    first += np.repeat(pixel_of, segments)
    lowest, highest = first.take(segment), first.take(segment + 1)
    pixel = (begin.take(segment) + part * length.take(segment)).astype(np.int64)
    pixel = np.minimum(np.maximum(pixel, lowest), highest)
    weight, near = np.concatenate([line.weight for line in columns.lines]), ROUNDING / np.abs(rise)
    is_near = (pixel < highest) & (weight.take(pixel, mode="clip") - part <= near)
    is_near |= (pixel > lowest) & (part - weight.take(pixel - 1) <= near)
    doubtful = np.append(before[is_near] + 1, np.flatnonzero(high != low))
    doubtful = {*(np.searchsorted(begins[of_mask], doubtful, "right") - 1).tolist()}
    # In the image, where edges at the same place are none, in pairs.
    place = columns.lefts[mask] + np.arange(len(mask)) - of_mask[mask]
    pixel += np.repeat((columns.tops - pixel_of)[mask] + place * height, edges)
    is_first, ends = np.diff(pixel, prepend=-1) != 0, bounds[of_mask]
    is_first[ends[ends < len(pixel)]] = True
    places = np.flatnonzero(is_first)
    places = places[np.diff(places, append=len(pixel)) & 1 == 1]
    return pixel.take(places), np.diff(np.searchsorted(places, ends)), doubtful


class _InBoxes(NamedTuple):
    """A way to resize masks, and how to come to the same with less work."""

    plain: Callable[[_Small, _Boxes | None, int, int], _Masks]
    columns_of: Callable[[_Small, _Boxes | None, int, int], Columns]

    def resize(self, small: _Small, boxes: _Boxes | None, height: int, width: int) -> _Masks:
        """The masks that `plain` makes."""
        if not (small.is_cpu and len(small)):
            return self.plain(small, boxes, height, width)
        columns = self.columns_of(*_some(slice(None), small, boxes), height, width)
        edges, lengths, doubtful = _edges(columns, height)
        edges += np.repeat(np.arange(len(small)) * (height * width), lengths)
        runs = np.diff(edges, prepend=0, append=len(small) * height * width)
        pixels = np.repeat((np.arange(len(runs)) & 1).astype(bool), runs)
        masks = torch.from_numpy(pixels.reshape(-1, width, height)).mT
        for k in doubtful:
            masks[k] = self.plain(*_some(slice(k, k + 1), small, boxes), height, width)
        return masks

    def encode(self, small: _Small, boxes: _Boxes | None, height: int, width: int) -> list[dict]:
        """Compressed codes of the masks that `plain` makes."""
        codes, count = [], max(1, CELLS_TOGETHER // ((small.shape[1] + 1) * width))
        for start in range(0, len(small), count):
            part = _some(slice(start, start + count), small, boxes)
            edges, lengths, doubtful = _edges(self.columns_of(*part, height, width), height)
            codes += encode_edges(edges, lengths, height, width)
            for k in doubtful:
                one = slice(start + k, start + k + 1)
                codes[one] = encode_rle(self.plain(*_some(one, small, boxes), height, width))
        return codes


def _some(which: slice, small: _Small, boxes: _Boxes | None) -> tuple[Tensor, Tensor | None]:
    return small[which].detach().float(), None if boxes is None else boxes[which]


UPSAMPLING = _InBoxes(upsample_masks, upsampled_columns)
PASTING = _InBoxes(paste_masks, pasted_columns)
