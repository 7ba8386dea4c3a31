import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.coco import entry, ground_truth_of, rectangle
from tests.helpers.random_sets import on_random_sets
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.metrics.coco_eval import backends, evaluate
from vocseg_lib.metrics.table import KEYS, metrics_table
from vocseg_lib.metrics.voc_eval import voc_metrics
from vocseg_lib.utils.rle import encode_rle


def values_of(ground_truth, detections):
    return metrics_table(evaluate(ground_truth, detections)).set_index(KEYS)["value"]


def test_ap_by_hand():
    ground_truth = ground_truth_of(entry(1, 3, (0, 0, 10, 10)), entry(2, 3, (0, 0, 10, 10)))
    # Hit, false positive, hit with IoU .8: precision 1 up to recall .5, then 2/3.
    detections = [
        entry(1, 3, (0, 0, 10, 10), 0.9),
        entry(3, 3, (0, 0, 5, 5), 0.8),
        entry(2, 3, (0, 0, 10, 8), 0.7),
    ]
    summary = evaluate(ground_truth, detections).summary
    at_50, at_95 = 100 * (51 * 1 + 50 * 2 / 3) / 101, 100 * 51 / 101
    assert summary["mask_AP50"] == pytest.approx(at_50)
    assert summary["box_AP75"] == pytest.approx(at_50)
    assert summary["mask_AP"] == pytest.approx((7 * at_50 + 3 * at_95) / 10)


def test_perfect_predictions_score_exactly_100(devkit):
    ground_truth = voc_to_coco(devkit, "val")
    result = evaluate(ground_truth, [{**a, "score": 1.0} for a in ground_truth["annotations"]])
    assert set(result.summary.values()) == {100.0}
    assert result.per_class["instances"].sum() == len(ground_truth["annotations"])


def test_no_detections_is_zero_and_classes_without_objects_are_left_out():
    ground_truth = ground_truth_of(entry(1, 3, (0, 0, 10, 10)))
    assert set(evaluate(ground_truth, []).summary.values()) == {0.0}
    other_class = entry(1, 7, (3, 3, 9, 9), 0.99)
    result = evaluate(ground_truth, [entry(1, 3, (0, 0, 10, 10), 0.9), other_class])
    assert result.summary["mask_AP"] == pytest.approx(100)
    assert result.per_class["class"].tolist() == ["bird"]
    assert result.precision["mask"].shape == (10, 101, 1)
    nothing = evaluate({**ground_truth, "annotations": []}, [other_class])
    assert np.isnan(list(nothing.summary.values())).all()


def test_a_missing_box_is_the_masks():
    ground_truth, whole = ground_truth_of(entry(1, 3, (0, 0, 9, 9))), entry(1, 3, (0, 0, 9, 8), 0.9)
    without_box = {k: v for k, v in whole.items() if k != "bbox"}
    pd.testing.assert_series_equal(*(values_of(ground_truth, [d]) for d in (whole, without_box)))


@pytest.mark.skipif("hotcoco" not in backends(), reason="hotcoco is not installed")
@on_random_sets(60, most=80)
def test_backends_are_equal_to_the_last_bit(pair):
    first, second = (evaluate(*pair, backend=name) for name in ("hotcoco", "pycocotools"))
    pd.testing.assert_frame_equal(first.table, second.table, check_exact=True)
    for iou_type in first.iou_types:
        assert np.array_equal(first.precision[iou_type], second.precision[iou_type])


@on_random_sets(6, most=40)
def test_batches_change_nothing(pair):
    ground_truth, detections = pair
    mixed = [{k: v for k, v in d.items() if k != "bbox"} for d in detections[::2]]
    for dets in (detections, mixed, [*mixed, *detections[1::2]]):
        for name in backends():
            expected = evaluate(ground_truth, dets, backend=name).table
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("vocseg_lib.metrics.coco_eval.EVALUATED_TOGETHER", 3)
                table = evaluate(ground_truth, dets, backend=name).table
            pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="pycocotools"):
        evaluate(ground_truth_of(), [], backend="other")


@on_random_sets(10, st.randoms(), void=True)
def test_the_order_of_images_changes_nothing(pair, random):
    ground_truth, detections = pair
    for number, detection in enumerate(detections):  # ties are in the order of the file
        detection["score"] = 1 - number / 1_000
    images = random.sample(ground_truth["images"], len(ground_truth["images"]))
    shuffled = random.sample(detections, len(detections))
    pd.testing.assert_series_equal(
        values_of(ground_truth, detections), values_of({**ground_truth, "images": images}, shuffled)
    )


def with_duplicate(detections, random):
    """Detections without and with a duplicate of one at a lower score."""
    original = random.choice(detections)
    duplicate = {**original, "score": original["score"] * random.random()}
    return detections, [*detections, duplicate]


@on_random_sets(25, st.randoms())
def test_a_duplicate_never_raises_vocs_ap(pair, random):
    if pair[1]:
        for kind in ("mask", "box"):
            evaluations = [evaluate(pair[0], d) for d in with_duplicate(pair[1], random)]
            before, after = (voc_metrics(e.voc_matches(kind)) for e in evaluations)
            for name, values in before.items():
                assert (after[name] <= values + 1e-9)[~np.isnan(values)].all()


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(random=st.randoms())
def test_a_duplicate_never_raises_cocos_ap_of_separate_masks(devkit, random):
    # Where objects overlap, COCO gives a duplicate to a free one.
    ground_truth = voc_to_coco(devkit, "val")
    kept = random.sample(ground_truth["annotations"], len(ground_truth["annotations"]) // 2)
    detections = [{**a, "score": random.random()} for a in kept]
    detections += [
        {**d, "category_id": random.randint(1, 20), "score": random.random()} for d in detections
    ]
    evaluations = [evaluate(ground_truth, d) for d in with_duplicate(detections, random)]
    before, after = (e.table.set_index(KEYS)["value"].fillna(0) for e in evaluations)
    ap = [key for key in before.index if "AP" in key[1] and key[0] == "mask"]
    assert (after[ap] <= before[ap] + 1e-9).all()


def test_void_pixels_are_ignored():
    ground_truth = ground_truth_of(entry(1, 3, (0, 0, 10, 10)))
    (void,) = encode_rle(torch.ones(1, 20, 20) - rectangle(0, 0, 10, 10))
    ground_truth["images"][0]["void"] = void
    sloppy, outside = entry(1, 3, (0, 0, 20, 20), 0.9), entry(1, 3, (12, 12, 5, 5), 0.95)
    values = values_of(ground_truth, [sloppy, outside])
    assert values["mask", "AP", "all"] == 0  # IoU 100 / 400
    assert values["mask", "AP_without_void", "all"] == pytest.approx(100)
    assert values["mask", "AP75_without_void", "bird"] == pytest.approx(100)
