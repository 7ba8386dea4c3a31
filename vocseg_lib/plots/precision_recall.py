"""Figures of notebook 04: precision and recall, calibration, differences, confusion."""

import textwrap
from collections import defaultdict
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from vocseg_lib.metrics import calibration
from vocseg_lib.metrics.calibration import BINS, best_f1, mean_pr_curve
from vocseg_lib.metrics.coco_eval import Evaluation
from vocseg_lib.metrics.confusion import BACKGROUND, UNMATCHED
from vocseg_lib.plots.labels import label_point, place_label
from vocseg_lib.plots.style import (
    COLORS,
    add_suptitle,
    add_title,
    as_label,
    class_bars,
    model_color,
    new_ax,
    new_axes,
    short,
)

RECALLS = np.linspace(0, 1, 101)
MARKED_SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
MAX_CONFUSED = 24  # in a confusion matrix; of more, those that are confused most
COCO_IOUS = tuple(0.5 + 0.05 * i for i in range(10))
"""IoU thresholds of COCO's AP."""


def _draw_iso_f1(ax: Axes) -> None:
    """Gray lines of equal F1, their value near the right end, where there is room."""
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.geomspace(f1 / (2 - f1), 1, 300)  # from precision 1 on
        ax.plot(recall, f1 * recall / (2 * recall - f1), color="0.85", linewidth=0.8, zorder=0)
        place_label(ax, ax.text(1, f1 / (2 - f1), f"F1 {f1:g}", fontsize=6, color="0.5"))


def _finish_pr_axes(ax: Axes, title: str) -> None:
    _draw_iso_f1(ax)
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.set(xlabel="recall (fraction of objects)", ylabel="precision (fraction of detections)")
    ax.set_title(title, fontsize=9)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, loc="upper right")


def _mark(ax: Axes, at: tuple, text: str, color: str, size: int) -> None:
    """A dot with a number beside it."""
    ax.plot(*at, "o", color=color, markersize=4)
    label_point(ax, at, text, fontsize=size, color=color)


def pr_curves(evaluations: dict[str, Evaluation], iou_type: str = "mask") -> np.ndarray:
    """Mean curves over classes at IoU .5 and .75, with dots at some score thresholds."""
    axes, areas = new_axes(2, 2, (4.5, 4.2)), []
    for ax, iou in zip(axes, (0.5, 0.75), strict=True):
        ap = {}
        for i, (name, evaluation) in enumerate(evaluations.items()):
            curve, color = mean_pr_curve(evaluation, iou_type, iou), model_color(name, i)
            ap[name] = 100 * curve.mean()
            ax.plot(RECALLS, curve, color=color, label=f"{as_label(name)}: AP {ap[name]:.1f} %")
            marks = defaultdict(list)  # scores by recall
            for score in MARKED_SCORES:
                recall = calibration.recall_at(evaluation, score, iou_type, iou)
                marks[round(recall, 2)].append(f"{score:g}")
            for recall, scores in marks.items():
                at = recall, np.interp(recall, RECALLS, curve)
                _mark(ax, at, ", ".join(scores), color, 7)
        _finish_pr_axes(ax, f"IoU {iou:g}")
        listed = ", ".join(f"{name} {value:.1f} %" for name, value in ap.items())
        areas.append(f"at IoU {iou:g}, {listed}")
    caption = f"Areas (AP) {'; '.join(areas)}: the paired differences say whether a gap is more "
    caption += "than chance. Dots: recall of detections with at least that score; gray: equal F1."
    title = f"Precision against recall, {iou_type} IoU, mean over classes"
    return add_suptitle(axes, title, caption)


