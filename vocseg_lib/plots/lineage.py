"""Figures of the lineage.

HOG, RoI pooling's rounding, AP against seconds and iterations, proposal recall, one image's rows.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
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


def hog_by_cell(
    values: Float[np.ndarray, " d"], cells: int = 6, bins: int = 9
) -> Float[np.ndarray, "c c b"]:
    """OpenCV's HOG of a square (blocks of 2 x 2 cells, column by column), summed by cell."""
    blocks = values.reshape(cells - 1, cells - 1, 2, 2, bins).transpose(1, 0, 3, 2, 4)
    summed = np.zeros((cells, cells, bins))
    for row, column in np.ndindex(2, 2):
        window = np.s_[row : row + cells - 1, column : column + cells - 1]
        summed[window] += blocks[:, :, row, column]
    return summed


def hog_glyphs(
    values: Float[np.ndarray, "r c b"], title: str, color: str = "black", ax: Axes | None = None
) -> Axes:
    """HOG by cell (row, column, orientation): a line along the edges per bin, dark if strong.

    Only values above 0 are drawn. An edge is at right angles to its gradient, whose orientation the
    bins have: from 0 to 180 degrees, clockwise from the right as y points down.
    """
    ax, lines, strength = new_ax(ax, (3, 3)), [], []
    for row, column, k in np.argwhere(values > 0):
        angle = np.pi * (k + 0.5) / values.shape[2] + np.pi / 2
        half = 0.47 * np.array([np.cos(angle), np.sin(angle)])
        center = np.array([column, row])
        lines.append([center - half, center + half])
        strength.append(values[row, column, k] / values.max())
    order = np.argsort(strength)
    lines, alpha = [lines[i] for i in order], [strength[i] for i in order]
    ax.add_collection(LineCollection(lines, colors=color, linewidths=2, alpha=alpha or None))
    rows, columns = values.shape[:2]
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[], aspect=1)
    ax.set_title(title, fontsize=9)
    return ax


def roi_on_cells(
    features: Float[np.ndarray, "h w"],
    border: Sequence[float],
    bins: Sequence[Sequence[float]],
    points: Sequence[Sequence[float]],
    title: str,
    ax: Axes | None = None,
) -> Axes:
    """A feature map's cells with a region's true border, its bins (xyxy), and points (x, y) read.

    In the map's coordinates: a cell's center is at whole numbers.
    """
    ax = new_ax(ax, (4, 4))
    ax.imshow(features, cmap="Greys", vmin=features.min(), vmax=2 * features.max())
    for (y, x), value in np.ndenumerate(features):
        ax.text(x - 0.45, y - 0.45, f"{value:g}", va="top", fontsize=6.5, color="#444444")
    styles = [{"edgecolor": COLORS[0], "linewidth": 1.6} for _ in bins]
    styles.append({"edgecolor": COLORS[1], "linewidth": 2, "linestyle": "--"})
    for (x1, y1, x2, y2), style in zip([*bins, border], styles, strict=True):
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))
    ax.plot(*np.transpose(points), "o", color=COLORS[2], markersize=5)
    ax.set(xticks=range(features.shape[1]), yticks=range(features.shape[0]))
    ax.set_title(title, fontsize=9)
    return ax


def differences_by_iteration(table: pd.DataFrame, reference: str, caption: str = "") -> np.ndarray:
    """AP50 differences to a reference variant against iterations, with intervals, per box and mask.

    `table`: of `pooling_by_iterations`.
    """
    kinds = table["kind"].unique()
    axes = new_axes(len(kinds), len(kinds), (4.3, 3.4))
    for ax, kind in zip(axes, kinds, strict=True):
        others = table[(table["kind"] == kind) & (table["variant"] != reference)]
        for number, (title, part) in enumerate(others.groupby("variant", sort=False)):
            value, x = part["difference"], part["iterations"] * 1.03 ** (2 * number - 1)
            ends = np.clip(
                [value - part["difference_low"], part["difference_high"] - value], 0, None
            )
            style = {"fmt": "o-", "color": COLORS[number], "capsize": 3, "markersize": 4}
            ax.errorbar(x, value, ends, **style, label=as_label(title))
        ax.axhline(0, color="grey", linewidth=0.8)
        ax.set(xscale="log", xlabel="iterations (log)", ylabel="points", title=f"{kind} AP50")
        ax.set_xticks(table["iterations"].unique(), table["iterations"].unique(), minor=False)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(alpha=0.3)
    axes[0].figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower left", fontsize=8
    )
    reading = f"Difference to {reference}; below 0 is worse. Does it shrink to the right?"
    return add_suptitle(
        axes, "RoI pooling by iterations", f"{reading} {_sentence(caption)}".strip()
    )


def short_title(title: str) -> str:
    """A row's title where there is little room."""
    return title.removeprefix("HOG, color, texture + ")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
