"""What a score threshold buys: recall, precision and F1 of the detections above it, and whether scores mean what they say."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.metrics.coco_eval import Evaluation

BINS = 10
"""Of equal width, in which scores are compared with precision."""


def best_f1(evaluation: Evaluation, kind: str = "mask", iou: float = 0.5) -> pd.DataFrame:
    """The score threshold with the highest F1 a class: class, score, F1, precision, recall (0..1), objects.

    The highest such threshold where several are as good. A class without detections has score NaN and F1 0.
    """
    rows = []
    for name, place in evaluation.category_index.items():
        scores, right, objects = evaluation.matches[kind]["all"].at_threshold(iou, place)
        found = right.cumsum()
        last = np.r_[scores[1:] != scores[:-1], True][
            : len(scores)
        ]  # a threshold takes all of one score, or none
        f1 = np.where(last, 2 * found / (np.arange(1, len(scores) + 1) + objects), -1)
        if not len(scores):
            rows.append((name, np.nan, 0.0, np.nan, 0.0, objects))
            continue
        best = int(f1.argmax())
        rows.append(
            (name, scores[best], f1[best], found[best] / (best + 1), found[best] / objects, objects)
        )
    return pd.DataFrame(rows, columns=["class", "score", "F1", "precision", "recall", "objects"])


def recall_at(evaluation: Evaluation, score: float, kind: str = "mask", iou: float = 0.5) -> float:
    """Recall (0..1) of the detections with at least a score, mean over classes."""
    recalls = []
    for place in evaluation.category_index.values():
        scores, right, objects = evaluation.matches[kind]["all"].at_threshold(iou, place)
        recalls.append(right[scores >= score].sum() / objects)
    return float(np.mean(recalls)) if recalls else float("nan")


def calibration(
    evaluation: Evaluation, kind: str = "mask", iou: float = 0.5, bins: int = BINS
) -> pd.DataFrame:
    """Detections by score, in bins of equal width over 0..1: low, high, detections, score (mean), precision (0..1).

    Empty bins are left out. Raises ValueError when scores are not within 0..1.
    """
    scores, right, _ = evaluation.matches[kind]["all"].at_threshold(iou)
    if len(scores) and not 0 <= scores.min() <= scores.max() <= 1:
        raise ValueError(
            f"scores from {scores.min():g} to {scores.max():g} are no probabilities: they cannot be calibrated"
        )
    place = np.minimum((scores * bins).astype(int), bins - 1)
    table = pd.DataFrame(
        {"bin": place, "score": scores, "precision": right.astype(float), "detections": 1}
    )
    table = (
        table.groupby("bin")
        .agg({"detections": "sum", "score": "mean", "precision": "mean"})
        .reset_index()
    )
    table.insert(0, "high", (table["bin"] + 1) / bins)
    table.insert(0, "low", table.pop("bin") / bins)
    return table


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error (0..1): the mean distance between score and precision, over detections; NaN without any."""
    total = table["detections"].sum()
    return (
        float(((table["score"] - table["precision"]).abs() * table["detections"]).sum() / total)
        if total
        else float("nan")
    )


def class_mean_curve(evaluation: Evaluation, kind: str, iou: float) -> Float[np.ndarray, " 101"]:
    """Precision (0..1) at recall 0, .01 .. 1 and an IoU of .5 to .95, mean over classes; the area below it is the AP."""
    row = round((iou - 0.5) / 0.05)
    curves = evaluation.precision[kind][row]
    return curves.mean(1) if curves.shape[1] else np.full(len(curves), np.nan)
