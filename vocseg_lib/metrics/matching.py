"""Detections and objects per image with their IoUs, and COCO's matching of the two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco import bbox_xywh
from vocseg_lib.metrics.average_precision import Matches

IOU_TYPES = {"mask": "segm", "box": "bbox"}  # what IoU is taken of, and COCO's name for it
AP_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU, over which COCO's AP is the mean
MAX_DETECTIONS = 100  # per image and class, by descending score
AREA_RANGES = {"all": (0, 1e10), "small": (0, 1024), "medium": (1024, 9216), "large": (9216, 1e10)}
"""COCO's sizes: smallest and largest area in pixels; the limits are 32**2 and 96**2."""


@dataclass(frozen=True, kw_only=True)
class ImageEval:
    """One image: `m` objects, `c` crowd regions, `n` detections by descending score.

    `objects` and `crowds` are indices in the annotations, `detections` in the list of detections;
    classes are indices in the categories, areas in pixels.
    `iou`, `in_crowd` (share of the detection inside the region) and `detection_area` are keyed by
    IoU type, "mask" and "box" or "box" alone.
    """

    image: int
    objects: Int[np.ndarray, " m"]
    crowds: Int[np.ndarray, " c"]
    detections: Int[np.ndarray, " n"]
    object_class: Int[np.ndarray, " m"]
    crowd_class: Int[np.ndarray, " c"]
    detection_class: Int[np.ndarray, " n"]
    object_area: Float[np.ndarray, " m"]
    detection_area: dict[str, Float[np.ndarray, " n"]]
    score: Float[np.ndarray, " n"]
    iou: dict[str, Float[np.ndarray, "n m"]]
    in_crowd: dict[str, Float[np.ndarray, "n c"]]

    @property
    def same_class(self) -> Bool[np.ndarray, "n m"]:
        """Whether a detection and an object are of the same class."""
        return self.detection_class[:, None] == self.object_class

    def same_class_iou(self, iou_type: str) -> Float[np.ndarray, "n m"]:
        """IoU with objects of the detection's class; 0 with others."""
        return np.where(self.same_class, self.iou[iou_type], 0.0)

    def same_class_crowd(self, iou_type: str) -> Float[np.ndarray, "n c"]:
        """Share of the detection inside crowd regions of its class; 0 for others."""
        same = self.detection_class[:, None] == self.crowd_class
        return np.where(same, self.in_crowd[iou_type], 0.0)

    def select(self, rows: np.ndarray) -> "ImageEval":
        """The image with some of the detections, by index or boolean mask."""
        names = ("detections", "detection_class", "score")
        parts = {name: getattr(self, name)[rows] for name in names}
        for name in ("detection_area", "iou", "in_crowd"):
            parts[name] = {key: values[rows] for key, values in getattr(self, name).items()}
        return replace(self, **parts)

    def top(self) -> "ImageEval":
        """The image with at most `MAX_DETECTIONS` detections per class."""
        better = np.tril(self.detection_class[:, None] == self.detection_class, -1).sum(1)
        return self.select(better < MAX_DETECTIONS)


Selected = tuple[Bool[np.ndarray, " m"], Bool[np.ndarray, " n"]]
Selection = Callable[[ImageEval], Selected]
"""Which objects of an image are to be detected, and which detections count if on no object."""


def select_all(image_eval: ImageEval) -> Selected:
    """Selection: all objects and all detections."""
    return np.ones(len(image_eval.objects), bool), np.ones(len(image_eval.detections), bool)


def select_area(size: str, iou_type: str) -> Selection:
    """Selection: objects and detections of one of `AREA_RANGES`, both ends included."""
    least, most = AREA_RANGES[size]

    def select(image_eval: ImageEval) -> Selected:
        areas = image_eval.object_area, image_eval.detection_area[iou_type]
        return tuple((least <= area) & (area <= most) for area in areas)

    return select


