"""Failures that TIDE has no word for, measured on pixels: masks that are foreground and not one object, leaks, coarse contours.

D is a detection's mask and G an object's, both as sets of pixels; void pixels, which count for nobody, are taken out of D.
"""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco import UNCROPPED
from vocseg_lib.metrics.matching import DatasetEval, ImageEval, overlaps
from vocseg_lib.utils.rle import decode_rle, encode_rle, mask_areas

MASK_FAILURES = ("localization failure", "leakage", "boundary", "incomplete")
PLACES = {"leakage": "lost_outside", "boundary": "lost_at_boundary", "incomplete": "lost_inside"}
"""Where a failure with a right box loses its IoU."""
LEAKAGE = ["leakage", "leaked_on_others"]
LEAKAGE_BEFORE_CROP = [f"{name}_before_crop" for name in LEAKAGE]
MEASURES = [
    "object_iou",
    "single_iou",
    "union_iou",
    "united",
    *LEAKAGE,
    *LEAKAGE_BEFORE_CROP,
    "missing",
    *PLACES.values(),
]


@dataclass(frozen=True)
class Thresholds:
    """From where on something counts as a failure; shares of 1, but for `least_band` and `near`."""

    covered: float = 0.5  # of an object, for it to be one of those that a mask unites
    united: float = 0.5  # IoU of a mask with what it unites
    gained: float = 0.05  # by how much that IoU exceeds the one with any single object
    right_box: float = 0.5  # IoU of the boxes of a detection and its object
    leaked: float = 0.2  # of a mask's pixels, outside its object
    on_object: float = 0.5  # IoU below which more is wrong with a mask than its contour
    lost: float = 0.15  # of 1 - IoU, at the boundary or inside
    band: float = 0.05  # how far the boundary reaches to both sides, in sides of the object (the root of its pixels)
    least_band: int = 2  # pixels that it reaches at least
    near: float = 0.5  # distance to a neighbour, in sides of the object's box, up to which objects are a crowd

    def __post_init__(self):
        """Raises ValueError, naming it, for a threshold that is no such share."""
        for name, value in vars(self).items():
            most = {"least_band": 100, "near": 100}.get(name, 1)
            if not isinstance(value, int | float) or not 0 <= value <= most:
                raise ValueError(
                    f"the threshold {name} is {value!r}: it has to be from 0 to {most}"
                )


