import numpy as np
import pytest
from hypothesis import given, settings

from tests.helpers.coco import entry, truth_of
from tests.helpers.random_sets import judged_sets
from vocseg_lib.metrics.calibration import (
    best_f1,
    expected_calibration_error,
    mean_pr_curve,
    recall_at,
    reliability_table,
)
from vocseg_lib.metrics.coco_eval import evaluate


def by_hand():
    """Two birds; found, false alarm, found: F1 is 2/3, 1/2, 4/5 from score .9, .6, .3 on."""
    box = (0, 0, 10, 10)
    truth = truth_of(entry(1, 3, box), entry(2, 3, box))
    return evaluate(truth, [entry(1, 3, box, 0.9), entry(3, 3, box, 0.6), entry(2, 3, box, 0.3)])


def test_best_f1_and_recall_by_hand():
    (row,) = best_f1(by_hand()).to_dict("records")
    assert row == pytest.approx(
        {"class": "bird", "score": 0.3, "F1": 0.8, "precision": 2 / 3, "recall": 1.0, "objects": 2}
    )
    assert [recall_at(by_hand(), score) for score in (0.95, 0.9, 0.5, 0.3)] == [0, 0.5, 0.5, 1]
    (nothing,) = best_f1(evaluate(truth_of(entry(1, 3, (0, 0, 9, 9))), [])).to_dict("records")
    assert nothing["F1"] == 0
    assert np.isnan(nothing["score"])


@settings(deadline=None, max_examples=25)
@given(judged_sets())
def test_no_threshold_is_better_than_the_best(judged):
    evaluation = evaluate(*judged)
    for row in best_f1(evaluation, "mask", 0.5).itertuples():
        place = evaluation.category_index[row[1]]
        scores, right, objects = evaluation.matches("mask").at_threshold(0.5, place)
        tries = [2 * right[scores >= s].sum() / ((scores >= s).sum() + objects) for s in scores]
        assert row.F1 == pytest.approx(max(tries, default=0))


def test_calibration_by_hand():
    table = reliability_table(by_hand())
    assert table.to_numpy() == pytest.approx(
        np.array([[0.3, 0.4, 1, 0.3, 1], [0.6, 0.7, 1, 0.6, 0], [0.9, 1, 1, 0.9, 1]])
    )
    assert list(table) == ["low", "high", "detections", "score", "precision"]
    assert expected_calibration_error(table) == pytest.approx((0.7 + 0.6 + 0.1) / 3)
    box = (0, 0, 9, 9)
    with pytest.raises(ValueError, match="no probabilities"):
        reliability_table(evaluate(truth_of(entry(1, 3, box)), [entry(1, 3, box, 7.0)]))


def test_the_area_below_the_mean_curve_is_the_ap():
    evaluation = by_hand()
    assert 100 * mean_pr_curve(evaluation, "box", 0.75).mean() == pytest.approx(
        evaluation.summary["box_AP75"]
    )
    with pytest.raises(ValueError, match=r"no matches at IoU 0\.42"):
        evaluation.matches("mask").at_threshold(0.42)
