"""All there is to say of each detection and of each object, in two tables."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from vocseg_lib.failures.crowding import CROWDING, crowding_of
from vocseg_lib.failures.mask_errors import MASK_FAILURES, MEASURES, Thresholds
from vocseg_lib.failures.tide import ERRORS, Tide, tide
from vocseg_lib.metrics.coco_eval import IOU_TYPES
from vocseg_lib.metrics.matching import DatasetEval, ImageEval

MISSED = ("missed in a crowd", "missed alone")
"""An object that no detection is right about, nor would be with another class or a better mask. In a crowd: its box overlaps
that of another of its class or is at most `Thresholds.near` of its own side (the root of its box's area) away from it."""
FOUND, BADLY_FOUND, LOST = "found", "badly found", "lost in a localization failure"
"""What becomes of objects that are not missed: a detection is right about them; one would be, with another class or a better
mask (TIDE's class and localisation errors); a mask that is foreground covers them (a localization failure)."""
OBJECT_FAILURES = (LOST, *MISSED)
FAILURES = (*MASK_FAILURES, *OBJECT_FAILURES)
"""What pixels and neighbours say, beside TIDE's errors."""
TYPES = (*ERRORS[:-1], *MASK_FAILURES, *MISSED)
"""Of cases to look at: TIDE's *missed* is told apart as in a crowd or alone."""
SIZES = {"small": 32**2, "medium": 96**2, "large": np.inf}
"""Of an object by its pixels (COCO's limits, up to)."""
SIZE_NAMES = np.array(list(SIZES), dtype=object)


@dataclass(frozen=True)
class FailureTables:
    """What there is to say of one set of detections, a row each in `detections` and of each object in `objects`.

    `detections`: image (place), row (in its image), detection (in the list), class, size, crowding, score, error_mask and
    error_box (codes of TIDE), iou_mask and iou_box (with what TIDE says they are about, else the largest), annotation (that
    TIDE says the mask is about, else -1), failure, target (the annotation that the failure is about, else -1), and what
    `measure` says. `objects`: image, row, annotation, class, size, crowding, state.
    """

    dataset_eval: DatasetEval
    tide: dict[str, Tide]
    detections: pd.DataFrame
    objects: pd.DataFrame


def build_tables(
    dataset_eval: DatasetEval, measured: pd.DataFrame, thresholds: Thresholds
) -> FailureTables:
    """Everything about some detections; `measured` has their rows of `measure`."""
    names = np.array([c["name"] for c in dataset_eval.categories], dtype=object)
    errors = {kind: tide(dataset_eval, kind) for kind in IOU_TYPES}
    detections, objects, start = [], [], 0
    for image_eval, *theirs in zip(
        dataset_eval.image_evals, errors["mask"].errors, errors["box"].errors, strict=True
    ):
        of_mask = theirs[0]
        rows = measured.iloc[start : start + len(image_eval.detections)]
        start += len(rows)
        crowding = np.array(CROWDING, object)[
            crowding_of(dataset_eval, image_eval, thresholds.near)
        ]
        size = SIZE_NAMES[size_of(image_eval.object_area)]
        failure = rows["failure"].to_numpy(object)
        on_object = of_mask.about >= 0
        detections.append(
            {
                "image": np.full(len(rows), image_eval.image),
                "row": np.arange(len(rows)),
                "detection": image_eval.detections,
                "class": names[image_eval.detection_class],
                "size": np.where(
                    on_object,
                    _at(size, of_mask.about),
                    SIZE_NAMES[size_of(image_eval.detection_area)],
                ),
                "crowding": np.where(on_object, _at(crowding, of_mask.about), "no object"),
                "score": image_eval.score,
                **{f"error_{kind}": of.code for kind, of in zip(IOU_TYPES, theirs, strict=True)},
                **{
                    f"iou_{kind}": _iou_about(image_eval.iou[kind], of.about)
                    for kind, of in zip(IOU_TYPES, theirs, strict=True)
                },
                "annotation": np.where(on_object, _at(image_eval.objects, of_mask.about), -1),
                "failure": failure,
                "target": _targets(image_eval, rows),
                **{name: rows[name].to_numpy() for name in MEASURES},
            }
        )
        covered = {
            j
            for row in np.flatnonzero(failure == MASK_FAILURES[0])
            for j in rows["united"].iloc[row]
        }
        lost = ~of_mask.found & np.isin(np.arange(len(size)), list(covered))
        state = np.select(
            [of_mask.found, lost, ~of_mask.missed, np.isin(crowding, CROWDING[2:])],
            [FOUND, LOST, BADLY_FOUND, MISSED[0]],
            MISSED[1],
        )
        places = {
            "image": np.full(len(size), image_eval.image),
            "row": np.arange(len(size)),
            "annotation": image_eval.objects,
        }
        objects.append(
            {
                **places,
                "class": names[image_eval.object_class],
                "size": size,
                "crowding": crowding,
                "state": state,
            }
        )
    tables = (
        pd.DataFrame({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
        for parts in (detections, objects)
    )
    return FailureTables(dataset_eval, errors, *tables)


def _targets(image_eval: ImageEval, rows: pd.DataFrame) -> Int[np.ndarray, " n"]:
    """The annotation that each failure of `measure` is about: of what a mask unites the best, of its class if one is."""
    targets = np.full(len(rows), -1)
    for place, row in enumerate(rows.itertuples()):
        if row.failure == MASK_FAILURES[0]:
            own = [
                j
                for j in row.united
                if image_eval.object_class[j] == image_eval.detection_class[place]
            ] or row.united
            targets[place] = image_eval.objects[
                max(own, key=lambda j: image_eval.iou["mask"][place, j])
            ]
        elif row.failure:
            targets[place] = image_eval.objects[row.object]
    return targets


def size_of(pixels: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Places in `SIZES`."""
    return np.searchsorted(list(SIZES.values())[:-1], pixels, side="left")


def _at(values: np.ndarray, places: Int[np.ndarray, " n"]) -> np.ndarray:
    """The values at places, something where a place is -1."""
    return values[places] if len(values) else np.zeros(len(places), values.dtype)


def _iou_about(
    iou: Float[np.ndarray, "n m"], about: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """IoU with the object at a place; the largest where that is -1."""
    largest = iou.max(1, initial=0)
    return (
        np.where(about >= 0, iou[np.arange(len(about)), about], largest)
        if iou.shape[1]
        else largest
    )


def coverage_of_boxes(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Analysis.table` for all classes and sizes."""
    return table[(table["class"] == "all") & (table["size"] == "all")]