def parse_thresholds(assignments: list[str]) -> Thresholds:
    """Thresholds from texts like "leaked=0.3". Raises ValueError for an unknown name, and for what is no such number."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        known = {field.name: field.type for field in fields(Thresholds)}
        if not equals or name not in known:
            raise ValueError(
                f"{assignment!r} sets no threshold: NAME=VALUE is expected, with one of {', '.join(known)}"
            )
        try:
            values[name] = known[name](text)
        except ValueError:
            raise ValueError(
                f"{assignment!r}: {name} has to be a number ({known[name].__name__})"
            ) from None
    return Thresholds(**values)


def measure(dataset_eval: DatasetEval, thresholds: Thresholds | None = None) -> pd.DataFrame:
    """What the pixels say of each detection, a row each, in the order of the images and of their detections.

    - `united`: the objects G of which the mask covers at least half (|D & G| / |G| >= `covered`), a tuple of places in the
      image; `union_iou`: IoU of D and their union, when there are two or more; `single_iou`: the largest IoU with one object.
    - `object`: the object of the detection's class with the largest box IoU (-1 when none has at least `right_box`).
    - `leakage` = |D - G| / |D|, of which `leaked_on_others` lies on another object; `leakage_before_crop` and
      `leaked_on_others_before_crop` are the same for the mask before its crop (`segmentation_uncropped`), where there is one.
    - 1 - IoU(D, G) in three parts, each over |D | G|: `lost_at_boundary` within the band along G's contour (`band`),
      `lost_inside` G deeper than that, `lost_outside` of G further away.
    - `missing` = |G - D| / |D | G|: what is lost of G, in the band or inside; the rest of 1 - IoU lies outside of G.
    - `failure`: "" or the first that holds. *Localization failure*: D unites two or more objects, union_iou is at least
      `united`, and larger than single_iou by more than `gained`. With a right box and IoU(D, G) of at least `on_object`, by
      the largest part: *leakage* when that is `lost_outside` and leakage is at least `leaked`, *boundary* or *incomplete*
      when it is `lost_at_boundary` or `lost_inside` and at least `lost`. With less IoU, where a band says nothing: *leakage*
      when more is lost outside of G than in it and leakage is at least `leaked`, else *incomplete*.
    """
    thresholds = thresholds or Thresholds()
    parts = [
        _measured(dataset_eval, image_eval, thresholds) for image_eval in dataset_eval.image_evals
    ]
    rows = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return rows.assign(failure=failure_names(rows, thresholds))


def _measured(
    dataset_eval: DatasetEval, image_eval: ImageEval, thresholds: Thresholds
) -> dict[str, np.ndarray]:
    image, count = dataset_eval.images[image_eval.image], len(image_eval.detections)
    objects = [dataset_eval.annotations[j]["segmentation"] for j in image_eval.objects]
    void = image.get("void")
    outside_void = (
        encode_rle(torch.from_numpy(coco_mask.decode(void)[None] == 0))[0] if void else None
    )
    masks = without(
        [dataset_eval.detections[i]["segmentation"] for i in image_eval.detections], outside_void
    )
    shared, areas, sizes = pixels_shared(masks, objects), mask_areas(masks), mask_areas(objects)
    unions = np.maximum(areas[:, None] + sizes - shared, 1)
    iou = shared / unions
    covered = (shared >= thresholds.covered * sizes) & (shared > 0)
    rows = {
        "image": np.full(count, image_eval.image),
        "found": image_eval.detections,
        "object": np.full(count, -1),
    }
    rows |= {name: np.full(count, np.nan) for name in MEASURES}
    rows["single_iou"], rows["union_iou"] = iou.max(1, initial=0), np.zeros(count)
    rows["united"] = np.empty(count, dtype=object)
    rows["united"][:] = [tuple(np.flatnonzero(row).tolist()) for row in covered]
    for row in np.flatnonzero(covered.sum(1) > 1):
        union = coco_mask.merge([objects[j] for j in rows["united"][row]])
        rows["union_iou"][row] = overlaps([masks[row]], [union])[0, 0]
    own = image_eval.same_class_iou("box")
    right = np.flatnonzero(own.max(1, initial=0) >= thresholds.right_box)
    if not len(right):
        return rows
    about = own[right].argmax(1)
    rows["object"][right], rows["object_iou"][right] = about, iou[right, about]
    bands = {int(j): _bands(objects[j], thresholds) for j in np.unique(about)}
    rows["missing"][right] = (sizes[about] - shared[right, about]) / unions[right, about]
    for name, values in _parts(masks, shared, unions, areas, sizes, right, about, bands).items():
        rows[name][right] = values
    uncropped = [dataset_eval.detections[i].get(UNCROPPED) for i in image_eval.detections[right]]
    known = np.array([k for k, mask in enumerate(uncropped) if mask], dtype=int)
    whole = without([uncropped[k] for k in known], outside_void)
    for names, some, theirs in (
        (LEAKAGE, np.arange(len(right)), [masks[i] for i in right]),
        (LEAKAGE_BEFORE_CROP, known, whole),
    ):
        for name, values in zip(names, _leakage(theirs, objects, about[some]).T, strict=True):
            rows[name][right[some]] = values
    return rows


def failure_names(rows: pd.DataFrame, thresholds: Thresholds) -> np.ndarray:
    """The failure of each row of `measure`, or ""."""
    parts = rows[list(PLACES.values())].fillna(0.0).to_numpy()
    lost_in, lost = rows["missing"].fillna(0.0), 1 - rows["object_iou"].fillna(1.0)
    coarse = (lost <= 1 - thresholds.on_object).to_numpy()
    outside = np.where(coarse, parts.argmax(1) == 0, lost - lost_in > lost_in)
    largest = np.select(
        [outside, coarse], ["leakage", np.array(list(PLACES))[parts.argmax(1)]], "incomplete"
    )
    leaks = outside & (rows["leakage"] >= thresholds.leaked)
    loses = ~outside & (~coarse | (parts.max(1) >= thresholds.lost))
    gained = rows["union_iou"] - rows["single_iou"]
    unites = (rows["union_iou"] >= thresholds.united) & (gained > thresholds.gained)
    return np.select([unites, leaks | loses], [MASK_FAILURES[0], largest], "")


def without(masks: list[dict], outside_void: dict | None) -> list[dict]:
    """Masks with what is void taken out of them."""
    return (
        [coco_mask.merge([mask, outside_void], intersect=True) for mask in masks]
        if outside_void
        else masks
    )


def pixels_shared(masks: list[dict], others: list[dict]) -> Float[np.ndarray, "n m"]:
    """How many each mask has in common with each of the others."""
    return np.round(overlaps(masks, others, of_first=True) * mask_areas(masks)[:, None])


def _bands(rle: dict, thresholds: Thresholds) -> tuple[dict, dict]:
    """An object grown by the width of its band, and what is left when it is shrunk by it; the image's edge is no contour."""
    reach = max(thresholds.least_band, round(thresholds.band * float(coco_mask.area(rle)) ** 0.5))
    x, y, w, h = (int(v) for v in coco_mask.toBbox(rle))
    (mask,) = decode_rle([rle])
    rows, columns = (
        slice(max(0, start - reach), start + size + reach) for start, size in ((y, h), (x, w))
    )
    both = np.zeros((2, *mask.shape), dtype=bool)
    both[0, rows, columns] = _spread(mask[rows, columns], reach)
    both[1, rows, columns] = ~_spread(~mask[rows, columns], reach)
    return tuple(encode_rle(torch.from_numpy(both)))


