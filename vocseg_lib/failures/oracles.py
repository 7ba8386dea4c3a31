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


def assigned(scene: ImageEval, least_score: float = 0.0) -> Assigned:
    """What each detection of at least a score is about."""
    about = np.full(len(scene.found), -1)
    judged = (scene.score >= least_score) & (np.arange(len(scene.found)) < MAX_DETECTIONS)
    of_mask, of_box = (classify_errors(scene, kind) for kind in ("mask", "box"))
    for errors in (of_box, of_mask):  # the mask has the last word
        known = (
            judged
            & (errors.about >= 0)
            & np.isin(errors.code, (RIGHT, CLASS, LOCALISATION, DUPLICATE))
        )
        about[known] = errors.about[known]
    return Assigned(about, judged & (of_mask.code == DUPLICATE), judged)


def with_truth(
    scenes: DatasetEval,
    oracles: frozenset[str] | set[str],
    assignments: list[Assigned] | None = None,
) -> DatasetEval:
    """The scenes with some of `ORACLES` made true of the detections, each about its object (see `assigned`; by default all).

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
    assignments = assignments or [assigned(scene) for scene in scenes.scenes]

    def change(scene: ImageEval) -> ImageEval:
        of_scene = assignments[scene.image]
        target, known = of_scene.about, of_scene.about >= 0
        kept = (
            ~of_scene.duplicate if "no duplicates" in oracles else np.ones(len(known), dtype=bool)
        )
        if "no false alarms" in oracles:
            kept &= known | ~of_scene.judged
        if known.any() and oracles & {"true classes", "true boxes", "true masks"}:
            if "true classes" in oracles:
                scene = replace(
                    scene,
                    found_class=np.where(known, scene.object_class[target], scene.found_class),
                )
            if oracles & {"true boxes", "true masks"}:
                scene = replace(scene, iou=_true_shapes(scenes, scene, target, oracles))
            kept &= ~(known & ~of_scene.duplicate & _second(scene, kept))
        return scene.take(kept)

    return scenes.changed(change)


def _second(scene: ImageEval, kept: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Which of the detections that are kept are on an object of their class that a better one has taken."""
    own = scene.same_class_iou("mask")
    return (own.max(1) >= FOREGROUND_IOU) & kept & (greedy_match(own, kept) < 0)


def _true_shapes(
    scenes: DatasetEval, scene: ImageEval, target: np.ndarray, oracles: frozenset[str] | set[str]
) -> dict[str, np.ndarray]:
    """IoU of masks and boxes when boxes, masks or both of what is about an object are its own."""
    image, known = scenes.images[scene.image], np.flatnonzero(target >= 0)
    objects = [scenes.annotations[j] for j in scene.objects]
    truth, truth_boxes = [o["segmentation"] for o in objects], [bbox_xywh(o) for o in objects]
    found = [scenes.detections[scene.found[i]] for i in known]
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
    iou = {kind: values.copy() for kind, values in scene.iou.items()}
    iou["mask"][known] = overlaps(masks, truth)
    iou["box"][known] = overlaps(boxes, truth_boxes)
    return iou


def single_oracles(scenes: DatasetEval, least_score: float = 0.0) -> pd.DataFrame:
    """Mask AP, box AP and mask AP50 as they are, with each oracle alone, and with all (percent).

    Detections below `least_score` stay as they are.
    """
    assignments = [assigned(scene, least_score) for scene in scenes.scenes]
    rows = {}
    for name, chosen in {
        "as it is": (),
        **{o: (o,) for o in ORACLES},
        "all of it": ORACLES,
    }.items():
        changed = with_truth(scenes, set(chosen), assignments)
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
        [assigned(scene, least_score) for scene in scenes.scenes] for scenes in (first, second)
    ]
    gaps = {}
    for count in range(len(ORACLES) + 1):
        for chosen in combinations(ORACLES, count):
            ap = [
                mean_ap(match_coco(with_truth(scenes, set(chosen), of_model)), drawn)[:, 0]
                for scenes, of_model in zip((first, second), assignments, strict=True)
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
