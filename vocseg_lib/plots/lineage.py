"""Figures of the lineage: AP against seconds, proposal recall, one image through all rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from vocseg_lib.plots.images import DRAWN_SCORE, draw_instances
from vocseg_lib.plots.labels import label_point
from vocseg_lib.plots.style import (
    COLORS,
    add_suptitle,
    add_title,
    as_label,
    new_ax,
    new_axes,
    short,
)
from vocseg_lib.utils.rle import decode_rle

KINDS = ("classical ML", "two stages", "one stage", "semantic")


def ap_against_seconds(
    table: pd.DataFrame, steps: pd.DataFrame, description: str = "", ax: Axes | None = None
) -> Axes:
    """Mask AP50 against seconds per image of a lineage table's rows; arrows along its steps."""
    ax = new_ax(ax, (9, 5))
    rows = table[table["seconds_per_image"].notna()].set_index("model")
    # Points with intervals.
    for kind, color in zip(KINDS, COLORS, strict=False):
        part = rows[rows["kind"] == kind]
        x, y = part["seconds_per_image"], part["mask_AP50"]
        ends = np.clip([y - part["mask_AP50_low"], part["mask_AP50_high"] - y], 0, None)
        ax.errorbar(x, y, ends, fmt="o", color=color, elinewidth=0.8, label=kind)
    # Arrows, numbers and a list of titles.
    points = rows[["seconds_per_image", "mask_AP50"]]
    for step in steps.itertuples():
        arrow = {"arrowstyle": "->", "color": "grey", "linewidth": 0.8}
        ax.annotate("", points.loc[step.after], points.loc[step.before], arrowprops=arrow)
    for number, point in enumerate(points.to_numpy(), 1):
        label_point(ax, point, str(number), fontsize=8)
    titles = [f"{number}  {short_title(name)}" for number, name in enumerate(rows.index, 1)]
    ax.text(
        1.02, 1, "\n".join(titles), transform=ax.transAxes, va="top", fontsize=8, linespacing=1.4
    )
    # Axes.
    ax.set(xscale="log", xlabel="seconds per image (log)", ylabel="mask AP50 (%), 95 % interval")
    ax.invert_xaxis()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(1.01, 0), frameon=False)
    reading = f"Up is better, right is faster; arrows follow the steps. {_sentence(description)}"
    return add_title(ax, "What each step changed", reading, 90)


def proposal_recall_curves(
    recalls: dict[str, dict[str, Sequence[float]]], counts: Sequence[int], description: str = ""
) -> np.ndarray:
    """Recall against proposals per image: a panel per measure, `recalls[measure][source]`."""
    axes = new_axes(len(recalls), len(recalls), (3, 3))
    for ax, (measure, by_source) in zip(axes, recalls.items(), strict=True):
        for color, (source, values) in zip(COLORS, by_source.items(), strict=False):
            ax.plot(
                counts, values, "o-", markersize=3, color=color, label=as_label(short(source, 24))
            )
        ax.set(xscale="log", xlabel="proposals per image (log)", title=measure)
        ax.set(ylim=(0, 100), ylabel="percent of objects")
        ax.set_xticks(counts, counts)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    measure, by_source = next(iter(recalls.items()))
    last = ", ".join(f"{source} {values[-1]:.0f} %" for source, values in by_source.items())
    reading = f"At {counts[-1]} per image, {measure}: {last}. {_sentence(description)}"
    return add_suptitle(axes, "Object proposals", reading)


def detections_by_row(
    image: torch.Tensor,
    results: dict[str, list[dict]],
    class_names: Sequence[str],
    description: str = "",
    score: float = DRAWN_SCORE,
) -> np.ndarray:
    """One image with each row's COCO results on it, by title, of at least a score."""
    axes = new_axes(len(results), 3, (3, min(4, 2.9 * image.shape[-2] / image.shape[-1]) + 0.4))
    for ax, (title, detections) in zip(axes, results.items(), strict=True):
        kept = [d for d in detections if d.get("score", 1.0) >= score]
        masks = np.zeros((0, *image.shape[-2:]), bool)
        if kept:
            masks = decode_rle([d["segmentation"] for d in kept])
        boxes = np.array([d["bbox"] for d in kept], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [d["category_id"] for d in kept]
        draw_instances(image, masks, boxes, labels, class_names=class_names, ax=ax)
        ax.set_title(short_title(title), fontsize=8)
    reading = f"Detections with a score of at least {score}. {_sentence(description)}"
    return add_suptitle(axes, "One image through all rows", reading)


def short_title(title: str) -> str:
    """A row's title where there is little room."""
    return title.removeprefix("HOG, color, texture + ")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