def _spread(mask: Bool[np.ndarray, "h w"], reach: int) -> Bool[np.ndarray, "h w"]:
    """Pixels that have one of the mask within `reach` rows and columns."""
    for axis in (0, 1):
        length = mask.shape[axis]
        sums = np.insert(mask.cumsum(axis, dtype=np.int32), 0, 0, axis)
        ends = (np.clip(np.arange(length) + step, 0, length) for step in (-reach, reach + 1))
        first, last = (sums.take(end, axis) for end in ends)
        mask = last > first
    return mask


def _parts(
    masks: list[dict],
    shared: np.ndarray,
    unions: np.ndarray,
    areas: np.ndarray,
    sizes: np.ndarray,
    right: Int[np.ndarray, " r"],
    about: Int[np.ndarray, " r"],
    bands: dict[int, tuple[dict, dict]],
) -> dict[str, Float[np.ndarray, " r"]]:
    """The three parts of 1 - IoU of the detections with a right box."""
    result = {name: np.zeros(len(right)) for name in PLACES.values()}
    for j, band in bands.items():
        places = np.flatnonzero(about == j)
        rows = right[places]
        in_grown, in_shrunk = pixels_shared([masks[i] for i in rows], list(band)).T
        inside = shared[rows, j]
        deep = mask_areas([band[1]])[0]
        lost = {"lost_outside": areas[rows] - in_grown, "lost_inside": deep - in_shrunk}
        lost["lost_at_boundary"] = (in_grown - inside) + (sizes[j] - inside) - lost["lost_inside"]
        for name, value in lost.items():
            result[name][places] = value / unions[rows, j]
    return result


def _leakage(
    masks: list[dict], objects: list[dict], about: Int[np.ndarray, " r"]
) -> Float[np.ndarray, "r 2"]:
    """Share of each mask that lies outside its object, and that lies on another one."""
    if not masks:
        return np.zeros((0, 2))
    areas, own = mask_areas(masks), pixels_shared(masks, objects)[np.arange(len(masks)), about]
    on_any = pixels_shared(masks, [coco_mask.merge(objects)])[:, 0]
    return np.column_stack([areas - own, on_any - own]) / np.maximum(areas, 1)[:, None]
