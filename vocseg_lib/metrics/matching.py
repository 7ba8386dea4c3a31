"""Detections and objects per image with their IoUs, and COCO's matching of the two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco_validation import bbox_xywh
from vocseg_lib.metrics.average_precision import Matches

IOU_TYPES = {"mask": "segm", "box": "bbox"}  # what IoU is taken of, and COCO's name for it
AP_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU, over which COCO's AP is the mean
MAX_DETECTIONS = 100  # by descending score: COCO per image and class, TIDE per image
AREA_RANGES = {"all": (0, 1e10), "small": (0, 1024), "medium": (1024, 9216), "large": (9216, 1e10)}
"""COCO's sizes: smallest and largest area in pixels; the limits are 32**2 and 96**2."""


@dataclass(frozen=True, kw_only=True)
class ImageEval:
    """One image: `m` objects, `c` crowd regions, `n` detections by descending score.

    Their fields: annotation or detection (index), category (index); area (pixels) of annotations;
    score, area_mask and area_box of detections. `iou` and `in_crowd` (share of the detection inside
    the region) are keyed by IoU type, "mask" and "box" or "box" alone.
    """

    image: int
    objects: Shaped[np.ndarray, " m"]
    crowds: Shaped[np.ndarray, " c"]
    detections: Shaped[np.ndarray, " n"]
    iou: dict[str, Float[np.ndarray, "n m"]]
    in_crowd: dict[str, Float[np.ndarray, "n c"]]

    @property
    def same_class(self) -> Bool[np.ndarray, "n m"]:
        """Whether a detection and an object are of the same class."""
        return self.detections["category"][:, None] == self.objects["category"]

    def same_class_iou(self, iou_type: str) -> Float[np.ndarray, "n m"]:
        """IoU with objects of the detection's class; 0 with others."""
        return np.where(self.same_class, self.iou[iou_type], 0.0)

    def same_class_crowd(self, iou_type: str) -> Float[np.ndarray, "n c"]:
        """Share of the detection inside crowd regions of its class; 0 for others."""
        same = self.detections["category"][:, None] == self.crowds["category"]
        return np.where(same, self.in_crowd[iou_type], 0.0)

    def select(self, rows: np.ndarray) -> "ImageEval":
        """The image with some of the detections, by index or boolean mask."""
        overlaps_of = self.iou, self.in_crowd
        iou, in_crowd = ({key: v[rows] for key, v in part.items()} for part in overlaps_of)
        return replace(self, detections=self.detections[rows], iou=iou, in_crowd=in_crowd)

    def top(self) -> "ImageEval":
        """The image with at most `MAX_DETECTIONS` detections per class."""
        if len(self.detections) <= MAX_DETECTIONS:
            return self
        category = self.detections["category"]
        return self.select(np.tril(category[:, None] == category, -1).sum(1) < MAX_DETECTIONS)


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
        areas = image_eval.objects["area"], image_eval.detections[f"area_{iou_type}"]
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
        """One row per detection: its fields, image (index), image_id, row (in the image)."""
        return self._rows([e.detections for e in self.image_evals])

    @cached_property
    def object_rows(self) -> pd.DataFrame:
        """One row per object, like `detection_rows`."""
        return self._rows([e.objects for e in self.image_evals])

    def _rows(self, parts: list[np.ndarray]) -> pd.DataFrame:
        rows, image = pd.DataFrame(np.concatenate(parts)), np.arange(len(parts))
        image, ids = image.repeat(list(map(len, parts))), np.array([e["id"] for e in self.images])
        return rows.assign(image=image, image_id=ids[image], row=rows.groupby(image).cumcount())

    def changed(self, change: Callable[[ImageEval], ImageEval]) -> "DatasetEval":
        """The data set with every image changed by a function; itself if none is."""
        changed = [change(e) for e in self.image_evals]
        is_same = all(new is old for new, old in zip(changed, self.image_evals, strict=True))
        return self if is_same else replace(self, image_evals=changed)

    def _ranked(self, rows: pd.DataFrame, ties: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Order by descending score, and the columns of `Matches` in it."""
        order = np.lexsort((rows[ties], -rows["score"]))
        columns = {name: rows[name].to_numpy()[order] for name in ("image", "category", "score")}
        return order, columns

    @cached_property
    def _all_ranked(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self._ranked(self.detection_rows, "image_id")

    def ranked_matches(
        self,
        rows: pd.DataFrame,
        flags: Bool[np.ndarray, "2 t n"],
        thresholds: Float[np.ndarray, " t"],
        objects: Bool[np.ndarray, " m"] | slice = slice(None),
        ties: str = "image_id",
        iou: Float[np.ndarray, " n"] | None = None,
    ) -> Matches:
        """Matches of detections (columns image, category, score); equal scores by a column `ties`.

        `flags`: true positives and ignored ones; `objects`: which of `object_rows` are counted;
        `iou`: see `Matches`.
        """
        is_all = rows is self.detection_rows and ties == "image_id"  # shared by all matches
        order, columns = self._all_ranked if is_all else self._ranked(rows, ties)
        true_positive, ignored = flags[..., order]
        columns = columns | {"true_positive": true_positive, "ignored": ignored}
        columns["iou"] = None if iou is None else iou[order]
        num_gt = np.zeros((len(self.images), len(self.categories)), dtype=int)
        counted = self.object_rows[objects]
        np.add.at(num_gt, (counted["image"], counted["category"]), 1)
        return Matches(thresholds=thresholds, num_gt=num_gt, **columns)


def evaluate_images(
    ground_truth: dict, detections: list[dict], iou_types: Sequence[str] | None = None
) -> DatasetEval:
    """All IoUs per image, from validated COCO ground truth and results.

    `iou_types`: by default "mask" and "box", or "box" alone if an entry has no mask.
    """
    iou_types = iou_types or iou_types_of(ground_truth, detections)
    annotations, images = ground_truth["annotations"], ground_truth["images"]
    categories = sorted(ground_truth["categories"], key=itemgetter("id"))
    index = {c["id"]: k for k, c in enumerate(categories)}
    fields = [("annotation", int), ("category", int), ("area", float)]
    gt_rows = [(i, index[a["category_id"]], a["area"]) for i, a in enumerate(annotations)]
    gt_rows = np.array(gt_rows, dtype=fields)
    fields = [("detection", int), ("category", int), ("score", float)]
    fields += [(f"area_{kind}", float) for kind in iou_types]
    dt_rows = (
        (i, index[d["category_id"]], d["score"], *(evaluated_area(d, kind) for kind in iou_types))
        for i, d in enumerate(detections)
    )
    dt_rows = np.fromiter(dt_rows, fields, len(detections))
    by_image = {image["id"]: ([], [], []) for image in images}  # objects, crowds, detections
    for i, annotation in enumerate(annotations):
        by_image[annotation["image_id"]][annotation["iscrowd"]].append(i)
    for i in np.argsort(-dt_rows["score"], kind="stable").tolist():
        by_image[detections[i]["image_id"]][2].append(i)

    image_evals = []
    for number, (objects, crowds, detected) in enumerate(by_image.values()):
        iou, in_crowd = {}, {}
        for kind in iou_types:
            shape_of = bbox_xywh if kind == "box" else itemgetter("segmentation")
            shapes = [shape_of(detections[i]) for i in detected]
            iou[kind] = overlaps(shapes, [shape_of(annotations[i]) for i in objects])
            in_crowd[kind] = overlaps(shapes, [shape_of(annotations[i]) for i in crowds], iof=True)
        parts = {"objects": gt_rows[objects], "crowds": gt_rows[crowds]}
        parts |= {"detections": dt_rows[detected], "iou": iou, "in_crowd": in_crowd}
        image_evals.append(ImageEval(image=number, **parts))
    parts = {"images": images, "categories": categories, "annotations": annotations}
    return DatasetEval(**parts, detections=detections, image_evals=image_evals)


def iou_types_of(ground_truth: dict, detections: list[dict]) -> list[str]:
    """Both IoU types, or "box" alone if an entry has no mask."""
    entries = *ground_truth["annotations"], *detections
    return list(IOU_TYPES) if all("segmentation" in entry for entry in entries) else ["box"]


def evaluated_area(detection: dict, iou_type: str) -> float:
    """Area (pixels) of a mask, or of a box: its mask's without `bbox`, as in `COCO.loadRes`."""
    if iou_type == "box" and "bbox" in detection:
        return float(detection["bbox"][2] * detection["bbox"][3])
    return float(coco_mask.area(detection["segmentation"]))


def overlaps(first: list, second: list, iof: bool = False) -> Float[np.ndarray, "n m"]:
    """IoU of all pairs of masks (RLE) or boxes (xywh); `iof`: over the area of the first."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(first, second, [iof] * len(second)), dtype=float)


def match_coco(
    dataset_eval: DatasetEval,
    iou_type: str = "mask",
    selection: Selection = select_all,
    thresholds: Float[np.ndarray, " t"] = AP_THRESHOLDS,
) -> Matches:
    """True positives by COCO's rule: by descending score, the free object with the largest IoU.

    A detection matched to an object that `selection` leaves out, or to a crowd region, is ignored.
    """
    objects, flags, iou = [], [], []
    for image_eval in dataset_eval.image_evals:
        selected = selection(image_eval)
        objects.append(selected[0])
        parts = _match_image(image_eval, iou_type, selected, thresholds)
        flags.append(parts[0])
        iou.append(parts[1])
    columns = np.concatenate(flags, 2), thresholds, np.concatenate(objects)
    rows = dataset_eval.detection_rows
    return dataset_eval.ranked_matches(rows, *columns, iou=np.concatenate(iou))


def _match_image(
    image_eval: ImageEval, iou_type: str, selected: Selected, thresholds: np.ndarray
) -> tuple[Bool[np.ndarray, "2 t n"], Float[np.ndarray, " n"]]:
    """True-positive and ignore flags of an image at each threshold, and `Matches.iou`."""
    wanted, counted = selected
    iou = image_eval.same_class_iou(iou_type)
    is_crowd = np.zeros(iou.shape[1], dtype=bool)
    if len(image_eval.crowds):
        # Objects and crowd regions in the order of the annotations: the last of equal ones wins.
        order = np.argsort(np.r_[image_eval.objects, image_eval.crowds]["annotation"])
        iou = np.concatenate([iou, image_eval.same_class_crowd(iou_type)], 1)[:, order]
        is_crowd = order >= len(wanted)
        wanted = np.r_[wanted, np.zeros(len(image_eval.crowds), dtype=bool)][order]
    flags = np.zeros((2, len(thresholds), len(iou)), dtype=bool)
    (true_positive, ignored), iou_of_hits = flags, np.zeros(len(iou))
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
        iou_of_hits[row] = iou[row, best[0]] * true_positive[0, row]
    return flags, iou_of_hits


def greedy_match(
    iou: Float[np.ndarray, "n m"], rows: Bool[np.ndarray, " n"], min_iou: float = 0.5
) -> Int[np.ndarray, " n"]:
    """The object that each of some detections takes in turn (index, -1 for none).

    It is the free one with the largest IoU, from `min_iou` on.
    """
    free, match = iou.copy(), np.full(len(iou), -1)
    for row in np.flatnonzero((iou.max(1, initial=0) >= min_iou) & rows):
        best = free[row].argmax()
        if free[row, best] >= min_iou:
            free[:, best] = 0
            match[row] = best
    return match


def check_same_images(*models: DatasetEval) -> None:
    """Raise ValueError if models were not evaluated on the same images and categories."""
    for what in ("images", "categories"):
        first, *others = ([e["id"] for e in getattr(model, what)] for model in models)
        if any(ids != first for ids in others):
            raise ValueError(f"the models were evaluated on different {what}: give the same ones")