@dataclass(frozen=True, kw_only=True)
class DatasetEval:
    """All images of a ground truth with the detections of one model; categories sorted by id."""

    images: list[dict]
    categories: list[dict]
    annotations: list[dict]
    detections: list[dict]
    image_evals: list[ImageEval]

    @cached_property
    def detection_rows(self) -> pd.DataFrame:
        """One row per detection, by image and descending score: detection, category, score.

        Like `object_rows` it has image (index), row (in the image), image_id.
        """
        return self._rows(detection="detections", category="detection_class", score="score")

    @cached_property
    def object_rows(self) -> pd.DataFrame:
        """One row per object, by image: annotation, category, area."""
        return self._rows(annotation="objects", category="object_class", area="object_area")

    def _rows(self, **fields: str) -> pd.DataFrame:
        parts = {c: [getattr(e, name) for e in self.image_evals] for c, name in fields.items()}
        rows = pd.DataFrame({column: np.concatenate(values) for column, values in parts.items()})
        image = np.repeat(np.arange(len(self.images)), list(map(len, parts["category"])))
        ids = np.array([entry["id"] for entry in self.images])
        return rows.assign(image=image, image_id=ids[image], row=rows.groupby(image).cumcount())

    def changed(self, change: Callable[[ImageEval], ImageEval]) -> "DatasetEval":
        """The data set with every image changed by a function."""
        return replace(self, image_evals=[change(e) for e in self.image_evals])


def evaluate_images(
    ground_truth: dict, detections: list[dict], iou_types: Sequence[str] | None = None
) -> DatasetEval:
    """All IoUs per image, from validated COCO ground truth and results.

    `iou_types`: by default "mask" and "box", or "box" alone if an entry has no mask.
    """
    iou_types = iou_types or iou_types_of(ground_truth, detections)
    annotations, images = ground_truth["annotations"], ground_truth["images"]
    categories = sorted(ground_truth["categories"], key=itemgetter("id"))
    category_index = {c["id"]: k for k, c in enumerate(categories)}
    by_image = {image["id"]: ([], [], []) for image in images}  # objects, crowds, detections
    for index, annotation in enumerate(annotations):
        by_image[annotation["image_id"]][annotation["iscrowd"]].append(index)
    for index in sorted(range(len(detections)), key=lambda i: -detections[i]["score"]):
        by_image[detections[index]["image_id"]][2].append(index)

    def classes(entries: list[dict]) -> Int[np.ndarray, " _"]:
        return np.array([category_index[e["category_id"]] for e in entries], dtype=int)

    image_evals = []
    for number, rows in enumerate(by_image.values()):
        gt, regions = ([annotations[i] for i in part] for part in rows[:2])
        dt, area, iou, in_crowd = [detections[i] for i in rows[2]], {}, {}, {}
        for kind in iou_types:
            shape_of = bbox_xywh if kind == "box" else itemgetter("segmentation")
            shapes = [shape_of(d) for d in dt]
            area[kind] = np.array([evaluated_area(d, kind) for d in dt], dtype=float)
            iou[kind] = overlaps(shapes, [shape_of(a) for a in gt])
            in_crowd[kind] = overlaps(shapes, [shape_of(a) for a in regions], of_first=True)
        indices = (np.array(part, dtype=int) for part in rows)
        parts = dict(zip(("objects", "crowds", "detections"), indices, strict=True))
        parts |= {"object_class": classes(gt), "crowd_class": classes(regions)}
        parts |= {"detection_class": classes(dt), "detection_area": area}
        parts["object_area"] = np.array([a["area"] for a in gt], dtype=float)
        parts["score"] = np.array([d["score"] for d in dt], dtype=float)
        image_evals.append(ImageEval(image=number, **parts, iou=iou, in_crowd=in_crowd))
    parts = {"images": images, "categories": categories, "annotations": annotations}
    return DatasetEval(**parts, detections=detections, image_evals=image_evals)


def iou_types_of(ground_truth: dict, detections: list[dict]) -> list[str]:
    """Both IoU types, or "box" alone if an entry has no mask."""
    entries = *ground_truth["annotations"], *detections
    return list(IOU_TYPES) if all("segmentation" in entry for entry in entries) else ["box"]


