"""Figures of notebooks 05 and 06: dAP, crowding, oracles, the AP gap in parts, the ablation."""

import re
import textwrap
from pathlib import Path
from string import ascii_uppercase
from zlib import crc32

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco_validation import bbox_xywh
from vocseg_lib.failures.analysis import FAMILIES
from vocseg_lib.failures.scene_text import Description
from vocseg_lib.failures.tables import overall_rows
from vocseg_lib.metrics.matching import AREA_RANGES
from vocseg_lib.plots.images import Layer, draw_instances, draw_layers
from vocseg_lib.plots.style import (
    COLORS,
    add_suptitle,
    add_title,
    as_label,
    model_color,
    new_ax,
    new_axes,
    short,
    write_figure,
)

MIN_OBJECTS = 10
"""Sizes with fewer objects are not plotted: their AP is noise."""
MIN_LABEL_WIDTH = 0.75
"""Inches per bar from which its name stands level below it."""
MAX_SENTENCES = 24
"""Of a scene's description that a figure shows."""
GAP_COLORS = {"closes the gap": COLORS[2], "widens it": COLORS[3], "mask AP": COLORS[7]}


def _interval_bars(rows: pd.DataFrame, group: str, bar: str, ax: Axes) -> Axes:
    """Bars with intervals of rows with a group, a bar, value, low, high and a number of objects."""
    counts = rows.groupby(group, sort=False)["objects"].max()
    labels, bars = [f"{name}\n({n:.0f})" for name, n in counts.items()], rows[bar].unique()
    tables = (
        rows.pivot(index=group, columns=bar, values=name).loc[counts.index, bars].set_axis(labels)
        for name in ("value", "low", "high")
    )
    return _bars(next(tables), ax, tuple(tables))


def _bars(values: pd.DataFrame, ax: Axes, ends: tuple[pd.DataFrame, ...] = ()) -> Axes:
    """Groups of bars by row, one bar per column (model), with intervals from `ends` (low, high)."""
    width, names = 0.8 / max(1, len(values.columns)), [str(name) for name in values.index]
    for k, name in enumerate(values):
        at = np.arange(len(values)) + (k - (len(values.columns) - 1) / 2) * width
        label = as_label(short(name, 28))
        ax.bar(at, values[name], width, label=label, color=model_color(name, k))
        if ends:
            low, high = ends
            sides = np.clip([values[name] - low[name], high[name] - values[name]], 0, None)
            style = {"fmt": "none", "ecolor": "black", "elinewidth": 1, "capsize": 2}
            ax.errorbar(at, values[name], sides, **style)
    room = ax.get_position().width * ax.figure.get_figwidth() / max(1, len(values))
    if room >= MIN_LABEL_WIDTH:
        ax.set_xticks(np.arange(len(values)), [textwrap.fill(n, 12) for n in names], fontsize=8)
    else:
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(np.arange(len(values)), names, fontsize=8, **turned)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.margins(y=0.22)  # room for the legend
    if not values.fillna(0.0).to_numpy().any():
        ax.set_ylim(0, 1)
    ax.legend(fontsize=8, loc="best")
    return ax


def _largest(values: pd.Series, digits: str = ".1f") -> str:
    """The name of the largest value, and that value; "none" where all are 0."""
    return f"{values.idxmax()} ({values.max():{digits}})" if values.any() else "none"


def failure_dap(tables: dict[str, pd.DataFrame], family: str = "TIDE, masks") -> np.ndarray:
    """Rate and dAP of each type of a family, a panel each; `tables`: `Analysis.table` by model."""
    axes, metric = new_axes(2, 2, (4.5, 4.4)), FAMILIES[family]
    families = {title: table[table["family"] == family] for title, table in tables.items()}
    by_type = {title: overall_rows(rows).set_index("type") for title, rows in families.items()}
    labels = {"rate": "percent of detections or objects", "dAP": f"dAP (points of {metric})"}
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        values = pd.DataFrame({title: rows[column] for title, rows in by_type.items()})
        _bars(values.fillna(0.0), ax).set(xlabel="type", ylabel=label)
    largest = [f"{title}, {_largest(dap)}" for title, dap in values.fillna(0.0).items()]
    reading = f"Largest dAP: {'; '.join(largest)}. Each type fixed alone; the values do not sum."
    return add_suptitle(axes, f"Failures ({family}): how often, and their dAP", reading)


