"""Oracles, and the AP gap by its causes."""

from itertools import product

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.helpers.random_sets import on_random_sets
from tests.helpers.shapes import EVERYWHERE, dataset_eval, ground_truth, mask_of, perfect, shape
from vocseg_lib.data.coco_validation import subset
from vocseg_lib.failures import oracles
from vocseg_lib.failures.oracles import ORACLES, OTHER, UNDETECTED, apply_oracles
from vocseg_lib.metrics.average_precision import mean_ap
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.metrics.matching import match_coco

SQUARE, RIGHT = mask_of((10, 10, 20, 20)), mask_of((35, 10, 20, 20))
ONE = ground_truth(shape(SQUARE))
TWO_CLASSES = ground_truth(shape(SQUARE, 13), shape(RIGHT, 15))


def ap(content, detections, *oracles, kind="mask"):
    changed = apply_oracles(dataset_eval(content, detections), set(oracles))
    return mean_ap(match_coco(changed, kind))[0, 0]


def points(first, second, **options):
    return oracles.gap_parts(first, second, **options).set_index("part")["points"]


def test_true_classes():
    detections = [shape(SQUARE, 10, 0.9), shape(RIGHT, 15, 0.8)]
    assert ap(TWO_CLASSES, detections) == 50
    assert ap(TWO_CLASSES, detections, "true classes") == 100


def test_true_masks_stay_in_the_predicted_box():
    # IoU .5, in a box of IoU .8.
    half = [shape(mask_of((10, 10, 20, 10)), score=0.9, box=(10, 10, 20, 16))]
    assert ap(ONE, half) == pytest.approx(10)
    # .8 of the object is in the box: a true positive up to IoU .8.
    assert ap(ONE, half, "true masks") == pytest.approx(70)
    boxes = ap(ONE, half, kind="box"), ap(ONE, half, "true masks", kind="box")
    assert boxes == pytest.approx((70, 70))


def test_true_boxes_crop_the_uncropped_mask():
    leak = mask_of((10, 10, 35, 20))
    assert ap(ONE, [shape(leak, score=0.9)], "true boxes") == 100
    # What the crop took does not come back, unless the file has the mask before it.
    cropped = mask_of((10, 10, 20, 12))
    assert ap(ONE, [shape(cropped, score=0.9)], "true boxes") == pytest.approx(30)
    for uncropped in (leak, EVERYWHERE):
        whole = [shape(cropped, score=0.9, uncropped=uncropped)]
        assert ap(ONE, whole, "true boxes") == 100
        assert ap(ONE, whole, "true boxes", kind="box") == 100
        assert np.isfinite(ap(ONE, whole, *ORACLES))


def test_no_duplicates_and_no_false_alarms():
    content, background = ground_truth(shape(SQUARE), shape(RIGHT)), mask_of((0, 50, 8, 8))
    masks = (SQUARE, 0.9), (SQUARE, 0.8), (background, 0.7), (RIGHT, 0.6)
    detections = [shape(mask, score=score) for mask, score in masks]
    assert ap(content, detections) == pytest.approx(100 * (51 + 50 * 0.5) / 101)
    for oracle in ("no duplicates", "no false alarms"):
        assert ap(content, detections, oracle) == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert ap(content, detections, "no duplicates", "no false alarms") == 100


def test_single_oracles_of_perfect_and_of_no_predictions():
    table = oracles.single_oracles(dataset_eval(TWO_CLASSES, perfect(TWO_CLASSES)))
    assert table.index.tolist() == ["baseline", *ORACLES, "all oracles"]
    assert (table == 100).all().all()
    assert (oracles.single_oracles(dataset_eval(TWO_CLASSES, [])) == 0).all().all()


@on_random_sets(8, most=5)
def test_parts_sum_to_the_gap_on_random_sets(pair):
    content, detections = pair
    if not any(not a["iscrowd"] for a in content["annotations"]):
        return
    first, second = (dataset_eval(content, detections[k::2]) for k in range(2))
    parts = points(first, second)
    assert list(parts.index) == [*ORACLES, UNDETECTED, "gap"]
    assert parts.drop("gap").sum() == pytest.approx(parts["gap"], abs=1e-9)
    expected = mean_ap(match_coco(second))[0, 0] - mean_ap(match_coco(first))[0, 0]
    assert parts["gap"] == pytest.approx(expected, abs=1e-9)
    assert (points(first, first) == 0).all()


