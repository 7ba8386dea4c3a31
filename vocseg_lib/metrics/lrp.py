"""Optimal LRP and the best F1: what a class reaches at the score threshold that suits it best."""

import numpy as np
from jaxtyping import Float

from vocseg_lib.metrics.average_precision import ByClass, Matches, Weights, count_from_scores

SCORES = np.arange(100, -1, -1) / 100  # thresholds that are tried, as in the first paper's toolbox
LRP_IOU = 0.5  # from which on a detection is a true positive
LRP_METRICS = ("oLRP", "oLRP_loc", "oLRP_FP", "oLRP_FN", "oLRP_score")


def optimal_lrp(
    matches: Matches,
    weights: Weights | None = None,
    scores: Float[np.ndarray, " e"] | None = SCORES,
) -> dict[str, ByClass]:
    """oLRP of a class and its parts in percent, less is better (Oksuz et al., TPAMI 2021).

    LRP at a score threshold is the sum of (1 - IoU) / (1 - .5) over true positives, of false
    positives and of misses, over the number of all three; oLRP is its minimum over `scores` (None:
    all that occur). `oLRP_loc`: mean of 1 - IoU; `oLRP_FP`: 1 - precision; `oLRP_FN`: 1 - recall;
    `oLRP_score`: the threshold (0..1), the highest of equal ones. Without a true positive oLRP and
    `oLRP_FN` are 100, the others NaN; without objects all are.
    """
    weights = np.ones((1, len(matches.num_gt))) if weights is None else weights
    values = np.full((len(LRP_METRICS), len(weights), matches.num_gt.shape[1]), np.nan)
    for k in np.flatnonzero(matches.num_gt.any(0)).tolist():
        tried, *counts, num_gt = count_from_scores(matches, k, weights, scores)
        hits, wrong, lost = counts
        errors = lost / (1 - LRP_IOU) + wrong + num_gt - hits
        lrp = np.where(hits > 0, errors / np.maximum(num_gt + wrong, 1), 1)
        best = lrp.argmin(1)[:, None]
        lrp, hits, wrong, lost = (np.take_along_axis(part, best, 1) for part in (lrp, *counts))
        hits = np.where(lrp < 1, hits, 0)  # at 1, as above all scores: the highest threshold
        parts = lost / np.maximum(hits, 1), wrong / np.maximum(hits + wrong, 1)
        columns = [
            100 * lrp,
            *(100 * part for part in parts),
            100 * (1 - hits / np.maximum(num_gt, 1)),
        ]
        columns = np.stack([*columns, tried[best]])[..., 0]
        columns[np.ix_([1, 2, 4], hits[:, 0] == 0)] = np.nan
        values[:, :, k] = np.where(num_gt[:, 0] > 0, columns, np.nan)
    return dict(zip(LRP_METRICS, values, strict=True))


def highest_f1(matches: Matches, weights: Weights | None = None) -> dict[str, ByClass]:
    """`best_F1` in percent of a class, at its best score threshold; NaN without objects."""
    weights = np.ones((1, len(matches.num_gt))) if weights is None else weights
    values = np.full((len(weights), matches.num_gt.shape[1]), np.nan)
    for k in np.flatnonzero(matches.num_gt.any(0)).tolist():
        _, hits, wrong, _, num_gt = count_from_scores(matches, k, weights)
        f1 = 200 * hits / np.maximum(hits + wrong + num_gt, 1)
        values[:, k] = np.where(num_gt[:, 0] > 0, f1.max(1), np.nan)
    return {"best_F1": values}
