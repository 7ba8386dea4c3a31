"""YOLACT's priors: the boxes that predictions start from; `losses.match_priors` matches them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vocseg_lib.models.config import PASCAL_SCALES, SCALES_FOR_SIZE

ASPECT_RATIOS = (1.0, 0.5, 2.0)


def prior_boxes(
    feature_sizes: Sequence[tuple[int, int]],
    scales: Sequence[float] = PASCAL_SCALES,
    aspect_ratios: Sequence[float] = ASPECT_RATIOS,
    square: bool = False,
) -> Float[Tensor, "p 4"]:
    """Priors (relative cxcywh) by level, row, column, ratio; one scale per level (YOLACT, sec. 4).

    `feature_sizes` are (rows, columns). `square`: the official code's bug, height = width. Not
    clipped; computed in float64 and rounded once.
    """
    levels, ratios = [], torch.tensor(aspect_ratios, dtype=torch.float64).sqrt()
    for (rows, columns), scale in zip(feature_sizes, scales, strict=True):
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
        width = scale * ratios / SCALES_FOR_SIZE
        height = width if square else scale / ratios / SCALES_FOR_SIZE
        cy, cx, _ = torch.meshgrid(y, x, ratios, indexing="ij")
        boxes = torch.stack([cx, cy, width.expand_as(cx), height.expand_as(cx)], -1)
        levels.append(boxes.reshape(-1, 4))
    return torch.cat(levels).float()
