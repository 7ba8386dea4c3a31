"""TIDE: six error types and their dAP (Bolya et al., ECCV 2020; the numbers of its toolbox)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from vocseg_lib.metrics import matching
from vocseg_lib.metrics.average_precision import (
    Matches,
    MeanAndClasses,
    Weights,
    average_precision,
    class_mean,
)
from vocseg_lib.metrics.matching import MAX_DETECTIONS, DatasetEval, ImageEval, Selection

ERRORS = ("class", "localization", "both", "duplicate", "background", "missed")
NO_ERROR = -1
CLASS_ERROR, LOCALIZATION_ERROR, BOTH_ERROR, DUPLICATE_ERROR, BACKGROUND_ERROR = range(5)
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
"""Codes of detections are indices in `ERRORS`, or -1. From the first IoU on, a detection is on an
object; up to the second, it is on none."""


class ImageErrors(NamedTuple):
    """Errors of an image: per detection, and which objects are detected or missed."""

    code: Int[np.ndarray, " n"]
    object: Int[np.ndarray, " n"]  # that the error is about, index in the image; -1: none
    iou: Float[np.ndarray, " n"]  # with this object, else the largest
    in_crowd: Bool[np.ndarray, " n"]
    fixed: Int[np.ndarray, " n"]  # category after the fix of the error; -1: dropped by it
    detected: Bool[np.ndarray, " m"]
    missed: Bool[np.ndarray, " m"]


def classify_errors(image_eval: ImageEval, kind: str = "mask") -> ImageErrors:
    """TIDE's errors of one image; detections after the 100 best have none.

    By descending score, a detection takes the free object of its class with the largest IoU, from
    .5 on. One that takes none is, with the first that holds: *localization* (largest IoU with an
    object of its class .1 to .5), *class* (IoU from .5 on with an object of another class),
    *duplicate* (from .5 on with one of its class that is taken), *background* (IoU up to .1 with
    every object), else *both*. An object without a detection is *missed* unless there is a class or
    localization error on it; the fix makes the one with the best score a true positive.
    """
    iou, own = image_eval.iou[kind], image_eval.same_class_iou(kind)
    evaluated = np.arange(len(iou)) < MAX_DETECTIONS
    code, obj = np.full(len(iou), NO_ERROR), matching.greedy_match(own, evaluated, FOREGROUND_IOU)
    detected = np.isin(np.arange(iou.shape[1]), obj)
    best_own, rest = own.max(1, initial=0), evaluated & (obj < 0)
    localized = (best_own >= BACKGROUND_IOU) & (best_own <= FOREGROUND_IOU)
    other, taken = iou - own, own * detected
    tests = (
        (LOCALIZATION_ERROR, own, localized),
        (CLASS_ERROR, other, other.max(1, initial=0) >= FOREGROUND_IOU),
        (DUPLICATE_ERROR, taken, taken.max(1, initial=0) >= FOREGROUND_IOU),
        (BACKGROUND_ERROR, None, iou.max(1, initial=0) <= BACKGROUND_IOU),
        (BOTH_ERROR, iou, np.ones(len(iou), dtype=bool)),
    )
    for error, overlap, holds in tests:
        rows = np.flatnonzero(rest & holds)
        code[rows], rest[rows] = error, False
        if overlap is not None and len(rows):
            obj[rows] = overlap[rows].argmax(1)
    fixed, missed = np.full(len(iou), -1), ~detected
    fixable = np.isin(code, [CLASS_ERROR, LOCALIZATION_ERROR])
    candidates = np.flatnonzero(fixable & np.append(missed, False)[obj])
    best = candidates[np.unique(obj[candidates], return_index=True)[1]]
    fixed[best], missed[obj[best]] = image_eval.objects["category"][obj[best]], False
    in_crowd = image_eval.same_class_crowd(kind).max(1, initial=0) > FOREGROUND_IOU
    in_crowd &= code != NO_ERROR
    iou = np.column_stack([iou, iou.max(1, initial=0)])[np.arange(len(iou)), obj]
    return ImageErrors(code, obj, iou, in_crowd, fixed, detected, missed)


@dataclass(frozen=True, kw_only=True)
class Tide:
    """TIDE's errors of all images, of masks or boxes at IoU .5.

    `detections`: `detection_rows` with object_row (of the object in `objects`) and annotation, -1
    for none, code, iou, in_crowd, fixed; `objects`: `object_rows` with detected, missed; see
    `ImageErrors`.
    """

    dataset_eval: DatasetEval
    detections: pd.DataFrame
    objects: pd.DataFrame

    def matches(self, fix: str = "", selection: Selection = matching.select_all) -> Matches:
        """True positives as they are, or with all errors of a type fixed; see `match_coco`."""
        selected = map(selection, self.dataset_eval.image_evals)
        wanted, others = map(np.concatenate, zip(*selected, strict=True))
        rows, names = self.detections, ("code", "fixed", "category", "object_row")
        code, fixed, category, object_row = (rows[name].to_numpy() for name in names)
        counted = np.where(object_row >= 0, np.append(wanted, False)[object_row], others)
        correct, wrong = code == NO_ERROR, code == (*ERRORS, "").index(fix)
        kept = np.where(wrong, fixed >= 0, ~rows["in_crowd"])
        kept &= counted & (rows["row"] < MAX_DETECTIONS)
        flags = np.stack([correct | wrong, np.zeros_like(correct)])[:, None, kept]
        # As in the toolbox, with a fix errors come before true positives of the same score.
        columns = {"category": np.where(wrong, fixed, category), "tie": correct & (fix != "")}
        rows = rows[["image", "score"]].assign(**columns)[kept]
        if fix == "missed":
            wanted = wanted & ~self.objects["missed"].to_numpy()
        thresholds = np.array([FOREGROUND_IOU])
        return self.dataset_eval.ranked_matches(rows, flags, thresholds, wanted, ties="tie")

    def dap(
        self,
        selection: Selection = matching.select_all,
        weights: Weights | None = None,
        as_tidecv: bool = False,
    ) -> dict[str, MeanAndClasses]:
        """dAP of each error in points of AP50; NaN for a class without objects.

        With `as_tidecv`, as in TIDE's toolbox, a class with detections but no objects counts as 0
        in the mean, so a fix that drops them raises it.
        """
        before = self.matches(selection=selection)
        weights = np.ones((1, len(before.num_gt))) if weights is None else weights
        classes = as_tidecv | (weights @ before.num_gt > 0)

        def ap(matches: Matches) -> MeanAndClasses:
            by_class = 100 * average_precision(matches, weights, points="tide")[:, 0]
            present = np.isin(np.arange(by_class.shape[1]), matches.category)
            by_class = np.where(np.isnan(by_class) & present, 0.0, by_class)
            by_class = np.where(classes, by_class, np.nan)
            return np.column_stack([np.nan_to_num(class_mean(by_class)), by_class])

        of_none, fixed = ap(before), {name: ap(self.matches(name, selection)) for name in ERRORS}
        return {name: np.maximum(value - of_none, 0.0) for name, value in fixed.items()}


def tide(dataset_eval: DatasetEval, kind: str = "mask") -> Tide:
    """TIDE's errors of one model's "mask" or "box"."""
    errors = [classify_errors(image_eval, kind) for image_eval in dataset_eval.image_evals]
    fields = ImageErrors._fields
    columns = {name: np.concatenate([getattr(e, name) for e in errors]) for name in fields}
    of_objects = {name: columns.pop(name) for name in ("detected", "missed")}
    objects, rows = dataset_eval.object_rows.assign(**of_objects), dataset_eval.detection_rows
    # Index of the object in its image, plus the number of objects in the images before.
    start, index = np.cumsum([0, *(len(e.detected) for e in errors)]), columns.pop("object")
    columns["object_row"] = np.where(index < 0, -1, index + start[rows["image"]])
    columns["annotation"] = np.append(objects["annotation"], -1)[columns["object_row"]]
    return Tide(dataset_eval=dataset_eval, detections=rows.assign(**columns), objects=objects)
