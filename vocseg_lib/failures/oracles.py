"""What if one thing were true? AP with classes, boxes or masks replaced by the truth, and the gap between two models in parts."""

from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco import UNCROPPED, bbox_xywh
from vocseg_lib.failures.tide import (
    CLASS,
    DUPLICATE,
    FOREGROUND_IOU,
    LOCALISATION,
    RIGHT,
    classify_errors,
    greedy_match,
)
from vocseg_lib.metrics.bootstrap import interval, prepend_point_estimate
from vocseg_lib.metrics.matching import (
    MAX_DETECTIONS,
    DatasetEval,
    ImageEval,
    match_coco,
    mean_ap,
    overlaps,
    same_images,
)

ORACLES = ("true classes", "no duplicates", "true boxes", "true masks", "no false alarms")
REST = "objects without a detection"
"""What is left of a gap when all of `ORACLES` are true."""


@dataclass(frozen=True)
class Assigned:
    """Of each detection of a scene: the object that it is about (-1: none), whether it is a duplicate, and whether it is judged.

    TIDE says what a mask is about, else what its box is: what it is right about, a duplicate of, or would be right about with
    another class or a better mask (or box). Not judged are those below a score and those after the 100 best.
    """

    about: Int[np.ndarray, " n"]
    duplicate: Bool[np.ndarray, " n"]
    judged: Bool[np.ndarray, " n"]


def assigned(image_eval: ImageEval, least_score: float = 0.0) -> Assigned:
    """What each detection of at least a score is about."""
    about = np.full(len(image_eval.detections), -1)
    judged = (image_eval.score >= least_score) & (
        np.arange(len(image_eval.detections)) < MAX_DETECTIONS
    )
    of_mask, of_box = (classify_errors(image_eval, kind) for kind in ("mask", "box"))
    for errors in (of_box, of_mask):  # the mask has the last word
        known = (
            judged
            & (errors.about >= 0)
            & np.isin(errors.code, (RIGHT, CLASS, LOCALISATION, DUPLICATE))
        )
        about[known] = errors.about[known]
    return Assigned(about, judged & (of_mask.code == DUPLICATE), judged)


def with_truth(
    dataset_eval: DatasetEval,
    oracles: frozenset[str] | set[str],
    assignments: list[Assigned] | None = None,
) -> DatasetEval:
    """The images with some of `ORACLES` made true of the detections, each about its object (see `assigned`; by default all).

    - *true classes*: the object's class. *True boxes*: the object's box, and the mask, before its crop where the prediction
      file has that, cut to this box. *True masks*: the object's mask, cut to the box. As in TIDE one repair an object: what
      comes second on an object by its repair is gone.
    - *no duplicates*: without TIDE's duplicates; *no false alarms*: without detections that are about nothing.

    Raises ValueError for an oracle that is none of these.
    """
    if unknown := set(oracles) - set(ORACLES):
        raise ValueError(
            f"no oracle {', '.join(sorted(unknown))}; choose among {', '.join(ORACLES)}"
        )
    assignments = assignments or [assigned(image_eval) for image_eval in dataset_eval.image_evals]

    def change(image_eval: ImageEval) -> ImageEval:
        of_image = assignments[image_eval.image]
        target, known = of_image.about, of_image.about >= 0
        kept = (
            ~of_image.duplicate if "no duplicates" in oracles else np.ones(len(known), dtype=bool)
        )
        if "no false alarms" in oracles:
            kept &= known | ~of_image.judged
        if known.any() and oracles & {"true classes", "true boxes", "true masks"}:
            if "true classes" in oracles:
                image_eval = replace(
                    image_eval,
                    detection_class=np.where(
                        known, image_eval.object_class[target], image_eval.detection_class
                    ),
                )
            if oracles & {"true boxes", "true masks"}:
                image_eval = replace(
                    image_eval, iou=_true_shapes(dataset_eval, image_eval, target, oracles)
                )
            kept &= ~(known & ~of_image.duplicate & _second(image_eval, kept))
        return image_eval.select(kept)

    return dataset_eval.changed(change)


