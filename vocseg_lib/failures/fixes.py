"""The same images with failures of one type repaired: what AP gains by it is their price."""

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
    dataset_eval, there = facts.dataset_eval, None
    if name in OBJECT_FAILURES:
        there = _by_image(facts, facts.objects["state"] != name)
    elif name:
        dataset_eval = repaired_masks(facts, name)
    return mean_ap(match_coco(dataset_eval, "mask", counting(size, there)), weights)


def _by_image(facts: FailureTables, values: pd.Series) -> list[np.ndarray]:
    """Values of all objects, split by image."""
    ends = np.cumsum([len(image_eval.objects) for image_eval in facts.dataset_eval.image_evals])
    return np.split(values.to_numpy(), ends[:-1])


def repaired_masks(facts: FailureTables, name: str) -> DatasetEval:
    """The images in which each mask that fails in a way is that of the object which the failure is about.

    For a localization failure that is one of the united objects, and each other one of the detection's class that is lost
    gets a detection of its own with the same score.
    """
    failed = dict(list(facts.detections[facts.detections["failure"] == name].groupby("image")))
    lost = _by_image(facts, facts.objects["state"] == LOST)

    def repair(image_eval: ImageEval) -> ImageEval:
        if image_eval.image not in failed:
            return image_eval
        rows = failed[image_eval.image]
        places, targets = (
            rows["row"].to_numpy(),
            np.searchsorted(image_eval.objects, rows["target"]),
        )
        iou = image_eval.iou["mask"].copy()
        iou[places] = 0
        iou[places, targets] = 1
        image_eval = replace(image_eval, iou={**image_eval.iou, "mask": iou})
        if name != MASK_FAILURES[0]:
            return image_eval
        others = [
            (place, j)
            for place, target, united in zip(places, targets, rows["united"], strict=True)
            for j in united
            if j != target
            and lost[image_eval.image][j]
            and image_eval.object_class[j] == image_eval.detection_class[place]
        ]
        return _with_copies(image_eval, *np.array(others).T) if others else image_eval

    return facts.dataset_eval.changed(repair)


def _with_copies(image_eval: ImageEval, places: np.ndarray, objects: np.ndarray) -> ImageEval:
    """With copies of the detections at places, each with the mask of an object, right after what they were copied from."""
    rows = np.r_[np.arange(len(image_eval.detections)), places]
    more = image_eval.select(rows)
    more.iou["mask"][len(image_eval.detections) :] = np.eye(len(image_eval.objects))[objects]
    more.detections[len(image_eval.detections) :] = -1
    return more.select(np.argsort(rows, kind="stable"))


def counting(size: str, there: list[np.ndarray] | None = None) -> Selection:
    """What counts among objects of a size ("all" for all), of those that are there (by image; by default all)."""

    def of_image(image_eval: ImageEval) -> tuple[np.ndarray, np.ndarray]:
        wanted, counted = select_all(image_eval)
        if size != "all":
            place = list(SIZES).index(size)
            wanted, counted = (
                size_of(image_eval.object_area) == place,
                size_of(image_eval.detection_area) == place,
            )
        return wanted if there is None else wanted & there[image_eval.image], counted

    return of_image
