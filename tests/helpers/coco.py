"""Ground truth and detections written by hand."""

import torch

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.utils.rle import encode_rle


def rectangle(x, y, w, h, side=20):
    mask = torch.zeros(1, side, side)
    mask[0, y : y + h, x : x + w] = 1
    return mask


def entry(image_id, category, box, score=None, side=20):
    """An annotation, or with a score a detection, of a filled box xywh."""
    x, y, w, h = box
    mask = rectangle(x, y, w, h, side)
    found = {
        "image_id": image_id,
        "category_id": category,
        "bbox": [float(v) for v in box],
        "segmentation": encode_rle(mask)[0],
    }
    return (
        {**found, "score": score} if score is not None else {**found, "area": w * h, "iscrowd": 0}
    )


def truth_of(*annotations, images=3):
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 20}
            for i in range(1, images + 1)
        ],
        "annotations": [{**a, "id": k} for k, a in enumerate(annotations, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES, 1)],
    }
