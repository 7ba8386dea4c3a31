"""Bootstrap confidence intervals over images, and paired differences between models."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.metrics.average_precision import ByClass, Matches, Weights, coco_metrics
from vocseg_lib.metrics.coco_eval import Evaluation, metrics_table
from vocseg_lib.metrics.matching import AREA_RANGES
from vocseg_lib.metrics.voc_eval import voc_metrics

RESAMPLES = 1_000
ENDS = [0.025, 0.975]  # quantiles, of the 95 % interval
KEYS = ["kind", "metric", "class"]
CHUNK = 250  # resamples at a time, to bound memory


def bootstrap_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Weights:
    """How often each image is sampled, with as many images per resample, with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(float)


def bootstrap(evaluation: Evaluation, weights: Weights, headline: bool = False) -> pd.DataFrame:
    """Every AP in percent: one row per resample, columns (kind, metric, class).

    With `headline` only AP, AP50 and AP75. Class "all" is the mean over the classes that have
    objects in the resample; NaN if none has.
    """
    table = pd.DataFrame(dict(_resampled(evaluation, weights, headline)))
    return table.rename_axis(columns=KEYS)


def _resampled(evaluation: Evaluation, weights: Weights, headline: bool) -> Iterator[tuple]:
    for iou_type in evaluation.iou_types:
        metrics = _in_chunks(coco_metrics, evaluation.matches(iou_type), weights)
        if not headline:
            for size in list(AREA_RANGES)[1:]:
                by_size = _in_chunks(coco_metrics, evaluation.matches(iou_type, size), weights)
                metrics[f"AP_{size}"] = by_size["AP"]
            metrics |= _in_chunks(voc_metrics, evaluation.voc_matches[iou_type], weights)
        if not headline and iou_type == "mask":
            void = _in_chunks(coco_metrics, evaluation.without_void.matches("mask"), weights)
            metrics |= {f"{name}_without_void": values for name, values in void.items()}
        for metric, values in metrics.items():
            for name, of_class in evaluation.by_class(values):
                yield (iou_type, metric, name), of_class


def _in_chunks(metrics: Callable, matches: Matches, weights: Weights) -> dict[str, ByClass]:
    chunks = np.array_split(weights, max(1, -(-len(weights) // CHUNK)))
    parts = [metrics(matches, chunk) for chunk in chunks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prepend_point_estimate(weights: Weights | None, images: int) -> Float[np.ndarray, "_ i"]:
    """Weights with a first row of ones, the point estimate; `None`: that row alone."""
    once = np.ones((1, images))
    return once if weights is None else np.concatenate([once, weights])


def interval(values: Float[np.ndarray, " b"]) -> tuple[float, float]:
    """Both ends of the 95 % interval of values, NaN ignored; NaN if there are none."""
    return tuple(pd.Series(values).quantile(ENDS).tolist())


def add_intervals(table: pd.DataFrame, resamples: pd.DataFrame, how: str = "left") -> pd.DataFrame:
    """A table by kind, metric, class with 95 % intervals `low`, `high`; NaN if not resampled."""
    ends = resamples.quantile(ENDS).T.set_axis(["low", "high"], axis=1)
    return table.merge(ends.reset_index(), on=KEYS, how=how)


def paired_differences(
    first: Evaluation, second: Evaluation, resamples: tuple[pd.DataFrame, pd.DataFrame]
) -> pd.DataFrame:
    """`first` - `second` of every AP: kind, metric, class, difference, low, high, significant.

    `resamples`: `bootstrap` of both models with the same weights, so that what makes an image hard
    for both cancels. Significant: the interval excludes 0.
    """
    table = metrics_table(first).merge(metrics_table(second), on=KEYS)
    table["difference"] = table.pop("value_x") - table.pop("value_y")
    table = add_intervals(table, resamples[0] - resamples[1], how="inner")
    return table.assign(significant=(table["low"] > 0) | (table["high"] < 0))
