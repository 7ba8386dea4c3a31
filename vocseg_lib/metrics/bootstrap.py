"""Bootstrap intervals over images and over trainings, and paired differences between models."""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtr, ndtri, stdtrit

from vocseg_lib.metrics.average_precision import Weights
from vocseg_lib.metrics.coco_eval import HEADLINE, Evaluation
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE
from vocseg_lib.metrics.table import KEYS, metrics_table, resampled_metrics

RESAMPLES = 1_000
ENDS = [0.025, 0.975]  # quantiles, of the 95 % interval


def bootstrap_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Weights:
    """How often each image is sampled, with as many images per resample, with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(images, np.full(images, 1 / images), size=resamples).astype(float)


def bootstrap(
    evaluation: Evaluation,
    weights: Weights,
    only: Collection[str] = (),
    score_threshold: float = SEMANTIC_SCORE,
) -> pd.DataFrame:
    """Every metric of `metrics_table`: one row per resample, columns (kind, metric, class).

    `only`: these metrics alone, such as `HEADLINE`. Class "all" is the mean over the classes that
    have objects in the resample; NaN if none has.
    """
    metrics = resampled_metrics(evaluation, weights, score_threshold, only)
    return pd.DataFrame(dict(metrics)).rename_axis(columns=KEYS)


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Metrics of a model's trainings, or the differences of two models', and what chance does.

    `estimate`: mean over trainings by (kind, metric, class). Deviations from it, one row per
    resample: `of_images` (other images, these trainings) and `of_trainings` (other trainings).
    `by_images`: the variance of the latter that is due to single images, in which trainings differ,
    and is in the former, too. `spreads`: per model the variance of its mean by the differences of
    its trainings, and their number.
    """

    estimate: pd.Series
    of_images: pd.DataFrame
    of_trainings: pd.DataFrame
    by_images: pd.Series
    spreads: tuple[tuple[pd.Series, int], ...]

    def __sub__(self, other: "Sampled") -> "Sampled":
        return Sampled(
            estimate=(self.estimate - other.estimate).dropna(),
            of_images=self.of_images - other.of_images,
            of_trainings=self.of_trainings - other.of_trainings,
            by_images=self.by_images + other.by_images,
            spreads=self.spreads + other.spreads,
        )

    @property
    def _training_variance(self) -> pd.Series:
        return (self.of_trainings.var() - self.by_images).clip(lower=0)

    @property
    def training_share(self) -> pd.Series:
        """Share (0..1) of the variance that is due to trainings; NaN for single trainings."""
        if all(count == 1 for _, count in self.spreads):
            return self.by_images * np.nan
        return self._training_variance / (self._training_variance + self.of_images.var())

    @property
    def _freedom(self) -> pd.Series:
        """Satterthwaite's degrees of freedom of the trainings' variance, of all models."""
        several = [(spread, count) for spread, count in self.spreads if count > 1]
        if not several:
            return self.by_images * 0 + 1e9
        squares = sum(spread**2 / (count - 1) for spread, count in several)
        freedom = sum(spread for spread, _ in several) ** 2 / squares
        return freedom.fillna(np.inf).clip(1, 1e9)

    @property
    def resamples(self) -> pd.DataFrame:
        """Estimates of resampled images and trainings (crossed), one row per resample.

        Few trainings tell little of their own spread: its part is longer by the ratio of Student's
        t to the normal distribution.
        """
        share = (self._training_variance / self.of_trainings.var()).fillna(0)
        longer = stdtrit(self._freedom, ENDS[1]) / ndtri(ENDS[1])
        deviations = self.of_images + self.of_trainings * np.sqrt(share) * longer
        return deviations + self.estimate.reindex(deviations.columns)

    def joint_half_widths(self, columns: pd.MultiIndex) -> pd.Series:
        """Half of intervals of some metrics that all hold the truth in 95 % of studies.

        Max-t (Westfall and Young, 1993): the largest deviation of a resample, in standard errors.
        Trainings are taken to move each metric on its own, which few of them cannot tell.
        """
        images, variance = self.of_images[columns], self._training_variance[columns]
        error = np.sqrt(images.var() + variance).replace(0, np.nan)
        own = np.random.default_rng(0).normal(size=images.shape) * np.sqrt(variance.to_numpy())
        largest = ((images - images.mean() + own) / error).abs().max(axis=1).quantile(0.95)
        student = stdtrit(self._freedom[columns], ndtr(largest))
        return np.sqrt(largest**2 * images.var() + student**2 * variance)


