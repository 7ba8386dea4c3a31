"""COCO's evaluation of results, its AP and AR, and the matches that other metrics are made of."""

import contextlib
import importlib.util
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vocseg_lib.data.coco_validation import bbox_xywh
from vocseg_lib.metrics import matching
from vocseg_lib.metrics.average_precision import ByClass, Matches, class_mean
from vocseg_lib.metrics.boundary import with_boundary_iou
from vocseg_lib.metrics.matching import AREA_RANGES, IOU_TYPES, DatasetEval
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE, count_pixels, remove_void
from vocseg_lib.metrics.voc_eval import match_voc
from vocseg_lib.utils.device import release_freed_memory

EVALUATED_TOGETHER = 50_000  # detections in COCOeval at a time, to bound memory
AR_DETECTIONS = (1, 10, 100)  # detections per image and class of COCO's AR1, AR10 and AR100
HEADLINE = ("AP", "AP50", "AP75")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """COCO's metrics in percent, for masks and boxes, or boxes alone if there are no masks.

    `table`: kind ("mask" or "box"), metric, class ("all": mean over classes), value; NaN where
    there is no object of a size. `per_class`: class, instances, mask_AP, mask_AP50, mask_AP75,
    box_AP, box_AP50, box_AP75; `summary`: the means. Classes without objects are left out, here
    and in every mean. `precision`: by IoU type, precision (0..1) at IoU .5 to .95 and recall 0 to
    1. `category_index`: index of each class among all categories by id.
    """

    table: pd.DataFrame
    summary: dict[str, float]
    per_class: pd.DataFrame
    precision: dict[str, Float[np.ndarray, "10 101 k"]]
    category_index: dict[str, int]
    ground_truth: dict
    detections: list[dict]
    _cache: dict = field(default_factory=dict)

    @property
    def iou_types(self) -> list[str]:
        """What was evaluated: masks and boxes, or one of them."""
        return list(self.precision)

    @cached_property
    def _all_detections(self) -> DatasetEval:
        return matching.evaluate_images(self.ground_truth, self.detections, self.iou_types)

    @cached_property
    def dataset_eval(self) -> DatasetEval:
        """IoUs per image of the detections that COCO evaluates."""
        return self._all_detections.changed(matching.ImageEval.top)

    def by_class(self, values: ByClass) -> list[tuple[str, Float[np.ndarray, " b"]]]:
        """(class, values of its categories) from "all", the mean over classes, on."""
        columns = [(name, values[:, k]) for name, k in self.category_index.items()]
        return [("all", class_mean(values)), *columns]

    def matches(self, iou_type: str, size: str = "all", size_of: str = "") -> Matches:
        """COCO's matches, of the objects of one of `AREA_RANGES`.

        `size_of`: "mask" or "box", whose area is a detection's; default: `iou_type`.
        """
        selection = matching.select_area(size, size_of or iou_type)
        make = partial(matching.match_coco, self.dataset_eval, iou_type, selection)
        return self._kept((iou_type, size, size_of), make)

    def matches_unlimited(self, iou_type: str) -> Matches:
        """COCO's matches of all detections, also of more than 100 per image and class."""
        if self._all_detections is self.dataset_eval:
            return self.matches(iou_type)
        make = partial(matching.match_coco, self._all_detections, iou_type)
        return self._kept((iou_type, "unlimited"), make)

    def voc_matches(self, iou_type: str) -> Matches:
        """VOC's matches."""
        return self._kept((iou_type, "voc"), partial(match_voc, self._all_detections, iou_type))

    @cached_property
    def matches_without_void(self) -> Matches:
        """COCO's matches of the masks without their void pixels."""
        if not any("void" in image for image in self.ground_truth["images"]):
            return self.matches("mask")
        detections = remove_void(self.ground_truth, self.detections)
        dataset_eval = matching.evaluate_images(self.ground_truth, detections, ["mask"])
        return matching.match_coco(dataset_eval.changed(matching.ImageEval.top))

    @cached_property
    def matches_on_boundaries(self) -> Matches:
        """COCO's matches by the smaller of mask IoU and boundary IoU."""
        return matching.match_coco(with_boundary_iou(self.dataset_eval))

    def pixel_counts(self, score_threshold: float = SEMANTIC_SCORE) -> Int[np.ndarray, "i 3 k"]:
        """See `count_pixels`."""
        make = partial(count_pixels, self.ground_truth, self.detections, score_threshold)
        return self._kept(("pixels", score_threshold), make)

    def _kept(self, key: tuple, make: Callable) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def backends() -> list[str]:
    """The installed evaluators, fastest first; pycocotools is the reference, hotcoco equals it."""
    return [name for name in ("hotcoco", "pycocotools") if importlib.util.find_spec(name)]


