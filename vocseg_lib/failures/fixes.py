"""Mask AP with all failures of one type fixed."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import LOST, FailureTables
from vocseg_lib.metrics.average_precision import mean_ap
from vocseg_lib.metrics.matching import DatasetEval, ImageEval, match_coco, select_area


def ap_with_fix(
    tables: FailureTables,
    failure: str,
    size: str = "all",
    weights: Float[np.ndarray, "b i"] | None = None,
) -> Float[np.ndarray, "b _"]:
    """COCO's mask AP (see `mean_ap`) on objects of a size, failures of a type fixed ("": none).

    Missed and lost objects are dropped, as in TIDE; the others get the masks of `fix_masks`.
    """
    of_size = select_area(size, "mask")

    def select(image_eval: ImageEval) -> tuple[np.ndarray, np.ndarray]:
        objects, detections = of_size(image_eval)
        return objects & (tables.states[image_eval.image] != failure), detections

    changed = fix_masks(tables, failure) if failure in MASK_FAILURES else tables.dataset_eval
    return mean_ap(match_coco(changed, "mask", select), weights)


def fix_masks(tables: FailureTables, failure: str) -> DatasetEval:
    """The evaluation with the object's mask in place of each mask that has a failure.

    The fix of a localization failure adds detections of the same score for the other covered
    objects of its class that are lost.
    """
    failed = tables.detections[tables.detections["failure"] == failure]
    failed = dict(list(failed.groupby("image")))

    def fix(image_eval: ImageEval) -> ImageEval:
        if image_eval.image not in failed:
            return image_eval
        rows, target, covered = (
            failed[image_eval.image][name].to_numpy()
            for name in ("row", "target", "covered_objects")
        )
        iou, target = image_eval.iou["mask"].copy(), np.searchsorted(image_eval.objects, target)
        iou[rows] = 0
        iou[rows, target] = 1
        image_eval = replace(image_eval, iou={**image_eval.iou, "mask": iou})
        if failure != MASK_FAILURES[0]:
            return image_eval
        # Copies of the detections with the masks of lost objects, each right after its original.
        lost = image_eval.same_class & (tables.states[image_eval.image] == LOST)
        triples = zip(rows, target, covered, strict=True)
        added = [(i, j) for i, own, all_ in triples for j in all_ if j != own and lost[i, j]]
        count, pairs = len(iou), np.array(added, dtype=int).reshape(-1, 2)
        order = np.r_[np.arange(count), pairs[:, 0]]
        more = image_eval.select(order)
        more.iou["mask"][count:] = np.eye(len(image_eval.objects))[pairs[:, 1]]
        more.detections[count:] = -1
        return more.select(np.argsort(order, kind="stable"))

    return tables.dataset_eval.changed(fix)