def dap_by_size(tables: dict[str, pd.DataFrame], family: str = "pixels") -> np.ndarray:
    """dAP of each type by size of object, one panel per size with any; see `failure_dap`."""
    by_size = {}
    for size in list(AREA_RANGES)[1:]:
        values = {}
        for title, table in tables.items():
            rows = table[(table["family"] == family) & (table["class"] == "all")]
            values[title] = rows[rows["size"] == size].set_index("type")["dAP"]
        values = pd.DataFrame(values).fillna(0.0)
        if values.to_numpy().any() or size == "small":
            by_size[size] = values
    axes = new_axes(len(by_size), len(by_size), (3, 4.4))
    for ax, (size, values) in zip(axes, by_size.items(), strict=True):
        _bars(values, ax).set_title(f"{size} objects", fontsize=9)
        ax.set(xlabel="type", ylabel=f"dAP (points of {FAMILIES[family]})")
    largest = "; ".join(f"{size}: {_largest(dap.mean(1))}" for size, dap in by_size.items())
    reading = f"Largest on average over the models: {largest}."
    return add_suptitle(axes, f"dAP by size of object ({family})", reading)


def crowding_bars(table: pd.DataFrame, metric: str = "recall") -> np.ndarray:
    """ "recall" or "AP50" against crowding, one panel per measure; `table`: of `by_crowding`."""
    measures = table["measure"].unique()
    axes, readings = new_axes(len(measures), 2, (4.5, 3.9)), []
    in_bins = ~table["bin"].str.contains(" - ", regex=False)
    table = table[(table["metric"] == metric) & in_bins]
    gaps = table[table["model"].isin(table["model"].unique()[2:])]  # the third is the difference
    for ax, measure in zip(axes, measures, strict=True):
        rows = table[(table["measure"] == measure) & ~table.index.isin(gaps.index)]
        _interval_bars(rows, "bin", "model", ax).set_xlabel(f"{measure} (objects)")
        ax.set_ylabel(f"{metric} at IoU 0.5 (percent), 95 % interval")
    for gap in gaps[(gaps["measure"] == measures[0]) & gaps["value"].notna()].itertuples():
        readings.append(f"{gap.bin} {gap.value:+.0f} [{gap.low:.0f}, {gap.high:.0f}]")
    reading = "In parentheses: the number of objects."
    if len(gaps):
        reading = f"{gaps['model'].iloc[0]}, by neighbors: {'; '.join(readings)} points."
    title = f"Too many objects in one spot? {metric} against crowding"
    return add_suptitle(axes, title, reading)


def oracle_bars(
    tables: dict[str, pd.DataFrame], column: str = "mask AP", ax: Axes | None = None
) -> Axes:
    """AP without and with each oracle; `tables`: `single_oracles` by model."""
    values = pd.DataFrame({title: table[column] for title, table in tables.items()})
    ax = _bars(values, new_ax(ax, (9, 4)))
    ax.set(xlabel="oracle (taken from the ground truth)", ylabel=f"{column} (percent)")
    gains = values.drop(index=["baseline", "all oracles"]) - values.loc["baseline"]
    best = [f"{title}: {_largest(gain, '+.1f')}" for title, gain in gains.items()]
    return add_title(ax, f"Oracles: {column}", f"Largest gain alone: {'; '.join(best)}.", 110)


