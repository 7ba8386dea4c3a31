"""Figures of notebook 04: precision against recall, what a score threshold buys, calibration, uncertainty, speed and time."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from vocseg_lib.metrics.calibration import (
    BINS,
    best_f1,
    expected_calibration_error,
    mean_pr_curve,
    recall_at,
    reliability_table,
)
from vocseg_lib.metrics.coco_eval import Evaluation
from vocseg_lib.plots.style import (
    COLORS,
    MODEL_COLORS,
    add_figure_title,
    add_title,
    model_color,
    new_ax,
    new_axes,
)

RECALLS = np.linspace(0, 1, 101)
MARKED_SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
FAMILY = tuple(0.5 + 0.05 * i for i in range(10))
"""IoU thresholds of COCO's AP."""
PLURALS = {"mask": "masks", "box": "boxes"}
LINES = {"mask": "-", "box": "--"}


def iso_f1(ax: Axes) -> None:
    """Grey lines of equal F1, their value at the right end."""
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.geomspace(f1 / (2 - f1), 1, 300)  # from precision 1 on
        ax.plot(recall, f1 * recall / (2 * recall - f1), color="0.85", linewidth=0.8, zorder=0)
        ax.annotate(
            f"F1 {f1:g}", (1.0, f1 / (2 - f1)), fontsize=6, color="0.5", ha="right", va="bottom"
        )


def _pr_axes(ax: Axes, title: str) -> None:
    iso_f1(ax)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("recall (share of objects found)")
    ax.set_ylabel("precision (share of detections right)")
    ax.set_title(title, fontsize=9)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, loc="upper right")


