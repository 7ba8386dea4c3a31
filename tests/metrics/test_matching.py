"""COCO's matching against pycocotools, flag by flag."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.coco import entry, ground_truth_of
from tests.helpers.random_sets import random_sets
from tests.helpers.shapes import real_predictions
from vocseg_lib.metrics import matching
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import AREA_RANGES, IOU_TYPES, evaluate_images


def by_the_book(ground_truth, detections, iou_type):
    """COCOeval of pycocotools; masks without their boxes, so that they have their own area."""
    if iou_type == "mask":
        detections = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(ground_truth))
        coco.createIndex()
        results = coco.loadRes(json.loads(json.dumps(detections)))
        coco_eval = COCOeval(coco, results, IOU_TYPES[iou_type])
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval


def coco_flags(coco_eval):
    """(scores, true positives, ignored, objects) by size and category, scores descending."""
    ranges, categories = coco_eval.params.areaRng, coco_eval.params.catIds
    parts = {(tuple(r), c): [] for r in ranges for c in categories}
    for e in filter(None, coco_eval.evalImgs):
        parts[tuple(e["aRng"]), e["category_id"]].append(e)
    result = {}
    for size, limits in zip(AREA_RANGES, ranges, strict=True):
        for k, category in enumerate(categories):
            entries = parts[tuple(limits), category]
            scores = np.concatenate([np.zeros(0), *(e["dtScores"] for e in entries)])
            order = np.argsort(-scores, kind="mergesort")
            matched, ignored = (
                np.concatenate([np.zeros((10, 0)), *(e[name] for e in entries)], 1)[:, order] > 0
                for name in ("dtMatches", "dtIgnore")
            )
            objects = sum(int((e["gtIgnore"] == 0).sum()) for e in entries)
            result[size, k] = scores[order], matched & ~ignored, ignored, objects
    return result


def assert_equals_coco(ground_truth, detections):
    evaluation = evaluate(ground_truth, detections)
    for iou_type in IOU_TYPES:
        coco_eval = by_the_book(ground_truth, detections, iou_type)
        for (size, k), (scores, hits, ignored, objects) in coco_flags(coco_eval).items():
            matches = evaluation.matches(iou_type, size)
            rows = matches.category == k
            assert np.array_equal(matches.score[rows], scores)
            assert np.array_equal(matches.ignored[:, rows], ignored)
            assert np.array_equal(matches.true_positive[:, rows], hits)
            assert matches.num_gt[:, k].sum() == objects
        table = evaluation.table
        whole = table[(table["kind"] == iou_type) & (table["class"] == "all")]["value"]
        expected = np.where(coco_eval.stats < 0, np.nan, 100 * coco_eval.stats)
        assert np.array_equal(whole.to_numpy(), expected, equal_nan=True)


@settings(deadline=None, max_examples=40)
@given(random_sets())
def test_flags_and_metrics_equal_pycocotools_on_random_sets(pair):
    ground_truth, detections = pair
    if detections:  # pycocotools cannot load none
        assert_equals_coco(ground_truth, detections)


@settings(deadline=None, max_examples=5)
@given(random_sets(most=150))
def test_flags_equal_pycocotools_beyond_100_detections(pair):
    if pair[1]:
        assert_equals_coco(*pair)


@pytest.mark.parametrize("model", [0, 1])
def test_flags_and_metrics_equal_pycocotools_on_real_predictions(shared, model):
    ground_truth, models = real_predictions(shared)
    assert_equals_coco(ground_truth, models[model][1])


def test_sizes_are_of_masks_and_boxes():
    # A mask of 100 pixels in a box of 10,000: small as a mask, large as a box.
    ground_truth = ground_truth_of(entry(1, 3, (0, 0, 10, 10)))
    detection = {**entry(1, 3, (0, 0, 10, 10), 0.9), "bbox": [0.0, 0.0, 100.0, 100.0]}
    dataset_eval = evaluate_images(ground_truth, [detection])
    for iou_type, size in (("mask", "small"), ("box", "large")):
        for other in ("small", "large"):
            selection = matching.select_area(other, iou_type)
            ignored = matching.match_coco(dataset_eval, iou_type, selection).ignored
            assert (ignored == (other != size)).all()


def test_other_images_are_refused():
    first, other = (evaluate_images(ground_truth_of(images=n), []) for n in (1, 2))
    matching.check_same_images(first, first)
    with pytest.raises(ValueError, match="images"):
        matching.check_same_images(first, other)
