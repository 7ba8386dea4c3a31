"""TIDE's six errors, and the AP that each one costs (Bolya et al., TIDE, ECCV 2020; the figures of its toolbox)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from vocseg_lib.metrics.average_precision import Matches, average_precision, class_mean
from vocseg_lib.metrics.bootstrap import prepend_point_estimate
from vocseg_lib.metrics.matching import (
    MAX_DETECTIONS,
    DatasetEval,
    ImageEval,
    Selection,
    count_objects,
    select_all,
)

ERRORS = ("class", "localisation", "both", "duplicate", "background", "missed")
RIGHT, CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(-1, 5)
"""Codes of detections: places in `ERRORS`, or -1."""
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
"""From where on a detection is on an object, and up to where it has nothing to do with one."""


@dataclass(frozen=True)
class ImageErrors:
    """What each detection of an image is (a code; RIGHT for none), the index in the image of the object that it is about (-1),
    and which objects are missed."""

    code: Int[np.ndarray, " n"]
    about: Int[np.ndarray, " n"]
    in_crowd: Bool[np.ndarray, " n"]
    found: Bool[np.ndarray, " m"]
    missed: Bool[np.ndarray, " m"]
    repaired_by: Int[np.ndarray, " m"]


def classify_errors(image_eval: ImageEval, kind: str = "mask") -> ImageErrors:
    """TIDE's errors of one image; of detections after the 100 best nothing is said (RIGHT, about nothing).

    Best score first, a detection takes the free object of its class with the largest IoU, from .5 on, and is right. One
    that takes none is, with the first that holds: *localisation* (largest IoU with an object of its class .1 to .5),
    *class* (IoU from .5 on with an object of another class), *duplicate* (from .5 on with one of its class that is taken),
    *background* (IoU up to .1 with every object), else *both*. An object that is not found is *missed* unless a class or
    localisation error is about it; of these, the best score (`repaired_by`) would have found it.
    """
    count = len(image_eval.detections)
    code, about = np.full(count, RIGHT), np.full(count, -1)
    objects = len(image_eval.objects)
    found, repaired_by = np.zeros(objects, dtype=bool), np.full(objects, -1)
    judged = np.arange(count) < MAX_DETECTIONS
    in_crowd = image_eval.in_own_crowd(kind) > FOREGROUND_IOU
    if not objects:
        code[judged] = BACKGROUND
        return ImageErrors(code, about, in_crowd & judged, found, found, repaired_by)
    iou, own = image_eval.iou[kind], image_eval.same_class_iou(kind)
    about = greedy_match(own, judged)
    wrong = judged & (about < 0)
    found[about[about >= 0]] = True
    other, taken = iou - own, own * found
    tests = (
        (LOCALISATION, own, (own.max(1) >= BACKGROUND_IOU) & (own.max(1) <= FOREGROUND_IOU)),
        (CLASS, other, other.max(1) >= FOREGROUND_IOU),
        (DUPLICATE, taken, taken.max(1) >= FOREGROUND_IOU),
        (BACKGROUND, None, iou.max(1) <= BACKGROUND_IOU),
        (BOTH, iou, np.ones(count, dtype=bool)),
    )
    for name, overlaps, holds in tests:
        rows = wrong & holds
        code[rows] = name
        if overlaps is not None:
            about[rows] = overlaps[rows].argmax(1)
        wrong &= ~rows
    for row in np.flatnonzero((code == LOCALISATION) | (code == CLASS))[
        ::-1
    ]:  # so that the best score stays
        if not found[about[row]]:
            repaired_by[about[row]] = row
    return ImageErrors(
        code, about, in_crowd & (code != RIGHT), found, ~found & (repaired_by < 0), repaired_by
    )


def greedy_match(
    own: Float[np.ndarray, "n m"], rows: Bool[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The object that each of some detections takes, -1 for none: in their order, of those still free the one with the largest
    IoU, from .5 on. `own`: IoU with objects of the detection's class."""
    free, on = own.copy(), np.full(len(own), -1)
    for row in np.flatnonzero((own.max(1) >= FOREGROUND_IOU) & rows):
        best = free[row].argmax()
        if free[row, best] >= FOREGROUND_IOU:
            free[:, best] = 0
            on[row] = best
    return on


