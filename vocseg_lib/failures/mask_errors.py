"""Mask failures beyond TIDE, measured on pixels: foreground masks, leakage, coarse contours.

D is a detection's mask and G an object's, both as sets of pixels; void pixels are taken out of D.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco_validation import UNCROPPED
from vocseg_lib.failures.config import Thresholds
from vocseg_lib.metrics.matching import DatasetEval, ImageEval, overlaps
from vocseg_lib.utils.rle import decode_rle, encode_rle, mask_areas

MASK_FAILURES = ("localization failure", "leakage", "boundary", "incomplete")
LOSSES = {"leakage": "lost_outside", "boundary": "lost_at_boundary", "incomplete": "lost_inside"}
"""Part of the lost IoU by failure."""
LEAKAGE = ["leakage", "leaked_on_others"]
LEAKAGE_BEFORE_CROP = [f"{name}_before_crop" for name in LEAKAGE]
MEASURES = ["object", "object_iou", "single_iou", "union_iou", "covered_objects", "missing"]
MEASURES += [*LEAKAGE, *LEAKAGE_BEFORE_CROP, *LOSSES.values(), "failure"]
"""Columns of `measure_masks`."""


def measure_masks(dataset_eval: DatasetEval, thresholds: Thresholds | None = None) -> pd.DataFrame:
    """Pixel measures and failure, one row per detection, by image and descending score.

    - `covered_objects`: the objects G of which the mask covers at least half (|D & G| / |G| >=
      `min_coverage`), a tuple of annotations; `union_iou`: IoU of D and their union, if
      two or more; `single_iou`: the largest IoU with one object.
    - `object`: the annotation of its class with the largest box IoU (-1 when none has at least
      `min_box_iou`); `object_iou`: IoU(D, G) with it.
    - `leakage` = |D - G| / |D|, of which `leaked_on_others` lies on another object; both
      `.._before_crop` are of the mask before its crop (`segmentation_uncropped`), where there is.
    - 1 - IoU(D, G) in three parts, each over |D | G|: `lost_at_boundary` within the band along G's
      contour (`band_width`), `lost_inside` G deeper than that, `lost_outside` of G further away.
    - `missing` = |G - D| / |D | G|: what is lost of G, in the band or inside.
    - `failure`: "" or the first that holds. *Localization failure*: D covers two or more objects,
      union_iou is at least `min_union_iou`, and larger than single_iou by more than `min_iou_gain`.
      With the right box and IoU(D, G) of at least `min_mask_iou`, by the largest part: *leakage*
      when that is `lost_outside` and leakage is at least `min_leakage`, *boundary* or *incomplete*
      when it is `lost_at_boundary` or `lost_inside` and at least `min_iou_loss`. With less IoU,
      where a band means nothing: *leakage* when more is lost outside of G than in it and leakage is
      at least `min_leakage`, else *incomplete*.
    """
    thresholds = thresholds or Thresholds()
    parts = [_measure_image(dataset_eval, e, thresholds) for e in dataset_eval.image_evals]
    rows = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return rows.assign(failure=_failures(rows, thresholds))


def _measure_image(
    dataset_eval: DatasetEval, image_eval: ImageEval, thresholds: Thresholds
) -> dict[str, np.ndarray]:
    """The measures of an image's detections."""
    detections = [dataset_eval.detections[i] for i in image_eval.detections["detection"]]
    void = dataset_eval.images[image_eval.image].get("void")
    indices = image_eval.objects["annotation"]
    objects = [dataset_eval.annotations[j]["segmentation"] for j in indices]
    masks = _without_void([d["segmentation"] for d in detections], void)
    shared, sizes = pixels_shared(masks, objects), mask_areas(objects)
    unions = np.maximum(mask_areas(masks)[:, None] + sizes - shared, 1)

    # The objects that each mask covers, and IoU with their union.
    covered = (shared >= thresholds.min_coverage * sizes) & (shared > 0)
    rows = {name: np.full(len(masks), np.nan) for name in MEASURES[:-1]}
    rows |= {"object": np.full(len(masks), -1), "union_iou": np.zeros(len(masks))}
    rows["single_iou"] = (shared / unions).max(1, initial=0)
    rows["covered_objects"] = np.empty(len(masks), dtype=object)
    rows["covered_objects"][:] = [tuple(indices[row].tolist()) for row in covered]
    for row in np.flatnonzero(covered.sum(1) > 1):
        union = coco_mask.merge([objects[j] for j in np.flatnonzero(covered[row])])
        rows["union_iou"][row] = overlaps([masks[row]], [union])[0, 0]

    # The parts of the lost IoU and the leakage of the masks with the right box.
    own = image_eval.same_class_iou("box")
    right = np.flatnonzero(own.max(1, initial=0) >= thresholds.min_box_iou)
    if not len(right) or not objects:
        return rows
    target, on_object = own[right].argmax(1), [masks[i] for i in right]
    hit, size, union = shared[right, target], sizes[target], unions[right, target]
    rows["object"][right] = indices[target]
    rows["object_iou"][right], rows["missing"][right] = hit / union, (size - hit) / union
    in_dilated, lost_inside = np.zeros((2, len(right)))
    for j in np.unique(target):
        some = np.flatnonzero(target == j)
        dilated, eroded = _band(objects[j], thresholds)
        in_band = pixels_shared([on_object[k] for k in some], [dilated, eroded])
        in_dilated[some], lost_inside[some] = in_band[:, 0], mask_areas([eroded]) - in_band[:, 1]
    rows["lost_outside"][right] = (mask_areas(on_object) - in_dilated) / union
    rows["lost_inside"][right] = lost_inside / union
    rows["lost_at_boundary"][right] = ((in_dilated - hit) + (size - hit) - lost_inside) / union
    known = [k for k, i in enumerate(right) if detections[i].get(UNCROPPED)]
    uncropped = _without_void([detections[i][UNCROPPED] for i in right[known]], void)
    parts = (LEAKAGE, slice(None), on_object), (LEAKAGE_BEFORE_CROP, known, uncropped)
    for names, some, shapes in parts:
        own = pixels_shared(shapes, objects)[np.arange(len(shapes)), target[some]]
        on_any = pixels_shared(shapes, [coco_mask.merge(objects)])[:, 0]
        area = mask_areas(shapes)
        for name, pixels in zip(names, (area - own, on_any - own), strict=True):
            rows[name][right[some]] = pixels / np.maximum(area, 1)
    return rows


