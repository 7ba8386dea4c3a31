"""AP and recall against crowding: "too many objects in one spot"."""

from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from vocseg_lib.data.coco import bbox_xywh
from vocseg_lib.metrics import matching
from vocseg_lib.metrics.average_precision import Matches, mean_ap
from vocseg_lib.metrics.bootstrap import interval, prepend_point_estimate
from vocseg_lib.metrics.matching import DatasetEval, ImageEval, Selection

CROWDING = ("alone", "apart", "near", "overlapping")
"""No neighbor of its class in the image; one beyond the distance; one within; overlapping boxes."""
IMAGE_COUNT_BINS = {"1": (1, 1), "2": (2, 2), "3 to 4": (3, 4), "5 and more": (5, np.inf)}
"""Objects in the image, from and to."""


def neighbors(
    boxes: Float[np.ndarray, "m 4"], classes: Int[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """(distance, IoU) of the boxes (xywh) to the nearest of the same class.

    Distances are in roots of the box's own area: 0 when boxes meet, inf without a neighbor.
    """
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    apart = np.maximum(low[:, None] - high, low - high[:, None]).clip(0)
    meet = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(0).prod(2)
    area = boxes[:, 2] * boxes[:, 3]
    distance = np.hypot(*apart.transpose(2, 0, 1)) / np.sqrt(np.maximum(area, 1))[:, None]
    iou = meet / np.maximum(area[:, None] + area - meet, 1e-9)
    others = (classes[:, None] == classes) & ~np.eye(len(boxes), dtype=bool)
    distance = np.where(others, distance, np.inf).min(1, initial=np.inf)
    return distance, np.where(others, iou, 0).max(1, initial=0)


def crowding_of(
    dataset_eval: DatasetEval, image_eval: ImageEval, crowd_distance: float
) -> Int[np.ndarray, " m"]:
    """Index in `CROWDING` of each object; for `crowd_distance` see `Thresholds`."""
    boxes = [bbox_xywh(dataset_eval.annotations[j]) for j in image_eval.objects]
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    distance, iou = neighbors(boxes, image_eval.object_class)
    return np.select([iou > 0, distance <= crowd_distance, distance < np.inf], [3, 2, 1], 0)


def crowding_bins(
    dataset_eval: DatasetEval, crowd_distance: float
) -> dict[str, dict[str, Selection]]:
    """Selections for `match_coco` by measure of crowding and bin, for any model on these images.

    A detection on no object is in the bin of the object of its class with most box IoU (the first
    of equals); "alone" if the image has none.
    """
    labels = [crowding_of(dataset_eval, e, crowd_distance) for e in dataset_eval.image_evals]

    def by_neighbor(image_eval: ImageEval, label: int) -> tuple[np.ndarray, np.ndarray]:
        own, iou = labels[image_eval.image], image_eval.iou["box"]
        # Without an object of the class, the last one: alone.
        iou = np.column_stack([np.where(image_eval.same_class, iou, -1), np.full(len(iou), -0.5)])
        return own == label, np.append(own, 0)[iou.argmax(1)] == label

    def by_count(image_eval: ImageEval, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        inside = low <= max(1, len(image_eval.objects)) <= high
        return tuple(selected & inside for selected in matching.select_all(image_eval))

    neighbor = {name: partial(by_neighbor, label=k) for k, name in enumerate(CROWDING)}
    ends = IMAGE_COUNT_BINS.items()
    count = {name: partial(by_count, low=low, high=high) for name, (low, high) in ends}
    return {"neighbors of its class": neighbor, "objects in the image": count}


def recall(matches: Matches, weights: Float[np.ndarray, "b i"]) -> Float[np.ndarray, " b"]:
    """Percent of the objects detected, at the first IoU threshold and any score; NaN without."""
    hits = matches.image[matches.true_positive[0] & ~matches.ignored[0]]
    detected = weights @ np.bincount(hits, minlength=len(matches.num_gt))
    objects = weights @ matches.num_gt.sum(1)
    return np.where(objects > 0, 100 * detected / np.maximum(objects, 1), np.nan)


def by_crowding(
    models: dict[str, DatasetEval],
    crowd_distance: float,
    weights: Float[np.ndarray, "b i"] | None = None,
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
            values = by_bin[name] = {}
            for title, dataset_eval in models.items():
                matches = matching.match_coco(dataset_eval, "mask", selection, np.array([0.5]))
                values["AP50", title] = mean_ap(matches, weights)[:, 0]
                values["recall", title] = recall(matches, weights)
            if len(models) == 2:
                a, b = models
                for metric in ("AP50", "recall"):
                    values[metric, f"{a} - {b}"] = values[metric, a] - values[metric, b]
            objects[name] = int(matches.num_gt.sum())
        least, *_, most = by_bin
        change = {key: values - by_bin[least][key] for key, values in by_bin[most].items()}
        for name, values_of in (by_bin | {f"{most} - {least}": change}).items():
            for (metric, model), values in values_of.items():
                estimate = (values[0], *interval(values[1:]))
                rows.append((measure, name, metric, model, objects.get(name, 0), *estimate))
    columns = ["measure", "bin", "metric", "model", "objects", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
