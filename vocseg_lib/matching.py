"""Which detection is right, at each IoU threshold; and average precision from that, for any weights of the images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from vocseg_lib.coco import box_of

POINTS = {"101": np.linspace(0, 1, 101), "tide": np.arange(101) / 100, "11": np.linspace(0, 1, 11), "all": None}
"""Recalls at which precision is taken: COCO's, TIDE's (the same, but for rounding), VOC's until 2009, and VOC's since 2010 (the
whole area below the curve)."""


@dataclass(frozen=True)
class Matches:
    """Detections of all images, best score first, and what became of them at each IoU threshold.

    `image` and `category` are places in `image_ids` and `category_ids`; a detection that is `ignored` is neither right nor
    wrong. `objects`: how many there are to find, an image and a category.
    """

    thresholds: Float[np.ndarray, " t"]
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    image: Int[np.ndarray, " n"]
    category: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, "t n"]
    ignored: Bool[np.ndarray, "t n"]
    objects: Int[np.ndarray, "i k"]

    def at(self, rows: list[int]) -> "Matches":
        """The same at some of the thresholds."""
        return replace(self, thresholds=self.thresholds[rows], right=self.right[rows], ignored=self.ignored[rows])

    def counted(self, threshold: float, category: int | None = None) -> tuple[np.ndarray, np.ndarray, int]:
        """Scores, and which are right, of the detections that count at an IoU threshold, and the number of objects.

        Of one category (a place in `category_ids`), or of all in one list. Raises ValueError for a threshold not matched at.
        """
        rows = np.flatnonzero(np.isclose(self.thresholds, threshold))
        if not len(rows):
            raise ValueError(f"no matches at IoU {threshold}; there are some at {', '.join(f'{t:g}' for t in self.thresholds)}")
        chosen = ~self.ignored[rows[0]] & (True if category is None else self.category == category)
        objects = self.objects if category is None else self.objects[:, category]
        return self.score[chosen], self.right[rows[0], chosen], int(objects.sum())


def average_precision(
    matches: Matches, weights: Float[np.ndarray, "b i"] | None = None, points: str = "101"
) -> Float[np.ndarray, "b t k"]:
    """AP (0..1) of each category at each threshold; NaN where there is no object.

    `weights`: how often each image counts, a row a resample; without, each once. `points` is a key of `POINTS`.
    """
    weights = np.ones((1, len(matches.image_ids))) if weights is None else weights
    objects, weights = weights @ matches.objects, weights.astype(np.float32)
    result = np.full((len(weights), len(matches.thresholds), objects.shape[1]), np.nan)
    for k in np.flatnonzero(objects.any(0)):
        found = np.flatnonzero((matches.category == k) & ~matches.ignored.all(0))
        weight = weights[:, matches.image[found]]
        until = weight.cumsum(1)
        there = objects[:, k] > 0
        for t in range(len(matches.thresholds)):
            ignored, right = matches.ignored[t, found], matches.right[t, found] & ~matches.ignored[t, found]
            all_until = (weight * ~ignored).cumsum(1) if ignored.any() else until
            ap = _area(weight[:, right], all_until[:, right], objects[:, k], POINTS[points])
            result[there, t, k] = ap[there]
    return result


def _area(
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
    places = torch.searchsorted(recall, torch.from_numpy(recalls).expand(len(right), -1).contiguous()).numpy()
    padded = np.concatenate([envelope, np.zeros((len(right), 1))], 1)
    return np.take_along_axis(padded, places, 1).mean(1)


def voc_matches(
    ground_truth: dict, detections: list[dict], thresholds: Sequence[float] = (0.5, 0.7), kind: str = "mask"
) -> Matches:
    """PASCAL VOC's rule: best score first, a detection is right when the object of its class that it overlaps most is not
    taken yet and IoU is at least the threshold; a second one on it is wrong. Every detection counts, however many.

    One that is on no object but on a crowd region (VOC: a difficult object) does not count. `kind`: "mask" or "box".
    """
    form = {"mask": itemgetter("segmentation"), "box": box_of}[kind]
    image_ids, category_ids = (tuple(sorted(e["id"] for e in ground_truth[k])) for k in ("images", "categories"))
    image_place, category_place = ({entry: i for i, entry in enumerate(ids)} for ids in (image_ids, category_ids))
    objects = _by_place(ground_truth["annotations"], image_place, category_place)
    found = _by_place(detections, image_place, category_place)
    count = np.zeros((len(image_ids), len(category_ids)), dtype=np.int64)
    best, on, crowded = np.zeros(len(detections)), np.full(len(detections), -1), np.zeros(len(detections))
    crowds = np.array([bool(a["iscrowd"]) for a in ground_truth["annotations"]], dtype=bool)
    for place, theirs in objects.items():
        count[place] = (~crowds[theirs]).sum()
        ours = found.get(place)
        if ours is None:
            continue
        for of_crowds, overlaps in ((False, best), (True, crowded)):
            some = theirs[crowds[theirs] == of_crowds]
            if len(some):
                pair = [form(detections[i]) for i in ours], [form(ground_truth["annotations"][j]) for j in some]
                iou = coco_mask.iou(*pair, [of_crowds] * len(some))
                overlaps[ours] = iou.max(1)
                if not of_crowds:
                    on[ours] = some[iou.argmax(1)]
    facts = pd.DataFrame(
        {
            "image": [image_place[d["image_id"]] for d in detections],
            "category": [category_place[d["category_id"]] for d in detections],
            "score": [float(d["score"]) for d in detections],
            "best": best,
            "on": on,
            "crowded": crowded,
        }
    ).astype({"image": int, "category": int, "score": float})
    facts = facts.sort_values("image", kind="stable").sort_values("score", ascending=False, kind="stable")
    right, ignored = (np.zeros((len(thresholds), len(facts)), dtype=bool) for _ in range(2))
    for row, threshold in enumerate(thresholds):
        hit = ((facts["best"] >= threshold) & (facts["on"] >= 0)).to_numpy()
        first = ~facts["on"].where(hit, -1 - np.arange(len(facts))).duplicated().to_numpy()
        right[row], ignored[row] = hit & first, ~hit & (facts["crowded"] >= threshold).to_numpy()
    columns = (facts[name].to_numpy() for name in ("image", "category", "score"))
    return Matches(np.array(thresholds, dtype=float), image_ids, category_ids, *columns, right, ignored, count)


def _by_place(entries: list[dict], images: dict[int, int], categories: dict[int, int]) -> dict[tuple[int, int], np.ndarray]:
    """Indices of entries by image and category, best score first."""
    if not entries:
        return {}
    keys = np.array([(images[e["image_id"]], categories[e["category_id"]]) for e in entries])
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    cuts = np.flatnonzero((np.diff(keys[order], axis=0) != 0).any(1)) + 1
    return {tuple(keys[part[0]].tolist()): part for part in np.split(order, cuts)}