def evaluate(
    ground_truth: dict,
    detections: list[dict],
    backend: str | None = None,
    iou_types: Sequence[str] | None = None,
) -> Evaluation:
    """COCO's evaluation of validated results (see `validate_ground_truth`, `validate_results`).

    `iou_types`: see `evaluate_images`. Raises ValueError if `backend` (default: the fastest) is not
    installed.
    """
    backend = backend or backends()[0]
    if backend not in backends():
        raise ValueError(f"backend is {backend!r}: choose among {', '.join(backends())}")
    counts = Counter(a["category_id"] for a in ground_truth["annotations"] if not a["iscrowd"])
    categories = sorted(ground_truth["categories"], key=itemgetter("id"))
    category_index = {c["name"]: k for k, c in enumerate(categories) if counts[c["id"]]}
    classes, rows, precision = list(category_index.values()), [], {}
    used = [categories[k] for k in classes]
    for iou_type in iou_types or matching.iou_types_of(ground_truth, detections):
        content = {**ground_truth, "categories": used}
        arrays = run_coco_eval(content, detections, iou_type, backend)
        release_freed_memory()
        precision[iou_type] = arrays[0][..., 0, -1].copy()
        for metric, values in _coco_metrics(*arrays).items():
            by_class = zip(category_index, np.moveaxis(values, -1, 0), strict=True)
            for name, part in (("all", values), *by_class):
                known = part[part > -1]
                value = 100 * known.mean() if known.size else np.nan
                rows.append((iou_type, metric, name, value))
    table = pd.DataFrame(rows, columns=["kind", "metric", "class", "value"])
    headline = table.assign(name=table["kind"] + "_" + table["metric"])
    names = [f"{kind}_{metric}" for kind in precision for metric in HEADLINE]
    headline = headline.pivot(index="class", columns="name", values="value")[names]
    per_class = headline.loc[list(category_index)].rename_axis(columns=None).reset_index()
    per_class.insert(1, "instances", [counts[categories[k]["id"]] for k in classes])
    parts = {"table": table, "summary": headline.loc["all"].to_dict(), "per_class": per_class}
    parts |= {"precision": precision, "category_index": category_index}
    return Evaluation(**parts, ground_truth=ground_truth, detections=detections)


def _coco_metrics(precision: np.ndarray, recall: np.ndarray) -> dict[str, np.ndarray]:
    """COCO's twelve metrics [.., class], -1: no object; axes IoU, recall, class, size, maxDets."""
    sizes = [(i, size) for i, size in enumerate(AREA_RANGES) if i]
    ap = precision[..., 0, -1]
    ap = {"AP": ap, "AP50": ap[:1], "AP75": ap[5:6]}
    ap |= {f"AP_{size}": precision[..., i, -1] for i, size in sizes}
    ar = {f"AR{count}": recall[..., 0, i] for i, count in enumerate(AR_DETECTIONS)}
    return ap | ar | {f"AR_{size}": recall[..., i, -1] for i, size in sizes}


