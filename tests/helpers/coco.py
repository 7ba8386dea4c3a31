"""Ground truth and detections by hand: filled boxes on images of 20 x 20 pixels, or polygons."""

import numpy as np
import torch

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.utils.rle import encode_rle

SIDE = 20
WIDTH, HEIGHT = 96, 64  # of images with polygons


def rectangle(x, y, w, h):
    mask = torch.zeros(1, SIDE, SIDE)
    mask[0, y : y + h, x : x + w] = 1
    return mask


def entry(image_id, category, box, score=None):
    """An annotation, or with a score a detection, of a filled box xywh."""
    (rle,) = encode_rle(rectangle(*box))
    shared = {"image_id": image_id, "category_id": category, "segmentation": rle}
    more = {"area": box[2] * box[3], "iscrowd": 0} if score is None else {"score": score}
    return {**shared, "bbox": [float(v) for v in box], **more}


def ground_truth_of(*annotations, images=3):
    size, ids = {"height": SIDE, "width": SIDE}, range(1, images + 1)
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", **size} for i in ids],
        "annotations": [{**a, "id": k} for k, a in enumerate(annotations, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES, 1)],
    }


def coco_content(count=20, change=None, categories=("cat", "dog")):
    """Boxes as polygons, two per image, annotations with ids from 1; `change` is applied to all."""
    rng, annotations = np.random.default_rng(0), []
    for k in range(count):
        (x, y), (w, h) = rng.integers(8, 30, 2).tolist(), rng.integers(8, 30, 2).tolist()
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        ids = {"id": k + 1, "image_id": k // 2 + 1, "category_id": k % 2 + 1}
        shape = {"segmentation": [corners], "bbox": [x, y, w, h], "area": w * h}
        annotations.append({**ids, **shape, "iscrowd": 0})
        annotations[-1].update(change(annotations[-1]) if change else {})
    size = {"height": HEIGHT, "width": WIDTH}
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", **size} for i in range(1, count // 2 + 2)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)],
    }
