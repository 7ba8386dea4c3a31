"""Precision, recall and F1 at a score threshold; calibration of scores."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.metrics.average_precision import class_mean
from vocseg_lib.metrics.coco_eval import Evaluation
from vocseg_lib.metrics.lrp import optimal_lrp

BINS = 10  # of scores, of equal width


def best_f1(evaluation: Evaluation, iou_type: str = "mask", iou: float = 0.5) -> pd.DataFrame:
    """The score threshold with the highest F1 per class; the highest of equally good ones.

    Columns: class, score, F1, precision, recall (0..1), objects. A class without detections has
    score NaN and F1 0.
    """
    rows = []
    for name, k in evaluation.category_index.items():
        scores, hits, objects = evaluation.matches(iou_type).at_threshold(iou, k)
        best = (np.nan, 0.0, np.nan, 0.0)
        if len(scores):
            true_positives, count = hits.cumsum(), np.arange(1, len(scores) + 1)
            # A threshold selects all detections of one score or none.
            is_last = np.r_[scores[1:] != scores[:-1], True]
            f1 = np.where(is_last, 2 * true_positives / (count + objects), -1)
            values = scores, f1, true_positives / count, true_positives / objects
            best = [column[f1.argmax()] for column in values]
        rows.append((name, *best, objects))
    return pd.DataFrame(rows, columns=["class", "score", "F1", "precision", "recall", "objects"])


def recall_at(
    evaluation: Evaluation, score: float, iou_type: str = "mask", iou: float = 0.5
) -> float:
    """Recall (0..1) of the detections of at least a score, mean over classes."""
    matches, categories = evaluation.matches(iou_type), evaluation.category_index.values()
    parts = (matches.at_threshold(iou, k) for k in categories)
    recalls = [hits[scores >= score].sum() / objects for scores, hits, objects in parts]
    return class_mean(np.array([recalls])).item()


def reliability_table(
    evaluation: Evaluation, iou_type: str = "mask", iou: float = 0.5
) -> pd.DataFrame:
    """Detections per score bin with any: low, high, detections, score (mean), precision (0..1).

    Raises ValueError if scores are not within 0..1.
    """
    scores, hits, _ = evaluation.matches(iou_type).at_threshold(iou)
    if len(scores) and not 0 <= scores.min() <= scores.max() <= 1:
        ends = f"{scores.min():g} to {scores.max():g}"
        raise ValueError(f"scores are from {ends}: calibration needs probabilities (0 to 1)")
    index = np.minimum((scores * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"score": scores, "precision": hits.astype(float), "detections": 1})
    how = {"detections": "sum", "score": "mean", "precision": "mean"}
    table = table.groupby(index).agg(how)
    table = table.assign(low=table.index / BINS, high=(table.index + 1) / BINS)
    return table.reset_index(drop=True)[["low", "high", *how]]


def expected_calibration_error(table: pd.DataFrame, missed: int = 0) -> float:
    """Mean distance (0..1) of score and precision over detections; NaN if there are none.

    `missed`: objects without a detection, each of which counts as one whose score should have been
    1 and is 0 (a global calibration error, as in Conde et al., 2023).
    """
    total, gaps = table["detections"].sum() + missed, (table["score"] - table["precision"]).abs()
    return float(((gaps * table["detections"]).sum() + missed) / total) if total else float("nan")


def calibration_errors(evaluation: Evaluation) -> dict[str, float]:
    """Expected calibration error by IoU type, in percent: `mask_ECE`, `mask_ECE_with_missed`."""
    errors = {}
    for kind in evaluation.iou_types:
        table = reliability_table(evaluation, kind)
        _, hits, objects = evaluation.matches(kind).at_threshold(0.5)
        for name, missed in (("ECE", 0), ("ECE_with_missed", objects - int(hits.sum()))):
            errors[f"{kind}_{name}"] = 100 * expected_calibration_error(table, missed)
    return errors


def score_thresholds(evaluation: Evaluation, iou_type: str | None = None) -> pd.DataFrame:
    """Per class the score thresholds of the optimal LRP and of the best F1, and both in percent.

    Columns: class, `LRP_METRICS`, best_F1, F1_score. `iou_type`: default: masks, where there are.
    """
    iou_type = iou_type or evaluation.iou_types[0]
    values, names = optimal_lrp(evaluation.matches(iou_type)), evaluation.category_index
    best = best_f1(evaluation, iou_type)
    table = {name: [of[0, k] for k in names.values()] for name, of in values.items()}
    table |= {"best_F1": 100 * best["F1"], "F1_score": best["score"]}
    return pd.DataFrame({"class": [*names], **table})


def mean_pr_curve(evaluation: Evaluation, iou_type: str, iou: float) -> Float[np.ndarray, " 101"]:
    """Precision (0..1) at recall 0, .01 .. 1, mean over classes, at an IoU of .5 to .95.

    The area below the curve is the AP.
    """
    return class_mean(evaluation.precision[iou_type][round((iou - 0.5) / 0.05)])