def run_coco_eval(
    ground_truth: dict, detections: list[dict], iou_type: str, backend: str
) -> tuple[Float[np.ndarray, "10 101 k 4 3"], Float[np.ndarray, "10 k 4 3"]]:
    """Precision and recall of a backend's COCOeval on validated entries, of categories by id.

    The axes of both are named in `_coco_metrics`.
    """
    fields = itemgetter("id", "name")
    categories = [
        {"id": k, "name": name} for k, name in sorted(map(fields, ground_truth["categories"]))
    ]
    # Like `COCO.loadRes`, hotcoco takes the area of a box where there is one, but in all or none.
    is_mixed = iou_type == "box" and len({"bbox" in d for d in detections}) > 1
    if backend == "hotcoco" and categories and not is_mixed:
        from hotcoco import StreamingEval

        stream = StreamingEval(categories, IOU_TYPES[iou_type])
        for batch in _batches(ground_truth, detections, iou_type, categories, own_shape=True):
            stream.update(*batch)
        coco_eval = stream.finalize()
        coco_eval.accumulate()
        return tuple(np.asarray(coco_eval.eval[key]) for key in ("precision", "recall"))
    counts = Counter(d["category_id"] for d in detections)
    group = np.cumsum([counts[c["id"]] for c in categories]) // EVALUATED_TOGETHER
    groups = [
        [c for c, k in zip(categories, group, strict=True) if k == g] for g in np.unique(group)
    ]
    parts = [(np.zeros((10, 101, 0, 4, 3)), np.zeros((10, 0, 4, 3)))]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        for of_group in groups:
            batches = _batches(ground_truth, detections, iou_type, of_group)
            parts.append(_run_pycocotools(batches, iou_type, of_group))
    return tuple(np.concatenate(arrays, -3) for arrays in zip(*parts, strict=True))


def _batches(
    ground_truth: dict,
    detections: list[dict],
    iou_type: str,
    categories: list[dict],
    own_shape: bool = False,
) -> Iterator[tuple[list, list, list]]:
    """Images by id, annotations and detections of some categories, as COCOeval takes them.

    `own_shape`: a detection without a box has its mask.
    """
    images = sorted(ground_truth["images"], key=itemgetter("id"))
    index = {image["id"]: k for k, image in enumerate(images)}
    ids, parts = {c["id"] for c in categories}, []
    for entries in (ground_truth["annotations"], detections):
        found = (index[e["image_id"]] if e["category_id"] in ids else len(images) for e in entries)
        image = np.fromiter(found, int, len(entries))
        order = np.argsort(image, kind="stable")
        parts.append((entries, order, np.searchsorted(image[order], range(len(images) + 1))))

    def evaluated(entry: dict, number: int, **changes: float) -> dict:
        fields = {key: entry[key] for key in ("image_id", "category_id")} | changes
        if iou_type == "box" and ("bbox" in entry or not own_shape):
            shape = {"bbox": bbox_xywh(entry)}
        else:
            shape = {"segmentation": entry["segmentation"]}
        return fields | shape | {"id": number + 1}

    first = np.unique(parts[1][2][:-1] // EVALUATED_TOGETHER, return_index=True)[1].tolist()
    for start, end in pairwise([*first, len(images)]):
        annotations, results = (
            [(entries[i], i) for i in order[at[start] : at[end]].tolist()]
            for entries, order, at in parts
        )
        annotations = [
            evaluated(a, i, area=a["area"], iscrowd=a["iscrowd"]) for a, i in annotations
        ]
        area_of = partial(matching.evaluated_area, iou_type=iou_type)
        results = [
            evaluated(d, i, area=area_of(d), iscrowd=0, score=d["score"]) for d, i in results
        ]
        sizes = [{key: i[key] for key in ("id", "height", "width")} for i in images[start:end]]
        yield sizes, annotations, results


def _run_pycocotools(
    batches: Iterable[tuple[list, list, list]], iou_type: str, categories: list[dict]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of COCOeval, evaluated in batches and accumulated once."""
    parts, kept = [], ("dtScores", "dtMatches", "dtIgnore", "gtIgnore")
    for images, annotations, results in batches:
        gt, dt = COCO(), COCO()
        for coco, entries in ((gt, annotations), (dt, results)):
            coco.dataset = {"images": images, "categories": categories, "annotations": entries}
            coco.createIndex()
        coco_eval = COCOeval(gt, dt, IOU_TYPES[iou_type])
        coco_eval.evaluate()
        rows = [e and {key: e[key] for key in kept} for e in coco_eval.evalImgs]
        for row in filter(None, rows):
            row["dtMatches"] = row["dtMatches"] > 0
        shape = len(categories), len(AREA_RANGES), len(images)
        parts.append(np.array(rows, dtype=object).reshape(shape))
    rows = np.concatenate(parts, 2)
    coco_eval.params.imgIds = [*range(rows.shape[2])]
    coco_eval._paramsEval = coco_eval.params
    coco_eval.evalImgs = rows.ravel().tolist()
    coco_eval.accumulate()
    return coco_eval.eval["precision"], coco_eval.eval["recall"]
