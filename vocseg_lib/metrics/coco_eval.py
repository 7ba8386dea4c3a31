"""Judging a prediction file: COCO's AP and AR, VOC's AP, a variant without void, and the mean IoU of the painted classes."""

import contextlib
import importlib.util
import io
import math
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pycocotools.coco
import pycocotools.cocoeval
from jaxtyping import Float
from pycocotools import mask as coco_mask

from vocseg_lib.data.coco import bbox_xywh, validate_ground_truth, validate_results
from vocseg_lib.metrics.average_precision import Matches, average_precision, class_mean
from vocseg_lib.metrics.matching import voc_matches
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE, mean_iou, without_void
from vocseg_lib.metrics.voc_eval import AP_VOL_THRESHOLDS, voc_metrics

IOU_TYPES = {"mask": "segm", "box": "bbox"}
SIZES = ("all", "small", "medium", "large")
"""COCO's: below 32^2 and above 96^2 pixels are small and large. Of an object its mask's area; of a detection its box's, when it
comes with one (as `COCO.loadRes` has it), else its mask's."""
EVALUATED_KEYS = {"images": ("id", "height", "width"), "categories": ("id", "name")}
ANNOTATION_KEYS = ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd")
"""What evaluators get of an entry: other fields are nobody's business there."""
MAX_DETECTIONS = (1, 10, 100)
"""Detections an image that count."""
HEADLINE = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Evaluation:
    """COCO's figures for masks and boxes (boxes alone when there are no masks), in percent.

    `table`: a row a figure: kind ("mask" or "box"), metric, class ("all" for the mean over classes), value; NaN where there is
    no object of a size. `summary`: mask_AP, mask_AP50, mask_AP75, box_AP, box_AP50, box_AP75. `per_class`: the same a class,
    with its number of instances. Classes without ground truth are left out, there and in every mean. `precision[kind]` and
    `scores[kind]`: precision (0..1), and the score from which on detections count, at IoU .5 to .95, recall 0 to 1, for the
    classes of `per_class`. `category_index`: where those are among all categories, by id. `ground_truth`,
    `detections`: what was judged, checked. `coco_evals`: COCOeval, done.
    """

    table: pd.DataFrame
    summary: dict[str, float]
    per_class: pd.DataFrame
    precision: dict[str, Float[np.ndarray, "10 101 k"]]
    scores: dict[str, Float[np.ndarray, "10 101 k"]]
    category_index: dict[str, int]
    ground_truth: dict
    detections: list[dict]
    coco_evals: dict[str, Any]

    @property
    def kinds(self) -> list[str]:
        """What was judged: masks and boxes, or boxes alone."""
        return list(self.coco_evals)

    @cached_property
    def matches(self) -> dict[str, dict[str, Matches]]:
        """Which detections are right: kind to size of object ("all", "small", "medium", "large") to matches."""
        return {kind: _matches(judge) for kind, judge in self.coco_evals.items()}

    @cached_property
    def voc_matches(self) -> dict[str, Matches]:
        """Which are right by VOC's rule: kind to matches at IoU .1 to .9."""
        return {
            kind: voc_matches(self.ground_truth, self.detections, AP_VOL_THRESHOLDS, kind)
            for kind in self.kinds
        }

    @cached_property
    def without_void(self) -> "Evaluation":
        """The same with void pixels taken out of the detections' masks: they count for nobody."""
        if not any("void" in image for image in self.ground_truth["images"]):
            return self
        return _evaluate(
            self.ground_truth, without_void(self.ground_truth, self.detections), backends()[0]
        )


def backends() -> list[str]:
    """The evaluators that are installed, the fastest first; pycocotools is the reference, and hotcoco equals it."""
    return [name for name in ("hotcoco", "pycocotools") if importlib.util.find_spec(name)]


def evaluate(ground_truth: dict, detections: list, backend: str | None = None) -> Evaluation:
    """Judge COCO results against COCO ground truth, by COCO's rules: 101 points, best free object, 100 detections an image.

    `backend` is one of `backends()`, by default the fastest. Raises ValueError naming the entry that cannot be judged
    (see `coco.checked_results`), and for a backend that is not installed.
    """
    backend = backend or backends()[0]
    if backend not in backends():
        raise ValueError(f"no evaluator {backend!r}; installed: {', '.join(backends())}")
    ground_truth = validate_ground_truth(ground_truth)
    return _evaluate(ground_truth, validate_results(ground_truth, detections), backend)


