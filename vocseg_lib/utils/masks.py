"""The pixels of boxes, and masks a few at a time."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CHUNK_PIXELS = 50_000_000  # of masks that are resized or encoded at once


def split_masks(masks: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
    """Masks [n, ...] in parts that have at most `CHUNK_PIXELS` at this size, or one mask."""
    return masks.split(max(1, CHUNK_PIXELS // max(1, height * width)))


def box_rows_and_columns(
    boxes: Float[Tensor, "n 4"], height: int, width: int, padding: float = 1.0
) -> tuple[Bool[Tensor, "n height"], Bool[Tensor, "n width"]]:
    """Rows and columns of each box, padded (pixels) and clipped to the grid (YOLACT, sec. 3.1).

    Boxes are relative xyxy; swapped corners are put in order, as in the official code. Column c is
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
    """The pixels in each box; see `box_rows_and_columns`."""
    rows, columns = box_rows_and_columns(boxes, height, width, padding)
    return rows[:, :, None] & columns[:, None, :]
