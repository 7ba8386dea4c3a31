"""Tables of the lineage: rows, steps, proposals, RoI poolings, and what the papers report."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from vocseg_lib.data.transforms import model_input
from vocseg_lib.metrics import bootstrap
from vocseg_lib.metrics.coco_eval import HEADLINE, Evaluation, evaluate
from vocseg_lib.models.lineage import proposals
from vocseg_lib.study.lineage import (
    POOLED,
    POOLING_ROWS,
    ROUNDED,
    SHORT,
    LineageConfig,
    compared_iterations,
    prediction_path,
    region_images,
    search_and_features,
    short_study,
)
from vocseg_lib.study.run import default_device, load_run
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
# R-CNN, Fast and Faster R-CNN; Mask R-CNN and YOLACT.
_R_CNN, _FAST, _FASTER = "arXiv 1311.2524", "arXiv 1504.08083", "arXiv 1506.01497"
_MASK, _YOLACT = "arXiv 1703.06870", "arXiv 1904.02689"
_C4 = {"data": "COCO minival", "backbone": "ResNet-50-C4"}
_VAL = "VOC 2012 val"
PUBLISHED_COLUMNS = "model measure published data backbone source".split()
PUBLISHED = (
    ("R-CNN", "box_AP50", 53.3, "VOC 2012 test", "AlexNet", _R_CNN),
    ("R-CNN", "box_AP50", 62.4, "VOC 2012 test", "VGG16", f"{_FAST}, table 3"),
    ("R-CNN", "seconds_per_image", 47.0, "VOC 2007 test", "VGG16", f"{_FAST}, table 4"),
    ("Fast R-CNN", "box_AP50", 65.7, "VOC 2012 test", "VGG16", f"{_FAST}, table 3"),
    ("Fast R-CNN", "seconds_per_image", 1.83, "VOC 2007 test", "VGG16", f"{_FASTER}, timing"),
    ("Faster R-CNN", "box_AP50", 67.0, "VOC 2012 test", "VGG16", f"{_FASTER}, VOC 2012 table"),
    ("Faster R-CNN", "seconds_per_image", 0.198, "VOC 2007 test", "VGG16", f"{_FASTER}, timing"),
    (POOLED, "mask_AP50", 48.8, *_C4.values(), f"{_MASK}, table 2c"),
    (SHORT, "mask_AP50", 51.2, *_C4.values(), f"{_MASK}, table 2c"),
    ("Mask R-CNN", "mask_AP50", 67.3, _VAL, "ResNet-50-FPN", "VOC with SBD (train_aug)"),
    ("YOLACT", "mask_AP50", 72.3, _VAL, "ResNet-50-FPN", f"{_YOLACT}: VOC with SBD"),
    ("DeepLabV3", "mean_iou", 71.6, "VOC 2012 test", "VGG16", "arXiv 1412.7062 (DeepLab)"),
)
"""Reported by the papers (`PUBLISHED_COLUMNS`): percent, or seconds on a GPU with all proposals."""


def beside_published(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """`PUBLISHED` with the evaluated rows' values as column `ours`; NaN where a row is missing.

    Data, backbone and schedule differ: only the order of the steps can be compared.
    """
    table = pd.DataFrame(PUBLISHED, columns=PUBLISHED_COLUMNS)
    by_title = {row["model"]: row for row in rows}
    ours = [by_title.get(r.model, {}).get(r.measure, float("nan")) for r in table.itertuples()]
    table.insert(3, "ours", ours)
    return table


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
        ap[title] = bootstrap.bootstrap(evaluation, weights, only=HEADLINE)
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
    """Id of the image whose smallest object is largest, of wide ones with two to four objects."""
    areas = {image["id"]: [] for image in ground_truth["images"]}
    wide = {image["id"]: image["width"] >= image["height"] for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        areas[annotation["image_id"]].append(annotation["area"])
    return max(areas, key=lambda i: (2 <= len(areas[i]) <= 4, wide[i], min(areas[i], default=0)))


def evaluate_pooling(study: Study, config: LineageConfig) -> dict[int, dict[str, Evaluation]]:
    """Evaluations on val of `POOLING_ROWS` by iterations (see `compared_iterations`) and title.

    The rows must be evaluated before. Raises FileNotFoundError, ValueError for prediction files.
    """
    evaluations = {}
    for n in compared_iterations(config):
        evaluations[n] = {}
        for title, pooling in POOLING_ROWS.items():
            folder = short_study(study, config, pooling).run_folder("mask_rcnn")
            detections = study.read_predictions(folder / f"predictions_{n}.json")["detections"]
            evaluations[n][title] = evaluate(study.ground_truth, detections)
    return evaluations


def pooling_by_iterations(
    study: Study, evaluations: dict[int, dict[str, Evaluation]]
) -> pd.DataFrame:
    """AP50 (percent) by iterations, and its difference to RoIAlign's at as many (points).

    Columns: kind (box, mask), iterations, variant, value, low, high, difference, difference_low,
    difference_high; 95 % intervals over the same resampled images. Written to
    lineage_iterations.csv.
    """
    count, rows = len(study.val), []
    weights = bootstrap.prepend_point_estimate(bootstrap.bootstrap_weights(count), count)
    for iterations, by_title in evaluations.items():
        ap = {t: bootstrap.bootstrap(e, weights, only=HEADLINE) for t, e in by_title.items()}
        for kind in ("box", "mask"):
            of_kind = {t: values[kind, "AP50", "all"].to_numpy() for t, values in ap.items()}
            for title, values in of_kind.items():
                row = {"kind": kind, "iterations": iterations, "variant": title}
                parts = {"": values, "difference": values - of_kind[SHORT]}
                for name, part in parts.items():
                    ends = dict(zip(("low", "high"), bootstrap.interval(part[1:]), strict=True))
                    row |= {name or "value": part[0]}
                    row |= {f"{name}_{end}".strip("_"): value for end, value in ends.items()}
                rows.append(row)
    table = pd.DataFrame(rows)
    write_text(study.results / "lineage_iterations.csv", table.to_csv(index=False))
    return table


def cache_regions(study: Study, config: LineageConfig) -> None:
    """Cache proposals and features of the images that are classified region by region."""
    search, features = search_and_features(study, config)
    train = region_images(study, config)

    def compute(i: int) -> None:
        image, target = train[i] if i < len(train) else study.val_pictures[i - len(train)]
        image = model_input(image)
        boxes = search(image)
        if i < len(train):
            boxes = torch.cat([target["boxes"].as_subclass(Tensor).float(), boxes])
        features(proposals.to_uint8_hwc(image), boxes.numpy())

    count = len(train) + len(study.val)
    with ThreadPoolExecutor() as pool:
        list(tqdm(pool.map(compute, range(count)), "proposals", count, unit="image"))


def recall_by_source(
    study: Study, config: LineageConfig, counts: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Percent of val's objects that the first `counts` proposals cover, by measure and source.

    Sources: selective search, and the study's Mask R-CNN (RPN) and YOLACT (priors by score).
    """
    models = {name: load_run(study.run_folder(name))[0] for name in ("mask_rcnn", "yolact")}
    sources = {
        "selective search": search_and_features(study, config)[0],
        "Mask R-CNN's RPN": partial(proposals.rpn_proposals, models["mask_rcnn"]),
        "YOLACT's priors, scored": partial(proposals.scored_priors, models["yolact"]),
    }
    boxes, gt_boxes = {source: [] for source in sources}, []
    for image, target in tqdm(study.val, "proposals of val", unit="image"):
        gt_boxes.append(target["boxes"].as_subclass(Tensor).float())
        for source, propose in sources.items():
            boxes[source].append(propose(model_input(image, default_device())).cpu())
    ious = {"recall at IoU 0.5": [0.5], "recall at IoU 0.7": [0.7]}
    ious |= {"average recall": proposals.AR_IOUS}
    recall, counts = proposals.proposal_recall, list(counts)
    return {
        name: {source: recall(b, gt_boxes, counts, at).tolist() for source, b in boxes.items()}
        for name, at in ious.items()
    }
