"""Mean IoU of the class map, and masks without their void pixels."""

from collections import defaultdict
from operator import itemgetter

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

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


def mean_iou(
    ground_truth: dict, detections: list[dict], score_threshold: float = SEMANTIC_SCORE
) -> pd.DataFrame:
    """Semantic segmentation's mean IoU over background and classes, in percent.

    The class map has the detections of at least `score_threshold`, the best score on top.
    Void pixels are ignored, and classes in neither map left out. Columns: kind ("mask"), metric
    ("mean_IoU"), class, value.
    """
    categories = sorted(ground_truth["categories"], key=itemgetter("id"))
    value, size = {c["id"]: i for i, c in enumerate(categories, 1)}, len(categories) + 1
    kept = sorted((d for d in detections if d["score"] >= score_threshold), key=itemgetter("score"))
    layers = defaultdict(lambda: ([], []))
    for part, entries in enumerate((ground_truth["annotations"], kept)):
        for entry in entries:
            layers[entry["image_id"]][part].append(entry)
    counts = np.zeros((3, size), dtype=np.int64)  # pixels of each: annotated, predicted, both
    for image in ground_truth["images"]:
        maps = np.zeros((2, image["height"] * image["width"]), dtype=np.uint16)
        for class_map, entries in zip(maps, layers[image["id"]], strict=True):
            values = (value[entry["category_id"]] for entry in entries)
            paint_masks(class_map, [entry["segmentation"] for entry in entries], values)
        if "void" in image:
            outside = np.ones(maps.shape[1], dtype=bool)
            paint_masks(outside, [image["void"]], [False])
            maps = maps[:, outside]
        parts = *maps, maps[0][maps[0] == maps[1]]
        counts += [np.bincount(part, minlength=size) for part in parts]
    union = counts[0] + counts[1] - counts[2]
    names = ["background", *(c["name"] for c in categories)]
    iou = {names[k]: 100 * counts[2, k] / union[k] for k in np.flatnonzero(union)}
    values = {"all": np.mean(list(iou.values())) if iou else np.nan, **iou}
    rows = [("mask", "mean_IoU", name, value) for name, value in values.items()]
    return pd.DataFrame(rows, columns=["kind", "metric", "class", "value"])
