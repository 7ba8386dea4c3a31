"""TIDE's errors, held to its toolbox (tidecv)."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tidecv import TIDE, Data

from tests.helpers.coco import entry, truth_of
from tests.helpers.random_sets import judged_sets
from vocseg_lib.data.coco import bbox_xywh, validate_ground_truth, validate_results
from vocseg_lib.failures.tide import ERRORS, tide
from vocseg_lib.metrics.matching import evaluate_images

SHORT_NAMES = {
    "Cls": "class",
    "Loc": "localization",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def toolbox(truth, found, kind):
    """(dAP, number of errors) by type, from tidecv."""
    objects, results = Data("truth", 100), Data("found", 100)
    for image in truth["images"]:
        objects.add_image(image["id"], str(image["id"]))
    for a in truth["annotations"]:
        add = objects.add_ignore_region if a["iscrowd"] else objects.add_ground_truth
        add(a["image_id"], a["category_id"], a["bbox"], a["segmentation"])
    for d in found:
        results.add_detection(
            d["image_id"], d["category_id"], d["score"], bbox_xywh(d), d["segmentation"]
        )
    judge = TIDE(mode=TIDE.MASK if kind == "mask" else TIDE.BOX)
    run = judge.evaluate(objects, results, name="run")
    counts = {error.short_name: count for error, count in run.count_errors().items()}
    costs = judge.get_main_errors()["run"]
    return (
        {name: values[short] for short, name in SHORT_NAMES.items()} for values in (costs, counts)
    )


def assert_same(truth, found):
    truth = validate_ground_truth(truth)
    found = validate_results(truth, found)
    dataset_eval = evaluate_images(truth, found)
    for kind in ("mask", "box"):
        try:
            costs, counts = toolbox(truth, found, kind)
        except ZeroDivisionError:  # the toolbox cannot say what an AP of no class is
            continue
        ours = tide(dataset_eval, kind)
        assert ours.dap_as_tidecv == pytest.approx(costs, abs=1e-9)
        with_objects = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
        if {d["category_id"] for d in found} <= with_objects:
            assert {name: cost[0, 0] for name, cost in ours.dap().items()} == pytest.approx(
                costs, abs=1e-9
            )
        missed = sum(errors.missed.sum() for errors in ours.errors)
        codes = np.concatenate([errors.code for errors in ours.errors])
        ours_counted = {name: int((codes == k).sum()) for k, name in enumerate(ERRORS)} | {
            "missed": missed
        }
        assert ours_counted == counts


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(judged_sets())
def test_equals_the_toolbox_on_random_sets(pair):
    truth, found = pair
    if truth["annotations"] and found:
        assert_same(truth, found)


def test_equals_the_toolbox_on_real_predictions(shared):
    truth = json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    for path in sorted((shared / "predictions").glob("*_mobilenet320.json")):
        assert_same(truth, json.loads(path.read_text()))


def test_each_error_by_hand():
    truth = truth_of(
        entry(1, 3, (0, 0, 10, 10)),  # found, and found again
        entry(1, 5, (10, 10, 8, 8)),  # taken for another class
        entry(2, 3, (0, 0, 10, 10)),  # found with half its mask
        entry(2, 4, (12, 12, 6, 6)),  # missed: the one on it has another class and too little of it
    )
    found = [
        entry(1, 3, (0, 0, 10, 9), 0.8),
        entry(1, 3, (0, 0, 10, 10), 0.9),
        entry(1, 6, (10, 10, 8, 8), 0.7),
        entry(2, 3, (0, 0, 10, 4), 0.9),
        entry(2, 3, (12, 0, 6, 6), 0.6),
        entry(2, 7, (12, 12, 6, 2), 0.5),
    ]
    truth = validate_ground_truth(truth)
    first, second = tide(evaluate_images(truth, validate_results(truth, found))).errors[:2]
    assert [ERRORS[code] if code >= 0 else "right" for code in first.code] == [
        "right",
        "duplicate",
        "class",
    ]
    assert [ERRORS[code] for code in second.code] == ["localization", "background", "both"]
    assert second.missed.tolist() == [False, True]


def test_a_class_without_objects_has_no_part_in_the_price():
    truth = validate_ground_truth(
        truth_of(entry(1, 3, (0, 0, 10, 10)), entry(1, 3, (10, 10, 8, 8)))
    )
    found = [
        entry(1, 3, (0, 0, 10, 10), 0.9),
        entry(1, 7, (10, 10, 8, 3), 0.8),
    ]  # the second: another class, too little
    ours = tide(evaluate_images(truth, validate_results(truth, found)))
    assert ours.dap()["both"][0, 0] == 0
    assert ours.dap_as_tidecv["both"] == pytest.approx(
        100 * 51 / 101 / 2
    )  # its class is gone, and with it a 0 from the mean
