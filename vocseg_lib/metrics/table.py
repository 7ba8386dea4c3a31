"""Every metric of an evaluation, for all of its images or for resamples of them."""

from collections.abc import Callable, Collection, Iterator
from functools import partial

import numpy as np
import pandas as pd

from vocseg_lib.metrics.average_precision import ByClass, Matches, Weights, coco_metrics
from vocseg_lib.metrics.coco_eval import HEADLINE, Evaluation
from vocseg_lib.metrics.lrp import LRP_METRICS, highest_f1, optimal_lrp
from vocseg_lib.metrics.matching import AREA_RANGES
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE, mean_iou
from vocseg_lib.metrics.voc_eval import VOC_METRICS, voc_metrics

KEYS = ["kind", "metric", "class"]
SIZES = [size for size in AREA_RANGES if size != "all"]
METRICS = (*HEADLINE, *(f"AP_{s}" for s in SIZES), *(f"{h}_unlimited" for h in HEADLINE))
METRICS += (*VOC_METRICS, *LRP_METRICS, "best_F1", *(f"AP_{s}_by_box" for s in SIZES))
METRICS += (*(f"{h}_without_void" for h in HEADLINE), *(f"boundary_{h}" for h in HEADLINE))
METRICS += ("mean_IoU",)
"""Those that are resampled; from `AP_small_by_box` on of masks alone."""
CHUNK = 250  # resamples at a time, to bound memory


def metrics_table(
    evaluation: Evaluation, score_threshold: float = SEMANTIC_SCORE, only: Collection[str] = ()
) -> pd.DataFrame:
    """All metrics: kind, metric, class, value (percent; `oLRP_score`: 0..1).

    Those of `Evaluation.table`; `AP_unlimited`, `AP50_unlimited`, `AP75_unlimited` of all
    detections; VOC's AP^r `voc_AP50`, `voc_AP70` (all points), `voc_AP50_11`, `voc_AP70_11` (11
    points) and `voc_AP_vol`; `LRP_METRICS`; `best_F1`. For masks also `AP_small_by_box` and so on
    (detections' sizes by their boxes), `AP_without_void`, `boundary_AP` and so on, and `mean_IoU`
    of detections of at least `score_threshold`. Class "all" is the mean over classes. `only`: of
    those that are not in `Evaluation.table`, these.
    """
    columns = dict(resampled_metrics(evaluation, None, score_threshold, only))
    rows = [(*key, values[0]) for key, values in columns.items()]
    table = pd.DataFrame(rows, columns=[*KEYS, "value"])
    known = pd.MultiIndex.from_frame(evaluation.table[KEYS])
    table = table[~pd.MultiIndex.from_frame(table[KEYS]).isin(known)]
    # Masks first.
    table = pd.concat([evaluation.table, table])
    return table.sort_values("kind", ascending=False, kind="stable", ignore_index=True)


def resampled_metrics(
    evaluation: Evaluation,
    weights: Weights | None = None,
    score_threshold: float = SEMANTIC_SCORE,
    only: Collection[str] = (),
) -> Iterator[tuple[tuple[str, str, str], np.ndarray]]:
    """((kind, metric, class), value of each resample) of each metric; see `metrics_table`.

    `weights`: by default each image once. `only`: of these metrics; default: of all.
    """
    weights = np.ones((1, len(evaluation.ground_truth["images"]))) if weights is None else weights
    for kind in evaluation.iou_types:
        for metrics, matches, names in _parts(evaluation, kind):
            names = {name: m for name, m in names.items() if m in only or not only}
            values = _in_chunks(metrics, matches(), weights) if names else {}
            for name, metric in names.items():
                for class_name, of_class in evaluation.by_class(values[name]):
                    yield (kind, metric, class_name), of_class
    if "mask" in evaluation.iou_types and ("mean_IoU" in only or not only):
        counts = evaluation.pixel_counts(score_threshold)
        mean, iou = mean_iou(counts, weights)
        yield ("mask", "mean_IoU", "all"), mean
        names = ["background", *(c["name"] for c in evaluation.dataset_eval.categories)]
        for k in np.flatnonzero(counts.any((0, 1))):
            yield ("mask", "mean_IoU", names[k]), iou[:, k]


Metrics = Callable[[Matches, Weights], dict[str, ByClass]]
Part = tuple[Metrics, Callable[[], Matches], dict[str, str]]
"""A function, what it is of, and the names of its metrics by theirs in the table."""


def _parts(evaluation: Evaluation, kind: str) -> Iterator[Part]:
    matches = partial(evaluation.matches, kind)
    yield coco_metrics, matches, {name: name for name in HEADLINE}
    for size in SIZES:
        yield coco_metrics, partial(matches, size), {"AP": f"AP_{size}"}
    names = {name: f"{name}_unlimited" for name in HEADLINE}
    yield coco_metrics, partial(evaluation.matches_unlimited, kind), names
    yield voc_metrics, partial(evaluation.voc_matches, kind), {name: name for name in VOC_METRICS}
    yield optimal_lrp, matches, {name: name for name in LRP_METRICS}
    yield highest_f1, matches, {"best_F1": "best_F1"}
    if kind == "mask":
        for size in SIZES:
            yield coco_metrics, partial(matches, size, "box"), {"AP": f"AP_{size}_by_box"}
        names = {name: f"{name}_without_void" for name in HEADLINE}
        yield coco_metrics, lambda: evaluation.matches_without_void, names
        names = {name: f"boundary_{name}" for name in HEADLINE}
        yield coco_metrics, lambda: evaluation.matches_on_boundaries, names


def _in_chunks(metrics: Callable, matches: Matches, weights: Weights) -> dict[str, ByClass]:
    chunks = np.array_split(weights, max(1, -(-len(weights) // CHUNK)))
    parts = [metrics(matches, chunk) for chunk in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