def sample(
    trainings: Sequence[Evaluation],
    weights: Weights,
    only: Collection[str] = (),
    score_threshold: float = SEMANTIC_SCORE,
) -> Sampled:
    """Metrics of evaluated trainings of one model, and of resamples of images and trainings.

    `only`: these metrics alone are resampled, such as `HEADLINE`.
    """
    basic = bool(only) and {*only} <= {*HEADLINE}
    tables = [t.table if basic else metrics_table(t, score_threshold, only) for t in trainings]
    tables = [table.set_index(KEYS)["value"] for table in tables]
    resamples = [bootstrap(t, weights, only, score_threshold) for t in trainings]
    return cross(pd.DataFrame(tables), resamples)


def cross(estimates: pd.DataFrame, resamples: Sequence[pd.DataFrame]) -> Sampled:
    """Crossed bootstrap: of trainings (rows of `estimates`) as of images (rows of `resamples`).

    `resamples`: per training, by the same weights of images.
    """
    # Trainings of two models are sampled independently, and in the same way whenever it is done.
    seed, count = zlib.crc32(estimates.to_numpy().tobytes()), len(resamples)
    columns, mean = resamples[0].columns, sum(resamples) / len(resamples)
    estimate = estimates.mean()
    of_images = mean - estimate.reindex(columns)
    of_trainings, by_images, spread = of_images * 0, of_images.var() * 0, of_images.var() * 0
    if count > 1:
        spread = estimates[columns].var() / count
        deviations = [one - mean for one in resamples]
        by_images = sum(d.var() for d in deviations) / (count - 1) / count
        weights = bootstrap_weights(count, len(mean), seed)
        of_trainings = sum(d.mul(w, axis=0) for d, w in zip(deviations, weights.T, strict=True))
        of_trainings *= np.sqrt(spread / of_trainings.var()).fillna(0)
    parts = {"of_images": of_images, "of_trainings": of_trainings, "by_images": by_images}
    return Sampled(estimate=estimate, **parts, spreads=((spread, count),))


def prepend_point_estimate(weights: Weights | None, images: int) -> Float[np.ndarray, "_ i"]:
    """Weights with a first row of ones, the point estimate; `None`: that row alone."""
    once = np.ones((1, images))
    return once if weights is None else np.concatenate([once, weights])


def interval(values: Float[np.ndarray, " b"]) -> tuple[float, float]:
    """Both ends of the 95 % interval of values, NaN ignored; NaN if there are none."""
    return tuple(pd.Series(values).quantile(ENDS).tolist())


def intervals_table(sampled: Sampled) -> pd.DataFrame:
    """Columns kind, metric, class, value, low, high (95 %), training_share (see `Sampled`).

    NaN where nothing was resampled, such as AR.
    """
    table = sampled.estimate.rename("value").reset_index()
    ends = sampled.resamples.quantile(ENDS).T.set_axis(["low", "high"], axis=1)
    ends["training_share"] = sampled.training_share
    return table.merge(ends.reset_index(), on=KEYS, how="left")


def paired_differences(first: Sampled, second: Sampled) -> pd.DataFrame:
    """`first` - `second` of every metric, sampled by the same weights of images.

    What makes an image hard for both cancels. Columns: kind, metric, class, difference, low, high,
    significant (the interval excludes 0); `joint_low`, `joint_high`, `jointly_significant`: by
    intervals of which all of a family hold the true difference in 95 % of studies, the classes of a
    metric, or the sizes over all classes; training_share.
    """
    sampled = first - second
    table = intervals_table(sampled).rename(columns={"value": "difference"})
    known = pd.MultiIndex.from_frame(table[KEYS]).isin(sampled.of_images.columns)
    table = table[known].reset_index(drop=True)
    table[["joint_low", "joint_high"]] = table[["low", "high"]]
    for _, rows in table.groupby(_family(table)):
        if len(rows) > 1:
            half = sampled.joint_half_widths(pd.MultiIndex.from_frame(rows[KEYS])).to_numpy()
            low, high = (rows["difference"] - half).clip(-100), rows["difference"] + half
            table.loc[rows.index, "joint_low"] = np.fmin(rows["low"], low)
            table.loc[rows.index, "joint_high"] = np.fmax(rows["high"], high.clip(upper=100))
    for prefix, name in (("", "significant"), ("joint_", "jointly_significant")):
        table[name] = (table[f"{prefix}low"] > 0) | (table[f"{prefix}high"] < 0)
    return table


def _family(table: pd.DataFrame) -> pd.Series:
    """A name for each row's family of intervals, which hold together."""
    of_size = table["metric"].str.replace("small|medium|large", "size", regex=True)
    each = table["metric"].where(table["class"] != "all", of_size)
    return table["kind"] + " " + each + (table["class"] == "all").map({True: " all", False: ""})
