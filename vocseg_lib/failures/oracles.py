"""What if one thing were true? AP with classes, boxes or masks replaced by the truth, and the gap between two models in parts."""

from dataclasses import replace
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pycocotools import mask as coco_mask

from vocseg_lib.coco import UNCROPPED, box_of
from vocseg_lib.failures.crowding import interval
from vocseg_lib.failures.scenes import Scene, Scenes, coco_matches, mean_ap, overlaps
from vocseg_lib.failures.tide import BACKGROUND_IOU, FOREGROUND_IOU, errors_of

ORACLES = ("true classes", "no duplicates", "true boxes", "true masks", "no false alarms")
REST = "objects nobody finds"
"""What is left of a gap when all of `ORACLES` are true."""


def about_of(scene: Scene) -> Int[np.ndarray, " n"]:
    """The object that each detection is about, -1 for none: what it is right about or, by TIDE, a duplicate of or wrong on; else
    the one that its mask or box overlaps most, by more than .1."""
    about = errors_of(scene).about
    if not len(scene.objects):
        return np.full(len(scene.found), -1)
    overlap = np.maximum(scene.iou["mask"], scene.iou["box"])
    return np.where(about >= 0, about, np.where(overlap.max(1) > BACKGROUND_IOU, overlap.argmax(1), -1))


def with_truth(scenes: Scenes, oracles: frozenset[str] | set[str], about: list[np.ndarray] | None = None) -> Scenes:
    """The scenes with some of `ORACLES` made true of the detections, each about its object (`about_of`).

    - *true classes*: the object's class. *True boxes*: the object's box, and the mask, before its crop where the prediction
      file has that, cut to this box. *True masks*: the object's mask, cut to the box.
    - *no false alarms*: without detections that are about nothing; *no duplicates*: without those whose mask is on an object
      of their class (IoU at least .5) that a better one has taken, after the other changes.
    """
    about = about or [about_of(scene) for scene in scenes.scenes]

    def change(scene: Scene) -> Scene:
        target = about[scene.image]
        known = target >= 0
        if "true classes" in oracles and known.any():
            scene = replace(scene, found_class=np.where(known, scene.object_class[target], scene.found_class))
        if oracles & {"true boxes", "true masks"} and known.any():
            scene = replace(scene, iou=_true_shapes(scenes, scene, target, oracles))
        if "no false alarms" in oracles:
            scene = scene.take(known)
        if "no duplicates" in oracles and len(scene.objects):
            scene = scene.take(~_duplicates(scene))
        return scene

    return scenes.changed(change)


def _duplicates(scene: Scene) -> np.ndarray:
    own, taken = scene.own_iou("mask"), np.zeros(len(scene.objects), dtype=bool)
    second = np.zeros(len(scene.found), dtype=bool)
    for row in np.flatnonzero(own.max(1) >= FOREGROUND_IOU):
        free = np.where(taken, 0, own[row])
        if free.max() >= FOREGROUND_IOU:
            taken[free.argmax()] = True
        else:
            second[row] = True
    return second


def _true_shapes(scenes: Scenes, scene: Scene, target: np.ndarray, oracles: frozenset[str] | set[str]) -> dict[str, np.ndarray]:
    """IoU of masks and boxes when boxes, masks or both of what is about an object are its own."""
    image, known = scenes.images[scene.image], np.flatnonzero(target >= 0)
    objects = [scenes.annotations[j] for j in scene.objects]
    truth, truth_boxes = [o["segmentation"] for o in objects], [box_of(o) for o in objects]
    found = [scenes.detections[scene.found[i]] for i in known]
    true_box = "true boxes" in oracles
    boxes = [truth_boxes[target[i]] if true_box else box_of(d) for i, d in zip(known, found, strict=True)]
    if "true masks" in oracles:
        masks = [truth[target[i]] for i in known]
    else:
        masks = [d.get(UNCROPPED) or d["segmentation"] for d in found]
    frames = coco_mask.frPyObjects(np.array(boxes, dtype=float), image["height"], image["width"])
    masks = [coco_mask.merge([mask, frame], intersect=True) for mask, frame in zip(masks, frames, strict=True)]
    iou = {kind: values.copy() for kind, values in scene.iou.items()}
    iou["mask"][known] = overlaps(masks, truth)
    iou["box"][known] = overlaps(boxes, truth_boxes)
    return iou


def single_oracles(scenes: Scenes) -> pd.DataFrame:
    """Mask AP, box AP and mask AP50 as they are, with each oracle alone, and with all (percent)."""
    about = [about_of(scene) for scene in scenes.scenes]
    rows = {}
    for name, chosen in {"as it is": (), **{o: (o,) for o in ORACLES}, "all of it": ORACLES}.items():
        changed = with_truth(scenes, set(chosen), about)
        ap = {kind: mean_ap(coco_matches(changed, kind))[0, 0] for kind in ("mask", "box")}
        at_50 = mean_ap(coco_matches(changed, "mask", thresholds=np.array([0.5])))[0, 0]
        rows[name] = {"mask AP": ap["mask"], "box AP": ap["box"], "mask AP50": at_50}
    return pd.DataFrame(rows).T.rename_axis("what is true")


def gap_parts(first: Scenes, second: Scenes, weights: Float[np.ndarray, "b i"] | None = None) -> pd.DataFrame:
    """The gap in mask AP from the first model to the second in parts that add up: part, points, low, high.

    An oracle's part is by how much the gap closes when it is true of both models, as the mean over all orders in which the
    oracles can be made true one after the other (the Shapley value), so that none profits from its place. What is left
    when all are true is due to `REST`. The last row is the gap itself. `weights` as in `crowding.by_crowding`.
    """
    once = np.ones((1, len(first.images)))
    drawn = once if weights is None else np.concatenate([once, weights])
    abouts = [[about_of(scene) for scene in scenes.scenes] for scenes in (first, second)]
    gaps = {}
    for count in range(len(ORACLES) + 1):
        for chosen in combinations(ORACLES, count):
            ap = [
                mean_ap(coco_matches(with_truth(scenes, set(chosen), about)), drawn)[:, 0]
                for scenes, about in zip((first, second), abouts, strict=True)
            ]
            gaps[frozenset(chosen)] = ap[1] - ap[0]
    parts = {name: np.zeros(len(drawn)) for name in ORACLES}
    for name in ORACLES:
        for chosen, gap in gaps.items():
            if name not in chosen:
                share = factorial(len(chosen)) * factorial(len(ORACLES) - 1 - len(chosen)) / factorial(len(ORACLES))
                parts[name] += share * (gap - gaps[chosen | {name}])
    parts[REST] = gaps[frozenset(ORACLES)]
    parts["gap"] = gaps[frozenset()]
    rows = [(name, values[0], *interval(values[1:])) for name, values in parts.items()]
    return pd.DataFrame(rows, columns=["part", "points", "low", "high"])
