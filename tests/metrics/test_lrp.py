import json

import numpy as np
import pytest

from tests.helpers.coco import entry, ground_truth_of
from tests.helpers.random_sets import on_random_sets
from vocseg_lib.metrics.calibration import best_f1
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.lrp import LRP_METRICS, SCORES, highest_f1, optimal_lrp

instance = pytest.importorskip("vernier.instance")
BOX = (0, 0, 10, 10)


def by_vernier(ground_truth, detections, scores, kind):
    content = {**ground_truth, "images": [{**i, "void": None} for i in ground_truth["images"]]}
    encoded = (json.dumps(part).encode() for part in (content, detections))
    iou = instance.Segm() if kind == "mask" else instance.Bbox()
    options = {"iou": iou, "tau_grid": sorted(scores), "parity_mode": "strict"}
    rows = []
    for row in instance.optimal_lrp(*encoded, **options).per_class:
        hit = row.tau == row.tau  # it has no localization error otherwise, and FP of 0
        parts = 100 * row.olrp, 50 * row.olrp_loc, 100 * row.olrp_fp if hit else np.nan
        row = (*parts, 100 * row.olrp_fn, row.tau)
        # At 100, as of a match of IoU .5 alone, nothing is better than no detection: ours is that.
        rows.append((100, np.nan, np.nan, 100, np.nan) if row[0] == 100 else row)
    return np.array(rows).T


def assert_equal(ground_truth, detections, every):
    found = sorted({d["score"] for d in detections})
    scores = found if every and found else SCORES.tolist()
    for kind in ("mask", "box"):
        expected = by_vernier(ground_truth, detections, scores, kind)
        matches = evaluate(ground_truth, detections).matches(kind)
        ours = optimal_lrp(matches, scores=None if every else SCORES)
        for name, values in zip(LRP_METRICS, expected, strict=True):
            assert ours[name][0] == pytest.approx(values, abs=1e-9, nan_ok=True), name


@on_random_sets(40)
def test_equals_vernier_on_random_sets(pair):
    assert_equal(*pair, every=False)
    assert_equal(*pair, every=True)


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_equals_vernier_on_real_predictions(model, real_predictions):
    ground_truth, models = real_predictions
    assert_equal(ground_truth, models[model], every=False)


def test_by_hand():
    content = ground_truth_of(entry(1, 3, BOX), entry(2, 3, BOX), entry(2, 7, BOX))
    detections = [
        entry(1, 3, (0, 0, 10, 8), 0.9),  # IoU .8
        entry(3, 3, BOX, 0.6),  # on no object
        entry(2, 3, BOX, 0.3),
        entry(3, 7, BOX, 0.2),
    ]
    matches = evaluate(content, detections).matches("mask")
    values = {name: v[0, [2, 6]].tolist() for name, v in optimal_lrp(matches).items()}
    # From .9 on one of two birds, (.2 / .5 + 1) / 2; from .3 on both, (.4 + 1) / 3.
    expected = {"oLRP": [140 / 3, 100], "oLRP_loc": [10, np.nan], "oLRP_FP": [100 / 3, np.nan]}
    expected |= {"oLRP_FN": [0, 100], "oLRP_score": [0.3, np.nan]}
    for name, pair in expected.items():
        assert values[name] == pytest.approx(pair, nan_ok=True), name
    assert highest_f1(matches)["best_F1"][0, [2, 6]] == pytest.approx([80, 0])
    assert np.isnan(optimal_lrp(matches)["oLRP"][0, 0])  # no such object


@on_random_sets(25)
def test_the_best_f1_is_that_of_the_table(pair):
    evaluation = evaluate(*pair)
    values = highest_f1(evaluation.matches("mask"))["best_F1"][0]
    expected = best_f1(evaluation).set_index("class")["F1"]
    for name, k in evaluation.category_index.items():
        assert values[k] == pytest.approx(100 * expected[name])
