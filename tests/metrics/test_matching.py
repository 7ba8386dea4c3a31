"""COCO's matching against pycocotools, flag by flag."""

import contextlib
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.random_sets import on_random_sets
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import AREA_RANGES, IOU_TYPES


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


@on_random_sets(40)
def test_flags_and_metrics_equal_pycocotools_on_random_sets(pair):
    ground_truth, detections = pair
    if detections:  # pycocotools cannot load none
        assert_equals_coco(ground_truth, detections)


@on_random_sets(5, most=150)
def test_flags_equal_pycocotools_beyond_100_detections(pair):
    if pair[1]:
        assert_equals_coco(*pair)


def test_flags_and_metrics_equal_pycocotools_on_real_predictions(real_predictions):
    ground_truth, models = real_predictions
    for detections in models.values():
        assert_equals_coco(ground_truth, detections)