def waterfall(
    parts: pd.DataFrame, first: str, second: str, ap: tuple[float, float], ax: Axes | None = None
) -> Axes:
    """From the first model's mask AP to the second's; `parts`: of `gap_parts`, `ap`: of both."""
    ax, rows = new_ax(ax, (9, 4.4)), parts[parts["part"] != "gap"]
    starts = ap[0] + np.r_[0, rows["points"].cumsum()]
    for k, value in ((0, ap[0]), (len(rows) + 1, ap[1])):
        ax.bar(k, value, color=GAP_COLORS["mask AP"], label=None if k else "mask AP")
        ax.text(k, value, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
    for k, (row, start) in enumerate(zip(rows.itertuples(), starts, strict=False), 1):
        label = "closes the gap" if row.points >= 0 else "widens it"
        known = label in ax.get_legend_handles_labels()[1]
        bar = ax.bar(k, row.points, bottom=start, color=GAP_COLORS[label])
        bar.set_label(None if known else label)
        ends = f"\n[{row.low:+.1f}, {row.high:+.1f}]" if row.low == row.low else ""
        top, text = max(start, start + row.points), f"{row.points:+.1f}{ends}"
        ax.text(k, top, text, ha="center", va="bottom", fontsize=7)
        ax.plot([k - 0.4, k + 1.4], [start + row.points] * 2, color="black", linewidth=0.6)
    names = [textwrap.fill(short(name), 12) for name in (first, *rows["part"], second)]
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel="model, and cause of the gap", ylabel="mask AP (percent)")
    levels = np.r_[0, ap, starts]
    room = 0.15 * np.ptp(levels)  # for the texts on the bars
    ax.set_ylim(levels.min() - room * (levels.min() < 0), levels.max() + room)
    ax.figure.legend(
        *ax.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3
    )
    largest = rows.loc[rows["points"].abs().idxmax()]
    largest = f"{largest['part']} ({largest['points']:+.1f})"
    gap = parts.set_index("part")["points"]["gap"]
    reading = f"The gap is {gap:+.1f} points; its largest part: {largest}. The parts sum to it."
    return add_title(ax, f"From {short(first)} to {short(second)}", reading, 110)


def mask_recut(
    detection: dict, annotation: dict, recut: dict, picture: np.ndarray | None = None
) -> np.ndarray:
    """An object, a detection of it, and this one's mask cut to the object's box (RLE `recut`).

    `detection`, `annotation`: COCO entries. Gray without the `picture`.
    """
    masks = [annotation["segmentation"], detection["segmentation"], recut]
    size = masks[0]["size"]
    picture = np.full((*size, 3), 200, dtype=np.uint8) if picture is None else picture
    before, after = coco_mask.iou(masks[1:], masks[:1], [0])[:, 0]
    names = "object, its box", f"predicted: IoU {before:.2f}", f"in the true box: IoU {after:.2f}"
    boxes = [bbox_xywh(annotation), bbox_xywh(detection), bbox_xywh(annotation)]
    low = np.min(boxes, 0)[:2]
    high = np.max([[x + w, y + h] for x, y, w, h in boxes], 0)
    margin = 4 + 0.2 * (high - low).max()
    (left, top), (right, bottom) = low - margin, high + margin
    axes, outline = new_axes(3, 3, (3, 3)), coco_mask.decode(masks[0]) > 0
    for k, (ax, name) in enumerate(zip(axes, names, strict=True)):
        layers = [Layer(coco_mask.decode(masks[k]) > 0, boxes[k], COLORS[k], "", True)]
        layers += [Layer(outline, None, "white", "", True, True)] if k else []
        draw_layers(picture, layers, ax).set_title(name, fontsize=9)
        ax.set_xlim(max(-0.5, left), min(size[1] - 0.5, right))
        ax.set_ylim(min(size[0] - 0.5, bottom), max(-0.5, top))
    reading = "Dotted: the object's outline. Solid: a mask, and the box to which it is cut. "
    reading += "The third mask is the second's prediction, cut to the box of the first."
    return add_suptitle(axes, "What the oracle 'true boxes' does to a mask", reading)