def _second(image_eval: ImageEval, kept: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Which of the detections that are kept are on an object of their class that a better one has taken."""
    own = image_eval.same_class_iou("mask")
    return (own.max(1) >= FOREGROUND_IOU) & kept & (greedy_match(own, kept) < 0)


def _true_shapes(
    dataset_eval: DatasetEval,
    image_eval: ImageEval,
    target: np.ndarray,
    oracles: frozenset[str] | set[str],
) -> dict[str, np.ndarray]:
    """IoU of masks and boxes when boxes, masks or both of what is about an object are its own."""
    image, known = dataset_eval.images[image_eval.image], np.flatnonzero(target >= 0)
    objects = [dataset_eval.annotations[j] for j in image_eval.objects]
    truth, truth_boxes = [o["segmentation"] for o in objects], [bbox_xywh(o) for o in objects]
    found = [dataset_eval.detections[image_eval.detections[i]] for i in known]
    true_box = "true boxes" in oracles
    boxes = [
        truth_boxes[target[i]] if true_box else bbox_xywh(d)
        for i, d in zip(known, found, strict=True)
    ]
    if "true masks" in oracles:
        masks = [truth[target[i]] for i in known]
    else:
        masks = [d.get(UNCROPPED) or d["segmentation"] for d in found]
    frames = coco_mask.frPyObjects(np.array(boxes, dtype=float), image["height"], image["width"])
    masks = [
        coco_mask.merge([mask, frame], intersect=True)
        for mask, frame in zip(masks, frames, strict=True)
    ]
    iou = {kind: values.copy() for kind, values in image_eval.iou.items()}
    iou["mask"][known] = overlaps(masks, truth)
    iou["box"][known] = overlaps(boxes, truth_boxes)
    return iou


def single_oracles(dataset_eval: DatasetEval, least_score: float = 0.0) -> pd.DataFrame:
    """Mask AP, box AP and mask AP50 as they are, with each oracle alone, and with all (percent).

    Detections below `least_score` stay as they are.
    """
    assignments = [assigned(image_eval, least_score) for image_eval in dataset_eval.image_evals]
    rows = {}
    for name, chosen in {
        "as it is": (),
        **{o: (o,) for o in ORACLES},
        "all of it": ORACLES,
    }.items():
        changed = with_truth(dataset_eval, set(chosen), assignments)
        ap = {kind: mean_ap(match_coco(changed, kind))[0, 0] for kind in ("mask", "box")}
        at_50 = mean_ap(match_coco(changed, "mask", thresholds=np.array([0.5])))[0, 0]
        rows[name] = {"mask AP": ap["mask"], "box AP": ap["box"], "mask AP50": at_50}
    return pd.DataFrame(rows).T.rename_axis("what is true")


def gap_parts(
    first: DatasetEval,
    second: DatasetEval,
    weights: Float[np.ndarray, "b i"] | None = None,
    least_score: float = 0.0,
) -> pd.DataFrame:
    """The gap in mask AP from the first model to the second in parts that add up: part, points, low, high.

    An oracle's part is by how much the gap closes when it is true of both models, as the mean over all orders in which the
    oracles can be made true one after the other (the Shapley value), so that none profits from its place. What is left
    when all are true is due to `REST`. The last row is the gap itself. Detections below `least_score` stay as they are.
    `weights` as in `crowding.by_crowding`. Raises ValueError when the models are not about the same images.
    """
    same_images(first, second)
    drawn = prepend_point_estimate(weights, len(first.images))
    assignments = [
        [assigned(image_eval, least_score) for image_eval in dataset_eval.image_evals]
        for dataset_eval in (first, second)
    ]
    gaps = {}
    for count in range(len(ORACLES) + 1):
        for chosen in combinations(ORACLES, count):
            ap = [
                mean_ap(match_coco(with_truth(dataset_eval, set(chosen), of_model)), drawn)[:, 0]
                for dataset_eval, of_model in zip((first, second), assignments, strict=True)
            ]
            gaps[frozenset(chosen)] = ap[1] - ap[0]
    parts = {name: np.zeros(len(drawn)) for name in ORACLES}
    for name in ORACLES:
        for chosen, gap in gaps.items():
            if name not in chosen:
                share = (
                    factorial(len(chosen))
                    * factorial(len(ORACLES) - 1 - len(chosen))
                    / factorial(len(ORACLES))
                )
                parts[name] += share * (gap - gaps[chosen | {name}])
    parts[REST] = gaps[frozenset(ORACLES)]
    parts["gap"] = gaps[frozenset()]
    rows = [(name, values[0], *interval(values[1:])) for name, values in parts.items()]
    return pd.DataFrame(rows, columns=["part", "points", "low", "high"])
