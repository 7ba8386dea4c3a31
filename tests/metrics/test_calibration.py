import numpy as np
import pytest

from tests.helpers.coco import entry, ground_truth_of
from tests.helpers.random_sets import on_random_sets
from vocseg_lib.metrics import calibration
from vocseg_lib.metrics.coco_eval import evaluate

BOX = (0, 0, 10, 10)


@pytest.fixture(scope="module")
def by_hand():
    """Two birds; hit, false positive, hit: F1 is 2/3, 1/2, 4/5 from score .9, .6, .3 on."""
    detections = [entry(1, 3, BOX, 0.9), entry(3, 3, BOX, 0.6), entry(2, 3, BOX, 0.3)]
    return evaluate(ground_truth_of(entry(1, 3, BOX), entry(2, 3, BOX)), detections)


def test_best_f1_and_recall_by_hand(by_hand):
    columns = ["class", "score", "F1", "precision", "recall", "objects"]
    expected = ["bird", 0.3, 0.8, 2 / 3, 1.0, 2]
    (row,) = calibration.best_f1(by_hand).to_dict("records")
    assert row == pytest.approx(dict(zip(columns, expected, strict=True)))
    recalls = [calibration.recall_at(by_hand, score) for score in (0.95, 0.9, 0.5, 0.3)]
    assert recalls == [0, 0.5, 0.5, 1]
    nothing = calibration.best_f1(evaluate(ground_truth_of(entry(1, 3, BOX)), []))
    assert nothing.loc[0, ["score", "F1"]].tolist() == pytest.approx([np.nan, 0], nan_ok=True)


@on_random_sets(25)
def test_no_threshold_is_better_than_the_best(pair):
    evaluation = evaluate(*pair)
    for row in calibration.best_f1(evaluation).itertuples():
        k = evaluation.category_index[row[1]]
        scores, hits, objects = evaluation.matches("mask").at_threshold(0.5, k)
        f1 = [2 * hits[scores >= s].sum() / ((scores >= s).sum() + objects) for s in scores]
        assert row.F1 == pytest.approx(max(f1, default=0))


def test_reliability_by_hand(by_hand):
    table = calibration.reliability_table(by_hand)
    assert list(table) == ["low", "high", "detections", "score", "precision"]
    rows = [[0.3, 0.4, 1, 0.3, 1], [0.6, 0.7, 1, 0.6, 0], [0.9, 1, 1, 0.9, 1]]
    assert table.to_numpy() == pytest.approx(np.array(rows))
    assert calibration.expected_calibration_error(table) == pytest.approx((0.7 + 0.6 + 0.1) / 3)
    missed = calibration.expected_calibration_error(table, missed=1)
    assert missed == pytest.approx((0.7 + 0.6 + 0.1 + 1) / 4)
    errors = calibration.calibration_errors(by_hand)
    assert errors["mask_ECE"] == errors["mask_ECE_with_missed"]  # both birds are detected
    none = calibration.calibration_errors(evaluate(ground_truth_of(entry(1, 3, BOX)), []))
    assert none["box_ECE_with_missed"] == 100
    above = evaluate(ground_truth_of(entry(1, 3, BOX)), [entry(1, 3, BOX, 7.0)])
    with pytest.raises(ValueError, match="7"):
        calibration.reliability_table(above)


def test_the_area_below_the_mean_curve_is_the_ap(by_hand):
    area = 100 * calibration.mean_pr_curve(by_hand, "box", 0.75).mean()
    assert area == pytest.approx(by_hand.summary["box_AP75"])
    with pytest.raises(ValueError, match=r"0\.42"):
        by_hand.matches("mask").at_threshold(0.42)