def pr_masks_and_boxes(evaluations: dict[str, Evaluation]) -> np.ndarray:
    """One panel per model: its mask and its box curves at IoU .5 and .75."""
    axes, gaps = new_axes(len(evaluations), 2, (4.5, 4.2)), []
    for ax, (name, evaluation) in zip(axes, evaluations.items(), strict=True):
        for iou, color in ((0.5, COLORS[0]), (0.75, COLORS[1])):
            area = {}
            for iou_type in evaluation.precision:
                curve = mean_pr_curve(evaluation, iou_type, iou)
                area[iou_type] = 100 * curve.mean()
                label = f"{iou_type} at IoU {iou:g}: {area[iou_type]:.1f} %"
                line = "-" if iou_type == "mask" else "--"
                ax.plot(RECALLS, curve, line, color=color, label=label)
        if len(area) == 2 and np.isfinite(area["box"]):
            gaps.append(f"{name} {area['box'] - area['mask']:+.1f}")
        _finish_pr_axes(ax, short(name))
    caption = "Where dashed is above solid, objects are detected and their masks are poor."
    caption += f" Box minus mask AP75, in points: {', '.join(gaps)}." if gaps else ""
    return add_suptitle(axes, "Masks and boxes", caption)


def pr_by_iou(evaluations: dict[str, Evaluation], iou_type: str = "mask") -> np.ndarray:
    """One panel per model: its mean curve over classes at each IoU from .5 to .95."""
    axes = new_axes(len(evaluations), 2, (4.5, 4.2))
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(COCO_IOUS)))
    falls = []
    for ax, (name, evaluation) in zip(axes, evaluations.items(), strict=True):
        area = {}
        for iou, color in zip(COCO_IOUS, colors, strict=True):
            curve = mean_pr_curve(evaluation, iou_type, iou)
            area[iou] = 100 * curve.mean()
            ax.plot(RECALLS, curve, color=color, label=f"{iou:.2f}: {area[iou]:.1f} %")
        if area[COCO_IOUS[0]] > 0:
            falls.append(f"{name} keeps {100 * area[COCO_IOUS[5]] / area[COCO_IOUS[0]]:.0f} %")
        _finish_pr_axes(ax, f"{short(name)}: AP {evaluation.summary[f'{iou_type}_AP']:.1f} %")
        ax.get_legend().set_title("IoU: AP", {"size": 7})
    caption = "The faster the curves fall from one IoU to the next, the less exact the outlines."
    caption += f" Of its AP50, at IoU .75 {', '.join(falls)}." if falls else ""
    return add_suptitle(axes, f"From {iou_type} IoU .5 to .95", caption)


def pr_by_class(evaluations: dict[str, Evaluation], iou_type: str = "mask") -> np.ndarray:
    """One small panel per class: each model's curve and the score threshold with the best F1."""
    names = list(next(iter(evaluations.values())).category_index)
    width = 9 / min(4, max(2, len(names)))
    axes = new_axes(max(1, len(names)), 4, (width, 0.93 * width))
    tables = {t: best_f1(e, iou_type).set_index("class") for t, e in evaluations.items()}
    # Without any class, one empty panel.
    for k, (ax, name) in enumerate(zip(axes, names, strict=False)):
        for i, (title, evaluation) in enumerate(evaluations.items()):
            color = model_color(title, i)
            ax.plot(RECALLS, evaluation.precision[iou_type][0, :, k], color=color, linewidth=1)
            best = tables[title].loc[name]
            if best["F1"] > 0:
                at = best["recall"], best["precision"]
                _mark(ax, at, f"{best['score']:.2f}", color, 6)
        _draw_iso_f1(ax)
        ax.set(xlim=(0, 1), ylim=(0, 1.02))
        ax.tick_params(labelsize=6)
        objects = tables[title].loc[name, "objects"]
        ax.set_title(f"{short(name, 26)}\n({objects} objects)", fontsize=7)
    for ax in axes[-4:]:
        ax.set_xlabel("recall", fontsize=7)
    for ax in axes[::4]:
        ax.set_ylabel("precision", fontsize=7)
    styles = ({"color": model_color(t, i), "label": as_label(t)} for i, t in enumerate(evaluations))
    handles = [Line2D([], [], **style) for style in styles]
    axes[0].figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=2)
    means = ", ".join(f"{title} {table['F1'].mean():.2f}" for title, table in tables.items())
    caption = "Dots: the score threshold (the number beside it) with the best F1. "
    caption += f"Mean over classes of that F1: {means}."
    return add_suptitle(axes, f"Per class, {iou_type} IoU 0.5", caption)


