"""Boundary IoU: how well the outlines of two masks agree (Cheng et al., CVPR 2021)."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Int, UInt8
from pycocotools import mask as coco_mask

from vocseg_lib.metrics.matching import AP_THRESHOLDS, DatasetEval, ImageEval, overlaps

BAND = 0.02  # width of the boundary, inside of the mask, in diagonals of the image
DECODED_TOGETHER = 1 << 25  # pixels, to bound memory


def mask_boundaries(rles: list[dict]) -> list[dict]:
    """The pixels of each mask (codes of one size) within `BAND` of its outline, at least 1 pixel.

    The distance counts steps to any of the eight neighbors; the image's border is outline, too.
    """
    if not rles:
        return []
    height, width = rles[0]["size"]
    distance = max(1, round(BAND * math.sqrt(height**2 + width**2)))
    together = max(1, DECODED_TOGETHER // (height * width))
    boundaries = []
    for start in range(0, len(rles), together):
        masks = coco_mask.decode(rles[start : start + together])
        boundaries += coco_mask.encode(np.asfortranarray(masks - _erode(masks, distance)))
    return boundaries


def _erode(masks: UInt8[np.ndarray, "h w n"], distance: int) -> UInt8[np.ndarray, "h w n"]:
    """Masks without the pixels that have background, or the border, within a distance."""
    margin, window = (distance, distance), 2 * distance + 1
    masks = np.pad(masks, [margin, margin, (0, 0)])
    for axis in (0, 1):
        masks, size = masks.swapaxes(0, axis), 1
        while size < window:  # each step doubles the window that is all ones
            step = min(size, window - size)
            masks, size = masks[:-step] & masks[step:], size + step
        masks = masks.swapaxes(0, axis)
    return masks


def with_boundary_iou(dataset_eval: DatasetEval) -> DatasetEval:
    """The evaluation with the smaller of mask IoU and boundary IoU in place of the mask IoU.

    For AP from an IoU of .5 on: pairs of less, or of different classes, are left as they are, and
    crowd regions, as in the authors' code.
    """

    def change(image_eval: ImageEval) -> ImageEval:
        close = image_eval.same_class_iou("mask") >= AP_THRESHOLDS[0]
        rows, columns = (np.flatnonzero(close.any(axis)) for axis in (1, 0))
        detections, objects = image_eval.detections["detection"], image_eval.objects["annotation"]
        dt = mask_boundaries(_codes(dataset_eval.detections, detections[rows]))
        gt = mask_boundaries(_codes(dataset_eval.annotations, objects[columns]))
        iou, at = image_eval.iou["mask"].copy(), np.ix_(rows, columns)
        iou[at] = np.minimum(iou[at], overlaps(dt, gt))
        return replace(image_eval, iou={**image_eval.iou, "mask": iou})

    return dataset_eval.changed(change)


def _codes(entries: list[dict], indices: Int[np.ndarray, " n"]) -> list[dict]:
    return [entries[i]["segmentation"] for i in indices.tolist()]
