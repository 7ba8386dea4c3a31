"""Mean IoU of the class map, and masks without their void pixels."""

from collections import defaultdict
from operator import itemgetter

import numpy as np
from jaxtyping import Float, Int
from pycocotools import mask as coco_mask

from vocseg_lib.metrics.average_precision import class_mean
from vocseg_lib.utils.rle import paint_masks

SEMANTIC_SCORE = 0.5  # the lowest of a detection in the class map


def remove_void(ground_truth: dict, detections: list[dict]) -> list[dict]:
    """The detections without the void pixels of their masks; without those that are void alone."""
    outside = {
        image["id"]: coco_mask.encode(np.asfortranarray(1 - coco_mask.decode(image["void"])))
        for image in ground_truth["images"]
        if "void" in image
    }
    kept = []
    for detection in detections:
        mask = detection["segmentation"]
        if detection["image_id"] in outside:
            rle = coco_mask.merge([mask, outside[detection["image_id"]]], intersect=True)
            if not coco_mask.area(rle) and coco_mask.area(mask):
                continue
            mask = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
        kept.append({**detection, "segmentation": mask})
    return kept


def count_pixels(
    ground_truth: dict, detections: list[dict], score_threshold: float = SEMANTIC_SCORE
) -> Int[np.ndarray, "i 3 k"]:
    """Pixels per image and class that are annotated, predicted, and both; background is class 0.

    The class map has the detections of at least `score_threshold`, the best score on top.
    Void pixels are ignored.
    """
    categories = sorted(ground_truth["categories"], key=itemgetter("id"))
    value, size = {c["id"]: i for i, c in enumerate(categories, 1)}, len(categories) + 1
    kept = sorted((d for d in detections if d["score"] >= score_threshold), key=itemgetter("score"))
    layers = defaultdict(lambda: ([], []))
    for part, entries in enumerate((ground_truth["annotations"], kept)):
        for entry in entries:
            layers[entry["image_id"]][part].append(entry)
    counts = np.zeros((len(ground_truth["images"]), 3, size), dtype=np.int64)
    for row, image in zip(counts, ground_truth["images"], strict=True):
        maps = np.zeros((2, image["height"] * image["width"]), dtype=np.int64)
        for class_map, entries in zip(maps, layers[image["id"]], strict=True):
            values = (value[entry["category_id"]] for entry in entries)
            paint_masks(class_map, [entry["segmentation"] for entry in entries], values)
        pairs = maps[0] * size + maps[1]
        if "void" in image:
            paint_masks(pairs, [image["void"]], [size * size])
        table = np.bincount(pairs, minlength=size * size)[: size * size].reshape(size, size)
        row[:] = table.sum(1), table.sum(0), table.diagonal()
    return counts


def mean_iou(
    counts: Int[np.ndarray, "i 3 k"], weights: Float[np.ndarray, "b i"] | None = None
) -> tuple[Float[np.ndarray, " b"], Float[np.ndarray, "b k"]]:
    """Mean IoU over background and classes, and IoU of each, in percent, of `count_pixels`.

    By default each image counts once. NaN for a class in neither map; the mean leaves it out.
    """
    weights = np.ones((1, len(counts))) if weights is None else weights
    pixels = np.tensordot(weights, counts.astype(float), 1)
    annotated, predicted, both = pixels.transpose(1, 0, 2)
    union = annotated + predicted - both
    iou = np.where(union > 0, 100 * both / np.maximum(union, 1), np.nan)
    return class_mean(iou), iou
