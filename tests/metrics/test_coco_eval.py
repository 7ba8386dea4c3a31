import contextlib
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.coco import entry, rectangle, truth_of
from tests.helpers.random_sets import judged_sets
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.metrics.coco_eval import IOU_TYPES, backends, evaluate, metrics_table
from vocseg_lib.metrics.semantic import mean_iou
from vocseg_lib.utils.rle import encode_rle


def test_ap_by_hand():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)), entry(2, 3, (0, 0, 10, 10)))
    # Found, false alarm, found with IoU .8: precision 1 up to recall .5, then 2/3.
    found = [
        entry(1, 3, (0, 0, 10, 10), 0.9),
        entry(3, 3, (0, 0, 5, 5), 0.8),
        entry(2, 3, (0, 0, 10, 8), 0.7),
    ]
    summary = evaluate(truth, found).summary
    at_50 = 100 * (51 * 1 + 50 * 2 / 3) / 101
    at_95 = 100 * 51 / 101
    assert summary["mask_AP50"] == pytest.approx(at_50)
    assert summary["box_AP75"] == pytest.approx(at_50)
    assert summary["mask_AP"] == pytest.approx((7 * at_50 + 3 * at_95) / 10)


def test_perfect_predictions_score_exactly_100(devkit):
    truth = voc_to_coco(devkit, "val")
    found = [{**a, "score": 1.0} for a in truth["annotations"]]
    result = evaluate(truth, found)
    assert set(result.summary.values()) == {100.0}
    assert len(result.per_class) == len({a["category_id"] for a in truth["annotations"]})


def test_no_detections_is_zero_and_classes_without_objects_are_left_out():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)))
    result = evaluate(truth, [])
    assert set(result.summary.values()) == {0.0}
    with_other_class = [entry(1, 3, (0, 0, 10, 10), 0.9), entry(1, 7, (3, 3, 9, 9), 0.99)]
    result = evaluate(truth, with_other_class)
    assert result.summary["mask_AP"] == pytest.approx(100)
    assert result.per_class["class"].tolist() == ["bird"]
    assert result.precision["mask"].shape == (10, 101, 1)


def test_unknown_images_and_categories_are_errors_that_name_the_entry():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)))
    with pytest.raises(ValueError, match="detection 1 has image_id 9"):
        evaluate(truth, [entry(1, 3, (0, 0, 9, 9), 0.5), entry(9, 3, (0, 0, 9, 9), 0.5)])
    with pytest.raises(ValueError, match="detection 0 has category_id 21"):
        evaluate(truth, [entry(1, 21, (0, 0, 9, 9), 0.5)])


def test_a_missing_box_is_the_masks():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)))
    whole = entry(1, 3, (0, 0, 10, 10), 0.9)
    without_box = {k: v for k, v in whole.items() if k != "bbox"}
    assert evaluate(truth, [without_box]).summary == evaluate(truth, [whole]).summary


