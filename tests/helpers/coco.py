"""Ground truth and detections by hand: filled boxes on images of 20 x 20 pixels."""

import torch

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.utils.rle import encode_rle

SIDE = 20


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
