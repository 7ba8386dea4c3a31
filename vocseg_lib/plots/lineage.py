"""Figures of notebook 07: what each step bought, proposals on their own, and one image through all rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from vocseg_lib.plots.images import draw_instances
from vocseg_lib.plots.style import COLORS, add_figure_title, add_title, new_ax, new_axes
from vocseg_lib.utils.rle import decode_rle

KINDS = ("classical ML", "two stages", "one stage", "semantic")


def ap_against_seconds(
    table: pd.DataFrame, steps: pd.DataFrame, about: str = "", ax: Axes | None = None
) -> Axes:
    """Mask AP50 against seconds an image (logarithmic) of the rows of a lineage table, and arrows along `Lineage.steps`."""
    ax = new_ax(ax, (9, 5))
    rows = table[table["seconds_per_image"].notna()].set_index("model")
    for kind, colour in zip(KINDS, COLORS, strict=False):
        mine = rows[rows["kind"] == kind]
        ends = np.clip(
            [mine["mask_AP50"] - mine["mask_AP50_low"], mine["mask_AP50_high"] - mine["mask_AP50"]],
            0,
            None,
        )
        ax.errorbar(
            mine["seconds_per_image"],
            mine["mask_AP50"],
            ends,
            fmt="o",
            color=colour,
            elinewidth=0.8,
            label=kind,
        )
    for step in steps.itertuples():
        ends = [
            tuple(rows.loc[name, ["seconds_per_image", "mask_AP50"]])
            for name in (step.after, step.before)
        ]
        ax.annotate("", *ends, arrowprops={"arrowstyle": "->", "color": "grey", "linewidth": 0.8})
    for number, (_, row) in enumerate(rows.iterrows(), 1):
        place = (row["seconds_per_image"], row["mask_AP50"])
        ax.annotate(str(number), place, textcoords="offset points", xytext=(4, 3), fontsize=8)
    listed = "\n".join(f"{number}  {short(name)}" for number, name in enumerate(rows.index, 1))
    ax.text(1.02, 1, listed, transform=ax.transAxes, va="top", fontsize=8, linespacing=1.4)
    ax.set(
        xscale="log",
        xlabel="seconds an image, everything included",
        ylabel="mask AP50 (percent), 95 % interval",
    )
    ax.invert_xaxis()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(1.01, 0), frameon=False)
    reading = "Up is better, right is faster; arrows go from one step to the next."
    return add_title(ax, "What each step bought", reading + _sentence(about), 90)


def proposal_recall(
    recalls: dict[str, dict[str, Sequence[float]]],
    counts: Sequence[int],
    about: str = "",
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Recall against the number of proposals an image: a panel a measure, `recalls[measure][source]` a value a count."""
    axes = new_axes(len(recalls), len(recalls), (4, 3.4), axes)
    for ax, (measure, of_source) in zip(axes, recalls.items(), strict=True):
        for k, (source, values) in enumerate(of_source.items()):
            ax.plot(counts, values, "o-", markersize=3, color=COLORS[k], label=source)
        ax.set(
            xscale="log",
            ylim=(0, 100),
            xlabel="proposals an image",
            ylabel="percent of objects",
            title=measure,
        )
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    last = {source: values[-1] for source, values in next(iter(recalls.values())).items()}
    said = ", ".join(f"{source} {value:.0f} %" for source, value in last.items())
    reading = f"With at most {counts[-1]} an image, {next(iter(recalls))}: {said}." + _sentence(
        about
    )
    add_figure_title(axes[0].figure, "Where objects may be", reading)
    return axes


def strip(
    image: torch.Tensor,
    found: dict[str, list[dict]],
    class_names: Sequence[str],
    about: str = "",
    score: float = 0.3,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """One image, and what each row finds in it with at least a score: `found` maps titles to COCO results on that image."""
    axes = new_axes(len(found), 4, (3.2, 3.2 * image.shape[-2] / image.shape[-1] + 0.3), axes)
    for ax, (title, detections) in zip(axes, found.items(), strict=True):
        sure = [d for d in detections if d.get("score", 1.0) >= score]
        masks = (
            decode_rle([d["segmentation"] for d in sure])
            if sure
            else np.zeros((0, *image.shape[-2:]), bool)
        )
        draw_instances(
            image,
            masks,
            labels=[d["category_id"] for d in sure],
            boxes=_corners(sure),
            class_names=class_names,
            ax=ax,
        )
        ax.set_title(short(title), fontsize=8)
    reading = f"Detections with a score of at least {score}; some rows may have none." + _sentence(
        about
    )
    add_figure_title(axes[0].figure, "One image through all rows", reading)
    return axes


def short(title: str) -> str:
    """A row's title where there is little room."""
    return title.removeprefix("HOG, colour, texture + ")


def _sentence(about: str) -> str:
    return f" {about[0].upper()}{about[1:]}." if about else ""


def _corners(detections: list[dict]) -> np.ndarray:
    boxes = np.array([d["bbox"] for d in detections], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
