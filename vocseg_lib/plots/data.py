"""Figures of a data set: its maps, classes, object sizes and augmentation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vocseg_lib.data.classes import CLASS_NAMES, palette
from vocseg_lib.plots.images import draw_instances, to_hwc
from vocseg_lib.plots.style import COLORS, add_figure_title, add_title, new_ax, new_axes


def sample_maps(
    image: torch.Tensor,
    class_map: np.ndarray,
    object_map: np.ndarray,
    class_names: Sequence[str] = CLASS_NAMES,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """An image beside its class map and its object map, in VOC's colours."""
    axes = new_axes(3, 3, (4, 3.6), axes)
    colours = palette()
    axes[0].imshow(to_hwc(image))
    axes[0].set_title("JPEGImages", fontsize=9)
    for ax, values, name in zip(
        axes[1:], (class_map, object_map), ("SegmentationClass", "SegmentationObject"), strict=True
    ):
        ax.imshow(colours[values])
        ax.set_title(f"{name}: values {', '.join(map(str, np.unique(values)))}", fontsize=9)
        names = {0: "background", 255: "void"} | {k: f"object {k}" for k in range(1, 255)}
        if ax is axes[1]:
            names |= dict(enumerate(class_names, 1))
        handles = [
            Patch(color=colours[v] / 255, label=f"{v} {names[int(v)]}") for v in np.unique(values)
        ]
        ax.legend(
            handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4
        )
    for ax in axes:
        ax.axis("off")
    add_figure_title(
        axes[0].figure,
        "One sample as VOC stores it",
        "A pixel's number is its class in one PNG and its object in the other.",
    )
    return axes


def class_counts(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Instances a class (index: class name) for each split (columns), as bars."""
    ax = counts.plot.bar(ax=new_ax(ax, (9, 3.8)), color=list(COLORS), width=0.8)
    top, total = counts.sum(1).idxmax(), counts.to_numpy().sum()
    ax.set_ylabel("instances")
    ax.set_xlabel("class")
    ax.tick_params(axis="x", labelrotation=60)
    ax.margins(y=0.25)  # room for the legend
    reading = f"{top} is the most frequent: {100 * counts.loc[top].sum() / total:.0f} % of {total} instances."
    return add_title(ax, "Instances a class", reading, 110)


def object_sizes(areas: Sequence[float], ax: Axes | None = None) -> Axes:
    """How large objects are: histogram of the square root of the mask area, pixels, with COCO's size limits."""
    ax = new_ax(ax)
    sides = np.sqrt(np.asarray(areas, dtype=float))
    ax.hist(
        sides,
        bins=np.geomspace(max(sides.min(), 1), sides.max() + 1, 30),
        color=COLORS[0],
        label="objects",
    )
    ax.set_xscale("log")
    for side, style, name in (
        (32, "--", "small | medium (32 px)"),
        (96, ":", "medium | large (96 px)"),
    ):
        ax.axvline(side, color="black", linestyle=style, label=name)
    ax.set_xlabel("square root of mask area (pixels)")
    ax.set_ylabel("objects")
    ax.legend(fontsize=8)
    return add_title(
        ax,
        "Object size",
        f"{100 * (sides < 32).mean():.1f} % are small, {100 * (sides >= 96).mean():.1f} % large in COCO's terms.",
    )


def objects_per_image(counts: Sequence[int], label: str = "images", ax: Axes | None = None) -> Axes:
    """How many objects share an image."""
    ax = new_ax(ax)
    values = np.asarray(counts)
    ax.hist(
        values, bins=np.arange(values.max() + 2) - 0.5, color=COLORS[2], rwidth=0.9, label=label
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("objects in the image")
    ax.set_ylabel(label)
    ax.legend(fontsize=8)
    reading = f"{100 * (values > 1).mean():.0f} % of images have more than one object: instances to keep apart."
    return add_title(ax, "Objects an image", reading)


def augmented(
    samples: Sequence[tuple[torch.Tensor, dict]],
    class_names: Sequence[str] = CLASS_NAMES,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Draws of one augmented sample, masks and boxes on top."""
    axes = new_axes(len(samples), 4, (3, 2.8), axes)
    for ax, (image, target) in zip(axes, samples, strict=True):
        draw_instances(
            image,
            target["masks"],
            target["boxes"],
            target["labels"],
            class_names=class_names,
            ax=ax,
        )
        ax.set_title(
            f"{image.shape[2]} x {image.shape[1]} px, {len(target['labels'])} objects", fontsize=8
        )
    add_figure_title(
        axes[0].figure,
        "The same sample, drawn again and again",
        "Boxes follow what is left of the masks; an object that is cut away is gone.",
    )
    return axes
