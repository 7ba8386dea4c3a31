"""Two tables: one row per detection, one row per object."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from vocseg_lib.failures.config import Thresholds
from vocseg_lib.failures.crowding import CROWDING, crowding_of
from vocseg_lib.failures.mask_errors import MASK_FAILURES, MEASURES
from vocseg_lib.failures.tide import ERRORS, Tide, tide
from vocseg_lib.metrics.matching import AREA_RANGES, IOU_TYPES, DatasetEval, ImageEval

MISSED = ("missed in a crowd", "missed alone")
"""Types of objects without a detection, also of another class or with a poor mask. In a crowd:
another object of the class overlaps its box or is nearer than `Thresholds.crowd_distance`."""
DETECTED, MISDETECTED, LOST = "detected", "misdetected", "lost in a localization failure"
"""States of other objects: a true positive; one but for its class or mask (TIDE's class and
localization errors); covered by a localization failure."""
OBJECT_FAILURES = (LOST, *MISSED)
FAILURES = (*MASK_FAILURES, *OBJECT_FAILURES)
"""Types of failures beside TIDE's errors, from pixels and neighbors."""
CASE_TYPES = (*ERRORS[:-1], *MASK_FAILURES, *MISSED)
"""Types in the gallery: `MISSED` in place of TIDE's missed."""


@dataclass(frozen=True, kw_only=True)
class FailureTables:
    """Errors and failures of one set of detections.

    `detections`: image (index), row (in the image), detection (in the file), class, size, crowding,
    score, error_mask and error_box (codes of TIDE), iou_mask and iou_box (with the object of the
    error, else the largest), annotation (of the mask's error, else -1), failure, target (annotation
    of the failure, else -1), and `MEASURES`. `objects`: image, row, annotation, class, size,
    crowding, state.
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
    detections, objects, start = [], [], 0
    for image_eval in dataset_eval.image_evals:
        errors = {kind: tides[kind].errors[image_eval.image] for kind in IOU_TYPES}
        rows = measures.iloc[start : start + len(image_eval.detections)]
        start += len(rows)
        size = _size_names(image_eval.object_area)
        labels = crowding_of(dataset_eval, image_eval, thresholds.crowd_distance)
        crowding, obj = np.array(CROWDING, object)[labels], errors["mask"].object
        detections.append(
            {
                "image": np.full(len(rows), image_eval.image),
                "row": np.arange(len(rows)),
                "detection": image_eval.detections,
                "class": names[image_eval.detection_class],
                "size": _take(size, obj, _size_names(image_eval.detection_area["mask"])),
                "crowding": _take(crowding, obj, "no object"),
                "score": image_eval.score,
                **{f"error_{kind}": errors[kind].code for kind in IOU_TYPES},
                **{
                    f"iou_{kind}": _iou(image_eval.iou[kind], errors[kind].object)
                    for kind in IOU_TYPES
                },
                "annotation": _take(image_eval.objects, obj, -1),
                "failure": rows["failure"].to_numpy(object),
                "target": _targets(image_eval, rows),
                **{name: rows[name].to_numpy() for name in MEASURES},
            }
        )
        of_mask = errors["mask"]
        covered = rows["covered_objects"][rows["failure"] == MASK_FAILURES[0]]
        covered = np.isin(np.arange(len(size)), [j for indices in covered for j in indices])
        crowd = np.isin(crowding, CROWDING[2:])
        state = np.select(
            [of_mask.detected, covered, ~of_mask.missed, crowd],
            [DETECTED, LOST, MISDETECTED, MISSED[0]],
            MISSED[1],
        )
        objects.append(
            {
                "image": np.full(len(size), image_eval.image),
                "annotation": image_eval.objects,
                "class": names[image_eval.object_class],
                "size": size,
                "crowding": crowding,
                "state": state,
            }
        )
    detections, objects = (
        pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        for parts in (detections, objects)
    )
    return FailureTables(
        dataset_eval=dataset_eval, tide=tides, detections=detections, objects=objects
    )


def _targets(image_eval: ImageEval, rows: pd.DataFrame) -> Int[np.ndarray, " n"]:
    """The annotation of each failure: the covered object with most IoU, of its class if any is."""
    targets = np.full(len(rows), -1)
    for i, row in enumerate(rows.itertuples()):
        if row.failure == MASK_FAILURES[0]:
            own = [j for j in row.covered_objects if image_eval.same_class[i, j]]
            iou = image_eval.iou["mask"][i]
            targets[i] = image_eval.objects[max(own or row.covered_objects, key=lambda j: iou[j])]
        elif row.failure:
            targets[i] = image_eval.objects[row.object]
    return targets


def _size_names(areas: Float[np.ndarray, " n"]) -> np.ndarray:
    names, limits = list(AREA_RANGES)[1:], [high for _, high in AREA_RANGES.values()][1:-1]
    return np.array(names, dtype=object)[np.searchsorted(limits, areas)]


def _take(values: np.ndarray, indices: Int[np.ndarray, " n"], default: Any) -> np.ndarray:
    """The values at indices, the default where an index is -1."""
    if not len(values):
        return np.full(len(indices), default, values.dtype)
    return np.where(indices >= 0, values[indices], default)


def _iou(iou: Float[np.ndarray, "n m"], obj: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """IoU of each detection with its object; the largest one where that is -1."""
    largest = iou.max(1, initial=0)
    return np.where(obj >= 0, iou[np.arange(len(obj)), obj], largest) if iou.size else largest


def overall_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Analysis.table` over all classes and sizes."""
    return table[(table["class"] == "all") & (table["size"] == "all")]