def _failures(rows: pd.DataFrame, thresholds: Thresholds) -> np.ndarray:
    """The failure of each row of `measure_masks`, or ""."""
    parts = rows[list(LOSSES.values())].fillna(0.0).to_numpy()
    missing, lost = rows["missing"].fillna(0.0), 1 - rows["object_iou"].fillna(1.0)
    near = (lost <= 1 - thresholds.min_mask_iou).to_numpy()
    outside = np.where(near, parts.argmax(1) == 0, lost - missing > missing)
    of_part = np.array(list(LOSSES))[parts.argmax(1)]
    largest = np.select([outside, near], ["leakage", of_part], "incomplete")
    leaks = outside & (rows["leakage"] >= thresholds.min_leakage)
    loses = ~outside & (~near | (parts.max(1) >= thresholds.min_iou_loss))
    gain = rows["union_iou"] - rows["single_iou"]
    foreground = (rows["union_iou"] >= thresholds.min_union_iou) & (gain > thresholds.min_iou_gain)
    return np.select([foreground, leaks | loses], [MASK_FAILURES[0], largest], "")


def _without_void(masks: list[dict], void: dict | None) -> list[dict]:
    if void is None:
        return masks
    (kept,) = encode_rle(torch.from_numpy(~decode_rle([void])))
    return [coco_mask.merge([mask, kept], intersect=True) for mask in masks]


def pixels_shared(masks: list[dict], others: list[dict]) -> Float[np.ndarray, "n m"]:
    """Pixels that each mask has in common with each of the others."""
    return np.round(overlaps(masks, others, iof=True) * mask_areas(masks)[:, None])


def _band(rle: dict, thresholds: Thresholds) -> tuple[dict, dict]:
    """An object dilated and eroded by the width of its band; the image's edge is not a contour."""
    width = round(thresholds.band_width * float(coco_mask.area(rle)) ** 0.5)
    reach = max(thresholds.min_band_px, width)
    x, y, w, h = (int(v) for v in coco_mask.toBbox(rle))
    window = slice(max(0, y - reach), y + h + reach), slice(max(0, x - reach), x + w + reach)
    (mask,) = decode_rle([rle])
    both = np.zeros((2, *mask.shape), dtype=bool)
    both[:, *window] = dilate(mask[window], reach), ~dilate(~mask[window], reach)
    return tuple(encode_rle(torch.from_numpy(both)))


def dilate(masks: Bool[np.ndarray, "*n h w"], reach: int) -> Bool[np.ndarray, "*n h w"]:
    """Pixels with one of the mask at most `reach` rows and columns away."""
    for axis in (-2, -1):
        sums = np.insert(masks.cumsum(axis, dtype=np.int32), 0, 0, axis)
        ends = (np.arange(masks.shape[axis]) + step for step in (-reach, reach + 1))
        first, last = (sums.take(end, axis, mode="clip") for end in ends)
        masks = last > first
    return masks
