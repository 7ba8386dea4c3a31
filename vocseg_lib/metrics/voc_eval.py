"""PASCAL VOC's matching, AP^r and AP_vol (SDS, sec. 5)."""

from collections.abc import Sequence

import numpy as np

from vocseg_lib.metrics.average_precision import ByClass, Matches, Weights, average_precision
from vocseg_lib.metrics.matching import DatasetEval, count_gt

AP_VOL_THRESHOLDS = tuple(i / 10 for i in range(1, 10))
"""IoU thresholds over which AP_vol is the mean of AP^r (SDS, sec. 5)."""


def match_voc(
    dataset_eval: DatasetEval, iou_type: str, thresholds: Sequence[float] = AP_VOL_THRESHOLDS
) -> Matches:
    """True positives by VOC's rule, of all detections of each image.

    By descending score, a detection is a true positive if the object of its class with the largest
    IoU is still free and IoU is at least the threshold; a second one is a false positive. One that
    lies on a crowd region only (VOC: a difficult object) is ignored.
    """
    iou, target, in_crowd = [], [], []
    for image_eval in dataset_eval.image_evals:
        own = image_eval.same_class_iou(iou_type)
        iou.append(own.max(1, initial=0))
        target.append(image_eval.objects[own.argmax(1)] if own.size else np.zeros(len(own), int))
        in_crowd.append(image_eval.same_class_crowd(iou_type).max(1, initial=0))
    iou, target, in_crowd = map(np.concatenate, (iou, target, in_crowd))
    limits = np.array(thresholds, dtype=float)
    hits = iou >= limits[:, None]
    true_positive, ignored = np.zeros_like(hits), ~hits & (in_crowd >= limits[:, None])
    for row, hit in enumerate(hits):
        first = np.unique(target[hit], return_index=True)[1]
        true_positive[row, np.flatnonzero(hit)[first]] = True
    parts = {"thresholds": limits, "num_gt": count_gt(dataset_eval)}
    return Matches.ranked(dataset_eval.detection_rows, np.stack([true_positive, ignored]), **parts)


def voc_metrics(matches: Matches, weights: Weights | None = None) -> dict[str, ByClass]:
    """AP^r at .5 and .7 (all points, and 11) and AP_vol in percent, per resample and class."""
    ap = 100 * average_precision(matches, weights, "all")
    ap_11 = 100 * average_precision(matches.select_thresholds([4, 6]), weights, "11")
    metrics = {"voc_AP50": ap[:, 4], "voc_AP70": ap[:, 6], "voc_AP_vol": ap.mean(1)}
    return metrics | {"voc_AP50_11": ap_11[:, 0], "voc_AP70_11": ap_11[:, 1]}
