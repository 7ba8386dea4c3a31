"""How far AP would move with other images: bootstrap over the images of val, and the paired difference between two models."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.metrics.average_precision import class_mean
from vocseg_lib.metrics.coco_eval import SIZES, Evaluation, coco_metrics, metrics_table
from vocseg_lib.metrics.voc_eval import voc_metrics

RESAMPLES = 1_000
LEVEL = 95.0
"""Percent of the resamples that lie within an interval."""
KEYS = ["kind", "metric", "class"]
"""What tells figures apart."""
CHUNK = 250
"""Resamples at a time, so that what they need stays small."""


def bootstrap_weights(
    images: int, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "b i"]:
    """How often each image comes up when as many as there are get drawn with replacement, a row a resample."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(float)


def bootstrap(
    evaluation: Evaluation, weights: Float[np.ndarray, "b i"], headline: bool = False
) -> pd.DataFrame:
    """Every AP of an evaluation in each resample, in percent: a row a resample, columns (kind, metric, class).

    With `headline` only COCO's AP, AP50 and AP75. Class "all" is the mean over the classes that have objects in the resample;
    NaN where none has.
    """
    parts = np.array_split(weights, max(1, -(-len(weights) // CHUNK)))
    drawn = [pd.DataFrame(dict(_figures(evaluation, part, headline))) for part in parts]
    return pd.concat(drawn, ignore_index=True).rename_axis(columns=KEYS)


def _figures(
    evaluation: Evaluation, weights: Float[np.ndarray, "b i"], headline: bool
) -> Iterator[tuple[tuple[str, str, str], np.ndarray]]:
    for kind, by_size in evaluation.matches.items():
        figures = coco_metrics(by_size["all"], weights)
        if not headline:
            figures |= _other_figures(evaluation, kind, weights)
        for metric, values in figures.items():
            yield (kind, metric, "all"), class_mean(values)
            for name, k in evaluation.category_index.items():
                yield (kind, metric, name), values[:, k]


def _other_figures(
    evaluation: Evaluation, kind: str, weights: Float[np.ndarray, "b i"]
) -> dict[str, np.ndarray]:
    by_size = evaluation.matches[kind]
    figures = {f"AP_{size}": coco_metrics(by_size[size], weights)["AP"] for size in SIZES[1:]}
    figures |= voc_metrics(evaluation.voc_matches[kind], weights)
    if kind == "mask":
        void = coco_metrics(evaluation.without_void.matches["mask"]["all"], weights)
        figures |= {f"{name}_without_void": values for name, values in void.items()}
    return figures


def prepend_point_estimate(
    weights: Float[np.ndarray, "b i"] | None, images: int
) -> Float[np.ndarray, "_ i"]:
    """Each image once, as it is, in the first row, then the resamples, if there are some."""
    once = np.ones((1, images))
    return once if weights is None else np.concatenate([once, weights])


def interval(values: Float[np.ndarray, " b"]) -> tuple[float, float]:
    """Low and high end of the 95 % interval of values, those that are NaN left out; NaN for nothing."""
    values = values[~np.isnan(values)]
    tail = (100 - LEVEL) / 2
    return (
        tuple(np.percentile(values, [tail, 100 - tail]).tolist())
        if len(values)
        else (np.nan, np.nan)
    )


def intervals(resamples: pd.DataFrame) -> pd.DataFrame:
    """Low and high end of the 95 % interval of each column of `bootstrap`'s table: kind, metric, class, low, high."""
    tail = (100 - LEVEL) / 200
    return resamples.quantile([tail, 1 - tail]).T.set_axis(["low", "high"], axis=1).reset_index()


def add_intervals(table: pd.DataFrame, resamples: pd.DataFrame) -> pd.DataFrame:
    """A table of figures (kind, metric, class, value) with `low` and `high` beside them; NaN for those without an interval."""
    return table.merge(intervals(resamples), on=KEYS, how="left")


def intervals_table(
    evaluations: dict[str, Evaluation], resamples: dict[str, pd.DataFrame]
) -> pd.DataFrame:
    """Every figure of each model (by title) as value, low and high, by kind, metric and class; AR and mean IoU have no interval."""
    tables = {
        title: add_intervals(metrics_table(e), resamples[title]).set_index(KEYS)
        for title, e in evaluations.items()
    }
    return pd.concat(tables, axis=1)


def paired_differences(
    first: Evaluation, second: Evaluation, resamples: tuple[pd.DataFrame, pd.DataFrame]
) -> pd.DataFrame:
    """`first` - `second` of every AP, with its interval: kind, metric, class, difference, low, high, shown.

    `resamples` are both models' tables of `bootstrap` for the same weights: each row is the same draw of images, so what
    makes images hard for both cancels out. A difference is `shorten` when its interval does not hold 0.
    """
    values = metrics_table(first).merge(
        metrics_table(second), on=KEYS, suffixes=("_first", "_second")
    )
    values["difference"] = values["value_first"] - values["value_second"]
    ends = intervals(resamples[0] - resamples[1])
    table = values[[*KEYS, "difference"]].merge(ends, on=KEYS)
    return table.assign(shown=(table["low"] > 0) | (table["high"] < 0))


def explain_difference(row: pd.Series, first: str, second: str) -> str:
    """One row of `paired_differences` as a sentence."""
    name = f"{row['kind']} {row['metric']}" + (
        "" if row["class"] == "all" else f" of {row['class']}"
    )
    gap = f"{row['difference']:+.1f} points ({LEVEL:g} % interval {row['low']:+.1f} to {row['high']:+.1f})"
    if not row["shown"]:
        return f"{name}: no difference shown between {first} and {second}: {gap}."
    better, worse = (first, second) if row["difference"] > 0 else (second, first)
    return f"{name}: {better} is better than {worse}; {first} minus {second} is {gap}."
