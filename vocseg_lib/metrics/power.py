"""How many images and trainings it takes to show a difference: the planner."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from vocseg_lib.metrics.bootstrap import ENDS, Sampled

POWER = 0.8  # of studies that show a difference of this size
TRAININGS = (2, 3, 5, 10, 20)  # of each model
DIFFERENCES = (1.0, 2.0, 3.0, 5.0, 10.0)  # points
MIN_IMAGES, MAX_IMAGES = 30, 10**6  # of a plan; of fewer, a mean is not nearly normal


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Variances (points squared) of the difference of two models in one metric, per unit.

    `of_image`: what an image adds to both trainings' difference, whichever they are; `of_pair`: of
    a pair of trainings on an image; `of_training`: of a training of each, on all images there are.
    """

    of_image: float
    of_pair: float
    of_training: float

    def variance(self, images: int, trainings: int) -> tuple[float, float]:
        """Of a difference, due to images and due to trainings."""
        return (self.of_image + self.of_pair / trainings) / images, self.of_training / trainings

    def detectable(self, images: int, trainings: int, power: float = POWER) -> float:
        """The smallest difference (points) that a study shows with a power."""
        of_images, of_trainings = self.variance(images, trainings)
        half = half_width(of_images, of_trainings, trainings)
        return float(half + ndtri(power) * np.sqrt(of_images + of_trainings))

    def images_needed(self, difference: float, trainings: int) -> float:
        """Images with which a difference is shown with `POWER`, at least `MIN_IMAGES`.

        Infinite above `MAX_IMAGES`.
        """
        if self.detectable(MAX_IMAGES, trainings) > difference:
            return np.inf
        low, high = MIN_IMAGES - 1, MAX_IMAGES
        while high - low > 1:
            middle = (low + high) // 2
            enough = self.detectable(middle, trainings) <= difference
            low, high = (low, middle) if enough else (middle, high)
        return float(high)


def half_width(of_images: float, of_trainings: float, trainings: int) -> float:
    """Half of the 95 % interval of a difference of two models with so many trainings each."""
    normal, freedom = ndtri(ENDS[1]), 2 * (trainings - 1)
    student = stdtrit(freedom, ENDS[1]) if freedom else normal
    return float(np.sqrt(normal**2 * of_images + student**2 * of_trainings))


def measure_spread(
    difference: Sampled, key: tuple[str, str, str], images: int, training_sd: float | None = None
) -> Spread:
    """The spread of a difference (kind, metric, class) in predictions on so many images.

    `training_sd`: standard deviation of one model's trainings (points), where there is one training
    of each model, or another is known; by default measured. Without either, trainings are taken not
    to differ.
    """
    counts = [count for _, count in difference.spreads]
    of_images, by_images = difference.of_images[key].var(), difference.by_images[key]
    # Per model a variance of means over its trainings: of one training, that times their number.
    trainings = len(counts) / sum(1 / count for count in counts)
    measured = max(0.0, difference.of_trainings[key].var() - by_images) * trainings
    return Spread(
        of_image=max(0.0, of_images - by_images) * images,
        of_pair=by_images * images * trainings,
        of_training=measured if training_sd is None else 2 * training_sd**2,
    )


def plan(
    spread: Spread,
    differences: Sequence[float] = DIFFERENCES,
    trainings: Sequence[int] = TRAININGS,
) -> pd.DataFrame:
    """Images needed to show a difference (rows, points) with so many trainings (columns)."""
    trainings = trainings if spread.of_training or spread.of_pair else (1,)
    rows = [[spread.images_needed(d, t) for t in trainings] for d in differences]
    index = pd.Index(differences, name="difference")
    return pd.DataFrame(rows, index, pd.Index(trainings, name="trainings of each model"))
