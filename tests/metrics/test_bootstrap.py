import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from tests.helpers.random_sets import judged_sets
from vocseg_lib.metrics.bootstrap import (
    bootstrap,
    bootstrap_weights,
    explain_difference,
    intervals,
    paired_differences,
)
from vocseg_lib.metrics.coco_eval import evaluate, metrics_table

KEYS = ["kind", "metric", "class"]


def drawn(truth, found, weights):
    """The data set of one resample, its images under new ids in the order of the old ones."""
    images, annotations, detections = [], [], []
    for image, times in zip(
        sorted(truth["images"], key=lambda i: i["id"]), weights.astype(int), strict=True
    ):
        for _ in range(times):
            number = len(images) + 1
            images.append({**image, "id": number})
            annotations += [
                {**a, "image_id": number}
                for a in truth["annotations"]
                if a["image_id"] == image["id"]
            ]
            detections += [{**d, "image_id": number} for d in found if d["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": annotations}, detections


@settings(deadline=None, max_examples=25)
@given(judged_sets(void=True))
def test_a_resample_is_what_judging_its_images_gives(judged):
    truth, found = judged
    for number, detection in enumerate(
        found
    ):  # without ties: theirs come image by image, each time that it is drawn
        detection["score"] = 1 - number / 1_000
    weights = bootstrap_weights(len(truth["images"]), 3, seed=5)
    resampled = bootstrap(evaluate(truth, found), weights)
    for row in range(3):
        table = metrics_table(evaluate(*drawn(truth, found, weights[row]))).set_index(KEYS)["value"]
        for column in resampled:
            direct, ours = table.get(column, np.nan), resampled.loc[row, column]
            assert ours == pytest.approx(direct, abs=1e-9, nan_ok=True), column


def test_each_image_once_gives_the_figures_themselves(shared):
    folder = shared / "predictions"
    truth = json.loads((folder / "voc2012_val_gt.json").read_text())
    found = [
        json.loads((folder / f"{n}_mobilenet320.json").read_text())
        for n in ("yolact_official", "mask_rcnn_torchvision")
    ]
    ours, theirs = (evaluate(truth, detections) for detections in found)
    once = bootstrap(ours, np.ones((1, len(truth["images"]))))
    table = metrics_table(ours).set_index(KEYS)["value"]
    assert once.loc[0].to_numpy() == pytest.approx(
        table[list(once)].to_numpy(), abs=1e-9, nan_ok=True
    )

    weights = bootstrap_weights(len(truth["images"]), 200)
    samples = [bootstrap(e, weights) for e in (ours, theirs)]
    ends = intervals(samples[0]).set_index(KEYS).dropna()
    assert (ends["low"] <= ends["high"]).all()
    gaps = paired_differences(ours, theirs, tuple(samples)).set_index(KEYS)
    itself = paired_differences(ours, ours, (samples[0], samples[0]))
    assert not itself["significant"].any()
    assert (itself[["difference", "low", "high"]].dropna() == 0).all(axis=None)
    assert gaps.loc[("mask", "AP75", "all"), "significant"]
    assert not gaps.loc[("mask", "AP50", "all"), "significant"]
    # What makes images hard for both cancels out.
    paired = (
        gaps.loc[("mask", "AP50", "person"), "high"] - gaps.loc[("mask", "AP50", "person"), "low"]
    )
    apart = (
        samples[0]["mask", "AP50", "person"].to_numpy()
        - samples[1]["mask", "AP50", "person"].to_numpy()[::-1]
    )
    assert paired < np.subtract(*np.quantile(apart, [0.975, 0.025]))


def test_what_is_not_shown_is_said_so():
    row = pd.Series(
        {
            "kind": "mask",
            "metric": "AP50",
            "class": "all",
            "difference": 1.0,
            "low": -2.0,
            "high": 4.0,
            "significant": False,
        }
    )
    assert explain_difference(row, "A", "B").startswith(
        "mask AP50: no difference shown between A and B: +1.0 points"
    )
    assert "A is better than B" in explain_difference(
        pd.Series({**row, "low": 0.5, "significant": True}), "A", "B"
    )
    worse = {
        **row,
        "difference": -3.0,
        "low": -5.0,
        "high": -1.0,
        "significant": True,
        "class": "cat",
    }
    assert "mask AP50 of cat: B is better than A" in explain_difference(pd.Series(worse), "A", "B")


def test_resamples_hold_as_many_images_and_repeat():
    weights = bootstrap_weights(50, 20)
    assert (weights.sum(1) == 50).all()
    assert np.array_equal(weights, bootstrap_weights(50, 20))
    assert not np.array_equal(weights, bootstrap_weights(50, 20, seed=1))
