"""Masks drawn by hand, as objects and detections."""

import torch

from tests.helpers.coco import truth_of
from vocseg_lib.data.coco import validate_ground_truth
from vocseg_lib.utils.rle import encode_rle

SIDE = 60


def mask_of(*boxes, minus=()):
    """Filled boxes (x, y, w, h), less others."""
    pixels = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for value, parts in ((True, boxes), (False, minus)):
        for x, y, w, h in parts:
            pixels[y : y + h, x : x + w] = value
    return pixels


def shape(pixels, category=15, score=None, box=None, image=1, uncropped=None):
    """An annotation, or with a score a detection; its box (xywh) is the mask's unless given."""
    ys, xs = torch.where(pixels)
    box = box or (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
    entry = {"image_id": image, "category_id": category, "bbox": [float(v) for v in box]}
    entry["segmentation"] = encode_rle(pixels[None])[0]
    if uncropped is not None:
        entry["segmentation_uncropped"] = encode_rle(uncropped[None])[0]
    return entry | (
        {"score": score} if score is not None else {"area": int(pixels.sum()), "iscrowd": 0}
    )


def truth(*objects, void=None, images=1):
    """Checked ground truth of images of SIDE pixels."""
    content = truth_of(*objects, images=images)
    for image in content["images"]:
        image |= {"height": SIDE, "width": SIDE}
    if void is not None:
        content["images"][0]["void"] = encode_rle(void[None])[0]
    return validate_ground_truth(content)
