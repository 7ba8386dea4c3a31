"""PASCAL VOC's matching, AP^r and AP_vol (SDS, sec. 5)."""

import numpy as np

from vocseg_lib.metrics.average_precision import ByClass, Matches, Weights, average_precision
from vocseg_lib.metrics.matching import DatasetEval

AP_VOL_THRESHOLDS = np.arange(1, 10) / 10  # of IoU, over which AP_vol is the mean of AP^r

VOC_METRICS = ("voc_AP50", "voc_AP70", "voc_AP_vol", "voc_AP50_11", "voc_AP70_11")


def match_voc(dataset_eval: DatasetEval, iou_type: str) -> Matches:
    """True positives by VOC's rule at `AP_VOL_THRESHOLDS`, of all detections of each image.

    By descending score, a detection is a true positive if the object of its class with the largest
    IoU is still free and IoU is at least the threshold; a second one is a false positive. One that
    lies on a crowd region only (VOC: a difficult object) is ignored.
    """
    iou, target, in_crowd = [], [], []
    for image_eval in dataset_eval.image_evals:
        own = np.pad(image_eval.same_class_iou(iou_type), [(0, 0), (0, 1)])  # last: no object
        iou.append(own.max(1))
        target.append(np.append(image_eval.objects["annotation"], -1)[own.argmax(1)])
        in_crowd.append(image_eval.same_class_crowd(iou_type).max(1, initial=0))
    iou, target, in_crowd = map(np.concatenate, (iou, target, in_crowd))
    least = AP_VOL_THRESHOLDS[:, None]
    hits = iou >= least
    true_positive, ignored = np.zeros_like(hits), ~hits & (in_crowd >= least)
    for row, hit in enumerate(hits):
        first = np.unique(target[hit], return_index=True)[1]
        true_positive[row, np.flatnonzero(hit)[first]] = True
    flags = np.stack([true_positive, ignored])
    return dataset_eval.ranked_matches(dataset_eval.detection_rows, flags, AP_VOL_THRESHOLDS)


def voc_metrics(matches: Matches, weights: Weights | None = None) -> dict[str, ByClass]:
    """AP^r at .5 and .7 (all points, and 11) and AP_vol in percent, per resample and class."""
    ap = 100 * average_precision(matches, weights, "all")
    ap_11 = 100 * average_precision(matches.select_thresholds([4, 6]), weights, "11")
    metrics = {"voc_AP50": ap[:, 4], "voc_AP70": ap[:, 6], "voc_AP_vol": ap.mean(1)}
    return metrics | {"voc_AP50_11": ap_11[:, 0], "voc_AP70_11": ap_11[:, 1]}
