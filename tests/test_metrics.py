import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vocseg_lib import voc
from vocseg_lib.masks import encode_rle
from vocseg_lib.metrics import check_images, evaluate


def entry(image_id, category, box, score=None, side=20):
    """An annotation, or with a score a detection, of a filled box xywh."""
    x, y, w, h = box
    mask = torch.zeros(1, side, side)
    mask[0, y : y + h, x : x + w] = 1
    found = {"image_id": image_id, "category_id": category, "bbox": [float(v) for v in box], "segmentation": encode_rle(mask)[0]}
    return {**found, "score": score} if score is not None else {**found, "area": w * h, "iscrowd": 0}


def truth_of(*annotations, images=3):
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 20} for i in range(1, images + 1)],
        "annotations": [{**a, "id": k} for k, a in enumerate(annotations, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(voc.CLASS_NAMES, 1)],
    }


def test_ap_by_hand():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)), entry(2, 3, (0, 0, 10, 10)))
    # Found, false alarm, found with IoU .8: precision 1 up to recall .5, then 2/3.
    found = [entry(1, 3, (0, 0, 10, 10), 0.9), entry(3, 3, (0, 0, 5, 5), 0.8), entry(2, 3, (0, 0, 10, 8), 0.7)]
    summary = evaluate(truth, found).summary
    at_50 = 100 * (51 * 1 + 50 * 2 / 3) / 101
    at_95 = 100 * 51 / 101
    assert summary["mask_AP50"] == pytest.approx(at_50)
    assert summary["box_AP75"] == pytest.approx(at_50)
    assert summary["mask_AP"] == pytest.approx((7 * at_50 + 3 * at_95) / 10)


def test_perfect_predictions_score_exactly_100(devkit):
    truth = voc.coco_ground_truth(devkit, "val")
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


def test_entries_that_lack_something_are_named_and_a_missing_box_is_the_masks():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)))
    whole = entry(1, 3, (0, 0, 10, 10), 0.9)
    for key in ("image_id", "category_id", "score", "segmentation"):
        with pytest.raises(ValueError, match=f"detection 0 has no {key}"):
            evaluate(truth, [{k: v for k, v in whole.items() if k != key}])
    without_box = {k: v for k, v in whole.items() if k != "bbox"}
    assert evaluate(truth, [without_box]).summary == evaluate(truth, [whole]).summary


def test_predictions_of_other_images_are_refused():
    truth = truth_of(entry(1, 3, (0, 0, 10, 10)))
    images = [{"id": i, "name": str(i), "height": 20, "width": 20} for i in (1, 2, 3)]
    check_images(truth, {"images": images})
    check_images(truth, {})
    with pytest.raises(ValueError, match="of other data, or of another split"):
        check_images(truth, {"images": [{**images[0], "name": "other"}]})


@pytest.mark.parametrize("name", ["yolact_official_mobilenet320", "mask_rcnn_torchvision_mobilenet320"])
def test_equals_pycocotools_used_by_the_book(shared, tmp_path, name):
    truth = shared / "predictions" / "voc2012_val_gt.json"
    detections = json.loads((shared / "predictions" / f"{name}.json").read_text())
    ours = evaluate(json.loads(truth.read_text()), detections)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        for kind, coco_kind in (("mask", "segm"), ("box", "bbox")):
            results = [{k: v for k, v in d.items() if k != "segmentation" or kind == "mask"} for d in detections]
            judge = COCOeval(coco, coco.loadRes(results), coco_kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            theirs = 100 * judge.stats[:3]
            mine = [ours.summary[f"{kind}_{n}"] for n in ("AP", "AP50", "AP75")]
            assert np.allclose(mine, theirs, atol=1e-9)
