"""The same scenes with failures of one type repaired: what AP gains by it is their price."""

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import LOST, OBJECT_FAILURES, SIZES, FailureTables, size_of
from vocseg_lib.metrics.matching import (
    DatasetEval,
    ImageEval,
    Selection,
    match_coco,
    mean_ap,
    select_all,
)


def ap_with_fix(
    facts: FailureTables,
    name: str,
    size: str = "all",
    weights: Float[np.ndarray, "b i"] | None = None,
) -> Float[np.ndarray, "b _"]:
    """COCO's AP of masks (see `mean_ap`) among objects of a size, all failures of a type repaired ("": of none).

    Missed and lost objects are taken away, as in TIDE. For the rest see `repaired_masks`.
    """
    scenes, there = facts.scenes, None
    if name in OBJECT_FAILURES:
        there = _by_image(facts, facts.objects["state"] != name)
    elif name:
        scenes = repaired_masks(facts, name)
    return mean_ap(match_coco(scenes, "mask", counting(size, there)), weights)


def _by_image(facts: FailureTables, values: pd.Series) -> list[np.ndarray]:
    """Values of all objects, split by image."""
    ends = np.cumsum([len(scene.objects) for scene in facts.scenes.scenes])
    return np.split(values.to_numpy(), ends[:-1])


def repaired_masks(facts: FailureTables, name: str) -> DatasetEval:
    """The scenes in which each mask that fails in a way is that of the object which the failure is about.

    For a localization failure that is one of the united objects, and each other one of the detection's class that is lost
    gets a detection of its own with the same score.
    """
    failed = dict(list(facts.detections[facts.detections["failure"] == name].groupby("image")))
    lost = _by_image(facts, facts.objects["state"] == LOST)

    def repair(scene: ImageEval) -> ImageEval:
        if scene.image not in failed:
            return scene
        rows = failed[scene.image]
        places, targets = rows["row"].to_numpy(), np.searchsorted(scene.objects, rows["target"])
        iou = scene.iou["mask"].copy()
        iou[places] = 0
        iou[places, targets] = 1
        scene = replace(scene, iou={**scene.iou, "mask": iou})
        if name != MASK_FAILURES[0]:
            return scene
        others = [
            (place, j)
            for place, target, united in zip(places, targets, rows["united"], strict=True)
            for j in united
            if j != target
            and lost[scene.image][j]
            and scene.object_class[j] == scene.found_class[place]
        ]
        return _with_copies(scene, *np.array(others).T) if others else scene

    return facts.scenes.changed(repair)


def _with_copies(scene: ImageEval, places: np.ndarray, objects: np.ndarray) -> ImageEval:
    """With copies of the detections at places, each with the mask of an object, right after what they were copied from."""
    rows = np.r_[np.arange(len(scene.found)), places]
    more = scene.take(rows)
    more.iou["mask"][len(scene.found) :] = np.eye(len(scene.objects))[objects]
    more.found[len(scene.found) :] = -1
    return more.take(np.argsort(rows, kind="stable"))


def counting(size: str, there: list[np.ndarray] | None = None) -> Selection:
    """What counts among objects of a size ("all" for all), of those that are there (by image; by default all)."""

    def of_scene(scene: ImageEval) -> tuple[np.ndarray, np.ndarray]:
        wanted, counted = select_all(scene)
        if size != "all":
            place = list(SIZES).index(size)
            wanted, counted = (
                size_of(scene.object_area) == place,
                size_of(scene.found_area) == place,
            )
        return wanted if there is None else wanted & there[scene.image], counted

    return of_scene
