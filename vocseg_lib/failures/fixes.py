"""Mask AP with all failures of one type fixed."""

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import LOST, OBJECT_FAILURES, FailureTables
from vocseg_lib.metrics.average_precision import mean_ap
from vocseg_lib.metrics.matching import DatasetEval, ImageEval, Selection, match_coco, select_area


def ap_with_fix(
    tables: FailureTables,
    failure: str,
    size: str = "all",
    weights: Float[np.ndarray, "b i"] | None = None,
) -> Float[np.ndarray, "b _"]:
    """COCO's mask AP (see `mean_ap`) on objects of a size, failures of a type fixed ("": none).

    Missed and lost objects are dropped, as in TIDE; the others get the masks of `fix_masks`.
    """
    dataset_eval, kept = tables.dataset_eval, None
    if failure in OBJECT_FAILURES:
        kept = _by_image(tables, tables.objects["state"] != failure)
    elif failure:
        dataset_eval = fix_masks(tables, failure)
    return mean_ap(match_coco(dataset_eval, "mask", _select(size, kept)), weights)


def _by_image(tables: FailureTables, values: pd.Series) -> list[np.ndarray]:
    """Values of all objects, split by image."""
    ends = np.cumsum([len(e.objects) for e in tables.dataset_eval.image_evals])
    return np.split(values.to_numpy(), ends[:-1])


def fix_masks(tables: FailureTables, failure: str) -> DatasetEval:
    """The evaluation with the object's mask in place of each mask that has a failure.

    The fix of a localization failure adds detections of the same score for the other covered
    objects of its class that are lost.
    """
    rows_of = dict(
        list(tables.detections[tables.detections["failure"] == failure].groupby("image"))
    )
    lost = _by_image(tables, tables.objects["state"] == LOST)

    def fix(image_eval: ImageEval) -> ImageEval:
        if image_eval.image not in rows_of:
            return image_eval
        failed = rows_of[image_eval.image]
        rows, targets = (
            failed["row"].to_numpy(),
            np.searchsorted(image_eval.objects, failed["target"]),
        )
        iou = image_eval.iou["mask"].copy()
        iou[rows] = 0
        iou[rows, targets] = 1
        image_eval = replace(image_eval, iou={**image_eval.iou, "mask": iou})
        if failure != MASK_FAILURES[0]:
            return image_eval
        added = [
            (row, j)
            for row, target, covered in zip(rows, targets, failed["covered_objects"], strict=True)
            for j in covered
            if j != target and lost[image_eval.image][j] and image_eval.same_class[row, j]
        ]
        return _add_detections(image_eval, *np.array(added).T) if added else image_eval

    return tables.dataset_eval.changed(fix)


def _add_detections(image_eval: ImageEval, rows: np.ndarray, objects: np.ndarray) -> ImageEval:
    """Copies of detections with the masks of objects, each right after its original."""
    count = len(image_eval.detections)
    rows = np.r_[np.arange(count), rows]
    more = image_eval.select(rows)
    more.iou["mask"][count:] = np.eye(len(image_eval.objects))[objects]
    more.detections[count:] = -1
    return more.select(np.argsort(rows, kind="stable"))


def _select(size: str, kept: list[np.ndarray] | None) -> Selection:
    """Selection of the objects of a size that are kept (by image; default: all)."""
    of_size = select_area(size, "mask")

    def select(image_eval: ImageEval) -> tuple[np.ndarray, np.ndarray]:
        objects, detections = of_size(image_eval)
        return objects & kept[image_eval.image], detections

    return select if kept else of_size
