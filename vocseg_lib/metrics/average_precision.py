"""True positives per IoU threshold, and average precision from them for any image weights."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Weights = Float[np.ndarray, "b i"]  # how often each image counts, one row per resample
ByClass = Float[np.ndarray, "b k"]  # of each resample and class
MeanAndClasses = Float[np.ndarray, "b _"]  # of each resample: of all classes, then of each

RECALL_POINTS = {"101": np.linspace(0, 1, 101), "11": np.linspace(0, 1, 11), "all": None}
RECALL_POINTS["tide"] = np.arange(101) / 100
"""Recalls at which precision is read: COCO's, TIDE's (the same up to rounding), VOC's until 2009,
and VOC's since 2010 (the whole area below the curve)."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """All detections by descending score, with true-positive and ignore flags per IoU threshold.

    `image` and `category`: indices in the ground truth's images, and in its categories by id. An
    ignored detection is neither a true nor a false positive. `num_gt`: objects per image and class;
    `iou`: with the object of a true positive at the first threshold, else 0 (of COCO's matches).
    """

    thresholds: Float[np.ndarray, " t"]
    image: Int[np.ndarray, " n"]
    category: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    true_positive: Bool[np.ndarray, "t n"]
    ignored: Bool[np.ndarray, "t n"]
    num_gt: Int[np.ndarray, "i k"]
    iou: Float[np.ndarray, " n"] | None = None

    def select_thresholds(self, rows: list[int]) -> "Matches":
        """The matches at some of the thresholds, by index."""
        names = "thresholds", "true_positive", "ignored"
        return replace(self, iou=None, **{name: getattr(self, name)[rows] for name in names})

    def at_threshold(
        self, threshold: float, category: int | None = None
    ) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"], int]:
        """Scores and true-positive flags of the detections not ignored, and the number of objects.

        Of one category (its index) or all. Raises ValueError for another IoU threshold.
        """
        rows = np.flatnonzero(np.isclose(self.thresholds, threshold))
        if not len(rows):
            known = ", ".join(f"{t:g}" for t in self.thresholds)
            raise ValueError(f"threshold {threshold} is not one of the IoU thresholds {known}")
        kept, num_gt = ~self.ignored[rows[0]], self.num_gt
        if category is not None:
            kept, num_gt = kept & (self.category == category), num_gt[:, category]
        return self.score[kept], self.true_positive[rows[0], kept], int(num_gt.sum())


def average_precision(
    matches: Matches, weights: Weights | None = None, points: str = "101"
) -> Float[np.ndarray, "b t k"]:
    """AP (0..1) per category and threshold; NaN for a category without objects.

    `weights`: by default each image counts once. `points`: key of `RECALL_POINTS`.
    """
    weights = np.ones((1, len(matches.num_gt))) if weights is None else weights
    num_gt, weights = weights @ matches.num_gt, weights.astype(np.float32)
    by_image = torch.from_numpy(np.ascontiguousarray(weights.T))
    ap = np.full((len(weights), len(matches.thresholds), num_gt.shape[1]), np.nan)
    for k in np.flatnonzero(num_gt.any(0)):
        has_objects = num_gt[:, k] > 0
        rows = np.flatnonzero((matches.category == k) & ~matches.ignored.all(0))
        image, ignored = torch.from_numpy(matches.image[rows]), matches.ignored[:, rows]
        hits = matches.true_positive[:, rows] & ~ignored
        # Only true positives raise the area: the others are counted between two of them.
        ends = np.flatnonzero(hits.any(0))
        always = ~ignored.any(0)
        count = _count_until(by_image, image, always, ends)
        for t in range(len(matches.thresholds)):
            columns = hits[t, ends]
            at = ends[columns]
            counted = count[:, columns] + _count_until(by_image, image, ~always & ~ignored[t], at)
            columns = weights[:, matches.image[rows[at]]], counted, num_gt[:, k]
            values = _interpolated_ap(*columns, RECALL_POINTS[points])
            ap[has_objects, t, k] = values[has_objects]
    return ap


def _count_until(
    weights: Float[Tensor, "i b"],
    image: Int[Tensor, " n"],
    counted: Bool[np.ndarray, " n"],
    ends: Int[np.ndarray, " e"],
) -> Float[np.ndarray, "b e"]:
    """Weights of the counted rows up to each of `ends`, both included; sums of integers: exact."""
    rows = np.flatnonzero(counted)
    if not (len(rows) and len(ends)):
        return np.zeros((weights.shape[1], len(ends)), dtype=np.float32)
    first = np.append(0, np.searchsorted(rows, ends[:-1], "right"))
    rows = rows[: np.searchsorted(rows, ends[-1], "right")]
    sums = F.embedding_bag(image[rows], weights, torch.from_numpy(first), mode="sum")
    return np.ascontiguousarray(sums.numpy().T).cumsum(1)


def _interpolated_ap(
    hits: Float[np.ndarray, "b n"],
    counted: Float[np.ndarray, "b n"],
    num_gt: Float[np.ndarray, " b"],
    recalls: Float[np.ndarray, " r"] | None,
) -> Float[np.ndarray, " b"]:
    """Area below the precision envelope, from the true positives alone: only they raise it."""
    if not hits.shape[1]:
        return np.zeros(len(hits))
    true_positives = hits.cumsum(1, dtype=float)
    precision = true_positives / np.maximum(counted, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    num_gt = np.maximum(num_gt, 1)
    if recalls is None:
        return (envelope * hits).sum(1) / num_gt
    recall = torch.from_numpy(np.ascontiguousarray(true_positives / num_gt[:, None]))
    points = torch.from_numpy(recalls).expand(len(hits), -1).contiguous()
    index = torch.searchsorted(recall, points).numpy()
    padded = np.concatenate([envelope, np.zeros((len(hits), 1))], 1)
    return np.take_along_axis(padded, index, 1).mean(1)


def class_mean(values: ByClass) -> Float[np.ndarray, " b"]:
    """Mean over the classes that are not NaN (have objects); NaN if all are."""
    known = ~np.isnan(values)
    mean = np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(known.any(1), mean, np.nan)


def mean_ap(matches: Matches, weights: Weights | None = None) -> MeanAndClasses:
    """AP in percent, mean over thresholds; NaN for a class without objects."""
    by_class = 100 * average_precision(matches, weights).mean(1)
    return np.column_stack([class_mean(by_class), by_class])


def coco_metrics(matches: Matches, weights: Weights | None = None) -> dict[str, ByClass]:
    """COCO's AP, AP50 and AP75 in percent per resample and class."""
    ap = 100 * average_precision(matches, weights)
    return {"AP": ap.mean(1), "AP50": ap[:, 0], "AP75": ap[:, 5]}


class ThresholdCounts(NamedTuple):
    """A class's detections of at least some scores, for each row of image weights."""

    scores: Float[np.ndarray, " e"]
    true_positives: Float[np.ndarray, "b e"]
    false_positives: Float[np.ndarray, "b e"]
    lost_iou: Float[np.ndarray, "b e"]  # sum of 1 - IoU over the true positives
    num_gt: Float[np.ndarray, "b 1"]


def count_from_scores(
    matches: Matches,
    category: int,
    weights: Weights,
    scores: Float[np.ndarray, " e"] | None = None,
) -> ThresholdCounts:
    """Counts at the first IoU threshold of COCO's matches.

    `scores`, the highest first: by default those of true positives, at which F1 and LRP are best,
    after infinity for no detection at all.
    """
    rows = np.flatnonzero((matches.category == category) & ~matches.ignored[0])
    hits, ascending = matches.true_positive[0, rows], -matches.score[rows]
    scores = np.append(np.inf, -np.unique(ascending[hits])) if scores is None else scores
    ends = np.searchsorted(ascending, -scores, side="right")
    starts = torch.from_numpy(np.append(0, ends[:-1]))
    image = torch.from_numpy(matches.image[rows[: ends[-1]]])
    by_image = torch.from_numpy(np.ascontiguousarray(weights.T, dtype=float))

    def sum_until_ends(values: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "b e"]:
        if not ends[-1]:
            return np.zeros((len(weights), len(ends)))
        values = torch.from_numpy(values[: ends[-1]].astype(float))
        bags = {"mode": "sum", "per_sample_weights": values}
        return F.embedding_bag(image, by_image, starts, **bags).numpy().cumsum(0).T

    lost = np.where(hits, 1 - matches.iou[rows], 0)
    true_positives, lost_iou, counted = map(sum_until_ends, (hits, lost, np.ones(len(rows))))
    num_gt = (weights @ matches.num_gt[:, category])[:, None]
    return ThresholdCounts(scores, true_positives, counted - true_positives, lost_iou, num_gt)