def _evaluate(ground_truth: dict, detections: list[dict], backend: str) -> Evaluation:
    counts = pd.Series(
        [a["category_id"] for a in ground_truth["annotations"] if not a["iscrowd"]], dtype=int
    ).value_counts()
    categories = sorted(ground_truth["categories"], key=lambda c: c["id"])
    judged = [i for i, c in enumerate(categories) if counts.get(c["id"], 0)]
    names = [categories[i]["name"] for i in judged]
    instances = [int(counts[categories[i]["id"]]) for i in judged]
    rows, precision, scores, coco_evals = [], {}, {}, {}
    for kind in iou_types_of(ground_truth, detections):
        judge = coco_evals[kind] = run_coco_eval(ground_truth, detections, kind, backend)
        found = {
            name: np.asarray(judge.eval[name])[..., judged, :, :]
            for name in ("precision", "recall", "scores")
        }
        precision[kind], scores[kind] = found["precision"][..., 0, -1], found["scores"][..., 0, -1]
        for metric, values in _figures(found["precision"], found["recall"]).items():
            means = [
                np.nan if (v < 0).all() else 100 * v[v > -1].mean() for v in (values, *values.T)
            ]
            rows += [
                (kind, metric, name, value)
                for name, value in zip(["all", *names], means, strict=True)
            ]
    table = pd.DataFrame(rows, columns=["kind", "metric", "class", "value"])
    wide = table[table["metric"].isin(HEADLINE)].assign(
        name=lambda t: t["kind"] + "_" + t["metric"]
    )
    wide = wide.pivot(index="class", columns="name", values="value")[
        list(dict.fromkeys(wide["name"]))
    ]
    per_class = wide.reindex(names).rename_axis(columns=None).reset_index()
    per_class.insert(1, "instances", instances)
    return Evaluation(
        table,
        wide.loc["all"].to_dict(),
        per_class,
        precision,
        scores,
        dict(zip(names, judged, strict=True)),
        ground_truth,
        detections,
        coco_evals,
    )


def iou_types_of(ground_truth: dict, detections: list[dict]) -> list[str]:
    """What can be judged: masks and boxes, or boxes alone."""
    with_masks = all(
        "segmentation" in entry for entry in (*ground_truth["annotations"], *detections)
    )
    return ["mask", "box"] if with_masks else ["box"]


def metrics_table(evaluation: Evaluation, score_threshold: float = SEMANTIC_SCORE) -> pd.DataFrame:
    """Every figure as a row: kind, metric, class, value (percent).

    Beside those of `Evaluation.table`: VOC's AP^r `voc_AP50`, `voc_AP70` (all points), `voc_AP50_11`, `voc_AP70_11` (11 points)
    and `voc_AP_vol`; for masks also `AP_without_void`, `AP50_without_void` and `AP75_without_void`, and `mean_IoU` of the class
    map painted with detections of at least `score_threshold`.
    """
    parts = [evaluation.table]
    for kind, matches in evaluation.voc_matches.items():
        figures = voc_metrics(matches)
        for metric, values in figures.items():
            rows = [(kind, metric, "all", float(class_mean(values)[0]))]
            rows += [
                (kind, metric, name, values[0, k]) for name, k in evaluation.category_index.items()
            ]
            parts.append(pd.DataFrame(rows, columns=evaluation.table.columns))
    if "mask" in evaluation.kinds:
        void = evaluation.without_void.table
        void = void[(void["kind"] == "mask") & void["metric"].isin(HEADLINE)]
        parts.append(void.assign(metric=void["metric"] + "_without_void"))
        parts.append(mean_iou(evaluation.ground_truth, evaluation.detections, score_threshold))
    return pd.concat(parts).sort_values(
        "kind", ascending=False, kind="stable", ignore_index=True
    )  # masks first


def coco_metrics(
    matches: Matches, weights: Float[np.ndarray, "b i"] | None = None
) -> dict[str, Float[np.ndarray, "b k"]]:
    """COCO's AP, AP50 and AP75, in percent, from matches at IoU .5 to .95."""
    ap = 100 * average_precision(matches, weights)
    return {"AP": ap.mean(1), "AP50": ap[:, 0], "AP75": ap[:, 5]}


