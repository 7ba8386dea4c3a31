"""Which detection is right, at each IoU threshold; and average precision from that, for any weights of the images."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

POINTS = {
    "101": np.linspace(0, 1, 101),
    "tide": np.arange(101) / 100,
    "11": np.linspace(0, 1, 11),
    "all": None,
}
"""Recalls at which precision is taken: COCO's, TIDE's (the same, but for rounding), VOC's until 2009, and VOC's since 2010 (the
whole area below the curve)."""


@dataclass(frozen=True)
class Matches:
    """Detections of all images, best score first, and what became of them at each IoU threshold.

    `image` and `category` are places in `image_ids` and `category_ids`; a detection that is `ignored` is neither right nor
    wrong. `num_gt`: ground-truth objects per image and category.
    """

    thresholds: Float[np.ndarray, " t"]
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    image: Int[np.ndarray, " n"]
    category: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    true_positive: Bool[np.ndarray, "t n"]
    ignored: Bool[np.ndarray, "t n"]
    num_gt: Int[np.ndarray, "i k"]

    def at(self, rows: list[int]) -> "Matches":
        """The same at some of the thresholds."""
        return replace(
            self,
            thresholds=self.thresholds[rows],
            true_positive=self.true_positive[rows],
            ignored=self.ignored[rows],
        )

    def at_threshold(
        self, threshold: float, category: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Scores, and which are right, of the detections that count at an IoU threshold, and the number of objects.

        Of one category (a place in `category_ids`), or of all in one list. Raises ValueError for a threshold not matched at.
        """
        rows = np.flatnonzero(np.isclose(self.thresholds, threshold))
        if not len(rows):
            raise ValueError(
                f"no matches at IoU {threshold}; there are some at {', '.join(f'{t:g}' for t in self.thresholds)}"
            )
        chosen = ~self.ignored[rows[0]] & (True if category is None else self.category == category)
        objects = self.num_gt if category is None else self.num_gt[:, category]
        return self.score[chosen], self.true_positive[rows[0], chosen], int(objects.sum())


def average_precision(
    matches: Matches, weights: Float[np.ndarray, "b i"] | None = None, points: str = "101"
) -> Float[np.ndarray, "b t k"]:
    """AP (0..1) of each category at each threshold; NaN where there is no object.

    `weights`: how often each image counts, a row a resample; without, each once. `points` is a key of `POINTS`.
    """
    weights = np.ones((1, len(matches.image_ids))) if weights is None else weights
    objects, weights = weights @ matches.num_gt, weights.astype(np.float32)
    result = np.full((len(weights), len(matches.thresholds), objects.shape[1]), np.nan)
    for k in np.flatnonzero(objects.any(0)):
        found = np.flatnonzero((matches.category == k) & ~matches.ignored.all(0))
        weight = weights[:, matches.image[found]]
        until = weight.cumsum(1)
        there = objects[:, k] > 0
        for t in range(len(matches.thresholds)):
            ignored, right = (
                matches.ignored[t, found],
                matches.true_positive[t, found] & ~matches.ignored[t, found],
            )
            all_until = (weight * ~ignored).cumsum(1) if ignored.any() else until
            ap = _interpolated_ap(
                weight[:, right], all_until[:, right], objects[:, k], POINTS[points]
            )
            result[there, t, k] = ap[there]
    return result


def _interpolated_ap(
    right: Float[np.ndarray, "b n"],
    all_until: Float[np.ndarray, "b n"],
    objects: Float[np.ndarray, " b"],
    recalls: Float[np.ndarray, " r"] | None,
) -> Float[np.ndarray, " b"]:
    """Area below the precision envelope. Only the places of right detections matter: between them, precision falls."""
    if not right.shape[1]:
        return np.zeros(len(right))
    right_until = right.cumsum(1, dtype=float)
    precision = right_until / np.maximum(all_until, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    objects = np.maximum(objects, 1)
    if recalls is None:
        return (envelope * right).sum(1) / objects
    recall = torch.from_numpy(np.ascontiguousarray(right_until / objects[:, None]))
    places = torch.searchsorted(
        recall, torch.from_numpy(recalls).expand(len(right), -1).contiguous()
    ).numpy()
    padded = np.concatenate([envelope, np.zeros((len(right), 1))], 1)
    return np.take_along_axis(padded, places, 1).mean(1)


def class_mean(values: Float[np.ndarray, "b k"]) -> Float[np.ndarray, " b"]:
    """Mean over the classes that have objects (are not NaN); NaN where there is none."""
    there = ~np.isnan(values)
    return np.where(
        there.any(1), np.where(there, values, 0).sum(1) / np.maximum(there.sum(1), 1), np.nan
    )
