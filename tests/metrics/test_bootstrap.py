import numpy as np
import pandas as pd
import pytest

from tests.helpers.random_sets import on_random_sets
from vocseg_lib.metrics.bootstrap import (
    bootstrap,
    bootstrap_weights,
    cross,
    interval,
    intervals_table,
    paired_differences,
    sample,
)
from vocseg_lib.metrics.coco_eval import HEADLINE, evaluate
from vocseg_lib.metrics.table import KEYS, METRICS, metrics_table


def resampled(ground_truth, detections, weights):
    """The data set of one resample, its images under new ids."""
    images = np.repeat(ground_truth["images"], weights.astype(int))
    ids = [image["id"] for image in images]
    annotations, results = (
        [{**e, "image_id": k} for k, own in enumerate(ids) for e in part if e["image_id"] == own]
        for part in (ground_truth["annotations"], detections)
    )
    annotations = [{**a, "id": k} for k, a in enumerate(annotations, 1)]
    images = [{**image, "id": k} for k, image in enumerate(images)]
    return {**ground_truth, "images": images, "annotations": annotations}, results


@on_random_sets(10, void=True)
def test_a_resample_equals_an_evaluation_of_its_images(pair):
    ground_truth, detections = pair
    for number, detection in enumerate(detections):  # without ties, which come image by image
        detection["score"] = 1 - number / 1_000
    weights = bootstrap_weights(len(ground_truth["images"]), 3, seed=5)
    resamples = bootstrap(evaluate(ground_truth, detections), weights)
    assert set(resamples.columns.get_level_values("metric")) == {*METRICS}
    for row in range(3):
        evaluation = evaluate(*resampled(ground_truth, detections, weights[row]))
        table = metrics_table(evaluation).set_index(KEYS)["value"]
        for column in resamples:
            value, expected = resamples.loc[row, column], table.get(column, np.nan)
            assert value == pytest.approx(expected, abs=1e-9, nan_ok=True), column


@pytest.fixture(scope="module")
def evaluations(real_predictions):
    ground_truth, models = real_predictions
    return [evaluate(ground_truth, detections) for detections in reversed(models.values())]


def test_paired_differences(evaluations):
    weights = bootstrap_weights(len(evaluations[0].ground_truth["images"]), 200)
    first, second = (sample([evaluation], weights) for evaluation in evaluations)
    ends = intervals_table(first).dropna(subset=["low"])
    assert (ends["low"] <= ends["high"]).all()
    assert ends["training_share"].isna().all()  # a single training
    same = paired_differences(first, first)
    assert not same[["significant", "jointly_significant"]].any(axis=None)
    numbers = ["difference", "low", "high", "joint_low", "joint_high"]
    assert (same[numbers] == 0).all(axis=None)
    gaps = paired_differences(first, second).set_index(KEYS)
    assert gaps.loc[("mask", "AP75", "all"), "significant"]
    assert not gaps.loc[("mask", "AP50", "all"), "significant"]
    assert (gaps["joint_low"] <= gaps["low"]).all()
    assert (gaps["joint_high"] >= gaps["high"]).all()
    of_classes = gaps.xs(("mask", "AP50"), level=["kind", "metric"])
    assert of_classes["jointly_significant"].sum() < of_classes["significant"].sum()
    # What makes images hard for both cancels.
    low, high = gaps.loc[("mask", "AP50", "person"), ["low", "high"]]
    values = (s.resamples["mask", "AP50", "person"].to_numpy() for s in (first, second))
    unpaired = next(values) - next(values)[::-1]
    assert high - low < np.subtract(*np.quantile(unpaired, [0.975, 0.025]))


def simulated(random, weights, trainings, deviations):
    """A model's trainings: the mean over images of what training, image and both add to 0.

    `deviations`: standard deviations of a training and of a pair, and what each image adds.
    """
    of_training, of_pair, of_image = deviations
    values = random.normal(0, of_training, (trainings, 1)) + of_image
    values = values + random.normal(0, of_pair, (trainings, weights.shape[1]))
    columns = pd.MultiIndex.from_tuples([("mask", "AP", "all")], names=KEYS)
    resamples = [pd.DataFrame((weights @ v)[:, None] / len(v), columns=columns) for v in values]
    return cross(pd.DataFrame(values.mean(1)[:, None], columns=columns), resamples)


@pytest.mark.parametrize(
    ("trainings", "of_training", "paired"),
    [(3, 0.0, False), (5, 0.3, False), (3, 0.3, True)],
)
def test_intervals_hold_the_truth_in_95_of_100_studies(trainings, of_training, paired):
    studies, images, random = 500, 200, np.random.default_rng(0)
    held, shares = 0, []
    for study in range(studies):
        of_image, weights = random.normal(size=images), bootstrap_weights(images, 300, study)
        options = random, weights, trainings, (of_training, 1.0, of_image)
        sampled = simulated(*options)
        if paired:
            sampled = sampled - simulated(*options)
        low, high = interval(sampled.resamples.iloc[:, 0].to_numpy())
        held += low <= 0 <= high
        shares.append(sampled.training_share.iloc[0])
    assert 0.93 <= held / studies <= 0.97
    variance = of_training**2 / trainings
    of_images = (1 / trainings + (not paired)) / images
    assert np.mean(shares) == pytest.approx(variance / (variance + of_images), abs=0.12)


@pytest.mark.parametrize(("trainings", "of_training"), [(1, 0.0), (3, 0.1)])
def test_joint_intervals_hold_all_truths_in_95_of_100_studies(trainings, of_training):
    studies, images, classes = 300, 200, 20
    random, weights = np.random.default_rng(0), bootstrap_weights(images, 300)
    names = [("mask", "AP50", f"class {k}") for k in range(classes)]
    columns = pd.MultiIndex.from_tuples(names, names=KEYS)
    parts = [pd.DataFrame(0.0, range(300), columns)]
    nothing = cross(pd.DataFrame(0.0, [0], columns), parts)
    held, alone = 0, 0
    for _ in range(studies):
        shared = random.normal(size=(images, classes)) + random.normal(size=(images, 1))
        values = shared + random.normal(size=(trainings, images, classes)) / 2
        values = values + random.normal(0, of_training or 1e-9, (trainings, 1, classes))
        resamples = [pd.DataFrame(weights @ v / images, columns=columns) for v in values]
        sampled = cross(pd.DataFrame(values.mean(1), columns=columns), resamples)
        gaps = paired_differences(sampled, nothing)
        held += not gaps["jointly_significant"].any()
        alone += not gaps["significant"].any()
    assert 0.92 <= held / studies <= 0.99
    assert alone / studies < 0.7


def test_trainings_of_one_model_on_real_predictions(evaluations):
    weights = bootstrap_weights(len(evaluations[0].ground_truth["images"]), 50)
    both = intervals_table(sample(evaluations, weights, only=HEADLINE)).set_index(KEYS)
    single = [intervals_table(sample([e], weights, only=HEADLINE)) for e in evaluations]
    values = [table.set_index(KEYS)["value"] for table in single]
    assert both["value"].to_dict() == pytest.approx(sum(values).div(2).to_dict(), nan_ok=True)
    shares = both["training_share"].dropna()
    assert shares.between(0, 1).all()
    assert shares["mask", "AP75", "all"] > 0.2  # they are of two models, and differ


def test_resamples_have_as_many_images_and_are_reproducible():
    weights = bootstrap_weights(50, 20)
    assert (weights.sum(1) == 50).all()
    assert np.array_equal(weights, bootstrap_weights(50, 20))
    assert not np.array_equal(weights, bootstrap_weights(50, 20, seed=1))
