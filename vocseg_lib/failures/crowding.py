"""How crowded an object's place is, and how AP and recall depend on it: "too many objects in one spot"."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from vocseg_lib.data.coco import bbox_xywh
from vocseg_lib.metrics.average_precision import Matches
from vocseg_lib.metrics.bootstrap import interval, prepend_point_estimate
from vocseg_lib.metrics.matching import (
    DatasetEval,
    ImageEval,
    Selection,
    match_coco,
    mean_ap,
    same_images,
)

CROWDING = ("alone", "apart", "near", "overlapping")
"""No neighbour of its class in the image; one further away than `near`; one nearer; one whose box overlaps the object's."""
COUNTS = {"1": (1, 1), "2": (2, 2), "3 to 4": (3, 4), "5 and more": (5, np.inf)}
"""Objects in the image."""
AT_50 = np.array([0.5])


def neighbours(
    boxes: Float[np.ndarray, "m 4"], classes: Int[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """(distance, overlap) of each object to its nearest neighbour of the same class, by their boxes (xywh).

    Distance is in sides of the object's own box (the root of its area): 0 when boxes meet, inf without a neighbour. Overlap
    is the largest IoU.
    """
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    apart = np.maximum(low[:, None] - high, low - high[:, None]).clip(0)
    meet = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(0).prod(2)
    area = boxes[:, 2] * boxes[:, 3]
    distance = np.hypot(*apart.transpose(2, 0, 1)) / np.sqrt(np.maximum(area, 1))[:, None]
    overlap = meet / np.maximum(area[:, None] + area - meet, 1e-9)
    theirs = (classes[:, None] == classes) & ~np.eye(len(boxes), dtype=bool)
    return np.where(theirs, distance, np.inf).min(1, initial=np.inf), np.where(
        theirs, overlap, 0
    ).max(1, initial=0)


def crowding_of(
    dataset_eval: DatasetEval, image_eval: ImageEval, near: float
) -> Int[np.ndarray, " m"]:
    """Each object's place in `CROWDING`; `near`: see `Thresholds`."""
    boxes = np.array(
        [bbox_xywh(dataset_eval.annotations[j]) for j in image_eval.objects], dtype=float
    ).reshape(-1, 4)
    distance, overlap = neighbours(boxes, image_eval.object_class)
    return np.select([overlap > 0, distance <= near, distance < np.inf], [3, 2, 1], 0)


def crowding_bins(dataset_eval: DatasetEval, near: float) -> dict[str, dict[str, Selection]]:
    """For each way to tell how crowded it is, the bins: what `match_coco` counts in each, for any model on these images.

    A detection on no object counts where the object of its class does that its box overlaps most (or is nearest to, in the
    order of the ground truth); where the image has none of its class, with the objects that are alone.
    """
    labels = [
        crowding_of(dataset_eval, image_eval, near) for image_eval in dataset_eval.image_evals
    ]

    def by_neighbour(image_eval: ImageEval, place: int) -> tuple[np.ndarray, np.ndarray]:
        own = labels[image_eval.image]
        if not len(own):
            return own == place, np.full(len(image_eval.detections), place == 0)
        nearest = np.where(image_eval.same_class, image_eval.iou["box"], -1).argmax(1)
        return own == place, np.where(image_eval.same_class.any(1), own[nearest], 0) == place

    def by_count(image_eval: ImageEval, least: float, most: float) -> tuple[np.ndarray, np.ndarray]:
        inside = least <= max(1, len(image_eval.objects)) <= most
        return np.full(len(image_eval.objects), inside), np.full(len(image_eval.detections), inside)

    return {
        "neighbours of its class": {
            name: lambda image_eval, place=place: by_neighbour(image_eval, place)
            for place, name in enumerate(CROWDING)
        },
        "objects in the image": {
            name: lambda image_eval, ends=ends: by_count(image_eval, *ends)
            for name, ends in COUNTS.items()
        },
    }


def recall(matches: Matches, weights: Float[np.ndarray, "b i"]) -> Float[np.ndarray, " b"]:
    """Share of the objects that are found, in percent, by all detections, at the first threshold; NaN without objects."""
    found = np.bincount(
        matches.image[matches.true_positive[0] & ~matches.ignored[0]],
        minlength=len(matches.image_ids),
    )
    objects = weights @ matches.num_gt.sum(1)
    return np.where(objects > 0, 100 * (weights @ found) / np.maximum(objects, 1), np.nan)


def by_crowding(
    models: dict[str, DatasetEval],
    near: float,
    weights: Float[np.ndarray, "b i"] | None = None,
    kind: str = "mask",
) -> pd.DataFrame:
    """AP50 and recall at IoU .5 against crowding, a row a measure, bin, metric and model, with the difference of two models.

    Columns: measure, bin, metric ("AP50" or "recall"), model, objects, value, and with `weights` (how often each image counts
    in each resample, see `uncertainty.resampled_weights`) low and high, the ends of the 95 % interval. With two models, rows
    of the model "first - second" hold their difference, and rows of the bin "last - first" that of the most and the least
    crowded, each taken resample by resample. Images without an object are among those with 1. Raises ValueError when models
    are not about the same images.
    """
    first = next(iter(models.values()))
    same_images(*models.values())
    rows, drawn = [], prepend_point_estimate(weights, len(first.images))
    for measure, bins in crowding_bins(first, near).items():
        by_bin = {}
        for name, counting in bins.items():
            values = by_bin[name] = {}
            for title, dataset_eval in models.items():
                matches = match_coco(dataset_eval, kind, counting, AT_50)
                values["AP50", title] = mean_ap(matches, drawn)[:, 0]
                values["recall", title] = recall(matches, drawn)
                objects = int(matches.num_gt.sum())
            if len(models) == 2:
                a, b = models
                values |= {
                    (metric, f"{a} - {b}"): values[metric, a] - values[metric, b]
                    for metric in ("AP50", "recall")
                }
            for (metric, title), all_values in values.items():
                rows.append(
                    (
                        measure,
                        name,
                        metric,
                        title,
                        objects,
                        all_values[0],
                        *interval(all_values[1:]),
                    )
                )
        least, *_, most = by_bin
        for metric, title in by_bin[most]:
            change = by_bin[most][metric, title] - by_bin[least][metric, title]
            rows.append(
                (measure, f"{most} - {least}", metric, title, 0, change[0], *interval(change[1:]))
            )
    return pd.DataFrame(
        rows, columns=["measure", "bin", "metric", "model", "objects", "value", "low", "high"]
    )