def evaluated_area(detection: dict, iou_type: str) -> float:
    """Area (pixels) by which a detection is small, medium or large.

    A mask's own; a box's own, or its mask's if it has no `bbox`, as in `COCO.loadRes`.
    """
    if iou_type == "box" and "bbox" in detection:
        return float(detection["bbox"][2] * detection["bbox"][3])
    return float(coco_mask.area(detection["segmentation"]))


def overlaps(first: list, second: list, of_first: bool = False) -> Float[np.ndarray, "n m"]:
    """IoU of two lists of masks (run-length codes) or boxes (xywh), each with each.

    `of_first`: intersection over the area of the first instead.
    """
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(first, second, [of_first] * len(second)), dtype=float)


def count_gt(
    dataset_eval: DatasetEval, selected: Bool[np.ndarray, " m"] | slice = slice(None)
) -> Int[np.ndarray, "i k"]:
    """Objects per image and class; `selected`: which of `object_rows` are counted."""
    rows = dataset_eval.object_rows[selected]
    counts = np.zeros((len(dataset_eval.images), len(dataset_eval.categories)), dtype=int)
    np.add.at(counts, (rows["image"], rows["category"]), 1)
    return counts


def match_coco(
    dataset_eval: DatasetEval,
    iou_type: str = "mask",
    selection: Selection = select_all,
    thresholds: Float[np.ndarray, " t"] = AP_THRESHOLDS,
) -> Matches:
    """True positives by COCO's rule: by descending score, the free object with the largest IoU.

    A detection matched to an object that `selection` leaves out, or to a crowd region, is ignored.
    """
    selected, flags = [], []
    for image_eval in dataset_eval.image_evals:
        selected.append(selection(image_eval))
        flags.append(_match_image(image_eval, iou_type, selected[-1], thresholds))
    num_gt = count_gt(dataset_eval, np.concatenate([objects for objects, _ in selected]))
    parts = {"thresholds": thresholds, "num_gt": num_gt}
    return Matches.ranked(dataset_eval.detection_rows, np.concatenate(flags, 2), **parts)


def _match_image(
    image_eval: ImageEval, iou_type: str, selected: Selected, thresholds: np.ndarray
) -> Bool[np.ndarray, "2 t n"]:
    """True-positive and ignore flags of an image's detections at each threshold."""
    wanted, counted = selected
    iou = image_eval.same_class_iou(iou_type)
    is_crowd = np.zeros(iou.shape[1], dtype=bool)
    if len(image_eval.crowds):
        # Objects and crowd regions in the order of the annotations: the last of equal ones wins.
        order = np.argsort(np.r_[image_eval.objects, image_eval.crowds])
        iou = np.concatenate([iou, image_eval.same_class_crowd(iou_type)], 1)[:, order]
        is_crowd = order >= len(wanted)
        wanted = np.r_[wanted, np.zeros(len(image_eval.crowds), dtype=bool)][order]
    flags = np.zeros((2, len(thresholds), len(iou)), dtype=bool)
    true_positive, ignored = flags
    ignored |= ~counted
    free = np.ones((len(thresholds), iou.shape[1]), dtype=bool)
    every, last = np.arange(len(thresholds)), iou.shape[1] - 1
    for row in np.flatnonzero(iou.max(1, initial=0) >= thresholds.min()):
        candidates = np.where(free & (iou[row] >= thresholds[:, None]), iou[row], -1.0)
        # Wanted objects come first, whatever their IoU.
        preferred = np.where(wanted, candidates, -1.0)
        candidates = np.where(preferred.max(1, keepdims=True) >= 0, preferred, candidates)
        best = last - candidates[:, ::-1].argmax(1)
        hit = candidates[every, best] >= 0
        true_positive[hit, row] = wanted[best[hit]]
        ignored[hit, row] = ~wanted[best[hit]]
        free[every[hit], best[hit]] = is_crowd[best[hit]]
    return flags


def check_same_images(*models: DatasetEval) -> None:
    """Raise ValueError if models were not evaluated on the same images and categories."""
    for what in ("images", "categories"):
        first, *others = ([e["id"] for e in getattr(model, what)] for model in models)
        if any(ids != first for ids in others):
            raise ValueError(f"the models were evaluated on different {what}: give the same ones")
