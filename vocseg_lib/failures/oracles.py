"""Oracles: AP with classes, boxes or masks from the ground truth, and a gap in AP by its causes."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import factorial
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco_validation import UNCROPPED, bbox_xywh
from vocseg_lib.failures import tide
from vocseg_lib.metrics import matching
from vocseg_lib.metrics.average_precision import Weights, mean_ap
from vocseg_lib.metrics.bootstrap import interval, prepend_point_estimate
from vocseg_lib.metrics.matching import DatasetEval, ImageEval

ORACLES = ("true classes", "no duplicates", "true boxes", "true masks", "no false alarms")
UNDETECTED, OTHER = "objects without a detection", "other causes"
"""What is left of a gap with all of `ORACLES`, or with some of them."""


class Assignment(NamedTuple):
    """Per detection of an image: its object (index, -1 for none), and if TIDE calls it a duplicate.

    The object is that of the mask's TIDE match, class, localization or duplicate error, else that
    of the box's. Detections below a score or after the 100 best are not evaluated.
    """

    object: Int[np.ndarray, " n"]
    duplicate: Bool[np.ndarray, " n"]
    evaluated: Bool[np.ndarray, " n"]


def assign(dataset_eval: DatasetEval, min_score: float = 0.0) -> list[Assignment]:
    """Assignments of all detections from a score on, by image."""
    assignments = []
    for image_eval in dataset_eval.image_evals:
        count = len(image_eval.detections)
        objects, evaluated = np.full(count, -1), np.arange(count) < matching.MAX_DETECTIONS
        evaluated &= image_eval.detections["score"] >= min_score
        for kind in ("box", "mask"):  # the mask takes precedence
            errors = tide.classify_errors(image_eval, kind)
            known = evaluated & (errors.object >= 0) & (errors.code != tide.BOTH_ERROR)
            objects[known] = errors.object[known]
        duplicate = evaluated & (errors.code == tide.DUPLICATE_ERROR)
        assignments.append(Assignment(objects, duplicate, evaluated))
    return assignments


def apply_oracles(
    dataset_eval: DatasetEval, oracles: set[str], assignments: list[Assignment] | None = None
) -> DatasetEval:
    """The evaluation with some of `ORACLES` true of the detections (by default all are assigned).

    - *true classes*: the object's class. *True boxes*: the object's box, and the mask, before its
      crop if the prediction file has that, cropped to this box. *True masks*: the object's mask,
      cropped to the box. As in TIDE, one fix per object: another detection that they put on it
      is dropped.
    - *no duplicates*: without TIDE's; *no false alarms*: without detections on no object.

    Raises ValueError: an unknown oracle.
    """
    if unknown := oracles - set(ORACLES):
        names = ", ".join(sorted(unknown))
        raise ValueError(f"no oracle {names}; choose from {', '.join(ORACLES)}")
    assignments = assignments or assign(dataset_eval)

    def change(image_eval: ImageEval) -> ImageEval:
        target, duplicate, evaluated = assignments[image_eval.image]
        known = target >= 0
        kept = ~duplicate if "no duplicates" in oracles else np.ones(len(known), dtype=bool)
        if "no false alarms" in oracles:
            kept &= known | ~evaluated
        if known.any() and oracles & {"true classes", "true boxes", "true masks"}:
            if "true classes" in oracles:
                detections = image_eval.detections.copy()
                detections["category"][known] = image_eval.objects["category"][target[known]]
                image_eval = replace(image_eval, detections=detections)
            if oracles & {"true boxes", "true masks"}:
                image_eval = _with_shapes(dataset_eval, image_eval, target, oracles)
            own = image_eval.same_class_iou("mask")
            second = own.max(1) >= tide.FOREGROUND_IOU
            second &= known & ~duplicate & (matching.greedy_match(own, kept) < 0)
            kept &= ~second
        return image_eval.select(kept)

    return dataset_eval.changed(change)


def fix_shapes(
    dataset_eval: DatasetEval, image_eval: ImageEval, target: np.ndarray, oracles: set[str]
) -> tuple[list[list[float]], list[dict]]:
    """Boxes (xywh) and masks (RLE) of an image's detections with a `target`, with some oracles.

    `target`: object (index in the image) of each detection, -1 for none; see `apply_oracles`.
    """
    image, known = dataset_eval.images[image_eval.image], target >= 0
    indices = image_eval.objects["annotation"][target[known]]
    targets = [dataset_eval.annotations[j] for j in indices]
    detections = [dataset_eval.detections[i] for i in image_eval.detections["detection"][known]]
    boxes = [bbox_xywh(e) for e in (targets if "true boxes" in oracles else detections)]
    if "true masks" in oracles:
        masks = [o["segmentation"] for o in targets]
    else:
        masks = [d.get(UNCROPPED) or d["segmentation"] for d in detections]
    crops = np.array(boxes, dtype=float).reshape(-1, 4)
    crops = coco_mask.frPyObjects(crops, image["height"], image["width"])
    masks = [coco_mask.merge(pair, intersect=True) for pair in zip(masks, crops, strict=True)]
    return boxes, masks


def _with_shapes(
    dataset_eval: DatasetEval, image_eval: ImageEval, target: np.ndarray, oracles: set[str]
) -> ImageEval:
    """The image with the IoUs of `fix_shapes`."""
    boxes, masks = fix_shapes(dataset_eval, image_eval, target, oracles)
    objects = [dataset_eval.annotations[j] for j in image_eval.objects["annotation"]]
    iou = {kind: values.copy() for kind, values in image_eval.iou.items()}
    iou["mask"][target >= 0] = matching.overlaps(masks, [o["segmentation"] for o in objects])
    iou["box"][target >= 0] = matching.overlaps(boxes, [bbox_xywh(o) for o in objects])
    return replace(image_eval, iou=iou)


def single_oracles(dataset_eval: DatasetEval, min_score: float = 0.0) -> pd.DataFrame:
    """Mask AP, box AP and mask AP50 (percent): baseline, with each oracle alone, with all.

    Detections below `min_score` stay as they are.
    """
    assignments = assign(dataset_eval, min_score)
    subsets = {"baseline": set(), **{name: {name} for name in ORACLES}, "all oracles": set(ORACLES)}
    rows = {}
    for name, oracles in subsets.items():
        changed = apply_oracles(dataset_eval, oracles, assignments)
        matches = {f"{kind} AP": matching.match_coco(changed, kind) for kind in ("mask", "box")}
        matches["mask AP50"] = matches["mask AP"].select_thresholds([0])
        rows[name] = {metric: mean_ap(of_metric)[0, 0] for metric, of_metric in matches.items()}
    return pd.DataFrame(rows).T.rename_axis("oracle")


def gap_parts(
    first: DatasetEval,
    second: DatasetEval,
    weights: Weights | None = None,
    min_score: float = 0.0,
    oracles: Sequence[str] = ORACLES,
) -> pd.DataFrame:
    """The gap in mask AP, second model minus first, in parts that sum: part, points, low, high.

    An oracle's part is by how much it closes the gap when applied to both models: the mean over all
    orders in which `oracles` can be added (Shapley value). What is left with all of them is
    `UNDETECTED`, or with some of `ORACLES`, `OTHER`; the last row is the gap itself. Detections
    below `min_score` stay as they are. `weights`: see `by_crowding`.

    Raises ValueError: the models are not evaluated on the same images.
    """
    matching.check_same_images(first, second)
    weights = prepend_point_estimate(weights, len(first.images))
    models = [(model, assign(model, min_score)) for model in (first, second)]
    gaps = {}
    for count in range(len(oracles) + 1):
        for applied in map(set, combinations(oracles, count)):
            changed = [apply_oracles(model, applied, of_model) for model, of_model in models]
            ap = [mean_ap(matching.match_coco(model), weights)[:, 0] for model in changed]
            gaps[frozenset(applied)] = ap[1] - ap[0]
    parts = {name: np.zeros(len(weights)) for name in oracles}
    for others, gap in gaps.items():
        orders = factorial(len(others)) * factorial(max(0, len(oracles) - 1 - len(others)))
        for name in set(oracles) - others:
            parts[name] += orders / factorial(len(oracles)) * (gap - gaps[others | {name}])
    left = UNDETECTED if set(oracles) == set(ORACLES) else OTHER
    parts |= {left: gaps[frozenset(oracles)], "gap": gaps[frozenset()]}
    rows = [(name, values[0], *interval(values[1:])) for name, values in parts.items()]
    return pd.DataFrame(rows, columns=["part", "points", "low", "high"])
