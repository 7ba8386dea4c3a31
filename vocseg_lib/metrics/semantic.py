"""Semantic segmentation: mean IoU of the class map; void pixels."""

from collections import defaultdict

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

SEMANTIC_SCORE = 0.5
"""Score from which a detection is painted into the class map."""


def without_void(ground_truth: dict, detections: list[dict]) -> list[dict]:
    """The detections with the void pixels of their image taken out of their masks; gone where nothing else is in one."""
    voids = {image["id"]: image["void"] for image in ground_truth["images"] if "void" in image}
    outside = {}
    for image_id, void in voids.items():
        outside[image_id] = coco_mask.encode(np.asfortranarray(1 - coco_mask.decode(void)))
    kept = []
    for detection in detections:
        if detection["image_id"] in outside:
            rle = coco_mask.merge(
                [detection["segmentation"], outside[detection["image_id"]]], intersect=True
            )
            if not coco_mask.area(rle) and coco_mask.area(detection["segmentation"]):
                continue
            detection = {
                **detection,
                "segmentation": {
                    "size": list(rle["size"]),
                    "counts": rle["counts"].decode("ascii"),
                },
            }
        kept.append(detection)
    return kept


def mean_iou(
    ground_truth: dict, detections: list[dict], score_threshold: float = SEMANTIC_SCORE
) -> pd.DataFrame:
    """Semantic segmentation's measure, over background and classes: detections painted into one class map, best score on top.

    Void pixels count for nobody. Rows of kind "mask", metric "mean_IoU", class, value (percent); a class that is in neither
    map is left out.
    """
    categories = sorted(ground_truth["categories"], key=lambda c: c["id"])
    value = {c["id"]: i for i, c in enumerate(categories, 1)}
    size = len(categories) + 1
    painted = [d for d in detections if d["score"] >= score_threshold]
    truth_of, found_of = defaultdict(list), defaultdict(list)
    for entries, by_image in (
        (ground_truth["annotations"], truth_of),
        (sorted(painted, key=lambda d: d["score"]), found_of),
    ):
        for entry in entries:
            by_image[entry["image_id"]].append(entry)
    confusion = np.zeros((size, size), dtype=np.int64)
    for image in ground_truth["images"]:
        shape = image["height"], image["width"]
        truth, found = (
            _class_map(by_image[image["id"]], value, shape) for by_image in (truth_of, found_of)
        )
        pairs = truth.astype(np.int64) * size + found
        if "void" in image:
            pairs = pairs[coco_mask.decode(image["void"]) == 0]
        confusion += np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    names = ["background", *(c["name"] for c in categories)]
    rows = [
        ("mask", "mean_IoU", names[k], 100 * confusion[k, k] / union[k])
        for k in np.flatnonzero(union)
    ]
    overall = ("mask", "mean_IoU", "all", np.mean([row[-1] for row in rows]) if rows else np.nan)
    return pd.DataFrame([overall, *rows], columns=["kind", "metric", "class", "value"])


def _class_map(entries: list[dict], value: dict[int, int], shape: tuple[int, int]) -> np.ndarray:
    """A class map [h, w] with the masks of entries painted one over the other."""
    pixels = np.zeros(shape, dtype=np.uint16)
    for entry in entries:
        pixels[coco_mask.decode(entry["segmentation"]) > 0] = value[entry["category_id"]]
    return pixels
