"""Figures of a data set: its maps, classes, object sizes and augmentation."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from torch.nn.functional import avg_pool2d

from vocseg_lib.data.classes import CLASS_NAMES, VOID, palette
from vocseg_lib.plots.images import Layer, draw_instances, draw_layers, to_hwc
from vocseg_lib.plots.style import (
    COLORS,
    MAX_UPRIGHT_BARS,
    add_suptitle,
    add_title,
    as_label,
    class_bars,
    new_ax,
    new_axes,
    short,
)

MAX_LEGEND_VALUES = 16
"""Values of a map in its legend."""


def border_block(object_map: np.ndarray, size: tuple[int, int] = (9, 16)) -> tuple[int, ...]:
    """A block of a map (xyxy pixels, exclusive) in which background, void and objects all occur,
    as far as the map has them: where the rarest of them is most frequent. `size`: rows, columns.
    """
    kinds = [object_map == 0, object_map == VOID, (object_map > 0) & (object_map < VOID)]
    kinds = torch.from_numpy(np.stack([kind for kind in kinds if kind.any()]))
    size = [min(most, side) for most, side in zip(size, object_map.shape, strict=True)]
    share = avg_pool2d(kinds.float(), size, stride=2).amin(0).numpy()
    y, x = (2 * int(k) for k in np.unravel_index(share.argmax(), share.shape))
    return x, y, x + size[1], y + size[0]


def sample_maps(
    image: torch.Tensor,
    class_map: np.ndarray,
    object_map: np.ndarray,
    class_names: Sequence[str] = CLASS_NAMES,
    window: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """An image beside its class map and its object map, in VOC's colors, with a white `window`
    (xyxy pixels, exclusive) on both."""
    height, width = class_map.shape
    axes, colors = new_axes(3, 3, (3, max(3.4, min(4, 2.9 * height / width) + 1.7))), palette()
    axes[0].imshow(to_hwc(image))
    axes[0].set_title("JPEGImages", fontsize=9)
    names = {0: "background"} | {k: f"object {k}" for k in range(1, 255)} | {255: "void"}
    panels = {
        "SegmentationClass": (class_map, names | dict(enumerate(class_names, 1))),
        "SegmentationObject": (object_map, names),
    }
    legend = {"fontsize": 7, "loc": "upper center", "bbox_to_anchor": (0.5, -0.01), "ncols": 2}
    for ax, (title, (values, names)) in zip(axes[1:], panels.items(), strict=True):
        present = np.unique(values).tolist()
        ax.imshow(colors[values])
        values = textwrap.fill(f"values {', '.join(map(str, present))}", 40, max_lines=2)
        ax.set_title(f"{title}\n{values}", fontsize=8)
        handles = [
            Patch(color=colors[v] / 255, label=f"{v} {short(names[int(v)], 20)}")
            for v in present[:MAX_LEGEND_VALUES]
        ]
        ax.legend(handles=handles, **legend)
        if window:
            x1, y1, x2, y2 = window
            style = {"fill": False, "edgecolor": "white", "linewidth": 1.5}
            ax.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **style))
    for ax in axes:
        ax.axis("off")
    caption = "A pixel's value is its class in one PNG and its object in the other."
    caption += " White frame: see above." if window else ""
    return add_suptitle(axes, "One sample as VOC stores it", caption)


def class_counts(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Instances per class (index: class name) in each split (columns), as bars."""
    ax = class_bars(counts, "class", "instances", list(COLORS), ax)
    top, total = counts.sum(1).idxmax(), counts.to_numpy().sum()
    if len(counts) <= MAX_UPRIGHT_BARS:
        ax.margins(y=0.25)  # room for the legend
    share = 100 * counts.loc[top].sum() / total
    caption = f"{short(top)} is the most frequent: {share:.0f} % of {total} instances."
    return add_title(ax, "Instances per class", caption, 110)


def object_sizes(areas: Sequence[float], ax: Axes | None = None) -> Axes:
    """Histogram of the square root of mask areas (pixels), with COCO's size limits."""
    ax = new_ax(ax)
    sides = np.sqrt(np.asarray(areas, dtype=float))
    bins = np.geomspace(max(sides.min(), 1), sides.max() + 1, 30)
    ax.hist(sides, bins=bins, color=COLORS[0], label="objects")
    ax.axvline(32, color="black", linestyle="--", label="small | medium (32 px)")
    ax.axvline(96, color="black", linestyle=":", label="medium | large (96 px)")
    ax.set(xscale="log", xlabel="square root of mask area (pixels)", ylabel="objects")
    ax.legend(fontsize=8)
    small, large = 100 * (sides < 32).mean(), 100 * (sides >= 96).mean()
    caption = f"{small:.1f} % are small, {large:.1f} % large in COCO's terms."
    return add_title(ax, "Object size", caption)


def objects_per_image(counts: Sequence[int], label: str = "images", ax: Axes | None = None) -> Axes:
    """Histogram of the number of objects per image."""
    ax = new_ax(ax)
    values = np.asarray(counts)
    bins = np.arange(values.max() + 2) - 0.5
    ax.hist(values, bins=bins, color=COLORS[2], rwidth=0.9, label=as_label(label))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="objects in the image", ylabel=label)
    ax.legend(fontsize=8)
    caption = f"{100 * (values > 1).mean():.0f} % of images have more than one object."
    return add_title(ax, "Objects per image", caption)


def augmented(
    samples: Sequence[tuple[torch.Tensor, dict]], class_names: Sequence[str] = CLASS_NAMES
) -> np.ndarray:
    """One sample, augmented several times, with its masks and boxes."""
    axes = new_axes(len(samples), 3, (3, 2.6))
    for ax, (image, target) in zip(axes, samples, strict=True):
        objects = {key: target[key] for key in ("masks", "boxes", "labels")}
        draw_instances(image, **objects, class_names=class_names, ax=ax)
        size, count = f"{image.shape[2]} x {image.shape[1]} px", len(target["labels"])
        ax.set_title(f"{size}, {count} object{'s' * (count != 1)}", fontsize=8)
    caption = "Boxes follow what is left of the masks; an object that is cropped away is dropped."
    return add_suptitle(axes, "The same sample, augmented again and again", caption)


def augmentation_steps(
    steps: dict[str, tuple[torch.Tensor, np.ndarray | None, Sequence[int] | None]],
    title: str,
    caption: str,
) -> np.ndarray:
    """One object after each step of an augmentation.

    Args:
        steps: image, mask [h, w] and box (xyxy pixels) by name of the step; no mask and no box
            where the object is dropped.
    """
    axes = new_axes(len(steps), 3, (3, 2.9))
    for ax, (name, (image, mask, box)) in zip(axes, steps.items(), strict=True):
        layers, left = [], "dropped"
        if mask is not None:
            x1, y1, x2, y2 = box
            layers = [Layer(mask, (x1, y1, x2 - x1, y2 - y1), COLORS[1], "", True)]
            left = f"{int(mask.sum()):,} pixels of it"
        draw_layers(image, layers, ax)
        ax.set_title(f"{name} ({image.shape[2]} x {image.shape[1]})\n{left}", fontsize=8)
    return add_suptitle(axes, title, caption)
