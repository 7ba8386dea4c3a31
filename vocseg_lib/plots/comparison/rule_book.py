"""Figures of the rule book: the lead under every rule, and an image on which two rules disagree."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vocseg_lib.data.coco_validation import bbox_xywh
from vocseg_lib.data.image_files import Picture, read_fitting
from vocseg_lib.metrics.coco_eval import Evaluation
from vocseg_lib.metrics.rule_book import RULES, image_that_flips
from vocseg_lib.plots.images import draw_instances
from vocseg_lib.plots.style import add_suptitle, add_title, model_color, new_ax, new_axes, short
from vocseg_lib.utils.rle import decode_rle

MIN_DRAWN, MAX_DRAWN = 2, 8  # detections of a model in a picture, the best ones
MAX_FLIPS = 3  # pictures, of the rules that are surest of another winner


def rule_book_chart(table: pd.DataFrame, first: str, second: str, ax: Axes | None = None) -> Axes:
    """`rule_book` as a chart: the lead of the first model under each rule, with its interval."""
    ax = new_ax(ax, (8, 0.27 * len(table) + 1.6))
    for y, row in enumerate(table.itertuples()):
        color = model_color(*((first, 0) if row.lead > 0 else (second, 1)))
        color = color if row.significant else "0.6"
        ax.plot([row.low, row.high], [y, y], color=color, linewidth=2)
        ax.plot(row.lead, y, "D" if row.flips else "o", color=color)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(table)), table["rule"], fontsize=8)
    ax.invert_yaxis()
    for k, title in enumerate((first, second)):
        ax.plot([], [], "o-", color=model_color(title, k), label=f"{short(title, 24)} ahead")
    ax.plot([], [], "o-", color="0.6", label="may be chance")
    ax.legend(fontsize=7)
    ax.set(xlabel="lead (points)", ylabel="rule")
    ax.grid(alpha=0.3, axis="x")
    wins = table[table["significant"]]
    ahead = int((wins["lead"] > 0).sum())
    caption = f"Of {len(table)} rules {ahead} have {short(first)} ahead by more than chance and "
    caption += (
        f"{len(wins) - ahead} {short(second)}; gray intervals hold 0. Diamonds: the winner is "
    )
    caption += "not that of the first row."
    return add_title(ax, "Who wins by how much under which rule", caption, 90)


def picture_of_flip(
    picture: Picture,
    image_id: int,
    models: dict[str, Evaluation],
    table: pd.DataFrame,
) -> np.ndarray:
    """An image on which two rules disagree: its objects, and as many detections of each model."""
    ground_truth = next(iter(models.values())).ground_truth
    names = {c["id"]: short(c["name"], 16) for c in ground_truth["categories"]}
    entries = {"ground truth": ground_truth["annotations"]}
    entries |= {
        title: sorted(model.detections, key=lambda d: -d["score"])
        for title, model in models.items()
    }
    axes, most = new_axes(len(entries), 3, (3, 3.2)), None
    for ax, (title, part) in zip(axes, entries.items(), strict=True):
        shown = [e for e in part if e["image_id"] == image_id][:most]
        most = min(max(len(shown), MIN_DRAWN), MAX_DRAWN) if title not in models else most
        masks = decode_rle([e["segmentation"] for e in shown if "segmentation" in e])
        boxes = np.array([bbox_xywh(e) for e in shown], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = range(1, len(shown) + 1)
        texts = [names[e["category_id"]] for e in shown]
        scores = [e["score"] for e in shown] if title in models else ()
        draw_instances(picture, masks, boxes, labels, scores, texts, ax)
        ax.set_title(f"{short(title)} ({len(shown)})", fontsize=9)
    parts = (
        f"{row.rule}: {row.lead:+.2f} on all images, {row.without:+.2f} without this one"
        for row in table.itertuples()
    )
    first, second = models
    caption = (
        f"The lead of {short(first)} over {short(second)} under two rules. {'; '.join(parts)}."
    )
    caption += " Shown are each model's best detections, as many as there are objects, at least 2."
    title = f"Image {image_id}: where {table['rule'].iloc[0]} and {table['rule'].iloc[1]} disagree"
    return add_suptitle(axes, title, caption)


def explain_flips(
    models: dict[str, Evaluation], table: pd.DataFrame, images: Path
) -> Iterator[tuple[str, np.ndarray]]:
    """(rule, its picture) for the rules of a `rule_book` that flip the winner, the surest first.

    `images`: folder of the pictures, or a devkit.
    """
    flips = table[table["flips"]]
    sure = (flips["lead"] / (flips["high"] - flips["low"]).clip(lower=1e-9)).abs()
    folder = images if not (images / "JPEGImages").is_dir() else images / "JPEGImages"
    rules, first = {rule.title: rule for rule in RULES}, table["rule"].iloc[:1]
    for name in flips.loc[sure.sort_values(ascending=False).index[:MAX_FLIPS], "rule"]:
        pair = rules[first.item()], rules[name]
        row, leads = image_that_flips(*models.values(), pair)
        image = next(iter(models.values())).ground_truth["images"][row]
        path, size = folder / image["file_name"], (image["height"], image["width"])
        picture = read_fitting(path, size, lambda: False)
        yield name, picture_of_flip(picture, image["id"], models, leads)
