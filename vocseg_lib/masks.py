"""Masks: run-length codes, crops, and pasting a region's mask into its image."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from pycocotools import mask as coco_mask
from torch import Tensor


def encode_rle(masks: Shaped[Tensor, "n h w"]) -> list[dict]:
    """COCO run-length codes of binary masks, `counts` as str so that they go into JSON."""
    fortran = np.asfortranarray(masks.detach().cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in coco_mask.encode(fortran)]


def decode_rle(rles: list[dict]) -> Bool[np.ndarray, "n h w"]:
    """Masks of run-length codes, all of one size. An empty list gives an array of shape [0, 0, 0]."""
    if not rles:
        return np.zeros((0, 0, 0), dtype=bool)
    return coco_mask.decode(rles).transpose(2, 0, 1).astype(bool)


def inside_boxes(boxes: Float[Tensor, "n 4"], height: int, width: int, padding: float = 1.0) -> Bool[Tensor, "n height width"]:
    """Which pixels lie in each box, grown by `padding` pixels and cut to the grid (YOLACT paper, sec. 3.1).

    Boxes are relative (0..1) xyxy; swapped corners are put in order, as in the official code. Pixel column c is
    inside when x1 - padding <= c < x2 + padding.
    """
    scale = boxes.new_tensor([width, height, width, height])
    boxes = boxes * scale
    low = (torch.minimum(boxes[:, :2], boxes[:, 2:]) - padding).clamp(min=0)
    high = torch.maximum(boxes[:, :2], boxes[:, 2:]) + padding
    high = torch.minimum(high, scale[:2])
    x = torch.arange(width, device=boxes.device, dtype=boxes.dtype)
    y = torch.arange(height, device=boxes.device, dtype=boxes.dtype)
    in_x = (x >= low[:, :1]) & (x < high[:, :1])
    in_y = (y >= low[:, 1:]) & (y < high[:, 1:])
    return in_y[:, :, None] & in_x[:, None, :]


def paste_masks(
    masks: Float[Tensor, "n m m"], boxes: Float[Tensor, "n 4"], height: int, width: int, threshold: float = 0.5
) -> Bool[Tensor, "n height width"]:
    """Lay each m x m mask into its box of a height x width image; same pixels as torchvision's loop over masks.

    Bilinear resampling is separable, so a pasted mask is `rows @ mask @ columns.T` and all of them are two batched
    matrix products. The mask is padded by one cell and the box grown to match, so that borders fade out (Mask R-CNN,
    sec. 3.1, and Detectron's code).
    """
    if not len(masks):
        return torch.zeros((0, height, width), dtype=torch.bool, device=masks.device)
    side = masks.shape[-1]
    padded = torch.nn.functional.pad(masks, (1, 1, 1, 1))
    grown = (side + 2) / side
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * grown
    # Whole pixels, cut towards zero, the far corner included: where torchvision puts the mask.
    low, high = (centre - half).to(torch.int64), (centre + half).to(torch.int64)
    columns = _resampling(low[:, 0], high[:, 0], side + 2, width).to(masks.dtype)
    rows = _resampling(low[:, 1], high[:, 1], side + 2, height).to(masks.dtype)
    return rows @ padded @ columns.transpose(1, 2) > threshold


def _resampling(low: Tensor, high: Tensor, source: int, length: int) -> Float[Tensor, "n length source"]:
    """Bilinear weights that stretch `source` cells over pixels low..high of a line; zero elsewhere."""
    extent = (high - low + 1).clamp(min=1)[:, None]
    pixel = torch.arange(length, device=low.device)[None]
    position = ((pixel - low[:, None] + 0.5) * source / extent - 0.5).clamp(0, source - 1)
    cells = torch.arange(source, device=low.device)
    weights = (1 - (position[..., None] - cells).abs()).clamp(min=0)
    inside = (pixel >= low[:, None]) & (pixel <= high[:, None])
    return weights * inside[..., None]
