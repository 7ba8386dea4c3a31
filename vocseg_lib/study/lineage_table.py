"""Table and steps of the lineage, from evaluated rows."""

from itertools import pairwise
from typing import Any

import pandas as pd

from vocseg_lib.metrics import bootstrap
from vocseg_lib.metrics.coco_eval import Evaluation, evaluate
from vocseg_lib.study.lineage import POOLED, ROUNDED, SHORT, LineageConfig, prediction_path
from vocseg_lib.study.run import default_device
from vocseg_lib.study.study import Study
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import to_jsonable, write_json, write_text

LINEAGE_COLUMNS = (
    *("model", "kind", "proposals", "mask_from", "iterations"),
    *("box_AP50", "mask_AP50", "mask_AP50_low", "mask_AP50_high", "mean_iou"),
    *("seconds_per_image", "train_minutes", "parameters"),
)
LINEAGE_STEPS = {
    "R-CNN": "learned features",
    "Fast R-CNN": "one pass per image, one loss",
    "Faster R-CNN": "learned proposals",
    POOLED: "a mask branch",
    ROUNDED: "RoIAlign of rounded regions",
    SHORT: "no rounding of regions",
    "Mask R-CNN": "the recipe's training",
    "YOLACT": "one stage",
}
"""What each row changes against the one before it; the first against the best of classical ML."""


def lineage_table(
    study: Study, config: LineageConfig, rows: list[dict[str, Any]], **further: Any
) -> pd.DataFrame:
    """The evaluated rows, one per model; also written to lineage.csv.

    lineage.json holds them with what they come from, and `further` entries.
    """
    table = pd.DataFrame(rows, columns=list(LINEAGE_COLUMNS))
    write_text(study.results / "lineage.csv", table.to_csv(index=False))
    content = {
        "description": study.description,
        "data": study.data_kind,
        "train_images": len(study.dataset("train")),
        "seed": study.recipe.train.seed,
        **config.to_dict(),
        "train_hours": float(table["train_minutes"].drop_duplicates().sum() / 60),
        **environment_info(default_device()),
        "rows": table.to_dict("records"),
        **further,
    }
    write_json(study.results / "lineage.json", to_jsonable(content))
    return table


def step_table(study: Study, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """What each of `LINEAGE_STEPS` changes, where both of its rows are evaluated.

    Columns: step, before, after; differences of box and mask AP50 (points) with 95 % intervals over
    the same resampled images (`_low`, `_high`); seconds_ratio (after / before).
    """
    by_title = {row["model"]: row for row in rows}
    classical = [row for row in rows if row["kind"] == "classical ML"]
    best = [row["model"] for row in sorted(classical, key=lambda row: row["mask_AP50"])[-1:]]
    pairs = [p for p in pairwise([*best, *LINEAGE_STEPS]) if by_title.keys() >= set(p)]
    count, steps, ap = len(study.val), [], {}
    weights = bootstrap.prepend_point_estimate(bootstrap.bootstrap_weights(count), count)
    for title in {title for pair in pairs for title in pair}:
        evaluation = evaluate_predictions(study, title)
        ap[title] = bootstrap.bootstrap(evaluation, weights, headline=True)
    for before, after in pairs:
        step = {"step": LINEAGE_STEPS[after], "before": before, "after": after}
        for kind in ("box", "mask"):
            change = (ap[after] - ap[before])[kind, "AP50", "all"].to_numpy()
            low, high = bootstrap.interval(change[1:])
            step |= {f"{kind}_AP50": change[0]}
            step |= {f"{kind}_AP50_low": low, f"{kind}_AP50_high": high}
        seconds = [by_title[title]["seconds_per_image"] for title in (after, before)]
        steps.append({**step, "seconds_ratio": seconds[0] / seconds[1]})
    return pd.DataFrame(steps)


def evaluate_predictions(study: Study, title: str) -> Evaluation:
    """The evaluation of a row's prediction file. Raises ValueError if it is of other data."""
    predictions = study.read_predictions(prediction_path(study, title))
    return evaluate(study.ground_truth, predictions["detections"])


def example_image(ground_truth: dict) -> int:
    """Id of the image whose smallest object is largest, of those with two to four objects."""
    areas = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        areas[annotation["image_id"]].append(annotation["area"])
    return max(areas, key=lambda i: (2 <= len(areas[i]) <= 4, min(areas[i], default=0)))