@dataclass(frozen=True)
class Tide:
    """TIDE's errors of all images, for masks or boxes at IoU .5."""

    dataset_eval: DatasetEval
    kind: str
    errors: list[ImageErrors]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """A row a judged detection, image by image, best score first: image, category, score, code, in_crowd, and the class
        that a repair gives it (`repaired`, -1 when it would be dropped)."""
        parts = []
        for image_eval, errors in zip(self.dataset_eval.image_evals, self.errors, strict=True):
            n = min(len(image_eval.detections), MAX_DETECTIONS)
            repaired = np.full(len(image_eval.detections), -1)
            there = errors.repaired_by >= 0
            repaired[errors.repaired_by[there]] = image_eval.object_class[there]
            facts = {
                "category": image_eval.detection_class,
                "score": image_eval.score,
                "code": errors.code,
                "in_crowd": errors.in_crowd,
            }
            facts = {name: values[:n] for name, values in (facts | {"repaired": repaired}).items()}
            parts.append(pd.DataFrame({"image": image_eval.image, **facts}))
        return pd.concat(parts, ignore_index=True)

    def matches(self, repaired: str | None = None, counting: Selection = select_all) -> Matches:
        """What is right and wrong, as it is or with all errors of one type repaired; see `match_coco` for `counting`."""
        rows, counted, objects = self.rows, [], []
        for image_eval, errors in zip(self.dataset_eval.image_evals, self.errors, strict=True):
            wanted, stray = counting(image_eval)
            there = wanted & ~errors.missed if repaired == "missed" else wanted
            objects.append((image_eval.image, image_eval.object_class[there]))
            counted.append(
                np.where(errors.about >= 0, np.append(wanted, False)[errors.about], stray)[
                    :MAX_DETECTIONS
                ]
            )
        rows = rows[np.concatenate(counted)]
        if (
            repaired
        ):  # as in the toolbox, what is wrong comes before what is right among equal scores
            rows = rows.sort_values("code", key=lambda code: code == RIGHT, kind="stable")
        code, category, right = (
            rows["code"].to_numpy(),
            rows["category"].to_numpy(),
            rows["code"].to_numpy() == RIGHT,
        )
        kept = ~rows["in_crowd"].to_numpy()
        if repaired and repaired != "missed":
            theirs, new = code == ERRORS.index(repaired), rows["repaired"].to_numpy()
            kept = np.where(theirs, new >= 0, kept)
            category, right = np.where(theirs, new, category), right | theirs
        order = np.flatnonzero(kept)
        order = order[np.argsort(-rows["score"].to_numpy()[order], kind="stable")]
        ids = (
            tuple(range(len(self.dataset_eval.images))),
            tuple(range(len(self.dataset_eval.categories))),
        )
        facts = rows["image"].to_numpy()[order], category[order], rows["score"].to_numpy()[order]
        facts += right[None, order], np.zeros((1, len(order)), dtype=bool)
        return Matches(
            np.array([FOREGROUND_IOU]), *ids, *facts, count_objects(self.dataset_eval, objects)
        )

    @cached_property
    def dap_as_tidecv(self) -> dict[str, float]:
        """Points of AP50 that each type of error costs, by name: dAP as TIDE's toolbox has it.

        A class without objects that has detections counts as 0 there, so that a repair which takes these away raises the mean.
        """
        ap = tide_ap(self.matches())[0, 0]
        return {name: max(0.0, float(tide_ap(self.matches(name))[0, 0] - ap)) for name in ERRORS}

    def costs(
        self, counting: Selection = select_all, weights: Float[np.ndarray, "b i"] | None = None
    ) -> dict[str, Float[np.ndarray, "b _"]]:
        """The same over the classes that have objects, which are what AP is about: of all, then of each (NaN without objects).

        `weights` as in `average_precision`.
        """
        weights = (
            prepend_point_estimate(None, len(self.dataset_eval.images))
            if weights is None
            else weights
        )
        before = self.matches(counting=counting)
        classes = weights @ before.num_gt > 0
        ap = tide_ap(before, classes, weights)
        return {
            name: np.maximum(tide_ap(self.matches(name, counting), classes, weights) - ap, 0.0)
            for name in ERRORS
        }


def tide(dataset_eval: DatasetEval, kind: str = "mask") -> Tide:
    """TIDE's errors of one model's "mask" or "box"."""
    return Tide(
        dataset_eval,
        kind,
        [classify_errors(image_eval, kind) for image_eval in dataset_eval.image_evals],
    )


def tide_ap(
    matches: Matches,
    classes: Bool[np.ndarray, "b k"] | None = None,
    weights: Float[np.ndarray, "b i"] | None = None,
) -> Float[np.ndarray, "b _"]:
    """AP in percent: of all `classes` (by default of all there are), then of each. `weights` as in `average_precision`.

    As in TIDE's toolbox, one without objects that has detections counts as 0, and is left out only when it has none either.
    """
    by_class = 100 * average_precision(matches, weights, points="tide")[:, 0]
    by_class = np.where(
        np.isnan(by_class) & np.isin(np.arange(by_class.shape[1]), matches.category), 0.0, by_class
    )
    if classes is not None:
        by_class = np.where(classes, by_class, np.nan)
    return np.column_stack([np.nan_to_num(class_mean(by_class)), by_class])
