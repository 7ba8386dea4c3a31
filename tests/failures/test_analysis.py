"""The whole analysis: counts, prices in AP and sentences."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.helpers.random_sets import judged_sets
from tests.helpers.shapes import ground_truth, mask_of, shape
from vocseg_lib.data.coco import validate_ground_truth, validate_results
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.explain import explain_failure
from vocseg_lib.failures.mask_errors import Thresholds
from vocseg_lib.failures.tables import AREA_LIMITS, CASE_TYPES, DETECTED, FAILURES, LOST
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import evaluate_images, match_coco, mean_ap

LEFT, RIGHT, FAR = mask_of((5, 5, 20, 20)), mask_of((25, 5, 20, 20)), mask_of((5, 40, 12, 12))


def count(analysis, family="pixels", column="count", **scope):
    table = analysis.table
    scope = {"class": "all", "size": "all"} | scope
    kept = (
        (table["family"] == family)
        & (table["class"] == scope["class"])
        & (table["size"] == scope["size"])
    )
    return table[kept].set_index("type")[column].to_dict()


@pytest.fixture
def hand_made():
    """Each failure a known number of times, an image each."""
    person, horse = 15, 13
    objects = [
        *(shape(m, person, image=1) for m in (LEFT, RIGHT)),  # 1: one mask on both
        *(
            shape(m, person, image=2) for m in (LEFT, RIGHT)
        ),  # 2: a leak of the left one on the right one
        shape(LEFT, person, image=3),  # 3: coarse
        shape(LEFT, person, image=4),  # 4: a hole
        *(shape(m, person, image=5) for m in (LEFT, RIGHT)),  # 5: the right one missed in a crowd
        *(
            shape(m, k, image=6) for m, k in ((LEFT, person), (FAR, horse))
        ),  # 6: the horse missed, alone
        *(shape(LEFT, k, image=7) for k in (horse,)),  # 7: taken for a cow
        shape(LEFT, person, image=8),  # 8: found twice, and something in nothing
    ]
    leak, coarse = mask_of((5, 5, 29, 20)), mask_of((7, 7, 16, 16))
    found = [
        shape(LEFT | RIGHT, person, 0.9, image=1),
        shape(leak, person, 0.9, box=(5, 5, 20, 20), image=2),
        shape(RIGHT, person, 0.9, image=2),
        shape(coarse, person, 0.9, image=3),
        shape(mask_of((5, 5, 20, 20), minus=[(9, 9, 12, 12)]), person, 0.9, image=4),
        shape(LEFT, person, 0.9, image=5),
        shape(LEFT, person, 0.9, image=6),
        shape(LEFT, 10, 0.9, image=7),
        shape(LEFT, person, 0.9, image=8),
        shape(LEFT, person, 0.8, image=8),
        shape(FAR, person, 0.7, image=8),
        shape(FAR, person, 0.05, image=3),
    ]
    return ground_truth(*objects, images=8), found


def test_costs_in_resamples(hand_made):
    ground_truth, found = hand_made
    analysis = analyze(ground_truth, found)
    without_the_first = np.r_[0.0, np.ones(7)]
    fewer = {
        key: [e for e in ground_truth[key] if e.get("image_id", e["id"]) != 1]
        for key in ("images", "annotations")
    }
    fewer = analyze(ground_truth | fewer, [d for d in found if d["image_id"] != 1])
    costs = analysis.resampled_dap(np.array([np.ones(8), without_the_first]))
    for family, name in costs:
        here, there = (count(a, family, "dAP")[name] for a in (analysis, fewer))
        assert costs[family, name].tolist() == pytest.approx([here, here, there]), (family, name)
    assert (
        costs["pixels", "localization failure"][0] > costs["pixels", "localization failure"][2] == 0
    )


def test_each_failure_is_counted_once(hand_made):
    analysis = analyze(*hand_made, score_threshold=0.1)
    assert count(analysis) == {
        "localization failure": 1,
        "leakage": 1,
        "boundary": 1,
        "incomplete": 1,
        LOST: 1,
        "missed in a crowd": 1,
        "missed alone": 1,
    }
    masks = {"class": 1, "localization": 0, "both": 0, "duplicate": 1, "background": 1, "missed": 3}
    assert count(analysis, "TIDE, masks") == masks
    assert count(analysis, "TIDE, boxes") == masks
    assert count(analyze(*hand_made), "TIDE, masks")["background"] == 2
    assert count(analysis, **{"class": "horse"})["missed alone"] == 1
    assert count(analysis, size="small")["localization failure"] == 1
    assert count(analysis, size="large")["localization failure"] == 0
    rates = count(analysis, column="rate")
    assert rates["leakage"] == pytest.approx(100 / 11)
    assert rates["missed alone"] == pytest.approx(100 / 12)


def test_cases_say_where_and_what(hand_made):
    analysis = analyze(*hand_made, score_threshold=0.1)
    cases = analysis.cases[analysis.cases["family"] != "TIDE, boxes"].set_index("type")
    assert set(CASE_TYPES) - {"localization", "both"} <= set(cases.index)
    images = {
        kind: cases.loc[[kind], "image_id"].tolist()
        for kind in ("localization failure", "leakage", "missed alone", "class")
    }
    assert images == {
        "localization failure": [1],
        "leakage": [2],
        "missed alone": [6],
        "class": [7],
    }
    words = {
        kind: explain_failure(
            analysis, cases.loc[[kind]].iloc[0].rename_axis("x").pipe(with_type, kind)
        )
        for kind in cases.index
    }
    assert words["localization failure"].startswith(
        "Foreground, not an object: the mask of the person of score 0.90 covers 2 objects"
    )
    assert (
        "IoU 1.00 with all of them, 0.50 with the best single one; 1 of them is lost"
        in words["localization failure"]
    )
    assert (
        "31 % of the mask of the person of score 0.90 lies outside the object, 31 % on other objects"
        in words["leakage"]
    )
    assert "has IoU 0.64; 36 of 36 points are lost in the band" in words["boundary"]
    assert (
        "leaves out a part of the object: 36 of 36 points are lost in it, IoU 0.64"
        in words["incomplete"]
    )
    assert "is on a horse, IoU 1.00" in words["class"]
    assert "better one detects, IoU 1.00" in words["duplicate"]
    assert "overlaps no object by more than 0.00" in words["background"]
    assert (
        words["missed alone"]
        == "Not found: a horse of 144 pixels; no other object of its class is in the image."
    )
    assert (
        words["missed in a crowd"]
        == "Not found: a person of 400 pixels; another of its class is near."
    )


def with_type(row, kind):
    row["type"] = kind
    return row


def test_a_repair_brings_back_what_it_should():
    both = ground_truth(shape(LEFT), shape(RIGHT))
    one_for_both = analyze(both, [shape(LEFT | RIGHT, score=0.9)])
    before = mean_ap(match_coco(one_for_both.dataset_eval))[0, 0]
    assert before == pytest.approx(
        100 * 51 / 101 / 10
    )  # right at IoU .5 alone, about one of the two
    costs = count(one_for_both, column="dAP")
    assert costs["localization failure"] == pytest.approx(100 - before)
    assert costs[LOST] == pytest.approx(
        10 - before
    )  # without the lost object, all there is was found, at IoU .5
    coarse = analyze(ground_truth(shape(LEFT)), [shape(mask_of((7, 7, 16, 16)), score=0.9)])
    assert count(coarse, column="dAP")["boundary"] == pytest.approx(
        100 - 30
    )  # IoU .64: right at .5, .55 and .6
    assert count(coarse, column="dAP", size="small")["boundary"] == pytest.approx(70)
    assert count(coarse, column="dAP")["leakage"] == 0


def test_thresholds_move_what_counts(hand_made):
    strict = Thresholds(
        min_leakage=0.6, min_iou_loss=0.5, min_union_iou=0.99, min_iou_gain=0.5, crowd_distance=0.0
    )
    counted = count(analyze(*hand_made, 0.1, strict))
    assert (
        counted["leakage"]
        == counted["boundary"]
        == counted["incomplete"]
        == counted["localization failure"]
        == 0
    )
    assert (
        count(analyze(*hand_made, 0.1, Thresholds(crowd_distance=0.0)))["missed in a crowd"] == 1
    )  # they touch
    apart = ground_truth(shape(LEFT), shape(FAR))
    assert count(analyze(apart, [shape(LEFT, score=0.9)]))["missed alone"] == 1
    assert (
        count(analyze(apart, [shape(LEFT, score=0.9)], thresholds=Thresholds(crowd_distance=2.0)))[
            "missed in a crowd"
        ]
        == 1
    )


def test_perfect_predictions_fail_nowhere_and_none_miss_all(hand_made):
    content, _ = hand_made
    perfect = analyze(content, [{**a, "score": 1.0} for a in content["annotations"]])
    assert perfect.cases.empty
    assert set(perfect.at_threshold.objects["state"]) == {DETECTED}
    assert perfect.table["dAP"].dropna().abs().max() == 0
    nothing = analyze(content, [])
    assert nothing.at_threshold.objects["state"].str.startswith("missed").all()
    assert count(nothing, "TIDE, masks")["missed"] == len(content["annotations"])


def test_empty_ground_truth_and_images_without_objects():
    alone = analyze(ground_truth(images=2), [shape(LEFT, score=0.9)])
    assert count(alone, "TIDE, masks")["background"] == 1
    assert alone.at_threshold.objects.empty
    assert not analyze(
        ground_truth(shape(LEFT, image=2), images=2), [shape(LEFT, score=0.9, image=1)]
    ).cases.empty


def test_boxes_alone_are_refused_by_name():
    boxes = [{"image_id": 1, "category_id": 15, "score": 0.5, "bbox": [0, 0, 5, 5]}]
    with pytest.raises(ValueError, match="detection 0 has no mask"):
        analyze(ground_truth(shape(LEFT)), boxes)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(judged_sets(void=True))
def test_ap_is_cocos_and_tables_hold_together_on_random_sets(pair):
    content, found = pair
    content = validate_ground_truth(content)
    found = validate_results(content, found)
    if not any("segmentation" in d for d in found):
        return
    dataset_eval = evaluate_images(content, found)
    result = evaluate(content, found, "pycocotools")
    for kind in ("mask", "box"):
        ours = mean_ap(match_coco(dataset_eval, kind))[0, 0]
        assert ours == pytest.approx(result.summary[f"{kind}_AP"], abs=1e-9, nan_ok=True)
    analysis = analyze(content, found, score_threshold=0.3)
    table, facts = analysis.table, analysis.at_threshold
    assert len(facts.detections) <= sum(d["score"] >= 0.3 for d in found)
    by_size = (
        table[(table["class"] == "all") & (table["size"] != "all")]
        .groupby(["family", "type"])["count"]
        .sum()
    )
    by_class = table[table["class"] != "all"].groupby(["family", "type"])["count"].sum()
    overall = table[(table["class"] == "all") & (table["size"] == "all")].set_index(
        ["family", "type"]
    )["count"]
    assert (
        by_size.reindex(overall.index).tolist()
        == overall.tolist()
        == by_class.reindex(overall.index).tolist()
    )
    assert [
        len(facts.objects[facts.objects["state"] == name]) for name in FAILURES[-3:]
    ] == overall["pixels"][list(FAILURES[-3:])].tolist()
    for _, case in analysis.cases.head(40).iterrows():
        assert explain_failure(analysis, case).endswith(".")


def test_real_predictions_show_each_failure(shared):
    content = json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    seen = {}
    for path in sorted((shared / "predictions").glob("*_mobilenet320.json")):
        analysis = analyze(content, json.loads(path.read_text()), score_threshold=0.1)
        for name, number in (
            analysis.cases[analysis.cases["family"] != "TIDE, boxes"]["type"].value_counts().items()
        ):
            seen[name] = seen.get(name, 0) + number
        sizes = analysis.at_threshold.objects["size"].value_counts()
        assert sizes.sum() == len(content["annotations"])
        assert set(sizes.index) <= set(AREA_LIMITS)
    assert all(seen.get(name, 0) >= 3 for name in CASE_TYPES), seen


def test_masks_before_the_crop_are_checked():
    content = ground_truth(shape(LEFT))
    found = shape(LEFT, score=0.9, uncropped=torch.ones(60, 60, dtype=torch.bool))
    assert np.isfinite(analyze(content, [found]).measures["leakage_before_crop"].item())
    torn = {**found, "segmentation_uncropped": {**found["segmentation_uncropped"], "counts": "0"}}
    with pytest.raises(
        ValueError,
        match="segmentation_uncropped of detection 0 has a mask whose run-length code is damaged",
    ):
        analyze(content, [torn])
    with pytest.raises(
        ValueError, match="segmentation_uncropped of detection 0 has a mask of size"
    ):
        analyze(content, [{**found, "segmentation_uncropped": {"size": [5, 5], "counts": "0"}}])


def test_price_of_tides_errors_by_class_and_size():
    large, side = mask_of((5, 5, 50, 50)), {"person": 15, "horse": 13}
    objects = [
        shape(LEFT, side["person"]),
        shape(LEFT, side["horse"], image=2),
        shape(large, side["horse"], image=3),
    ]
    found = [
        shape(LEFT, side["person"], 0.9),
        shape(LEFT, side["person"], 0.5, image=2),  # a small horse, taken for a person
        shape(large, side["horse"], 0.9, image=3),
    ]
    analysis = analyze(ground_truth(*objects, images=3), found)
    half = 100 * 51 / 101  # one of two horses

    def cost(**scope):
        return count(analysis, "TIDE, masks", "dAP", **scope)["class"]

    assert cost(**{"class": "horse"}) == pytest.approx(100 - half)
    assert cost(**{"class": "person"}) == 0  # the wrong one came after the right one
    assert cost() == pytest.approx((100 - half) / 2)
    assert cost(size="small") == pytest.approx(
        50
    )  # of small ones, the person is found, the horse is not
    assert cost(size="medium") == 0
    assert count(analysis, "TIDE, masks", "dAP", size="medium")["missed"] == 0


def test_price_of_coarse_masks_by_class_and_size():
    large, coarse = mask_of((5, 5, 50, 50)), mask_of((7, 7, 16, 16))
    objects = [shape(LEFT, 15), shape(LEFT, 13, image=2), shape(large, 13, image=3)]
    found = [shape(LEFT, 15, 0.9), shape(coarse, 13, 0.9, image=2), shape(large, 13, 0.8, image=3)]
    analysis = analyze(ground_truth(*objects, images=3), found)
    by_class = {
        name: count(analysis, column="dAP", **{"class": name})["boundary"]
        for name in ("person", "horse")
    }
    assert by_class["person"] == 0
    assert by_class["horse"] > 20
    assert count(analysis, column="dAP")["boundary"] == pytest.approx(by_class["horse"] / 2)
    assert count(analysis, column="dAP", size="small")["boundary"] == pytest.approx(
        70 / 2
    )  # IoU .64: right at three of ten
    assert count(analysis, column="dAP", size="medium")["boundary"] == 0


def test_the_worst_come_first():
    leaks = [mask_of((5, 5, 20 + more, 20)) for more in (8, 16, 12)]
    objects = [shape(LEFT, image=k) for k in (1, 2, 3)]
    found = [shape(leak, 15, 0.9, box=(5, 5, 20, 20), image=k) for k, leak in enumerate(leaks, 1)]
    cases = analyze(ground_truth(*objects, images=3), found).cases
    assert cases[cases["type"] == "leakage"]["image_id"].tolist() == [2, 3, 1]
    surer = [{**d, "score": s} for d, s in zip(found, (0.9, 0.1, 0.2), strict=True)]
    cases = analyze(ground_truth(*objects, images=3), surer).cases
    assert cases[cases["type"] == "leakage"]["image_id"].tolist() == [1, 3, 2]
    missed = analyze(
        ground_truth(shape(FAR), shape(LEFT, 13), shape(RIGHT, 10, image=2), images=2), []
    ).cases
    assert (
        missed[missed["type"] == "missed alone"]["class"].tolist()[-1] == "person"
    )  # the smallest


def test_hundreds_of_detections_in_one_image():
    content = ground_truth(shape(LEFT), shape(RIGHT, 13))
    found = [
        shape(m, k, 0.5 + s / 1000)
        for s in range(99)
        for m, k in ((LEFT, 15), (RIGHT, 13), (FAR, 10))
    ]
    analysis = analyze(content, found)
    assert len(analysis.at_threshold.detections) == 297
    assert count(analysis, "TIDE, masks")["duplicate"] == 65  # of the 100 that TIDE looks at
    assert analysis.table["count"].sum() > 0
