"""Mask AP with all failures of one type fixed."""

import numpy as np

from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import LOST, FailureTables
from vocseg_lib.metrics.average_precision import MeanAndClasses, Weights, mean_ap
from vocseg_lib.metrics.matching import DatasetEval, ImageEval, Selected, match_coco, select_area


def ap_with_fix(
    tables: FailureTables, failure: str, size: str = "all", weights: Weights | None = None
) -> MeanAndClasses:
    """COCO's mask AP (see `mean_ap`) on objects of a size, failures of a type fixed ("": none).

    Missed and lost objects are dropped, as in TIDE; the others get the masks of `fix_masks`.
    """
    of_size, dropped = select_area(size, "mask"), _in_state(tables, failure)

    def select(image_eval: ImageEval) -> Selected:
        objects, detections = of_size(image_eval)
        return objects & ~np.isin(image_eval.objects, dropped), detections

    changed = fix_masks(tables, failure) if failure in MASK_FAILURES else tables.dataset_eval
    return mean_ap(match_coco(changed, "mask", select), weights)


def fix_masks(tables: FailureTables, failure: str) -> DatasetEval:
    """The evaluation with the object's mask in place of each mask that has a failure.

    The fix of a localization failure adds detections of the same score for the other covered
    objects of its class that are lost, right after it.
    """
    rows, lost = tables.detections, _in_state(tables, LOST)
    rows = rows.loc[rows["failure"] == failure, ["image", "row", "target", "covered_objects"]]
    failed = {image: of_image.to_numpy() for image, of_image in rows.groupby("image")}

    def fix(image_eval: ImageEval) -> ImageEval:
        if image_eval.image not in failed:
            return image_eval
        # The objects whose masks each detection gets, -1 for its own mask.
        masks = {row: [-1] for row in range(len(image_eval.detections))}
        for _, row, target, covered in failed[image_eval.image]:
            masks[row] = [target]
            if failure == MASK_FAILURES[0]:
                own = image_eval.objects[image_eval.same_class[row]]
                masks[row] += [j for j in covered if j != target and j in own and j in lost]
        changed = image_eval.select(np.repeat(list(masks), list(map(len, masks.values()))))
        target = np.concatenate(list(masks.values()))
        one_hot = target[:, None] == image_eval.objects
        changed.iou["mask"][target >= 0] = one_hot[target >= 0]
        return changed

    return tables.dataset_eval.changed(fix)


def _in_state(tables: FailureTables, state: str) -> np.ndarray:
    return tables.objects["annotation"][tables.objects["state"] == state].to_numpy()
