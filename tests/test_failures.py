import json

import numpy as np
from test_metrics import entry, truth_of

from vocseg_lib.failures import FAILURE_TYPES, count_failures, find_failures, worst_images


def kinds(truth, found, **options):
    rows = find_failures(truth, found, **options)
    return dict(zip(rows["detection"], rows["type"], strict=True)), rows


def test_each_type_by_hand():
    truth = truth_of(
        entry(1, 3, (0, 0, 10, 10)),  # found, and found again
        entry(1, 5, (10, 10, 8, 8)),  # taken for another class
        entry(2, 3, (0, 0, 10, 10)),  # found with half its mask
        entry(2, 4, (12, 12, 6, 6)),  # missed
        entry(3, 3, (0, 0, 10, 10)),  # only a detection under the threshold
    )
    found = [
        entry(1, 3, (0, 0, 10, 9), 0.8),
        entry(1, 3, (0, 0, 10, 10), 0.9),
        entry(1, 6, (10, 10, 8, 8), 0.7),
        entry(2, 3, (0, 0, 10, 4), 0.9),
        entry(2, 3, (12, 0, 6, 6), 0.6),
        entry(3, 3, (0, 0, 10, 10), 0.2),
    ]
    by_detection, rows = kinds(truth, found)
    assert by_detection == {0: "duplicated", 2: "wrong class", 3: "bad mask", 4: "background", -1: "missed"}
    assert rows[rows["type"] == "missed"]["annotation"].tolist() == [3, 4]
    assert rows[rows["type"] == "bad mask"]["iou"].item() == 0.4
    counts = count_failures({"model": rows})["model"]
    assert counts.to_dict() == {"missed": 2, "duplicated": 1, "wrong class": 1, "bad mask": 1, "background": 1}
    assert worst_images({"model": rows}, 1) == [2]


def test_perfect_predictions_have_no_failure_and_no_predictions_miss_all():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)), entry(1, 3, (10, 0, 10, 10)))
    assert find_failures(truth, [{**a, "score": 1.0} for a in truth["annotations"]]).empty
    assert find_failures(truth, [])["type"].tolist() == ["missed", "missed"]


def test_counts_add_up_on_real_predictions(shared):
    truth = json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    for path in sorted((shared / "predictions").glob("*_mobilenet320.json")):
        found = json.loads(path.read_text())
        rows = find_failures(truth, found, score_threshold=0.2)
        assert set(rows["type"]) <= set(FAILURE_TYPES)
        sure = sum(d["score"] >= 0.2 for d in found)
        failed = rows[rows["detection"] >= 0]["detection"]
        assert failed.is_unique
        right = sure - len(failed)
        missed = (rows["type"] == "missed").sum()
        assert 0 < right + missed <= len(truth["annotations"])
        assert np.isnan(rows[rows["type"] == "missed"]["score"]).all()
