"""Masks brought to the size of their image tile by tile; only tiles that meet a mask's box.

Bilinear resampling is separable: a tile is `row weights @ cells @ column weights`.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks
from vocseg_lib.utils.masks import box_rows_and_columns

TILE = 32
"""Pixels, side of a tile."""
TILES_AT_ONCE = 256
"""Few enough for the processor's cache."""


def upsample_masks_in_tiles(
    logits: Float[Tensor, "n h w"], boxes: Float[Tensor, "n 4"] | None, height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """The pixels of `upsample_masks`, computed in the boxes alone; on a CPU."""
    if not logits.is_cpu:
        return upsample_masks(logits, boxes, height, width)
    row_cells, row_weights = _tile_weights(logits.shape[1], height)
    column_cells, column_weights = _tile_weights(logits.shape[2], width)
    if boxes is None:
        boxes = logits.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(logits), 4)
    inside_y, inside_x = box_rows_and_columns(boxes, *logits.shape[1:])
    inside_y, inside_x = inside_y[:, row_cells], inside_x[:, column_cells]

    def values(mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
        index = mask[:, None, None], row_cells[y][:, :, None], column_cells[x][:, None, :]
        inside = inside_y[mask, y][:, :, None] & inside_x[mask, x][:, None, :]
        cells = logits[index].sigmoid() * inside
        return row_weights[y] @ cells @ column_weights[x].transpose(1, 2)

    return _resample_tiles(inside_y.any(2), inside_x.any(2), values)[:, :height, :width]


def paste_masks_in_tiles(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """The pixels of `paste_masks`; on a CPU."""
    if not masks.is_cpu:
        return paste_masks(masks, boxes, height, width)
    # Masks padded by a cell, boxes grown to match.
    side = masks.shape[-1] + 2
    padded = F.pad(masks, (1, 1, 1, 1))
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * side / (side - 2)
    # Whole pixels, cut towards zero, the far corner included: where torchvision puts the mask.
    low, high = (center - half).to(torch.int64), (center + half).to(torch.int64)
    meets_y, rows = _paste_weights(low[:, 1], high[:, 1], side, height)
    meets_x, columns = _paste_weights(low[:, 0], high[:, 0], side, width)
    row_index, column_index = (m.flatten().cumsum(0).view_as(m) - 1 for m in (meets_y, meets_x))
    rows = rows @ padded[meets_y.nonzero()[:, 0]]
    columns = columns.transpose(1, 2).contiguous()

    def values(mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
        columns_of_tile = columns.index_select(0, column_index[mask, x])
        return rows.index_select(0, row_index[mask, y]) @ columns_of_tile

    return _resample_tiles(meets_y, meets_x, values)[:, :height, :width]


def _resample_tiles(
    meets_y: Bool[Tensor, "n ty"],
    meets_x: Bool[Tensor, "n tx"],
    values: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Bool[Tensor, "n h w"]:
    """`values(mask, y, x)` [k, TILE, TILE] > .5 in tiles where both `meets` are set, else False."""
    (count, tiles_y), tiles_x = meets_y.shape, meets_x.shape[1]
    # numpy gets memory that is zero already; torch.zeros writes all of it.
    out = torch.from_numpy(np.zeros((count, tiles_y, TILE, tiles_x, TILE), bool))
    tiles = out.transpose(2, 3)
    index = (meets_y[:, :, None] & meets_x[:, None, :]).nonzero()
    for mask, y, x in (part.unbind(1) for part in index.split(TILES_AT_ONCE)):
        # In place, then bool: a third of the time of `> .5`.
        tiles[mask, y, x] = values(mask, y, x).gt_(0.5).bool()
    return out.view(count, tiles_y * TILE, tiles_x * TILE)


@lru_cache(maxsize=64)
def _tile_weights(source: int, length: int) -> tuple[Int[Tensor, "t s"], Float[Tensor, "t p s"]]:
    """Per tile of a line of `length` pixels: the cells of `source` it needs, bilinear weights."""
    with torch.inference_mode(False):  # a cached inference tensor could not be used in training
        tiles = -(-length // TILE)
        needed = min(source, int(TILE * source / length) + 3)
        position = (torch.arange(tiles * TILE) + 0.5) * (source / length) - 0.5
        position = position.clamp(0, source - 1).view(tiles, TILE)
        first = position[:, :1].long().clamp(max=source - needed)
        cells = first + torch.arange(needed)
        return cells, _bilinear(position, cells)


def _paste_weights(
    low: Tensor, high: Tensor, source: int, length: int
) -> tuple[Bool[Tensor, "n t"], Float[Tensor, "k p source"]]:
    """The tiles of a line that each range low..high meets; there, weights of `source` cells."""
    start = torch.arange(-(-length // TILE)) * TILE
    meets = (start <= high[:, None]) & (start + TILE > low[:, None])
    line, tile = meets.nonzero(as_tuple=True)
    low, high = low[line, None], high[line, None]
    pixel = start[tile, None] + torch.arange(TILE)
    position = (pixel - low + 0.5) * source / (high - low + 1).clamp(min=1) - 0.5
    inside = (pixel >= low) & (pixel <= high)
    cells = torch.arange(source).expand(len(position), -1)
    return meets, _bilinear(position.clamp(0, source - 1), cells) * inside[..., None]


def _bilinear(position: Float[Tensor, "t p"], cells: Int[Tensor, "t s"]) -> Float[Tensor, "t p s"]:
    return (1 - (position[:, :, None] - cells[:, None, :]).abs()).clamp(min=0)
