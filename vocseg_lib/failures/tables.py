"""Two tables: one row per detection, one row per object."""

from dataclasses import dataclass

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
    states: list[np.ndarray]  # the objects' states by image


def build_tables(
    dataset_eval: DatasetEval, measures: pd.DataFrame, thresholds: Thresholds
) -> FailureTables:
    """Tables of all detections of an evaluation; `measures`: their rows of `measure_masks`."""
    names = np.array([c["name"] for c in dataset_eval.categories], dtype=object)
    tides = {kind: tide(dataset_eval, kind) for kind in IOU_TYPES}
    detections, objects, start = [], [], 0
    for image_eval in dataset_eval.image_evals:
        image, count = image_eval.image, len(image_eval.detections)
        rows = measures.iloc[start : start + count]
        start += count
        # Objects: the first state that holds.
        errors, size = tides["mask"].errors[image], _size_names(image_eval.object_area)
        labels = crowding_of(dataset_eval, image_eval, thresholds.crowd_distance)
        covered = rows["covered_objects"][rows["failure"] == MASK_FAILURES[0]]
        lost = np.isin(np.arange(len(size)), [j for indices in covered for j in indices])
        crowding, in_crowd = np.array(CROWDING, object)[labels], labels >= CROWDING.index("near")
        holds = [errors.detected, lost, ~errors.missed, in_crowd]
        part = {"image": np.full(len(size), image), "annotation": image_eval.objects}
        part |= {"class": names[image_eval.object_class], "size": size, "crowding": crowding}
        state = np.select(holds, [DETECTED, LOST, MISDETECTED, MISSED[0]], MISSED[1])
        objects.append(part | {"state": state})
        # Detections: those on an object have its size and crowding; index -1 is the default.
        obj, own_size = errors.object, _size_names(image_eval.detection_area["mask"])
        part = {
            "image": np.full(count, image),
            "row": np.arange(count),
            "detection": image_eval.detections,
            "class": names[image_eval.detection_class],
            "size": np.where(obj >= 0, np.append(size, "")[obj], own_size),
            "crowding": np.append(crowding, "no object")[obj],
            "score": image_eval.score,
            "annotation": np.append(image_eval.objects, -1)[obj],
            "target": _targets(image_eval, rows),
        }
        for kind in IOU_TYPES:
            errors, iou = tides[kind].errors[image], image_eval.iou[kind]
            iou = np.column_stack([iou, iou.max(1, initial=0)])[np.arange(count), errors.object]
            part |= {f"error_{kind}": errors.code, f"iou_{kind}": iou}
        detections.append(part)
    states = [part["state"] for part in objects]
    detections, objects = (
        pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        for parts in (detections, objects)
    )
    detections = detections.join(measures[["failure", *MEASURES]])
    return FailureTables(
        dataset_eval=dataset_eval, tide=tides, detections=detections, objects=objects, states=states
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


def overall_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Analysis.table` over all classes and sizes."""
    return table[(table["class"] == "all") & (table["size"] == "all")]
