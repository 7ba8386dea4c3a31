"""Confusion matrix between classes, and with background."""

import numpy as np
import pandas as pd

from vocseg_lib.metrics.matching import DatasetEval, greedy_match

BACKGROUND, UNMATCHED = "background", "missed"


def confusion_matrix(
    dataset_eval: DatasetEval, min_score: float, iou_type: str = "mask", min_iou: float = 0.5
) -> pd.DataFrame:
    """Counts: a row per true class and `BACKGROUND`, a column per predicted one and `UNMATCHED`.

    By descending score, each detection from `min_score` on takes the free object of any class with
    the largest IoU, from `min_iou` on. Row `BACKGROUND`: detections that take none, duplicates with
    them; those inside a crowd region (`min_iou` of their area or more) are left out. Column
    `UNMATCHED`: objects that none takes. supervision and Ultralytics, too, match without regard to
    the class, but pairs by descending IoU.
    """
    names = [c["name"] for c in dataset_eval.categories]
    last, counts = len(names), np.zeros((len(names) + 1, len(names) + 1), dtype=int)
    for e in dataset_eval.image_evals:
        selected = e.detections["score"] >= min_score
        match = greedy_match(e.iou[iou_type], selected, min_iou)
        in_crowd = e.in_crowd[iou_type].max(1, initial=0) >= min_iou
        rows = selected & ((match >= 0) | ~in_crowd)
        missed = np.delete(e.objects["category"], match[match >= 0])
        true = np.append(e.objects["category"], last)[match[rows]]
        np.add.at(counts, (true, e.detections["category"][rows]), 1)
        np.add.at(counts, (missed, last), 1)
    index = pd.Index([*names, BACKGROUND], name="ground truth")
    return pd.DataFrame(counts, index, pd.Index([*names, UNMATCHED], name="predicted"))