def test_a_gap_with_one_cause_has_one_part():
    right = dataset_eval(TWO_CLASSES, perfect(TWO_CLASSES))
    wrong = dataset_eval(TWO_CLASSES, [shape(SQUARE, 10, 0.9), shape(RIGHT, 9, 0.9)])
    parts = points(wrong, right)
    assert parts["true classes"] == pytest.approx(100)
    assert parts.drop(["true classes", "gap"]).abs().max() < 1e-9
    half = dataset_eval(TWO_CLASSES, [shape(SQUARE, 13, 0.9)])
    assert points(half, right)[UNDETECTED] == pytest.approx(50)


@on_random_sets(5, most=5)
def test_parts_of_two_oracles_are_means_over_both_orders(pair):
    content, detections = pair
    if not any(not a["iscrowd"] for a in content["annotations"]):
        return
    evals = [dataset_eval(content, detections[k::2]) for k in range(2)]
    two = "true masks", "no false alarms"

    def gap(*applied):
        first, second = (mean_ap(match_coco(apply_oracles(e, {*applied})))[0, 0] for e in evals)
        return second - first

    parts = points(*evals, oracles=two)
    assert list(parts.index) == [*two, OTHER, "gap"]
    for name, other in (two, two[::-1]):
        orders = gap() - gap(name), gap(other) - gap(*two)
        assert parts[name] == pytest.approx(np.mean(orders), abs=1e-9)
    assert parts[OTHER] == pytest.approx(gap(*two), abs=1e-9)


def test_fixed_shapes():
    content = ground_truth(shape(SQUARE), shape(RIGHT))
    cut = shape(mask_of((10, 10, 20, 12)), score=0.9, uncropped=EVERYWHERE)
    evals = dataset_eval(content, [cut, shape(RIGHT, score=0.8)])
    (target,) = (assigned.object for assigned in oracles.assign(evals))
    boxes, masks = oracles.fix_shapes(evals, evals.image_evals[0], target, {"true boxes"})
    assert (target.tolist(), boxes[0]) == ([0, 1], [10, 10, 20, 20])
    assert np.array_equal(coco_mask.decode(masks[0]), SQUARE.numpy())
    assert oracles.fix_shapes(evals, evals.image_evals[0], target - 2, set()) == ([], [])


def test_intervals_and_oracles_on_real_predictions(real_predictions):
    content, models = real_predictions
    content = subset(content, range(1, 41))
    models = ([d for d in detections if d["image_id"] <= 40] for detections in models.values())
    evals = [dataset_eval(content, detections) for detections in models]
    parts = oracles.gap_parts(*evals, bootstrap_weights(len(content["images"]), 20)).set_index(
        "part"
    )
    assert (parts["low"] <= parts["high"]).all()
    assert parts["points"].drop("gap").sum() == pytest.approx(parts["points"]["gap"], abs=1e-9)
    for evaluation in evals:
        table = oracles.single_oracles(evaluation)["mask AP"]
        assert table["all oracles"] > table.drop("all oracles").max()
        assert table["true masks"] > table["baseline"]


def test_detections_below_the_score_change_no_part():
    detections, grid = [shape(SQUARE, 13, 0.9)], product((0, 15, 30, 45), (0, 15, 30), (13, 15))
    guesses = [shape(mask_of((x, y, 15, 15)), label, 1e-4) for x, y, label in grid]
    evals = (dataset_eval(TWO_CLASSES, some) for some in (detections, detections + guesses))
    assert points(*evals, min_score=0.1).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("masks", "oracles", "left"),
    [
        # Two poor masks of an object: no duplicates, but dropped once they would be on it.
        ([SQUARE, mask_of((10, 10, 20, 6)), mask_of((10, 10, 20, 6))], {"true masks"}, 1),
        ([SQUARE, mask_of((10, 10, 20, 6)), mask_of((10, 10, 20, 6))], {"no duplicates"}, 3),
        ([SQUARE, SQUARE], {"true masks"}, 2),
        ([SQUARE, SQUARE], {"true masks", "no duplicates"}, 1),
    ],
)
def test_one_fix_per_object(masks, oracles, left):
    box, scores = (10, 10, 20, 20), (0.9, 0.8, 0.7)
    detections = [shape(m, score=s, box=box) for m, s in zip(masks, scores, strict=False)]
    changed = apply_oracles(dataset_eval(ONE, detections), oracles)
    assert len(changed.image_evals[0].detections) == left


def test_unknown_oracles_and_other_images_are_errors():
    data = dataset_eval(ONE, [])
    with pytest.raises(ValueError, match="true clases"):
        apply_oracles(data, {"true clases"})
    with pytest.raises(ValueError, match="images"):
        oracles.gap_parts(data, dataset_eval(ground_truth(shape(SQUARE), images=2), []))
