import numpy as np
import pandas as pd
import pytest

from vocseg_lib.metrics.bootstrap import (
    bootstrap_weights,
    cross,
    intervals_table,
    paired_differences,
)
from vocseg_lib.metrics.power import Spread, measure_spread, plan
from vocseg_lib.metrics.table import KEYS

KEY = ("mask", "AP50", "all")
COLUMNS = pd.MultiIndex.from_tuples([KEY], names=KEYS)


def study(random, spread, images, trainings, difference, resamples=200):
    """Two models' trainings on the same images; the first is better by `difference`."""
    shared = random.normal(0, 1, images)  # cancels
    weights = bootstrap_weights(images, resamples, int(random.integers(1 << 30)))
    sampled = []
    for sign in (1, -1):
        values = shared + sign * difference / 2
        if sign > 0:  # what an image adds to the difference
            values = values + random.normal(0, spread.of_image**0.5, images)
        values = values + random.normal(0, (spread.of_training / 2) ** 0.5, (trainings, 1))
        values = values + random.normal(0, (spread.of_pair / 2) ** 0.5, (trainings, images))
        parts = [pd.DataFrame((weights @ v)[:, None] / images, columns=COLUMNS) for v in values]
        sampled.append(cross(pd.DataFrame(values.mean(1)[:, None], columns=COLUMNS), parts))
    return sampled


@pytest.mark.parametrize(
    ("spread", "trainings"),
    [
        (Spread(of_image=100, of_pair=100, of_training=0.5), 3),
        (Spread(of_image=400, of_pair=50, of_training=0.0), 5),
    ],
)
def test_so_many_studies_show_a_difference_as_planned(spread, trainings):
    random, images, studies = np.random.default_rng(0), 200, 200
    difference = spread.detectable(images, trainings)
    gaps = (
        paired_differences(*study(random, spread, images, trainings, difference))
        for _ in range(studies)
    )
    shown = sum(bool((table["low"] > 0).item()) for table in gaps)
    assert shown / studies == pytest.approx(0.8, abs=0.08)
    needed = spread.images_needed(difference, trainings)
    assert needed == pytest.approx(images, abs=1)


def test_the_spread_is_measured():
    random, true = np.random.default_rng(1), Spread(of_image=100, of_pair=60, of_training=2.0)
    measured = []
    for _ in range(40):
        first, second = study(random, true, 200, 5, 0.0)
        measured.append(measure_spread(first - second, KEY, 200))
    for name in ("of_image", "of_pair", "of_training"):
        values = [getattr(spread, name) for spread in measured]
        assert np.mean(values) == pytest.approx(getattr(true, name), rel=0.2), name


def test_a_plan_from_single_trainings_needs_their_spread():
    random, true = np.random.default_rng(2), Spread(of_image=100, of_pair=0, of_training=0.0)
    difference = np.subtract(*study(random, true, 200, 1, 0.0))
    assert intervals_table(difference)["training_share"].isna().all()
    alone = plan(measure_spread(difference, KEY, 200))
    assert alone.columns.tolist() == [1]
    assert (alone[1].diff().dropna() < 0).all()  # fewer images for larger differences
    spread = measure_spread(difference, KEY, 200, training_sd=2.0)
    assert spread.of_training == 8.0
    table = plan(spread)
    assert np.isinf(table.loc[1.0, 2])  # no number of images makes up for two trainings
    assert 30 < table.loc[2.0, 20] < table.loc[3.0, 5] <= table.loc[3.0, 3]