def ablation_bars(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mask AP by size of object and variant of the mask loss; `table`: of `ablation_table`."""
    table = table[(table["objects"] >= MIN_OBJECTS) | (table["size"] == "all")]
    ax = _interval_bars(table, "size", "variant", new_ax(ax, (8.5, 4)))
    ax.set_xlabel("size of object, COCO's limits (number of objects)")
    ax.set_ylabel("mask AP (percent), 95 % interval")
    first = table["variant"].iloc[0]
    others = table[(table["size"] == "all") & (table["variant"] != first)]
    changes = [
        f"{r.variant} {r.difference:+.1f} [{r.difference_low:+.1f}, {r.difference_high:+.1f}]"
        for r in others.itertuples()
    ]
    reading = f"Against {first}: {'; '.join(changes)} points."
    return add_title(ax, "The two tricks of YOLACT's mask loss", reading, 110)


def scene_description(
    picture: np.ndarray, described: dict[str, Description], sentences: pd.DataFrame, title: str
) -> np.ndarray:
    """A picture [h, w, 3] with its objects' masks, beside the sentences on them, for each source.

    Letters link an object with its sentences, of which the first `MAX_SENTENCES` are shown. The
    descriptions and the table are those of `describe_with_errors`: wrong sentences are colored and
    end with the failures.
    """
    wrong, columns = sentences["failures"] != "", {}
    for source, description in described.items():
        order, columns[source] = description.mentions[0], []
        rows = sentences[sentences["source"] == source].itertuples()
        for row, mentioned in zip(rows, description.mentions, strict=True):
            letters = ", ".join(_letter(order.index(i)) for i in mentioned)
            text = f"{letters}: {short(row.sentence, 400)}" if columns[source] else row.sentence
            text += f" [{row.failures}]" if row.failures else ""
            columns[source].append((textwrap.fill(text, 56), bool(row.failures)))
        if more := columns[source][MAX_SENTENCES:]:
            columns[source][MAX_SENTENCES:] = [(f"… and {len(more)} more.", False)]
    heights = {s: [t.count("\n") * 11 + 15 for t, _ in lines] for s, lines in columns.items()}
    inches = [max(2.8, (sum(lines) + 50) / 72) for lines in heights.values()]
    axes = new_axes(2 * len(described), 2, (4.5, np.mean(inches)))
    axes[0].get_gridspec().set_height_ratios(inches)
    for pictured, ax, (source, lines) in zip(axes[::2], axes[1::2], columns.items(), strict=True):
        masks = described[source].masks
        names = [_letter(k) for k in range(len(masks))]
        labels = range(1, len(names) + 1)
        image = torch.tensor(picture).permute(2, 0, 1)
        draw_instances(image, masks, labels=labels, class_names=names, ax=pictured)
        pictured.set_title(source, fontsize=9, loc="left")
        pictured.set_anchor("N")
        ax.axis("off")
        for (text, is_wrong), bottom in zip(lines, np.cumsum(heights[source]), strict=True):
            style = {"fontsize": 8.5, "color": COLORS[1] if is_wrong else "black"}
            style |= {"xytext": (0, -bottom), "textcoords": "offset points"}
            style |= {"xycoords": "axes fraction", "va": "bottom"}
            ax.annotate(text, (0, 1), **style).set_in_layout(False)
    reading = f"{wrong.sum()} of {len(wrong)} sentences are about a failure, named in brackets."
    return add_suptitle(axes, title, reading)


def save_scene(
    folder: str | Path,
    name: str,
    picture: np.ndarray,
    described: dict[str, Description],
    sentences: pd.DataFrame,
) -> Path:
    """Write a `scene_description` to a folder, as PNG by the image's name; its path."""
    axes = scene_description(picture, described, sentences, name)
    letters = re.sub(r"[^a-zA-Z0-9_-]+", "_", name)[:80]
    letters += "" if letters == name else f"_{crc32(name.encode(errors='replace')):08x}"
    path = Path(folder) / f"{letters}.png"
    write_figure(axes[0], path)
    plt.close(axes[0].figure)
    return path


def _letter(index: int) -> str:
    """A, B, C, ..., Z, 27, 28, ..."""
    return ascii_uppercase[index] if index < len(ascii_uppercase) else str(index + 1)
