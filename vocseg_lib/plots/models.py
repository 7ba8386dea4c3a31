"""Figures of a model's intermediate results: prototypes, coefficients, mask assembly."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes

from vocseg_lib.plots.images import to_hwc
from vocseg_lib.plots.style import (
    COLORS,
    add_suptitle,
    add_title,
    as_label,
    new_ax,
    new_axes,
    short,
)


def prototypes(maps: torch.Tensor) -> np.ndarray:
    """Prototypes [h, w, k] of one image, each scaled to its own range."""
    axes = new_axes(maps.shape[-1], 8, (1.1, 1.2))
    for k, ax in enumerate(axes):
        ax.imshow(maps[..., k].detach().cpu().numpy(), cmap="viridis")
        ax.set_title(str(k), fontsize=7)
        ax.axis("off")
    caption = "Masks of the whole image, not of one object; bright is the maximum of each map."
    return add_suptitle(axes, "YOLACT's prototypes", caption)


def coefficients(
    values: torch.Tensor | Sequence[torch.Tensor], names: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Mask coefficients (-1..1) of a few detections, one group of bars per prototype."""
    ax = new_ax(ax, (9, 3))
    width = 0.8 / len(values)
    for i, (row, name) in enumerate(zip(values, names, strict=True)):
        x = np.arange(len(row)) + i * width
        ax.bar(x, row.detach().cpu().numpy(), width, label=as_label(name), color=COLORS[i])
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel="prototype", ylabel="coefficient (no unit)")
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    caption = "Each detection adds (above 0) and subtracts (below 0) prototypes in its own way."
    return add_title(ax, "Coefficients", caption, 110)


def stages(
    pictures: Sequence[np.ndarray | torch.Tensor], titles: Sequence[str], title: str, caption: str
) -> np.ndarray:
    """Steps of one computation, left to right: maps with a color bar, RGB images as they are."""
    width = 9 / max(3, len(pictures))
    axes = new_axes(len(pictures), len(pictures), (width, 0.9 * width + 0.4))
    for ax, picture, name in zip(axes, pictures, titles, strict=True):
        pixels = np.asarray(picture)
        shown = ax.imshow(to_hwc(pixels), cmap="viridis")
        if pixels.ndim == 2:
            ax.figure.colorbar(shown, ax=ax, shrink=0.7)
        ax.set_title(short(name), fontsize=9)
        ax.axis("off")
    return add_suptitle(axes, title, caption)