def pr_curves(
    evaluations: dict[str, Evaluation],
    kind: str = "mask",
    ious: Sequence[float] = (0.5, 0.75),
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Class-mean curves of the models at each IoU; dots where the mean recall of detections above a score lies."""
    axes = new_axes(len(ious), len(ious), (5.2, 4.4), axes)
    ap = {}
    for ax, iou in zip(axes, ious, strict=True):
        for i, (name, evaluation) in enumerate(evaluations.items()):
            curve, colour = mean_pr_curve(evaluation, kind, iou), model_color(name, i)
            ap[name, iou] = 100 * curve.mean()
            ax.plot(RECALLS, curve, color=colour, label=f"{name}: AP {ap[name, iou]:.1f} %")
            for score in MARKED_SCORES:
                recall = recall_at(evaluation, score, kind, iou)
                at = recall, np.interp(recall, RECALLS, curve)
                ax.plot(*at, "o", color=colour, markersize=4)
                ax.annotate(
                    f"{score:g}",
                    at,
                    fontsize=7,
                    color=colour,
                    xytext=(3, 3),
                    textcoords="offset points",
                )
        _pr_axes(ax, f"IoU {iou:g}")
    areas = "; ".join(
        f"at IoU {iou:g}, " + ", ".join(f"{name} {ap[name, iou]:.1f} %" for name in evaluations)
        for iou in ious
    )
    reading = f"Areas (AP) {areas}: whether a gap is more than chance, the paired differences say. A dot marks where detections of "
    reading += "at least that score reach; grey lines have equal F1."
    add_figure_title(
        axes[0].figure, f"Precision against recall, {PLURALS[kind]}, mean over classes", reading
    )
    return axes


def pr_masks_and_boxes(
    evaluations: dict[str, Evaluation], axes: np.ndarray | None = None
) -> np.ndarray:
    """A panel a model: its mask and its box curves at IoU .5 and .75."""
    axes = new_axes(len(evaluations), 2, (5.2, 4.4), axes)
    gaps = []
    for ax, (name, evaluation) in zip(axes, evaluations.items(), strict=True):
        for iou, colour in ((0.5, COLORS[0]), (0.75, COLORS[1])):
            area = {}
            for kind in evaluation.precision:
                curve = mean_pr_curve(evaluation, kind, iou)
                area[kind] = 100 * curve.mean()
                ax.plot(
                    RECALLS,
                    curve,
                    LINES[kind],
                    color=colour,
                    label=f"{kind} at IoU {iou:g}: {area[kind]:.1f} %",
                )
        if len(area) == 2 and np.isfinite(area["box"]):
            gaps.append(f"{name} {area['box'] - area['mask']:+.1f}")
        _pr_axes(ax, name)
    reading = "Where dashed lies above solid, objects are found and drawn badly."
    reading += f" Box minus mask AP75, in points: {', '.join(gaps)}." if gaps else ""
    add_figure_title(axes[0].figure, "Masks beside boxes", reading)
    return axes


def pr_by_iou(
    evaluations: dict[str, Evaluation], kind: str = "mask", axes: np.ndarray | None = None
) -> np.ndarray:
    """A panel a model: its class-mean curve at each IoU from .5 to .95."""
    axes = new_axes(len(evaluations), 2, (5.2, 4.4), axes)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(FAMILY)))
    falls = []
    for ax, (name, evaluation) in zip(axes, evaluations.items(), strict=True):
        area = {}
        for iou, colour in zip(FAMILY, colours, strict=True):
            curve = mean_pr_curve(evaluation, kind, iou)
            area[iou] = 100 * curve.mean()
            ax.plot(RECALLS, curve, color=colour, label=f"{iou:.2f}: {area[iou]:.1f} %")
        if area[FAMILY[0]] > 0:
            falls.append(f"{name} keeps {100 * area[FAMILY[5]] / area[FAMILY[0]]:.0f} %")
        _pr_axes(ax, f"{name}: AP {evaluation.summary[f'{kind}_AP']:.1f} %")
        ax.get_legend().set_title("IoU: AP", {"size": 7})
    reading = f"The faster the curves fall from one IoU to the next, the worse {PLURALS[kind]} are drawn. "
    reading += f"Of its AP50, at IoU .75 {', '.join(falls)}." if falls else ""
    add_figure_title(axes[0].figure, "From IoU .5 to .95", reading)
    return axes


def pr_by_class(
    evaluations: dict[str, Evaluation],
    kind: str = "mask",
    iou: float = 0.5,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """A small panel a class: each model's curve, and on it the score threshold with the best F1."""
    names = list(next(iter(evaluations.values())).category_index)
    axes = new_axes(max(1, len(names)), 5, (2.6, 2.3), axes)
    tables = {
        title: best_f1(evaluation, kind, iou).set_index("class")
        for title, evaluation in evaluations.items()
    }
    row = round((iou - 0.5) / 0.05)
    for k, (ax, name) in enumerate(
        zip(axes, names, strict=False)
    ):  # without any class, one empty panel
        for i, (title, evaluation) in enumerate(evaluations.items()):
            colour = model_color(title, i)
            ax.plot(RECALLS, evaluation.precision[kind][row, :, k], color=colour, linewidth=1)
            best = tables[title].loc[name]
            if best["F1"] > 0:
                at = best["recall"], best["precision"]
                ax.plot(*at, "o", color=colour, markersize=4)
                ax.annotate(
                    f"{best['score']:.2f}",
                    at,
                    fontsize=6,
                    color=colour,
                    xytext=(2, -7 - 6 * i),
                    textcoords="offset points",
                )
        iso_f1(ax)
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.02)
        ax.tick_params(labelsize=6)
        ax.set_title(f"{name} ({tables[title].loc[name, 'objects']} objects)", fontsize=8)
    for ax in axes[-5:]:
        ax.set_xlabel("recall", fontsize=7)
    for ax in axes[::5]:
        ax.set_ylabel("precision", fontsize=7)
    handles = [Line2D([], [], color=model_color(t, i), label=t) for i, t in enumerate(evaluations)]
    axes[0].figure.legend(handles=handles, fontsize=8, loc="upper right", ncols=len(handles))
    means = ", ".join(f"{title} {table['F1'].mean():.2f}" for title, table in tables.items())
    reading = f"Dots: the score threshold (the number beside it) with the best F1. Mean over classes of that F1: {means}."
    add_figure_title(axes[0].figure, f"Class by class, {kind} IoU {iou:g}", reading)
    return axes


