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
from vocseg_lib.plots.images import draw_instances, picture_folder
from vocseg_lib.plots.style import add_suptitle, add_title, model_color, new_ax, new_axes, short
from vocseg_lib.utils.rle import decode_rle

MAX_DRAWN = 6  # detections of a model in a picture, those with the largest IoU
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
    caption += f"{len(wins) - ahead} {short(second)}; gray intervals hold 0. "
    caption += "Diamonds: the winner is not that of the first row."
    return add_title(ax, "Who wins by how much under which rule", caption, 90)


def picture_of_flip(
    picture: Picture, row: int, models: dict[str, Evaluation], table: pd.DataFrame
) -> np.ndarray:
    """An image (index) on which two rules disagree: its objects, and what each model made of them.

    `table`: of `image_that_flips`.
    """
    ground_truth = next(iter(models.values())).ground_truth
    image = ground_truth["images"][row]
    names = {c["id"]: short(c["name"], 16) for c in ground_truth["categories"]}
    objects = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
    panels = {"ground truth": objects}
    nearest = {title: _nearest(model, row) for title, model in models.items()}
    panels |= {title: [entry for entry, _ in pairs] for title, pairs in nearest.items()}
    axes = new_axes(len(panels), 3, (3, 3.2))
    for ax, (title, entries) in zip(axes, panels.items(), strict=True):
        masks = decode_rle([e["segmentation"] for e in entries if "segmentation" in e])
        boxes = np.array([bbox_xywh(e) for e in entries], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = range(1, len(entries) + 1)
        texts = [names[e["category_id"]] for e in entries]
        scores = [e["score"] for e in entries if title in nearest]
        draw_instances(picture, masks, boxes, labels, scores, texts, ax)
        ious = ", ".join(f"{iou:.2f}" for _, iou in nearest.get(title, ()))
        ax.set_title(f"{short(title)}\n{'IoU ' * bool(ious)}{ious}", fontsize=8)
    parts = (
        f"{row.rule}: {row.lead:+.2f} on all images, {row.without:+.2f} without this one"
        for row in table.itertuples()
    )
    first, second = models
    caption = f"The lead of {short(first)} over {short(second)} under two rules. "
    caption += f"{'; '.join(parts)}. Shown is what each model has nearest to each object, of its "
    caption += "class, whatever its score."
    rules = " and ".join(table["rule"])
    title = f"Image {image['id']}: where {rules} disagree"
    return add_suptitle(axes, title, caption)


def _nearest(model: Evaluation, row: int) -> list[tuple[dict, float]]:
    """Per object of an image, the detection of its class with the largest IoU, and that IoU."""
    image_eval = model.dataset_eval.image_evals[row]
    iou = image_eval.same_class_iou(model.iou_types[0])
    best = {int(iou[:, j].argmax()): j for j in np.flatnonzero(iou.max(0, initial=0) > 0)}
    index = image_eval.detections["detection"]
    pairs = [(model.detections[index[i]], float(iou[i, j])) for i, j in best.items()]
    return sorted(pairs, key=lambda pair: -pair[1])[:MAX_DRAWN]


def explain_flips(
    models: dict[str, Evaluation], table: pd.DataFrame, images: Path
) -> Iterator[tuple[str, np.ndarray]]:
    """(rule, its picture) for the rules of a `rule_book` that flip the winner, the surest first.

    `images`: folder of the pictures, or a devkit.
    """
    flips = table[table["flips"]]
    sure = (flips["lead"] / (flips["high"] - flips["low"]).clip(lower=1e-9)).abs()
    folder = picture_folder(images)
    rules, first, explained = {r.title: r for r in RULES}, table["rule"].iloc[:1], set()
    for name in flips.loc[sure.sort_values(ascending=False).index, "rule"]:
        pair = rules[first.item()], rules[name]
        row, leads = image_that_flips(*models.values(), pair)
        if row in explained:
            continue
        explained.add(row)
        image = next(iter(models.values())).ground_truth["images"][row]
        if not image.get("file_name"):
            raise ValueError(f"image {image['id']} of the ground truth has no file_name")
        path, size = folder / image["file_name"], (image["height"], image["width"])
        picture = read_fitting(path, size, lambda: False)
        yield name, picture_of_flip(picture, row, models, leads)
        if len(explained) == MAX_FLIPS:
            return
