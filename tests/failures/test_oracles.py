"""What if one thing were true, and the gap in parts."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.helpers.random_sets import judged_sets
from tests.helpers.shapes import SIDE, ground_truth, mask_of, shape
from vocseg_lib.data.coco import subset, validate_ground_truth, validate_results
from vocseg_lib.failures.oracles import (
    ORACLES,
    UNDETECTED,
    apply_oracles,
    gap_parts,
    single_oracles,
)
from vocseg_lib.metrics.average_precision import mean_ap
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.metrics.matching import evaluate_images, match_coco

SQUARE, OTHER = mask_of((10, 10, 20, 20)), mask_of((35, 10, 20, 20))


def dataset_eval_of(content, found):
    return evaluate_images(content, validate_results(content, found))


def ap(content, found, *oracles, kind="mask"):
    return mean_ap(match_coco(apply_oracles(dataset_eval_of(content, found), set(oracles)), kind))[
        0, 0
    ]


def test_true_classes():
    content = ground_truth(shape(SQUARE, 13), shape(OTHER, 15))
    found = [shape(SQUARE, 10, 0.9), shape(OTHER, 15, 0.8)]
    assert ap(content, found) == 50
    assert ap(content, found, "true classes") == 100


def test_true_masks_stay_in_the_predicted_box():
    content = ground_truth(shape(SQUARE))
    half = [
        shape(mask_of((10, 10, 20, 10)), score=0.9, box=(10, 10, 20, 16))
    ]  # IoU .5, in a box of IoU .8
    assert ap(content, half) == pytest.approx(10)
    assert ap(content, half, "true masks") == pytest.approx(
        70
    )  # .8 of the object is in the box: right up to IoU .8
    assert (
        ap(content, half, "true masks", kind="box")
        == ap(content, half, kind="box")
        == pytest.approx(70)
    )


def test_true_boxes_cut_the_mask_that_there_was_before_the_crop():
    content = ground_truth(shape(SQUARE))
    leak = mask_of((10, 10, 35, 20))
    found = [shape(leak, score=0.9)]
    assert ap(content, found, "true boxes") == 100
    cropped = shape(mask_of((10, 10, 20, 12)), score=0.9)
    assert ap(content, [cropped], "true boxes") == pytest.approx(
        30
    )  # what the crop took does not come back
    whole = {
        **cropped,
        **{
            k: v
            for k, v in shape(leak, score=0.9, uncropped=leak).items()
            if k == "segmentation_uncropped"
        },
    }
    assert ap(content, [whole], "true boxes") == 100
    assert ap(content, [whole], "true boxes", kind="box") == 100


def test_no_duplicates_and_no_false_alarms():
    content = ground_truth(shape(SQUARE), shape(OTHER))
    wrong = [
        shape(SQUARE, score=0.9),
        shape(SQUARE, score=0.8),
        shape(mask_of((0, 50, 8, 8)), score=0.7),
        shape(OTHER, score=0.6),
    ]
    assert ap(content, wrong) == pytest.approx(100 * (51 + 50 * 0.5) / 101)
    for oracle in ("no duplicates", "no false alarms"):
        assert ap(content, wrong, oracle) == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert ap(content, wrong, "no duplicates", "no false alarms") == 100


def test_single_oracles_of_perfect_and_of_no_predictions():
    content = ground_truth(shape(SQUARE, 13), shape(OTHER, 15), images=2)
    perfect = single_oracles(
        dataset_eval_of(content, [{**a, "score": 1.0} for a in content["annotations"]])
    )
    assert perfect.index.tolist() == ["baseline", *ORACLES, "all oracles"]
    assert (perfect == 100).all().all()
    assert (single_oracles(dataset_eval_of(content, [])) == 0).all().all()


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(judged_sets(most=5))
def test_parts_add_up_on_random_sets(pair):
    content, found = pair
    content = validate_ground_truth(content)
    if not any(not a["iscrowd"] for a in content["annotations"]):
        return
    first, second = (dataset_eval_of(content, found[k::2]) for k in range(2))
    parts = gap_parts(first, second).set_index("part")["points"]
    assert list(parts.index) == [*ORACLES, UNDETECTED, "gap"]
    assert parts.drop("gap").sum() == pytest.approx(parts["gap"], abs=1e-9)
    expected = mean_ap(match_coco(second))[0, 0] - mean_ap(match_coco(first))[0, 0]
    assert parts["gap"] == pytest.approx(expected, abs=1e-9)
    assert (gap_parts(first, first)["points"] == 0).all()


def test_a_gap_of_one_kind_has_one_part():
    content = ground_truth(shape(SQUARE, 13), shape(OTHER, 15))
    right = dataset_eval_of(content, [{**a, "score": 0.9} for a in content["annotations"]])
    wrong = dataset_eval_of(content, [shape(SQUARE, 10, 0.9), shape(OTHER, 9, 0.9)])
    parts = gap_parts(wrong, right).set_index("part")["points"]
    assert parts["true classes"] == pytest.approx(100)
    assert parts.drop(["true classes", "gap"]).abs().max() < 1e-9
    half = dataset_eval_of(content, [shape(SQUARE, 13, 0.9)])
    assert gap_parts(half, right).set_index("part")["points"][UNDETECTED] == pytest.approx(50)


def test_intervals_and_oracles_on_real_predictions(shared):
    content = validate_ground_truth(
        json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    )
    content = subset(content, range(1, 41))
    files = sorted((shared / "predictions").glob("*_mobilenet320.json"))
    dataset_eval = [
        dataset_eval_of(content, [d for d in json.loads(path.read_text()) if d["image_id"] <= 40])
        for path in files
    ]
    parts = gap_parts(*dataset_eval, bootstrap_weights(len(content["images"]), 20)).set_index(
        "part"
    )
    assert (parts["low"] <= parts["high"]).all()
    assert parts["points"].drop("gap").sum() == pytest.approx(parts["points"]["gap"], abs=1e-9)
    for one in dataset_eval:
        table = single_oracles(one)["mask AP"]
        assert table["all oracles"] > table.drop("all oracles").max()
        assert table["true masks"] > table["baseline"]


def test_uncropped_masks_as_large_as_the_image():
    content = ground_truth(shape(SQUARE))
    everything = torch.ones(SIDE, SIDE, dtype=torch.bool)
    found = [shape(mask_of((10, 10, 20, 12)), score=0.9, uncropped=everything)]
    assert ap(content, found, "true boxes") == 100
    assert np.isfinite(ap(content, found, *ORACLES))


def test_guesses_at_low_scores_change_no_part():
    content = ground_truth(shape(SQUARE, 13), shape(OTHER, 15))
    found = [shape(SQUARE, 13, 0.9)]
    guesses = [
        shape(mask_of((x, y, 15, 15)), label, 1e-4)
        for x in (0, 15, 30, 45)
        for y in (0, 15, 30)
        for label in (13, 15)
    ]
    parts = gap_parts(
        dataset_eval_of(content, found), dataset_eval_of(content, found + guesses), min_score=0.1
    )
    assert parts["points"].abs().max() < 1e-9


def test_what_comes_second_by_its_repair_is_gone_and_no_duplicate():
    content = ground_truth(shape(SQUARE))
    poor = shape(mask_of((10, 10, 20, 6)), score=0.8, box=(10, 10, 20, 20))
    found = [shape(SQUARE, score=0.9), poor, {**poor, "score": 0.7}]
    changed = apply_oracles(dataset_eval_of(content, found), {"true masks"})
    assert len(changed.image_evals[0].detections) == 1
    assert (
        len(
            apply_oracles(dataset_eval_of(content, found), {"no duplicates"})
            .image_evals[0]
            .detections
        )
        == 3
    )  # these were none
    ghost = [shape(SQUARE, score=0.9), shape(SQUARE, score=0.8)]
    assert (
        len(
            apply_oracles(dataset_eval_of(content, ghost), {"true masks"}).image_evals[0].detections
        )
        == 2
    )
    assert (
        len(
            apply_oracles(dataset_eval_of(content, ghost), {"true masks", "no duplicates"})
            .image_evals[0]
            .detections
        )
        == 1
    )


def test_unknown_oracles_and_other_images_are_named():
    content = ground_truth(shape(SQUARE))
    dataset_eval = dataset_eval_of(content, [])
    with pytest.raises(ValueError, match="no oracle true clases"):
        apply_oracles(dataset_eval, {"true clases"})
    with pytest.raises(ValueError, match="different images"):
        gap_parts(dataset_eval, dataset_eval_of(ground_truth(shape(SQUARE), images=2), []))
