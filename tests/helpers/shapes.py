"""Hand-made masks as objects and detections, and their analysis."""

import torch
from pycocotools import mask as mask_utils

from tests.helpers.coco import ground_truth_of
from vocseg_lib.data.coco_validation import validate_ground_truth, validate_results
from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.mask_errors import Thresholds
from vocseg_lib.metrics.matching import ImageEval, evaluate_images
from vocseg_lib.utils.rle import encode_rle

SIDE = 60


def mask_of(*boxes, minus=()):
    """Filled boxes (xywh), without others."""
    pixels = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for value, parts in ((True, boxes), (False, minus)):
        for x, y, w, h in parts:
            pixels[y : y + h, x : x + w] = value
    return pixels


LEFT, RIGHT, FAR = mask_of((5, 5, 20, 20)), mask_of((25, 5, 20, 20)), mask_of((5, 40, 12, 12))
EVERYWHERE = torch.ones(SIDE, SIDE, dtype=torch.bool)


def shape(pixels, category=15, score=None, box=None, image=1, uncropped=None):
    """An annotation, or with a score a detection; its box (xywh) is the mask's by default."""
    (rle,) = encode_rle(pixels[None])
    box = [float(v) for v in box or mask_utils.toBbox(rle)]
    entry = {"image_id": image, "category_id": category, "bbox": box, "segmentation": rle}
    if uncropped is not None:
        entry["segmentation_uncropped"] = encode_rle(uncropped[None])[0]
    annotation = {"area": int(pixels.sum()), "iscrowd": 0}
    return entry | (annotation if score is None else {"score": score})


def ground_truth(*objects, void=None, images=1):
    """Validated ground truth of images of SIDE pixels."""
    content = ground_truth_of(*objects, images=images)
    for image in content["images"]:
        image |= {"height": SIDE, "width": SIDE}
    if void is not None:
        content["images"][0]["void"] = encode_rle(void[None])[0]
    return validate_ground_truth(content)


def perfect(content):
    """Detections that are the objects."""
    return [{**annotation, "score": 0.9} for annotation in content["annotations"]]


def dataset_eval(content, detections):
    """Both evaluated, after validation."""
    content = validate_ground_truth(content)
    return evaluate_images(content, validate_results(content, detections)).changed(ImageEval.top)


def analysis_of(content, detections, score_threshold=0.0, **thresholds):
    """The failures in detections."""
    return Analysis(
        dataset_eval=dataset_eval(content, detections),
        score_threshold=score_threshold,
        thresholds=Thresholds(**thresholds),
    )


def one_mask_for_pairs():
    """Analyses of 15 pairs that touch and 5 single objects, an image each.

    The first model's masks cover both objects of a pair; the second model is perfect.
    """
    right = mask_of((24, 5, 20, 20), minus=[(24, 5, 1, 20)])
    lefts = [shape(LEFT, image=k) for k in range(1, 21)]
    rights = [shape(right, box=(24, 5, 21, 20), image=k) for k in range(1, 16)]
    content = ground_truth(*lefts, *rights, images=20)
    both = [shape(LEFT | right, score=0.9, image=k) for k in range(1, 16)]
    covering = both + [{**single, "score": 0.9} for single in lefts[15:]]
    detections = {"YOLACT": covering, "Mask R-CNN": perfect(content)}
    return {title: analysis_of(content, some) for title, some in detections.items()}