def by_the_book(truth, detections, coco_kind):
    """pycocotools' twelve figures, in percent, NaN where it says -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        found = coco.loadRes(json.loads(json.dumps(detections)))
        judge = COCOeval(coco, found, coco_kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.where(judge.stats < 0, np.nan, 100 * judge.stats)


def overall(evaluation, kind):
    table = evaluation.table
    return table[(table["kind"] == kind) & (table["class"] == "all")]["value"].to_numpy()


@settings(deadline=None, max_examples=60)
@given(judged_sets())
def test_the_twelve_figures_are_pycocotools(judged):
    truth, found = judged
    evaluation = evaluate(truth, found)
    for kind, coco_kind in IOU_TYPES.items():
        if found:  # pycocotools cannot load none
            assert overall(evaluation, kind) == pytest.approx(
                by_the_book(truth, found, coco_kind), abs=1e-9, nan_ok=True
            )


@pytest.mark.skipif("hotcoco" not in backends(), reason="hotcoco is not installed")
@settings(deadline=None, max_examples=60)
@given(judged_sets(most=80))
def test_backends_are_equal_to_the_last_bit(judged):
    ours, reference = (evaluate(*judged, backend=name) for name in ("hotcoco", "pycocotools"))
    pd.testing.assert_frame_equal(ours.table, reference.table, check_exact=True)
    for kind in IOU_TYPES:
        assert np.array_equal(ours.precision[kind], reference.precision[kind])
        assert np.array_equal(ours.scores[kind], reference.scores[kind])
        for size in SIZES:
            one, other = ours.matches[kind][size], reference.matches[kind][size]
            for field in ("image", "category", "score", "true_positive", "ignored", "num_gt"):
                assert np.array_equal(getattr(one, field), getattr(other, field)), (
                    kind,
                    size,
                    field,
                )
    with pytest.raises(ValueError, match="no evaluator 'other'"):
        evaluate(*judged, backend="other")


def figures_of(truth, found):
    return metrics_table(evaluate(truth, found)).set_index(["kind", "metric", "class"])["value"]


@settings(deadline=None, max_examples=25)
@given(judged_sets(void=True), st.randoms())
def test_the_order_of_images_changes_nothing(judged, random):
    truth, found = judged
    for number, detection in enumerate(found):  # without ties, whose order is that of the images
        detection["score"] = 1 - number / 1_000
    shuffled = {**truth, "images": random.sample(truth["images"], len(truth["images"]))}
    pd.testing.assert_series_equal(
        figures_of(truth, found), figures_of(shuffled, random.sample(found, len(found)))
    )


@settings(deadline=None, max_examples=25)
@given(judged_sets(), st.randoms())
def test_a_duplicate_never_raises_vocs_ap(judged, random):
    truth, found = judged
    if found:
        original = random.choice(found)
        before, after = (
            figures_of(truth, f)
            for f in (found, [*found, {**original, "score": original["score"] * random.random()}])
        )
        judged_by_voc = [key for key in before.index if key[1].startswith("voc")]
        assert (after[judged_by_voc].fillna(0) <= before[judged_by_voc].fillna(0) + 1e-9).all()


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(random=st.randoms())
def test_a_duplicate_never_raises_cocos_ap_of_masks_that_are_apart(devkit, random):
    truth = voc_to_coco(
        devkit, "val"
    )  # where no object lies on another: COCO gives a duplicate to a free one
    kept = random.sample(truth["annotations"], len(truth["annotations"]) // 2)
    found = [
        {k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": random.random()}
        for a in kept
    ]
    found += [{**d, "category_id": random.randint(1, 20), "score": random.random()} for d in found]
    original = random.choice(found)
    before, after = (
        figures_of(truth, f)
        for f in (found, [*found, {**original, "score": original["score"] * random.random()}])
    )
    ap = [key for key in before.index if "AP" in key[1] and key[0] == "mask"]
    assert (after[ap].fillna(0) <= before[ap].fillna(0) + 1e-9).all()


def test_void_pixels_count_for_nobody():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)))
    (truth["images"][0]["void"],) = encode_rle(torch.ones(1, 20, 20) - rectangle(0, 0, 10, 10))
    sloppy, outside = entry(1, 3, (0, 0, 20, 20), 0.9), entry(1, 3, (12, 12, 5, 5), 0.95)
    values = metrics_table(evaluate(truth, [sloppy, outside])).set_index(
        ["kind", "metric", "class"]
    )["value"]
    assert values["mask", "AP", "all"] == 0  # IoU 100 / 400
    assert values["mask", "AP_without_void", "all"] == pytest.approx(100)
    assert values["mask", "AP75_without_void", "bird"] == pytest.approx(100)


def test_mean_iou_by_hand():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)), images=1)
    found = [
        entry(1, 3, (0, 0, 10, 5), 0.9),
        entry(1, 7, (0, 0, 10, 10), 0.6),
        entry(1, 5, (0, 0, 20, 20), 0.4),
    ]
    values = mean_iou(truth, found).set_index("class")["value"]
    # Bird keeps its half, the other half is painted as a car; what scores below .5 is not painted.
    assert values.to_dict() == pytest.approx({"all": 50, "background": 100, "bird": 50, "car": 0})
    (truth["images"][0]["void"],) = encode_rle(rectangle(0, 5, 10, 5))
    values = mean_iou(truth, found).set_index("class")["value"]
    assert values.to_dict() == pytest.approx({"all": 100, "background": 100, "bird": 100})


@pytest.mark.parametrize(
    "name", ["yolact_official_mobilenet320", "mask_rcnn_torchvision_mobilenet320"]
)
def test_equals_pycocotools_used_by_the_book(shared, name):
    truth = shared / "predictions" / "voc2012_val_gt.json"
    detections = json.loads((shared / "predictions" / f"{name}.json").read_text())
    truth = json.loads(truth.read_text())
    ours = evaluate(truth, detections)
    for kind, coco_kind in IOU_TYPES.items():
        assert np.array_equal(overall(ours, kind), by_the_book(truth, detections, coco_kind))