def reliability_diagram(
    evaluations: dict[str, Evaluation],
    kind: str = "mask",
    iou: float = 0.5,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Calibration: precision against score, and below it how many detections have such a score."""
    axes = new_axes(2, 2, (5.2, 4), axes)
    axes[0].plot(
        [0, 1], [0, 1], color="grey", linestyle=":", label="a score that means what it says"
    )
    errors = []
    for i, (name, evaluation) in enumerate(evaluations.items()):
        try:
            table, colour = reliability_table(evaluation, kind, iou), model_color(name, i)
        except ValueError as error:
            errors.append(f"none for {name}, whose {error}")
            continue
        axes[0].plot(table["score"], table["precision"], "o-", color=colour, label=name)
        counts = np.histogram(
            table["low"] + 0.5 / BINS, np.linspace(0, 1, BINS + 1), weights=table["detections"]
        )[0]
        axes[1].stairs(counts, np.linspace(0, 1, BINS + 1), color=colour, label=name)
        errors.append(
            f"{100 * expected_calibration_error(table):.0f} for {name}"
            if len(table)
            else f"none for {name}, which found nothing"
        )
    axes[0].set_xlabel("score (mean of a bin)")
    axes[0].set_ylabel(f"share right at IoU {iou:g}")
    axes[1].set_xlabel("score")
    axes[1].set_ylabel("detections in a bin")
    if any(patch.get_data().values.any() for patch in axes[1].patches):
        axes[1].set_yscale("log")
    for ax in axes:
        ax.set_xlim(0, 1)
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    axes[0].set_ylim(0, 1)
    reading = f"Points between score and share right, on average over detections: {', '.join(errors)}. Below the dotted line, scores "
    add_figure_title(
        axes[0].figure, "Calibration: score against precision", reading + "promise too much."
    )
    return axes


def ap_differences(
    table: pd.DataFrame,
    first: str,
    second: str,
    metric: str = "AP50",
    kind: str = "mask",
    ax: Axes | None = None,
) -> Axes:
    """`metrics.bootstrap.paired_differences`' rows of a metric: the gap between the models a class, with its 95 % interval."""
    rows = table[(table["kind"] == kind) & (table["metric"] == metric)].sort_values("difference")
    rows = pd.concat([rows[rows["class"] != "all"], rows[rows["class"] == "all"]])
    ax = new_ax(ax, (7.5, 0.27 * len(rows) + 1.4))
    for y, row in enumerate(rows.rename(columns={"class": "name"}).itertuples()):
        colour = (
            "0.6"
            if not row.significant
            else MODEL_COLORS.get(first if row.difference > 0 else second, "black")
        )
        ax.plot(
            [row.low, row.high], [y, y], color=colour, linewidth=3 if row.name == "all" else 1.5
        )
        ax.plot(row.difference, y, "o", color=colour)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(
        range(len(rows)),
        ["mean over classes" if name == "all" else name for name in rows["class"]],
        fontsize=8,
    )
    ax.set_xlabel(f"{first} minus {second}, {kind} {metric} (points), with its 95 % interval")
    ax.grid(alpha=0.3, axis="x")
    shown = int(rows.loc[rows["class"] != "all", "significant"].sum())
    reading = f"A difference is shown for {shown} of {len(rows) - 1} classes; grey intervals hold 0: no difference shown."
    return add_title(ax, "Is the gap more than chance?", reading, 90)


def per_class_ap(
    tables: dict[str, pd.DataFrame], column: str = "mask_AP50", ax: Axes | None = None
) -> Axes:
    """AP a class for each model, sorted by the gap between the first two."""
    ax = new_ax(ax, (9, 3.8))
    joined = pd.DataFrame(
        {name: table.set_index("class")[column] for name, table in tables.items()}
    )
    if joined.empty:
        return add_title(ax, "AP a class", "There is no class to judge.")
    gap = joined.iloc[:, 0] - joined.iloc[:, -1]
    joined = joined.loc[gap.sort_values().index]
    joined.plot.bar(ax=ax, color=[model_color(name, i) for i, name in enumerate(joined)], width=0.8)
    ax.set_xlabel("class, sorted by the gap between the models")
    ax.set_ylabel(f"{column.replace('_', ' ')} (percent)")
    ax.tick_params(axis="x", labelrotation=60)
    widest = gap.abs().idxmax()
    objects = next(iter(tables.values())).set_index("class").loc[widest, "instances"]
    reading = (
        f"The widest gap is on {widest}, which has {objects} objects: {gap.abs().max():.0f} points."
    )
    return add_title(
        ax,
        "AP a class",
        reading if len(tables) > 1 else f"Highest on {joined.iloc[:, 0].idxmax()}.",
        110,
    )
