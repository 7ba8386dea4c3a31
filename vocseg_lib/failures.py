"""What kind of mistake each detection is, and which objects nobody found; from prediction file and ground truth alone."""

from collections import defaultdict

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

FAILURE_TYPES = ("missed", "duplicated", "wrong class", "bad mask", "background")
MATCH_IOU = 0.5
TOUCH_IOU = 0.1
"""Below this mask IoU a detection has nothing to do with an object (TIDE's background threshold)."""
COLUMNS = ["image_id", "type", "class", "score", "iou", "detection", "annotation"]


def find_failures(ground_truth: dict, detections: list[dict], score_threshold: float = 0.5) -> pd.DataFrame:
    """Every failure as a row: image_id, type, class, score, iou (mask, with `annotation`), detection and annotation index.

    Indices are positions in `detections` and `ground_truth["annotations"]`, -1 where there is none. Detections below
    `score_threshold` do not count. Best score first, a detection is right when its mask has IoU >= .5 with a free
    object of its class. Otherwise it is
    *duplicated* (IoU >= .5 with an object of its class that is taken), *wrong class* (IoU >= .5 with an object of
    another class), *bad mask* (best IoU with an object of its class is .1 to .5) or *background* (none of these).
    An object is *missed* when no detection is right about it and none is a wrong class or a bad mask on it.
    """
    names = {c["id"]: c["name"] for c in ground_truth["categories"]}
    objects, found = defaultdict(list), defaultdict(list)
    for index, annotation in enumerate(ground_truth["annotations"]):
        objects[annotation["image_id"]].append((index, annotation))
    for index, detection in enumerate(detections):
        if detection["score"] >= score_threshold:
            found[detection["image_id"]].append((index, detection))
    rows = []
    for image in ground_truth["images"]:
        for row in _image_failures(objects[image["id"]], found[image["id"]]):
            kind, category, score, iou, detection, annotation = row
            rows.append((image["id"], kind, names[category], score, iou, detection, annotation))
    return pd.DataFrame(rows, columns=COLUMNS)


def _image_failures(objects: list[tuple[int, dict]], found: list[tuple[int, dict]]) -> list[tuple]:
    """(type, category, score, iou, detection index, annotation index) of one image's failures."""
    found = sorted(found, key=lambda pair: -pair[1]["score"])
    masks = [[pair[1]["segmentation"] for pair in pairs] for pairs in (found, objects)]
    iou = np.zeros((len(found), len(objects)))
    if found and objects:
        iou = coco_mask.iou(*masks, [0] * len(objects))
    object_classes = np.array([annotation["category_id"] for _, annotation in objects], dtype=int)
    taken, explained, rows = set(), set(), []
    for (index, detection), overlaps in zip(found, iou, strict=True):
        own = np.where(object_classes == detection["category_id"], overlaps, -1)
        free = np.where([j in taken for j in range(len(objects))], -1, own)
        if len(objects) and free.max() >= MATCH_IOU:
            taken.add(int(free.argmax()))
            continue
        kind, j = "background", -1
        if len(objects):
            if own.max() >= MATCH_IOU:
                kind, j = "duplicated", int(own.argmax())
            elif overlaps.max() >= MATCH_IOU:
                kind, j = "wrong class", int(overlaps.argmax())
            elif own.max() >= TOUCH_IOU:
                kind, j = "bad mask", int(own.argmax())
        if kind in ("wrong class", "bad mask"):
            explained.add(j)
        annotation = objects[j][0] if j >= 0 else -1
        overlap = float(overlaps[j]) if j >= 0 else 0.0
        rows.append((kind, detection["category_id"], detection["score"], overlap, index, annotation))
    for j, (index, annotation) in enumerate(objects):
        if j not in taken | explained:
            best = float(iou[:, j].max()) if found else 0.0
            rows.append(("missed", annotation["category_id"], float("nan"), best, -1, index))
    return rows


def count_failures(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Failures a type (rows) for each name (columns)."""
    return pd.DataFrame({n: t["type"].value_counts().reindex(FAILURE_TYPES, fill_value=0) for n, t in tables.items()})


def worst_images(tables: dict[str, pd.DataFrame], count: int) -> list[int]:
    """Image ids with the most failures over all tables, most first."""
    return pd.concat(tables.values())["image_id"].value_counts(sort=True).index[:count].tolist()
