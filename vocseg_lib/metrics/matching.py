"""Images with their objects, what a model found there and how the two overlap; and AP from that, also after repairs."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco import bbox_xywh
from vocseg_lib.metrics.average_precision import Matches, average_precision, class_mean
from vocseg_lib.utils.rle import mask_areas

AP_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU thresholds over which COCO's AP is the mean."""
MAX_DETECTIONS = 100
"""Detections an image and class that COCO judges, best first."""


@dataclass(frozen=True)
class ImageEval:
    """One image: `m` objects, `c` crowd regions, `n` detections, best score first.

    `objects` and `crowds` are places in `ground_truth["annotations"]`, `detections` in the list of detections (-1 for one that a
    repair has added); areas are in pixels. `iou` and `in_crowd` (share of the detection that lies in the region) are keyed
    "mask" and "box".
    """

    image: int
    objects: Int[np.ndarray, " m"]
    crowds: Int[np.ndarray, " c"]
    detections: Int[np.ndarray, " n"]
    object_class: Int[np.ndarray, " m"]
    crowd_class: Int[np.ndarray, " c"]
    detection_class: Int[np.ndarray, " n"]
    object_area: Float[np.ndarray, " m"]
    detection_area: Float[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    iou: dict[str, Float[np.ndarray, "n m"]]
    in_crowd: dict[str, Float[np.ndarray, "n c"]]

    @property
    def same_class(self) -> Bool[np.ndarray, "n m"]:
        """Which detections are of the class of which objects."""
        return self.detection_class[:, None] == self.object_class

    def same_class_iou(self, kind: str) -> Float[np.ndarray, "n m"]:
        """IoU with objects of the detection's class; 0 with others."""
        return np.where(self.same_class, self.iou[kind], 0.0)

    def in_own_crowd(self, kind: str) -> Float[np.ndarray, " n"]:
        """The largest share of each detection that lies in a crowd region of its class."""
        return np.where(
            self.detection_class[:, None] == self.crowd_class, self.in_crowd[kind], 0.0
        ).max(1, initial=0.0)

    def select(self, rows: np.ndarray) -> "ImageEval":
        """The same with some of the detections, by place or by truth value."""
        parts = {
            name: getattr(self, name)[rows]
            for name in ("detections", "detection_class", "detection_area", "score")
        }
        parts |= {
            name: {k: v[rows] for k, v in getattr(self, name).items()}
            for name in ("iou", "in_crowd")
        }
        return replace(self, **parts)


Selection = Callable[[ImageEval], tuple[Bool[np.ndarray, " m"], Bool[np.ndarray, " n"]]]
"""For an image, which objects are to be found, and which detections count when they are on no object."""


def select_all(image_eval: ImageEval) -> tuple[Bool[np.ndarray, " m"], Bool[np.ndarray, " n"]]:
    """All objects and all detections."""
    return np.ones(len(image_eval.objects), dtype=bool), np.ones(
        len(image_eval.detections), dtype=bool
    )


@dataclass(frozen=True)
class DatasetEval:
    """All images of a ground truth with the detections of one model, checked. Classes are places in `categories`."""

    images: list[dict]
    categories: list[dict]
    annotations: list[dict]
    detections: list[dict]
    image_evals: list[ImageEval]

    def changed(self, change: Callable[[ImageEval], ImageEval]) -> "DatasetEval":
        """With a change made in each image."""
        return replace(self, image_evals=[change(image_eval) for image_eval in self.image_evals])


def evaluate_images(ground_truth: dict, detections: list[dict]) -> DatasetEval:
    """Every image evaluated, from checked COCO ground truth and results with masks (`coco.checked_ground_truth`, `coco.checked_results`).

    Raises ValueError when an object or a detection has no mask.
    """
    for what, entries in (
        ("object of the ground truth:", ground_truth["annotations"]),
        ("detection", detections),
    ):
        for place, entry in enumerate(entries):
            if "segmentation" not in entry:
                raise ValueError(
                    f"{what} {place} has no mask (segmentation): failures of masks cannot be told from boxes alone"
                )
    categories = sorted(ground_truth["categories"], key=lambda c: c["id"])
    place = {c["id"]: k for k, c in enumerate(categories)}
    annotations = ground_truth["annotations"]
    objects, crowds, found = defaultdict(list), defaultdict(list), defaultdict(list)
    for index, annotation in enumerate(annotations):
        (crowds if annotation["iscrowd"] else objects)[annotation["image_id"]].append(index)
    for index in sorted(range(len(detections)), key=lambda i: -detections[i]["score"]):
        found[detections[index]["image_id"]].append(index)
    forms = {"mask": lambda e: e["segmentation"], "box": bbox_xywh}

    def classes(entries: list[dict], places: list[int]) -> np.ndarray:
        return np.array([place[entries[i]["category_id"]] for i in places], dtype=int)

    image_evals = []
    for number, image in enumerate(ground_truth["images"]):
        mine, theirs, regions = (places[image["id"]] for places in (found, objects, crowds))
        mine = _best_of_each_class(mine, [detections[i]["category_id"] for i in mine])
        iou, in_crowd = {}, {}
        for kind, form in forms.items():
            shapes = [form(detections[i]) for i in mine]
            iou[kind] = overlaps(shapes, [form(annotations[j]) for j in theirs])
            in_crowd[kind] = overlaps(
                shapes, [form(annotations[j]) for j in regions], of_first=True
            )
        image_evals.append(
            ImageEval(
                number,
                *(np.array(places, dtype=int) for places in (theirs, regions, mine)),
                *(
                    classes(*pair)
                    for pair in ((annotations, theirs), (annotations, regions), (detections, mine))
                ),
                np.array([annotations[j]["area"] for j in theirs], dtype=float),
                mask_areas([detections[i]["segmentation"] for i in mine]),
                np.array([detections[i]["score"] for i in mine], dtype=float),
                iou,
                in_crowd,
            )
        )
    return DatasetEval(ground_truth["images"], categories, annotations, detections, image_evals)


def overlaps(first: list, second: list, of_first: bool = False) -> Float[np.ndarray, "n m"]:
    """IoU of each mask (run-length code) or box (xywh) with each; `broadcast_object`: intersection over the area of the first."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(first, second, [of_first] * len(second)), dtype=float)


def _best_of_each_class(places: list[int], classes: list[int]) -> list[int]:
    counts, kept = defaultdict(int), []
    for place, name in zip(places, classes, strict=True):
        counts[name] += 1
        if counts[name] <= MAX_DETECTIONS:
            kept.append(place)
    return kept


def match_coco(
    dataset_eval: DatasetEval,
    kind: str = "mask",
    counting: Selection = select_all,
    thresholds: Float[np.ndarray, " t"] = AP_THRESHOLDS,
) -> Matches:
    """Which detections are right by COCO's rule: best score first, the best object of the class that is still free.

    By `counting`, a detection on an object that is not to be found is neither right nor wrong, as for COCO's small, medium
    and large.
    """
    image, category, score, right, ignored, there = [], [], [], [], [], []
    for image_eval in sorted(
        dataset_eval.image_evals, key=lambda image_eval: dataset_eval.images[image_eval.image]["id"]
    ):  # the order of equal scores in COCO
        wanted, counted = counting(image_eval)
        there.append((image_eval.image, image_eval.object_class[wanted]))
        image.append(np.full(len(image_eval.detections), image_eval.image))
        category.append(image_eval.detection_class)
        score.append(image_eval.score)
        for rows, part in zip(
            (right, ignored), _matched(image_eval, kind, wanted, counted, thresholds), strict=True
        ):
            rows.append(part)
    image, category, score = (np.concatenate(parts) for parts in (image, category, score))
    right, ignored = np.concatenate(right, 1), np.concatenate(ignored, 1)
    order = np.argsort(-score, kind="stable")
    ids = tuple(range(len(dataset_eval.images))), tuple(range(len(dataset_eval.categories)))
    facts = image[order], category[order], score[order], right[:, order], ignored[:, order]
    return Matches(thresholds, *ids, *facts, count_objects(dataset_eval, there))


def count_objects(
    dataset_eval: DatasetEval, there: list[tuple[int, np.ndarray]]
) -> Int[np.ndarray, "i k"]:
    """How many objects each image has of each class, from pairs of an image and the classes of its objects."""
    counts = np.zeros((len(dataset_eval.images), len(dataset_eval.categories)), dtype=np.int64)
    images = np.repeat([image for image, _ in there], [len(classes) for _, classes in there])
    np.add.at(counts, (images, np.concatenate([classes for _, classes in there])), 1)
    return counts


def _matched(
    image_eval: ImageEval,
    kind: str,
    wanted: np.ndarray,
    counted: np.ndarray,
    thresholds: np.ndarray,
) -> tuple[Bool[np.ndarray, "t n"], Bool[np.ndarray, "t n"]]:
    """(right, ignored) of an image's detections at each threshold."""
    right, ignored = (
        np.zeros((len(thresholds), len(image_eval.detections)), dtype=bool) for _ in range(2)
    )
    ignored |= (image_eval.in_own_crowd(kind) >= thresholds[:, None]) | ~counted
    own = image_eval.same_class_iou(kind)
    free = np.ones((len(thresholds), len(image_eval.objects)), dtype=bool)
    bonus, every = 2.0 * wanted, np.arange(len(thresholds))
    for row in np.flatnonzero(own.max(1, initial=0) >= thresholds[0]):
        # Objects that are wanted come first, whatever their IoU.
        value = np.where(free & (own[row] >= thresholds[:, None]), own[row] + bonus, -1.0)
        best = value.argmax(1)
        hit = value[every, best] >= 0
        free[every[hit], best[hit]] = False
        right[hit, row] = wanted[best[hit]]
        ignored[hit, row] = ~wanted[best[hit]]
    return right, ignored


def mean_ap(
    matches: Matches, weights: Float[np.ndarray, "b i"] | None = None
) -> Float[np.ndarray, "b _"]:
    """AP in percent, mean over the thresholds: first over all classes that have objects, then of each class (NaN without)."""
    by_class = 100 * average_precision(matches, weights).mean(1)
    return np.column_stack([class_mean(by_class), by_class])


def same_images(*models: DatasetEval) -> None:
    """Raises ValueError when models are not judged on the same images and classes."""
    first = models[0]
    for dataset_eval in models[1:]:
        for what in ("images", "categories"):
            if [e["id"] for e in getattr(first, what)] != [
                e["id"] for e in getattr(dataset_eval, what)
            ]:
                raise ValueError(
                    f"the models are judged on different {what}: they cannot be compared"
                )


def voc_matches(
    ground_truth: dict,
    detections: list[dict],
    thresholds: Sequence[float] = (0.5, 0.7),
    kind: str = "mask",
) -> Matches:
    """PASCAL VOC's rule: best score first, a detection is right when the object of its class that it overlaps most is not
    taken yet and IoU is at least the threshold; a second one on it is wrong. Every detection counts, however many.

    One that is on no object but on a crowd region (VOC: a difficult object) does not count. `kind`: "mask" or "box".
    """
    form = {"mask": itemgetter("segmentation"), "box": bbox_xywh}[kind]
    image_ids, category_ids = (
        tuple(sorted(e["id"] for e in ground_truth[k])) for k in ("images", "categories")
    )
    image_place, category_place = (
        {entry: i for i, entry in enumerate(ids)} for ids in (image_ids, category_ids)
    )
    objects = _group_by_image_and_category(ground_truth["annotations"], image_place, category_place)
    found = _group_by_image_and_category(detections, image_place, category_place)
    count = np.zeros((len(image_ids), len(category_ids)), dtype=np.int64)
    best, on, crowded = (
        np.zeros(len(detections)),
        np.full(len(detections), -1),
        np.zeros(len(detections)),
    )
    crowds = np.array([bool(a["iscrowd"]) for a in ground_truth["annotations"]], dtype=bool)
    for place, theirs in objects.items():
        count[place] = (~crowds[theirs]).sum()
        ours = found.get(place)
        if ours is None:
            continue
        for of_crowds, overlaps in ((False, best), (True, crowded)):
            some = theirs[crowds[theirs] == of_crowds]
            if len(some):
                pair = (
                    [form(detections[i]) for i in ours],
                    [form(ground_truth["annotations"][j]) for j in some],
                )
                iou = coco_mask.iou(*pair, [of_crowds] * len(some))
                overlaps[ours] = iou.max(1)
                if not of_crowds:
                    on[ours] = some[iou.argmax(1)]
    facts = pd.DataFrame(
        {
            "image": [image_place[d["image_id"]] for d in detections],
            "category": [category_place[d["category_id"]] for d in detections],
            "score": [float(d["score"]) for d in detections],
            "best": best,
            "on": on,
            "crowded": crowded,
        }
    ).astype({"image": int, "category": int, "score": float})
    facts = facts.sort_values("image", kind="stable").sort_values(
        "score", ascending=False, kind="stable"
    )
    right, ignored = (np.zeros((len(thresholds), len(facts)), dtype=bool) for _ in range(2))
    for row, threshold in enumerate(thresholds):
        hit = ((facts["best"] >= threshold) & (facts["on"] >= 0)).to_numpy()
        first = ~facts["on"].where(hit, -1 - np.arange(len(facts))).duplicated().to_numpy()
        right[row], ignored[row] = hit & first, ~hit & (facts["crowded"] >= threshold).to_numpy()
    columns = (facts[name].to_numpy() for name in ("image", "category", "score"))
    return Matches(
        np.array(thresholds, dtype=float), image_ids, category_ids, *columns, right, ignored, count
    )


def _group_by_image_and_category(
    entries: list[dict], images: dict[int, int], categories: dict[int, int]
) -> dict[tuple[int, int], np.ndarray]:
    """Indices of entries by image and category, best score first."""
    if not entries:
        return {}
    keys = np.array([(images[e["image_id"]], categories[e["category_id"]]) for e in entries])
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    cuts = np.flatnonzero((np.diff(keys[order], axis=0) != 0).any(1)) + 1
    return {tuple(keys[part[0]].tolist()): part for part in np.split(order, cuts)}
