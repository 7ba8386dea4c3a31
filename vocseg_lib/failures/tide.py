"""TIDE: six error types and their dAP (Bolya et al., ECCV 2020; the numbers of its toolbox)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from vocseg_lib.metrics import matching
from vocseg_lib.metrics.average_precision import Matches, average_precision, class_mean
from vocseg_lib.metrics.matching import MAX_DETECTIONS, DatasetEval, ImageEval, Selection

ERRORS = ("class", "localization", "both", "duplicate", "background", "missed")
NO_ERROR = -1
CLASS_ERROR, LOCALIZATION_ERROR, BOTH_ERROR, DUPLICATE_ERROR, BACKGROUND_ERROR = range(5)
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
"""Codes of detections are indices in `ERRORS`, or -1. From the first IoU on, a detection is on an
object; up to the second, it is on none."""


@dataclass(frozen=True, kw_only=True)
class ImageErrors:
    """Errors of an image: per detection its code and the object concerned (index, -1 for none)."""

    code: Int[np.ndarray, " n"]
    object: Int[np.ndarray, " n"]
    in_crowd: Bool[np.ndarray, " n"]
    detected: Bool[np.ndarray, " m"]
    missed: Bool[np.ndarray, " m"]
    fixed_by: Int[np.ndarray, " m"]  # detection that would be a true positive without its error


def classify_errors(image_eval: ImageEval, kind: str = "mask") -> ImageErrors:
    """TIDE's errors of one image; detections after the 100 best have none.

    By descending score, a detection takes the free object of its class with the largest IoU, from
    .5 on. One that takes none is, with the first that holds: *localization* (largest IoU with an
    object of its class .1 to .5), *class* (IoU from .5 on with an object of another class),
    *duplicate* (from .5 on with one of its class that is taken), *background* (IoU up to .1 with
    every object), else *both*. An object without a detection is *missed* unless there is a class or
    localization error on it; the one with the best score is `fixed_by`.
    """
    iou, own = image_eval.iou[kind], image_eval.same_class_iou(kind)
    evaluated = np.arange(len(iou)) < MAX_DETECTIONS
    code, obj = np.full(len(iou), NO_ERROR), greedy_match(own, evaluated)
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
    fixed_by = np.full(iou.shape[1], -1)
    # Ascending scores, so that the best one stays.
    for row in np.flatnonzero((code == LOCALIZATION_ERROR) | (code == CLASS_ERROR))[::-1]:
        if not detected[obj[row]]:
            fixed_by[obj[row]] = row
    in_crowd = (image_eval.in_own_crowd(kind) > FOREGROUND_IOU) & (code != NO_ERROR)
    parts = {"code": code, "object": obj, "in_crowd": in_crowd, "detected": detected}
    return ImageErrors(**parts, missed=~detected & (fixed_by < 0), fixed_by=fixed_by)


def greedy_match(
    own: Float[np.ndarray, "n m"], rows: Bool[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The object that each of some detections takes in turn (index, -1 for none).

    It is the free one with the largest IoU, from .5 on; `own`: IoU with objects of its class.
    """
    free, match = own.copy(), np.full(len(own), -1)
    for row in np.flatnonzero((own.max(1, initial=0) >= FOREGROUND_IOU) & rows):
        best = free[row].argmax()
        if free[row, best] >= FOREGROUND_IOU:
            free[:, best] = 0
            match[row] = best
    return match