def _figures(precision: np.ndarray, recall: np.ndarray) -> dict[str, np.ndarray]:
    """COCO's twelve figures: name to values [.., class], -1 where there is no object. Axes: IoU, recall, class, size, most."""
    figures = {
        "AP": precision[..., 0, -1],
        "AP50": precision[:1, ..., 0, -1],
        "AP75": precision[5:6, ..., 0, -1],
    }
    figures |= {f"AP_{size}": precision[..., i, -1] for i, size in enumerate(SIZES) if i}
    figures = {
        name: values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
        for name, values in figures.items()
    }
    figures |= {f"AR{most}": recall[..., 0, i] for i, most in enumerate(MAX_DETECTIONS)}
    return figures | {f"AR_{size}": recall[..., i, -1] for i, size in enumerate(SIZES) if i}


def run_coco_eval(ground_truth: dict, detections: list[dict], kind: str, backend: str) -> Any:
    """COCOeval of a backend over checked entries, for "mask" or "box", after `evaluate` and `accumulate`."""
    if backend == "hotcoco":
        import hotcoco

        tools = SimpleNamespace(COCO=hotcoco.COCO, COCOeval=hotcoco.COCOeval)
    else:
        tools = SimpleNamespace(COCO=_coco, COCOeval=pycocotools.cocoeval.COCOeval)
    needed = {
        key: [{k: e[k] for k in keys} for e in ground_truth[key]]
        for key, keys in EVALUATED_KEYS.items()
    }
    truth = [
        {k: v for k, v in a.items() if k in ANNOTATION_KEYS} for a in ground_truth["annotations"]
    ]
    found = [_as_annotation(i, d) for i, d in enumerate(detections, 1)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        judge = tools.COCOeval(
            *(tools.COCO({**needed, "annotations": entries}) for entries in (truth, found)),
            IOU_TYPES[kind],
        )
        judge.evaluate()
        judge.accumulate()
    return judge


def _coco(dataset: dict) -> pycocotools.coco.COCO:
    coco = pycocotools.coco.COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _as_annotation(annotation_id: int, detection: dict) -> dict:
    box = bbox_xywh(detection)
    area = (
        box[2] * box[3] if "bbox" in detection else float(coco_mask.area(detection["segmentation"]))
    )
    facts = {
        key: detection[key]
        for key in ("image_id", "category_id", "score", "segmentation")
        if key in detection
    }
    return {**facts, "bbox": box, "id": annotation_id, "area": area, "iscrowd": 0}


def _matches(judge: Any) -> dict[str, Matches]:
    """What COCOeval found out about each detection, by size of object."""
    image_ids, category_ids = (
        tuple(map(int, judge.params.imgIds)),
        tuple(map(int, judge.params.catIds)),
    )
    image_place, category_place = (
        {entry: i for i, entry in enumerate(ids)} for ids in (image_ids, category_ids)
    )
    ranges = [tuple(map(float, r)) for r in judge.params.areaRng]
    parts = {size: [] for size in ranges}
    counts = {
        size: np.zeros((len(image_ids), len(category_ids)), dtype=np.int64) for size in ranges
    }
    for entry in judge.evalImgs:
        if entry is not None:
            size, place = (
                tuple(map(float, entry["aRng"])),
                (image_place[entry["image_id"]], category_place[entry["category_id"]]),
            )
            counts[size][place] = len(entry["gtIds"]) - np.sum(entry["gtIgnore"], dtype=int)
            if len(entry["dtIds"]):
                parts[size].append(
                    (*place, entry["dtScores"], entry["dtMatches"], entry["dtIgnore"])
                )
    thresholds = np.asarray(judge.params.iouThrs, dtype=float)
    return {
        name: _joined(thresholds, image_ids, category_ids, parts[r], counts[r])
        for name, r in zip(SIZES, ranges, strict=True)
    }


def _joined(
    thresholds: np.ndarray,
    image_ids: tuple,
    category_ids: tuple,
    parts: list[tuple],
    objects: np.ndarray,
) -> Matches:
    parts = sorted(parts, key=lambda part: part[:2])
    lengths = [len(part[2]) for part in parts]
    image, category = (
        np.repeat(np.array([part[i] for part in parts], dtype=np.int64), lengths) for i in range(2)
    )
    score = np.concatenate([np.zeros(0), *(part[2] for part in parts)])
    right, ignored = (
        np.concatenate([np.zeros((len(thresholds), 0)), *(p[i] for p in parts)], 1) > 0
        for i in (3, 4)
    )
    order = np.argsort(-score, kind="mergesort")
    facts = (image[order], category[order], score[order], right[:, order], ignored[:, order])
    return Matches(thresholds, image_ids, category_ids, *facts, objects)