def reliability_diagram(evaluations: dict[str, Evaluation], iou_type: str = "mask") -> np.ndarray:
    """Calibration: precision against score, and the number of detections per score bin."""
    axes = new_axes(2, 2, (4.5, 3.8))
    axes[0].plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfect calibration")
    errors, edges = [], np.linspace(0, 1, BINS + 1)
    for i, (name, evaluation) in enumerate(evaluations.items()):
        try:
            table = calibration.reliability_table(evaluation, iou_type)
        except ValueError as error:
            errors.append(f"none for {name} ({error})")
            continue
        color = model_color(name, i)
        axes[0].plot(table["score"], table["precision"], "o-", color=color, label=as_label(name))
        counts, _ = np.histogram(table["low"] + 0.5 / BINS, edges, weights=table["detections"])
        axes[1].stairs(counts, edges, color=color, label=as_label(name))
        error = 100 * calibration.expected_calibration_error(table)
        errors.append(f"{f'{error:.0f}' if len(table) else 'none'} for {name}")
    axes[0].set(xlabel="score (mean of a bin)", ylabel="precision at IoU 0.5", ylim=(0, 1))
    axes[1].set(xlabel="score", ylabel="detections per bin")
    if any(patch.get_data().values.any() for patch in axes[1].patches):
        axes[1].set_yscale("log")
    for ax in axes:
        ax.set_xlim(0, 1)
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    caption = f"Expected calibration error, in points: {', '.join(errors)}. "
    caption += "Below the dotted line, scores are overconfident."
    return add_suptitle(axes, "Calibration: precision against score", caption)


def ap_differences(
    table: pd.DataFrame, first: str, second: str, iou_type: str = "mask", ax: Axes | None = None
) -> Axes:
    """`bootstrap.paired_differences` of AP50 per class: joint 95 % intervals, and single ones."""
    rows = table[(table["kind"] == iou_type) & (table["metric"] == "AP50")]
    rows = rows.sort_values("difference")
    rows = pd.concat([rows[rows["class"] != "all"], rows[rows["class"] == "all"]])
    ax = new_ax(ax, (7.5, 0.27 * len(rows) + 1.4))
    for y, row in enumerate(rows.rename(columns={"class": "name"}).itertuples()):
        better = row.difference <= 0
        differs = row.jointly_significant
        color = model_color((first, second)[better], int(better)) if differs else "0.6"
        ax.plot([row.joint_low, row.joint_high], [y, y], color=color, linewidth=1)
        ax.plot([row.low, row.high], [y, y], color=color, linewidth=3)
        ax.plot(row.difference, y, "o", color=color)
    ax.axvline(0, color="black", linewidth=0.8)
    names = rows["class"].replace("all", "mean over classes").map(partial(short, most=24))
    ax.set_yticks(range(len(rows)), names, fontsize=8)
    pair = f"{short(first)} minus {short(second)}"
    ax.set_xlabel(textwrap.fill(f"{pair}, {iou_type} AP50 (points)", 70))
    ax.grid(alpha=0.3, axis="x")
    classes = rows[rows["class"] != "all"]
    differing, alone = (int(classes[n].sum()) for n in ("jointly_significant", "significant"))
    caption = "Thick: the 95 % interval of a class alone. Thin: intervals that hold together, all "
    caption += f"classes in 95 % of studies; by these {differing} of {len(classes)} classes differ "
    caption += f"(alone {alone}, some of them by chance). Gray: the thin one holds 0."
    return add_title(ax, "Is the gap more than chance?", caption, 80)