@dataclass(frozen=True, kw_only=True)
class Tide:
    """TIDE's errors of all images, of masks or boxes at IoU .5."""

    dataset_eval: DatasetEval
    errors: list[ImageErrors]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """One row per evaluated detection, by image and descending score.

        Columns: image, category, score, code, in_crowd, fixed (category after the fix of the error,
        -1 where the fix drops the detection).
        """
        parts = []
        for image_eval, errors in zip(self.dataset_eval.image_evals, self.errors, strict=True):
            fixed, fixable = np.full(len(errors.code), -1), errors.fixed_by >= 0
            fixed[errors.fixed_by[fixable]] = image_eval.object_class[fixable]
            columns = {"category": image_eval.detection_class, "score": image_eval.score}
            columns |= {"code": errors.code, "in_crowd": errors.in_crowd, "fixed": fixed}
            parts.append(pd.DataFrame({"image": image_eval.image, **columns})[:MAX_DETECTIONS])
        return pd.concat(parts, ignore_index=True)

    def matches(self, fix: str = "", selection: Selection = matching.select_all) -> Matches:
        """True positives as they are, or with all errors of a type fixed; see `match_coco`."""
        rows, counted, objects = self.rows, [], []
        for image_eval, errors in zip(self.dataset_eval.image_evals, self.errors, strict=True):
            wanted, others = selection(image_eval)
            objects.append(wanted & ~errors.missed if fix == "missed" else wanted)
            of_object = np.append(wanted, False)[errors.object]
            counted.append(np.where(errors.object >= 0, of_object, others)[:MAX_DETECTIONS])
        rows = rows[np.concatenate(counted)]
        if fix:  # as in the toolbox, errors come before true positives of the same score
            rows = rows.sort_values("code", key=lambda code: code == NO_ERROR, kind="stable")
        code, category, fixed = (rows[name].to_numpy() for name in ("code", "category", "fixed"))
        correct, kept = code == NO_ERROR, ~rows["in_crowd"].to_numpy()
        if fix and fix != "missed":
            wrong = code == ERRORS.index(fix)
            kept, category = np.where(wrong, fixed >= 0, kept), np.where(wrong, fixed, category)
            correct |= wrong
        rows = rows.assign(category=category, correct=correct)[kept]
        rows = rows.sort_values("score", ascending=False, kind="stable")
        parts = {name: rows[name].to_numpy() for name in ("image", "category", "score")}
        parts["true_positive"] = rows["correct"].to_numpy()[None]
        parts["ignored"] = np.zeros((1, len(rows)), dtype=bool)
        num_gt = matching.count_gt(self.dataset_eval, objects)
        return Matches(thresholds=np.array([FOREGROUND_IOU]), **parts, num_gt=num_gt)

    @cached_property
    def dap_as_tidecv(self) -> dict[str, float]:
        """dAP of each error in points of AP50, as TIDE's toolbox has it.

        A class with detections but no objects counts as 0, so a fix that drops them raises it.
        """
        ap = tide_ap(self.matches())[0, 0]
        return {name: max(0.0, float(tide_ap(self.matches(name))[0, 0] - ap)) for name in ERRORS}

    def dap(
        self,
        selection: Selection = matching.select_all,
        weights: Float[np.ndarray, "b i"] | None = None,
    ) -> dict[str, Float[np.ndarray, "b _"]]:
        """dAP of all classes with objects, then per class (else NaN); see `average_precision`."""
        before = self.matches(selection=selection)
        weights = np.ones((1, len(before.num_gt))) if weights is None else weights
        classes = weights @ before.num_gt > 0
        ap = tide_ap(before, classes, weights)
        fixed = {name: tide_ap(self.matches(name, selection), classes, weights) for name in ERRORS}
        return {name: np.maximum(value - ap, 0.0) for name, value in fixed.items()}


def tide(dataset_eval: DatasetEval, kind: str = "mask") -> Tide:
    """TIDE's errors of one model's "mask" or "box"."""
    errors = [classify_errors(image_eval, kind) for image_eval in dataset_eval.image_evals]
    return Tide(dataset_eval=dataset_eval, errors=errors)


def tide_ap(
    matches: Matches,
    classes: Bool[np.ndarray, "b k"] | None = None,
    weights: Float[np.ndarray, "b i"] | None = None,
) -> Float[np.ndarray, "b _"]:
    """AP in percent: mean over `classes` (default: all), then per class; see `average_precision`.

    As in TIDE's toolbox, a class without objects counts as 0 if it has detections.
    """
    by_class = 100 * average_precision(matches, weights, points="tide")[:, 0]
    present = np.isin(np.arange(by_class.shape[1]), matches.category)
    by_class = np.where(np.isnan(by_class) & present, 0.0, by_class)
    if classes is not None:
        by_class = np.where(classes, by_class, np.nan)
    return np.column_stack([np.nan_to_num(class_mean(by_class)), by_class])
