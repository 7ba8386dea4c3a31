"""AP and recall against crowding: "too many objects in one spot"."""

from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from vocseg_lib.data.coco_validation import bbox_xywh
from vocseg_lib.metrics import matching
from vocseg_lib.metrics.average_precision import Matches, Weights, mean_ap
from vocseg_lib.metrics.bootstrap import interval, prepend_point_estimate
from vocseg_lib.metrics.matching import DatasetEval, ImageEval, Selected, Selection

CROWDING = ("alone", "apart", "near", "overlapping")
"""No neighbor of its class in the image; one beyond the distance; one within; overlapping boxes."""
IMAGE_COUNT_BINS = {"1": (1, 1), "2": (2, 2), "3 to 4": (3, 4), "5 and more": (5, np.inf)}
"""Objects in the image, from and to."""


def crowding_of(
    dataset_eval: DatasetEval, image_eval: ImageEval, crowd_distance: float
) -> Int[np.ndarray, " m"]:
    """Index in `CROWDING` of each object, by its nearest neighbor of the same class.

    `crowd_distance` between boxes is in roots of the area of the object's box (see `Thresholds`).
    """
    classes, indices = image_eval.objects["category"], image_eval.objects["annotation"]
    boxes = [bbox_xywh(dataset_eval.annotations[j]) for j in indices]
    low, size = np.array(boxes, dtype=float).reshape(-1, 2, 2).transpose(1, 0, 2)
    high = low + size
    # Sides in x and y of the area that two boxes share, negative where they are apart.
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    distance = np.hypot(*(-shared).clip(0).transpose(2, 0, 1))
    distance /= np.sqrt(np.maximum(size.prod(1), 1))[:, None]
    others = (classes[:, None] == classes) & ~np.eye(len(classes), dtype=bool)
    overlapping = (others & (shared > 0).all(2)).any(1)
    distance = np.where(others, distance, np.inf).min(1, initial=np.inf)
    return np.select([overlapping, distance <= crowd_distance, distance < np.inf], [3, 2, 1], 0)


def crowding_bins(
    dataset_eval: DatasetEval, crowd_distance: float
) -> dict[str, dict[str, Selection]]:
    """Selections for `match_coco` by measure of crowding and bin, for any model on these images.

    A detection on no object is in the bin of the object of its class with most box IoU (the first
    of equals); "alone" if the image has none.
    """
    labels = [crowding_of(dataset_eval, e, crowd_distance) for e in dataset_eval.image_evals]

    def by_neighbor(image_eval: ImageEval, label: int) -> Selected:
        own, iou = labels[image_eval.image], image_eval.iou["box"]
        # Without an object of the class, the last one: alone.
        iou = np.column_stack([np.where(image_eval.same_class, iou, -1), np.full(len(iou), -0.5)])
        return own == label, np.append(own, 0)[iou.argmax(1)] == label

    def by_count(low: float, high: float, image_eval: ImageEval) -> Selected:
        inside = low <= max(1, len(image_eval.objects)) <= high
        return tuple(selected & inside for selected in matching.select_all(image_eval))

    neighbor = {name: partial(by_neighbor, label=k) for k, name in enumerate(CROWDING)}
    count = {name: partial(by_count, *ends) for name, ends in IMAGE_COUNT_BINS.items()}
    return {"neighbors of its class": neighbor, "objects in the image": count}


def recall(matches: Matches, weights: Weights) -> Float[np.ndarray, " b"]:
    """Percent of the objects detected, at the first IoU threshold and any score; NaN without."""
    hits = matches.image[matches.true_positive[0]]
    detected = weights @ np.bincount(hits, minlength=len(matches.num_gt))
    objects = weights @ matches.num_gt.sum(1)
    return np.where(objects > 0, 100 * detected / np.maximum(objects, 1), np.nan)


def by_crowding(
    models: dict[str, DatasetEval], crowd_distance: float, weights: Weights | None = None
) -> pd.DataFrame:
    """Mask AP50 and recall at IoU .5, one row per measure of crowding, bin, metric and model.

    Columns: measure, bin, metric ("AP50" or "recall"), model, objects, value, and with `weights`
    (see `bootstrap_weights`) low and high, the ends of the 95 % interval. Of two models, rows of
    the model "first - second" have the difference; rows of the bin "last - first" have that of the
    most and the least crowded; both are paired by resample. Images without objects are in bin 1.

    Raises ValueError: the models are not evaluated on the same images.
    """
    first, rows = next(iter(models.values())), []
    matching.check_same_images(*models.values())
    weights = prepend_point_estimate(weights, len(first.images))
    for measure, bins in crowding_bins(first, crowd_distance).items():
        by_bin, objects = {}, {}
        for name, selection in bins.items():
            values = {}
            for title, dataset_eval in models.items():
                matches = matching.match_coco(dataset_eval, "mask", selection, np.array([0.5]))
                values["AP50", title] = mean_ap(matches, weights)[:, 0]
                values["recall", title] = recall(matches, weights)
            if len(models) == 2:
                a, b = models
                for metric in ("AP50", "recall"):
                    values[metric, f"{a} - {b}"] = values[metric, a] - values[metric, b]
            by_bin[name], objects[name] = pd.DataFrame(values), int(matches.num_gt.sum())
        least, *_, most = by_bin
        by_bin[f"{most} - {least}"] = by_bin[most] - by_bin[least]
        for name, values in by_bin.items():
            for (metric, model), of_model in values.items():
                estimate, *resampled = of_model
                ends = interval(np.array(resampled))
                rows.append((measure, name, metric, model, objects.get(name, 0), estimate, *ends))
    columns = ["measure", "bin", "metric", "model", "objects", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
