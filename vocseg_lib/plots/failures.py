"""Figures of notebooks 05 and 06: what failures cost, crowding, oracles, the gap in parts, and the ablation."""

import textwrap

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from vocseg_lib.failures.analysis import FAMILIES
from vocseg_lib.failures.tables import AREA_LIMITS, overall_rows
from vocseg_lib.plots.images import draw_instances
from vocseg_lib.plots.style import (
    COLORS,
    add_figure_title,
    add_title,
    model_color,
    new_ax,
    new_axes,
)

FEW = 10
"""Objects below which an AP says nothing."""
UP, DOWN, WHOLE = COLORS[2], COLORS[3], COLORS[7]


def _bars(
    values: pd.DataFrame,
    ax: Axes,
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
) -> Axes:
    """A group of bars for each row, one for each column (model), with intervals where there are some."""
    width = 0.8 / max(1, len(values.columns))
    for k, name in enumerate(values):
        at = np.arange(len(values)) + (k - (len(values.columns) - 1) / 2) * width
        ax.bar(at, values[name], width, label=name, color=model_color(name, k))
        if low is not None and high is not None:
            ends = np.clip([values[name] - low[name], high[name] - values[name]], 0, None)
            ax.errorbar(at, values[name], ends, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    ax.set_xticks(
        np.arange(len(values)), [textwrap.fill(str(name), 12) for name in values.index], fontsize=8
    )
    ax.axhline(0, color="black", linewidth=0.8)
    ax.margins(y=0.22)  # room for the legend
    ax.legend(fontsize=8, loc="best")
    return ax


def whole(table: pd.DataFrame, family: str, column: str) -> pd.Series:
    """A column of `Analysis.table` for all classes and sizes, by type."""
    return overall_rows(table[table["family"] == family]).set_index("type")[column]


def failure_costs(
    tables: dict[str, pd.DataFrame], family: str = "TIDE, masks", axes: np.ndarray | None = None
) -> np.ndarray:
    """How often each type of a family comes up, and what it costs: a panel each; `tables` maps models to `Analysis.table`."""
    axes = new_axes(2, 2, (6.2, 3.9), axes)
    for ax, column, label in zip(
        axes,
        ("rate", "dAP"),
        ("percent of detections, or of objects", FAMILIES[family]),
        strict=True,
    ):
        values = pd.DataFrame(
            {title: whole(table, family, column) for title, table in tables.items()}
        )
        _bars(values.fillna(0.0), ax)
        ax.set_xlabel("type of failure")
        ax.set_ylabel(label if column == "rate" else f"points of {label} it costs")
    costs = {title: whole(table, family, "dAP") for title, table in tables.items()}
    worst = "; ".join(
        f"{title}: {cost.idxmax()} ({cost.max():.1f})" for title, cost in costs.items()
    )
    add_figure_title(
        axes[0].figure,
        f"What goes wrong ({family}), how often and at what price",
        f"Dearest: {worst} points of {FAMILIES[family]}. Each type repaired alone; the prices do not add up.",
    )
    return axes


def costs_by_size(
    tables: dict[str, pd.DataFrame], family: str = "pixels", axes: np.ndarray | None = None
) -> np.ndarray:
    """What each type of failure costs among small, medium and large objects: a panel for each size at which something does."""
    costs = {}
    for size in AREA_LIMITS:
        kept = {
            t: table[(table["family"] == family) & (table["class"] == "all")]
            for t, table in tables.items()
        }
        values = pd.DataFrame(
            {t: rows[rows["size"] == size].set_index("type")["dAP"] for t, rows in kept.items()}
        ).fillna(0.0)
        if values.to_numpy().any() or size == "small":
            costs[size] = values
    axes = new_axes(len(costs), len(costs), (4.6, 3.8), axes)
    dearest = {size: values.mean(1).idxmax() for size, values in costs.items()}
    for ax, (size, values) in zip(axes, costs.items(), strict=True):
        _bars(values, ax).set_title(f"{size} objects", fontsize=9)
        ax.tick_params(axis="x", labelrotation=60, labelsize=7)
        ax.set_xlabel("type of failure")
        ax.set_ylabel(f"points of {FAMILIES[family]} among {size} objects")
    reading = "; ".join(f"{size}: {name}" for size, name in dearest.items())
    add_figure_title(
        axes[0].figure,
        f"Price by size of object ({family})",
        f"Dearest on average over the models: {reading}.",
    )
    return axes


def crowding(
    table: pd.DataFrame, metric: str = "recall", axes: np.ndarray | None = None
) -> np.ndarray:
    """A metric of `by_crowding`'s table ("AP50" or "recall") against crowding, a panel for each way to measure it."""
    measures = list(dict.fromkeys(table["measure"]))
    axes = new_axes(len(measures), 2, (6.2, 3.9), axes)
    chosen, said = (
        table[(table["metric"] == metric) & ~table["bin"].str.contains(" - ", regex=False)],
        [],
    )
    for ax, measure in zip(axes, measures, strict=True):
        rows = chosen[chosen["measure"] == measure]
        wide = {
            name: rows.pivot(index="bin", columns="model", values=name)
            for name in ("value", "low", "high", "objects")
        }
        order = list(dict.fromkeys(rows["bin"]))
        models = [name for name in dict.fromkeys(rows["model"]) if " - " not in name]
        named = [f"{name}\n({wide['objects'].loc[name].max():.0f})" for name in order]
        value, low, high = (
            wide[name].loc[order, models].set_axis(named) for name in ("value", "low", "high")
        )
        _bars(value, ax, low, high)
        ax.set_xlabel(f"{measure} (objects)")
        ax.set_ylabel(f"{metric} at IoU 0.5 (percent), 95 % interval")
        gaps = rows[rows["model"].str.contains(" - ", regex=False) & rows["value"].notna()]
        said += [
            f"{gap.bin} {gap.value:+.0f} [{gap.low:.0f}, {gap.high:.0f}]"
            for gap in gaps.itertuples()
            if measure == measures[0]
        ]
    gap = next((name for name in chosen["model"] if " - " in name), None)
    reading = (
        f"{gap}, by neighbors: {'; '.join(said)} points."
        if gap
        else "In brackets how many objects there are."
    )
    add_figure_title(
        axes[0].figure, f"Too many objects in one spot? {metric} against crowding", reading
    )
    return axes


def oracles(
    tables: dict[str, pd.DataFrame], column: str = "mask AP", ax: Axes | None = None
) -> Axes:
    """AP as it is and with each thing true, for each model; `tables` maps models to `single_oracles`."""
    values = pd.DataFrame({title: table[column] for title, table in tables.items()})
    ax = _bars(values, new_ax(ax, (9.5, 4)))
    ax.set_xlabel("what is replaced by the truth")
    ax.set_ylabel(f"{column} (percent)")
    gains = values.drop(index=["baseline", "all oracles"]) - values.loc["baseline"]
    best = "; ".join(
        f"{title}: {gains[title].idxmax()} (+{gains[title].max():.1f})" for title in values
    )
    return add_title(
        ax, f"What if one thing were true? {column}", f"What helps most alone: {best}.", 110
    )


def waterfall(
    parts: pd.DataFrame, first: str, second: str, ap: tuple[float, float], ax: Axes | None = None
) -> Axes:
    """From the first model's mask AP to the second's, part by part; `parts` is `gap_parts`' table, `ap` both models' AP."""
    ax = new_ax(ax, (10, 4.4))
    rows = parts[parts["part"] != "gap"]
    start, names = ap[0], [first, *rows["part"], second]
    ax.bar(0, ap[0], color=WHOLE, label="mask AP")
    for k, row in enumerate(rows.itertuples(), 1):
        colour, label = (
            (UP, "made true of both, the gap closes") if row.points >= 0 else (DOWN, "it widens")
        )
        known = ax.get_legend_handles_labels()[1]
        ax.bar(k, row.points, bottom=start, color=colour, label=None if label in known else label)
        ends = f"\n[{row.low:+.1f}, {row.high:+.1f}]" if row.low == row.low else ""
        ax.text(
            k,
            max(start, start + row.points),
            f"{row.points:+.1f}{ends}",
            ha="center",
            va="bottom",
            fontsize=7,
        )
        ax.plot([k - 0.4, k + 1.4], [start + row.points] * 2, color="black", linewidth=0.6)
        start += row.points
    ax.bar(len(rows) + 1, ap[1], color=WHOLE)
    for k, value in ((0, ap[0]), (len(rows) + 1, ap[1])):
        ax.text(k, value, f"{value:.1f}", ha="center", va="bottom", fontsize=8)
    ax.set_xticks(range(len(names)), [textwrap.fill(name, 12) for name in names], fontsize=8)
    ax.set_xlabel("model, and what the gap is due to")
    ax.set_ylabel("mask AP (percent)")
    levels = np.r_[0, ap, ap[0] + rows["points"].cumsum()]
    ax.set_ylim(min(0, 1.2 * levels.min()), 1.2 * levels.max())
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
    largest = rows.loc[rows["points"].abs().idxmax()]
    gap = parts.set_index("part")["points"]["gap"]
    reading = f"The gap is {gap:+.1f} points; its largest part is {largest['part']} ({largest['points']:+.1f}). The parts add up."
    return add_title(ax, f"From {first} to {second}", reading, 110)


def ablation(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mask AP by size of object for each variant of the mask loss, with intervals; `table` is `ablation_table`.

    Sizes with fewer than `FEW` objects are left to the table.
    """
    table = table[(table["objects"] >= FEW) | (table["size"] == "all")]
    wide = {
        name: table.pivot(index="size", columns="variant", values=name)
        for name in ("value", "low", "high")
    }
    sizes, variants = list(dict.fromkeys(table["size"])), list(dict.fromkeys(table["variant"]))
    counts = table.groupby("size")["objects"].max()
    named = [f"{size}\n({counts[size]})" for size in sizes]
    value, low, high = (
        wide[name].loc[sizes, variants].set_axis(named) for name in ("value", "low", "high")
    )
    ax = _bars(value, new_ax(ax, (8.5, 4)), low, high)
    ax.set_xlabel("size of object, COCO's limits (number of objects)")
    ax.set_ylabel("mask AP (percent), 95 % interval")
    overall = table[(table["size"] == "all") & (table["variant"] != variants[0])]
    said = [
        f"{r.variant} {r.difference:+.1f} [{r.difference_low:+.1f}, {r.difference_high:+.1f}]"
        for r in overall.itertuples()
    ]
    return add_title(
        ax,
        "What the two tricks of the mask loss buy",
        f"Against {variants[0]}: {'; '.join(said)} points.",
        110,
    )


def explain_largest(
    picture: np.ndarray,
    objects: dict[str, list[dict]],
    told: pd.DataFrame,
    title: str,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """A picture [h, w, 3] and what is said of it, `description.beside_truth`'s table: for each source the picture with its
    `objects` (of the scene's graph) by name, and its sentences; those about something that went wrong are coloured, with the
    failures in brackets."""
    said = [
        f"{row.sentence} [{row.failures}]" if row.failures else row.sentence
        for row in told.itertuples()
    ]
    told = told.assign(text=[textwrap.fill(sentence, 54) for sentence in said])
    told["down"] = (
        told["text"].str.count("\n").mul(11).add(15).groupby(told["source"]).cumsum()
    )  # points
    axes = new_axes(2 * len(objects), 2, (5, max(2.8, (told["down"].max() + 50) / 72)), axes)
    for pictured, ax, (source, of_source) in zip(
        axes[::2], axes[1::2], objects.items(), strict=True
    ):
        names, numbers = [o["id"] for o in of_source], range(1, len(of_source) + 1)
        image, boxes = torch.tensor(picture).permute(2, 0, 1), [o["box"] for o in of_source]
        draw_instances(
            image, np.zeros((0, *picture.shape[:2])), boxes, numbers, class_names=names, ax=pictured
        )
        pictured.set_title(source, fontsize=9, loc="left")
        ax.axis("off")
        for row in told[told["source"] == source].itertuples():
            place = {
                "xycoords": "axes fraction",
                "xytext": (0, -row.down),
                "textcoords": "offset points",
                "va": "bottom",
            }
            ax.annotate(
                row.text,
                (0, 1),
                fontsize=8.5,
                color=COLORS[1] if row.failures else "black",
                **place,
            ).set_in_layout(False)
    wrong = int((told["failures"] != "").sum())
    add_figure_title(
        axes[0].figure,
        title,
        f"{wrong} of {len(told)} sentences are about something that went wrong; in brackets, what.",
    )
    return axes
