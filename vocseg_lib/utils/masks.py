"""Masks: run-length codes, crops, and bringing small masks to the size of their image."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TILE = 32
"""Pixels: the side of the squares in which masks are enlarged. Squares that a mask's box does not meet cost nothing."""
TILES_AT_ONCE = 256
"""So few that what they need stays in the processor's cache."""


def box_rows_and_columns(
    boxes: Float[Tensor, "n 4"], height: int, width: int, padding: float = 1.0
) -> tuple[Bool[Tensor, "n height"], Bool[Tensor, "n width"]]:
    """Which rows and which columns each box covers, grown by `padding` pixels and cut to the grid (YOLACT, sec. 3.1).

    Boxes are relative (0..1) xyxy; swapped corners are put in order, as in the official code. Pixel column c is
    inside when x1 - padding <= c < x2 + padding.
    """
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    low = torch.minimum(boxes[:, :2], boxes[:, 2:]) - padding
    high = torch.maximum(boxes[:, :2], boxes[:, 2:]) + padding
    x = torch.arange(width, device=boxes.device, dtype=boxes.dtype)
    y = torch.arange(height, device=boxes.device, dtype=boxes.dtype)
    return (y >= low[:, 1:]) & (y < high[:, 1:]), (x >= low[:, :1]) & (x < high[:, :1])


def box_mask(
    boxes: Float[Tensor, "n 4"], height: int, width: int, padding: float = 1.0
) -> Bool[Tensor, "n height width"]:
    """Which pixels lie in each box: rows and columns of `box_rows_and_columns` together."""
    rows, columns = box_rows_and_columns(boxes, height, width, padding)
    return rows[:, :, None] & columns[:, None, :]


def upsample_masks(
    logits: Float[Tensor, "n h w"], boxes: Float[Tensor, "n 4"] | None, height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """sigmoid, cropped with relative xyxy boxes (padding 1) unless None, bilinear to height x width, > .5.

    Same pixels as `interpolate(sigmoid(logits) * inside_boxes(...)) > .5` (YOLACT, sec. 3.1), computed in the boxes alone.
    """
    row_cells, row_weights = _tile_weights(logits.shape[1], height, logits.device)
    column_cells, column_weights = _tile_weights(logits.shape[2], width, logits.device)
    if boxes is None:
        boxes = logits.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(logits), 4)
    inside_y, inside_x = box_rows_and_columns(boxes, *logits.shape[1:])
    inside_y, inside_x = inside_y[:, row_cells], inside_x[:, column_cells]

    def values(mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
        cells = logits[
            mask[:, None, None], row_cells[y][:, :, None], column_cells[x][:, None, :]
        ].sigmoid()
        cells = cells * (inside_y[mask, y][:, :, None] & inside_x[mask, x][:, None, :])
        return row_weights[y] @ cells @ column_weights[x].transpose(1, 2)

    return _resample_tiles(inside_y.any(2), inside_x.any(2), values)[:, :height, :width]


def paste_masks(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """Lay each m x m mask into its box of a height x width image and keep > .5; same pixels as torchvision's loop.

    The mask is padded by one cell and the box grown to match, so that borders fade out (Mask R-CNN, sec. 3.1, and
    Detectron's code).
    """
    side = masks.shape[-1] + 2
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * side / (side - 2)
    # Whole pixels, cut towards zero, the far corner included: where torchvision puts the mask.
    low, high = (centre - half).to(torch.int64), (centre + half).to(torch.int64)
    meets_y, rows = _paste_weights(low[:, 1], high[:, 1], side, height)
    meets_x, columns = _paste_weights(low[:, 0], high[:, 0], side, width)
    row_number, column_number = (m.flatten().cumsum(0).view_as(m) - 1 for m in (meets_y, meets_x))
    rows = rows @ padded[meets_y.nonzero()[:, 0]]
    columns = columns.transpose(1, 2).contiguous()

    def values(mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
        return rows.index_select(0, row_number[mask, y]) @ columns.index_select(
            0, column_number[mask, x]
        )

    return _resample_tiles(meets_y, meets_x, values)[:, :height, :width]


def _resample_tiles(
    meets_y: Bool[Tensor, "n ty"],
    meets_x: Bool[Tensor, "n tx"],
    values: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Bool[Tensor, "n h w"]:
    """Masks that are `values(mask, y, x)` [k, TILE, TILE] > .5 in the tiles where both `meets` say so, False elsewhere.

    Bilinear resampling is separable, so the values of a tile are `row weights @ cells @ column weights`.
    """
    (count, tiles_y), tiles_x = meets_y.shape, meets_x.shape[1]
    shape = (count, tiles_y, TILE, tiles_x, TILE)
    # numpy asks for memory that is zero already; torch.zeros writes all of it, which takes as long as the tiles.
    on_cpu = meets_y.device.type == "cpu"
    out = (
        torch.from_numpy(np.zeros(shape, bool))
        if on_cpu
        else torch.zeros(shape, dtype=torch.bool, device=meets_y.device)
    )
    tiles = out.transpose(2, 3)
    index = (meets_y[:, :, None] & meets_x[:, None, :]).nonzero()
    for mask, y, x in (part.unbind(1) for part in index.split(TILES_AT_ONCE)):
        tiles[mask, y, x] = (
            values(mask, y, x).gt_(0.5).bool()
        )  # in place, then bool: a third of the time of `> .5`
    return out.view(count, tiles_y * TILE, tiles_x * TILE)


@lru_cache(maxsize=64)
def _tile_weights(
    source: int, length: int, device: torch.device
) -> tuple[Int[Tensor, "t s"], Float[Tensor, "t p s"]]:
    """For each tile of a line of `length` pixels: the cells of a line of `source` that it needs, and their bilinear weights."""
    with torch.inference_mode(False):  # what is cached has to be of use in training too
        tiles = -(-length // TILE)
        needed = min(source, int(TILE * source / length) + 3)
        position = (
            (torch.arange(tiles * TILE, device=device) + 0.5) * (source / length) - 0.5
        ).clamp(0, source - 1)
        position = position.view(tiles, TILE)
        first = position[:, :1].long().clamp(max=source - needed)
        cells = first + torch.arange(needed, device=device)
        return cells, _bilinear(position, cells)


def _paste_weights(
    low: Tensor, high: Tensor, source: int, length: int
) -> tuple[Bool[Tensor, "n t"], Float[Tensor, "k p source"]]:
    """Which tiles of a line each range of pixels low..high meets, and in those tiles the weights that stretch `source`
    cells over the range."""
    start = torch.arange(-(-length // TILE), device=low.device) * TILE
    meets = (start <= high[:, None]) & (start + TILE > low[:, None])
    line, tile = meets.nonzero(as_tuple=True)
    low, high = low[line, None], high[line, None]
    pixel = start[tile, None] + torch.arange(TILE, device=low.device)
    position = ((pixel - low + 0.5) * source / (high - low + 1).clamp(min=1) - 0.5).clamp(
        0, source - 1
    )
    inside = (pixel >= low) & (pixel <= high)
    cells = torch.arange(source, device=low.device)
    return meets, _bilinear(position, cells.expand(len(position), -1)) * inside[..., None]


def _bilinear(position: Float[Tensor, "t p"], cells: Int[Tensor, "t s"]) -> Float[Tensor, "t p s"]:
    return (1 - (position[:, :, None] - cells[:, None, :]).abs()).clamp(min=0)
