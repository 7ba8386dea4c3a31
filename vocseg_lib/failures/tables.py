"""Two tables: one row per detection, one row per object."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.failures.config import Thresholds
from vocseg_lib.failures.crowding import CROWDING, crowding_of
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tide import ERRORS, Tide, tide
from vocseg_lib.metrics.matching import AREA_RANGES, IOU_TYPES, DatasetEval, ImageEval

MISSED = ("missed in a crowd", "missed alone")
"""Types of objects without a detection, also of another class or with a poor mask. In a crowd:
another object of the class overlaps its box or is nearer than `Thresholds.crowd_distance`."""
DETECTED, MISDETECTED, LOST = "detected", "misdetected", "lost in a localization failure"
"""States of other objects: a true positive; one but for its class or mask (TIDE's class and
localization errors); covered by a localization failure."""
OBJECT_FAILURES = (LOST, *MISSED)
CASE_TYPES = (*ERRORS[:-1], *MASK_FAILURES, *MISSED)
"""Types in the gallery: `MISSED` in place of TIDE's missed."""


@dataclass(frozen=True, kw_only=True)
class FailureTables:
    """Errors and failures of one set of detections.

    `detections`: columns of `Tide.detections` for masks and of `measure_masks`, class, size,
    crowding (of the object, if on one), error_mask and error_box (codes of TIDE), iou_mask,
    iou_box, target (annotation of the failure, else -1). `objects`: columns of `Tide.objects`,
    class, size, crowding, state.
    """

    dataset_eval: DatasetEval
    tide: dict[str, Tide]
    detections: pd.DataFrame
    objects: pd.DataFrame


def build_tables(
    dataset_eval: DatasetEval, measures: pd.DataFrame, thresholds: Thresholds
) -> FailureTables:
    """Tables of all detections of an evaluation; `measures`: their rows of `measure_masks`."""
    names = np.array([c["name"] for c in dataset_eval.categories], dtype=object)
    tides = {kind: tide(dataset_eval, kind) for kind in IOU_TYPES}
    detections, objects = tides["mask"].detections, tides["mask"].objects
    evals = dataset_eval.image_evals
    # Objects: the first state that holds.
    labels = [crowding_of(dataset_eval, e, thresholds.crowd_distance) for e in evals]
    labels, failure = np.concatenate(labels), measures["failure"]
    lost = measures["covered_objects"][failure == MASK_FAILURES[0]].explode()
    in_crowd = labels >= CROWDING.index("near")
    holds = [objects["detected"], objects["annotation"].isin(lost), ~objects["missed"], in_crowd]
    objects = objects.assign(
        **{"class": names[objects["category"]]},
        size=_size_names(objects["area"].to_numpy()),
        crowding=np.array(CROWDING, dtype=object)[labels],
        state=np.select(holds, [DETECTED, LOST, MISDETECTED, MISSED[0]], MISSED[1]),
    )
    # Detections: those on an object have its size and crowding.
    on_object = detections["object_row"]
    own_size = _size_names(detections["area_mask"].to_numpy())
    detections = detections.assign(
        **{"class": names[detections["category"]]},
        size=np.where(on_object < 0, own_size, np.append(objects["size"], "")[on_object]),
        crowding=np.append(objects["crowding"], "no object")[on_object],
        **{f"error_{kind}": tides[kind].detections["code"] for kind in IOU_TYPES},
        **{f"iou_{kind}": tides[kind].detections["iou"] for kind in IOU_TYPES},
        target=measures["object"].where(failure != "", -1),
    ).join(measures)
    foreground = detections[failure == MASK_FAILURES[0]]
    targets = [_target(evals[row.image], row) for row in foreground.itertuples()]
    detections.loc[foreground.index, "target"] = targets
    parts = {"tide": tides, "detections": detections, "objects": objects}
    return FailureTables(dataset_eval=dataset_eval, **parts)


def _target(image_eval: ImageEval, row: tuple) -> int:
    """The object that a mask covers with most IoU, of its class if any is."""
    covered = np.searchsorted(image_eval.objects["annotation"], row.covered_objects)
    own = image_eval.same_class_iou("mask")[row.row, covered]
    best = own if own.any() else image_eval.iou["mask"][row.row, covered]
    return row.covered_objects[best.argmax()]


def _size_names(areas: Float[np.ndarray, " n"]) -> np.ndarray:
    names, limits = list(AREA_RANGES)[1:], [high for _, high in AREA_RANGES.values()][1:-1]
    return np.array(names, dtype=object)[np.searchsorted(limits, areas)]


def overall_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Analysis.table` over all classes and sizes."""
    return table[(table["class"] == "all") & (table["size"] == "all")]
