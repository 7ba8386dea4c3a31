import numpy as np
import pytest

from tests.helpers.random_sets import on_random_sets
from vocseg_lib.metrics.bootstrap import (
    KEYS,
    add_intervals,
    bootstrap,
    bootstrap_weights,
    paired_differences,
)
from vocseg_lib.metrics.coco_eval import evaluate, metrics_table


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


@on_random_sets(25, void=True)
def test_a_resample_equals_an_evaluation_of_its_images(pair):
    ground_truth, detections = pair
    for number, detection in enumerate(detections):  # without ties, which come image by image
        detection["score"] = 1 - number / 1_000
    weights = bootstrap_weights(len(ground_truth["images"]), 3, seed=5)
    resamples = bootstrap(evaluate(ground_truth, detections), weights)
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
    first, second = evaluations
    weights = bootstrap_weights(len(first.ground_truth["images"]), 200)
    samples = [bootstrap(evaluation, weights) for evaluation in evaluations]
    ends = add_intervals(metrics_table(evaluations[0]), samples[0]).dropna()
    assert (ends["low"] <= ends["high"]).all()
    same = paired_differences(first, first, (samples[0], samples[0]))
    assert not same["significant"].any()
    assert (same[["difference", "low", "high"]].dropna() == 0).all(axis=None)
    gaps = paired_differences(first, second, tuple(samples)).set_index(KEYS)
    assert gaps.loc[("mask", "AP75", "all"), "significant"]
    assert not gaps.loc[("mask", "AP50", "all"), "significant"]
    # What makes images hard for both cancels.
    low, high = gaps.loc[("mask", "AP50", "person"), ["low", "high"]]
    values = (sample["mask", "AP50", "person"].to_numpy() for sample in samples)
    unpaired = next(values) - next(values)[::-1]
    assert high - low < np.subtract(*np.quantile(unpaired, [0.975, 0.025]))


def test_resamples_have_as_many_images_and_are_reproducible():
    weights = bootstrap_weights(50, 20)
    assert (weights.sum(1) == 50).all()
    assert np.array_equal(weights, bootstrap_weights(50, 20))
    assert not np.array_equal(weights, bootstrap_weights(50, 20, seed=1))