def per_class_ap(
    tables: dict[str, pd.DataFrame], column: str = "mask_AP50", ax: Axes | None = None
) -> Axes:
    """AP per class for each model, sorted by the gap between the first and the last."""
    joined = pd.DataFrame({name: t.set_index("class")[column] for name, t in tables.items()})
    if joined.empty:
        return add_title(new_ax(ax), "AP per class", "There are no classes to evaluate.")
    gap = joined.iloc[:, 0] - joined.iloc[:, -1]
    joined = joined.loc[gap.sort_values().index]
    colors = [model_color(name, i) for i, name in enumerate(joined)]
    labels = "class, sorted by the gap between the models", f"{column.replace('_', ' ')} (percent)"
    ax = class_bars(joined, *labels, colors, ax)
    caption = f"Highest on {short(joined.iloc[:, 0].idxmax())}."
    if len(tables) > 1:
        widest = gap.abs().idxmax()
        objects = next(iter(tables.values())).set_index("class").loc[widest, "instances"]
        caption = (
            f"Largest gap: {gap.abs().max():.0f} points on {short(widest)} ({objects} objects)."
        )
    return add_title(ax, "AP per class", caption, 110)


def confusion_heatmap(matrices: dict[str, pd.DataFrame]) -> np.ndarray:
    """A panel per model: counts, colored by the percentage of their row; of `confusion_matrix`.

    Left out: classes without objects and detections, and all but the `MAX_CONFUSED` most confused.
    """
    counts = {title: matrix.to_numpy() for title, matrix in matrices.items()}
    total = sum(counts.values())
    sums = total[:-1].sum(1) + total[:, :-1].sum(0)
    present = np.flatnonzero(sums)
    wrong = sums - 2 * np.diag(total)[:-1]
    shown = np.sort(present[np.argsort(-wrong[present], kind="stable")[:MAX_CONFUSED]])
    names = [short(name, 18) for name in next(iter(matrices.values())).index[shown]]
    columns = 2 if len(shown) <= 6 else 1
    width = 9 / columns if columns == 2 or len(shown) > 12 else 6.5
    axes, parts = new_axes(len(counts), columns, (width, max(2.6, 1.4 + 0.25 * len(shown)))), []
    rows = np.append(shown, len(total) - 1)
    for ax, (title, table) in zip(axes, counts.items(), strict=True):
        percent = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
        colors = {"cmap": "Blues", "vmin": 0, "vmax": 100}
        picture = ax.imshow(percent[np.ix_(rows, rows)], aspect="auto", **colors)
        for (y, x), count in np.ndenumerate(table[np.ix_(rows, rows)]):
            color = "white" if percent[rows[y], rows[x]] > 55 else "black"
            style = {"fontsize": 6.5 if len(shown) > 12 else 8, "color": color}
            ax.text(x, y, count or "", ha="center", va="center", **style)
        ends = np.arange(len(rows)) - 0.5
        for line in (ax.axhline, ax.axvline):
            line(ends[-1], color="0.4", linewidth=0.8)
        angle = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if len(rows) > 5 else {}
        ax.set_xticks(range(len(rows)), [*names, UNMATCHED], fontsize=7, **angle)
        ax.set_yticks(range(len(rows)), [*names, BACKGROUND], fontsize=7)
        ax.set(xlabel="detected as", ylabel="ground truth")
        ax.set_title(short(title), fontsize=9)
        ax.figure.colorbar(picture, ax=ax, label="percent of the row", shrink=0.8)
        objects, own, lost = table[:-1].sum(), np.diag(table)[:-1].sum(), table[:-1, -1].sum()
        shares = (100 * n / max(objects, 1) for n in (own, objects - own - lost, lost))
        parts.append("{}: {:.0f} / {:.0f} / {:.0f} %".format(title, *shares))
    caption = f"Objects detected as their class / as another class / missed: {'; '.join(parts)}. "
    caption += "Last row: detections on no object, or on one that another has taken."
    if len(shown) < len(present):
        caption += f" Shown: the {len(shown)} most confused of {len(present)} classes."
    return add_suptitle(axes, "Detected as what? Missed as what?", caption)
