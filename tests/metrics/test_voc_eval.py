import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.helpers.coco import entry, ground_truth_of
from tests.helpers.fifteen_objects import AP_11, AP_ALL, DETECTIONS, OBJECTS
from tests.helpers.random_sets import on_random_sets
from vocseg_lib.data.coco_validation import validate_ground_truth, validate_results
from vocseg_lib.metrics.average_precision import average_precision
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import evaluate_images
from vocseg_lib.metrics.table import KEYS, metrics_table
from vocseg_lib.metrics.voc_eval import match_voc


def flags_by_loop(objects, detections, threshold):
    """True-positive flags by descending score; crowd regions are VOC's difficult objects."""
    taken, flags = set(), []
    for detection in sorted(detections, key=lambda d: (-d["score"], d["image_id"])):
        best, target, in_crowd = -1.0, None, False
        for number, annotation in enumerate(objects):
            if annotation["image_id"] == detection["image_id"]:
                first, second = [detection["segmentation"]], [annotation["segmentation"]]
                iou = coco_mask.iou(first, second, [annotation["iscrowd"]])[0, 0]
                if annotation["iscrowd"]:
                    in_crowd |= iou >= threshold
                elif iou > best:
                    best, target = iou, number
        if best >= threshold or not in_crowd:
            flags.append(best >= threshold and target not in taken)
            taken |= {target} if flags[-1] else set()
    return flags


def ap_by_loop(ground_truth, detections, threshold, eleven):
    """VOC's AP (0..1) per category with objects."""
    result = {}
    for category in sorted(c["id"] for c in ground_truth["categories"]):
        objects, results = (
            [e for e in entries if e["category_id"] == category]
            for entries in (ground_truth["annotations"], detections)
        )
        total = sum(not a["iscrowd"] for a in objects)
        if not total:
            continue
        hits = np.cumsum(flags_by_loop(objects, results, threshold))
        points = [(hit / total, hit / rank) for rank, hit in enumerate(hits, 1)]
        if eleven:
            levels = [max((p for r, p in points if r >= i * 0.1), default=0.0) for i in range(11)]
            result[category] = sum(levels) / 11
            continue
        area, before = 0.0, 0.0
        for recall, _ in points:
            area += (recall - before) * max(p for r, p in points if r >= recall)
            before = recall
        result[category] = area
    return result


def test_the_published_example():
    def box_entry(image, x, y, w, h, **more):
        return {"image_id": image, "category_id": 1, "bbox": [x, y, w + 1, h + 1], **more}

    images = [{"id": i, "height": 200, "width": 200} for i in range(1, 8)]
    objects = [box_entry(*row) for row in OBJECTS]
    detections = [box_entry(image, *box, score=score) for image, score, *box in DETECTIONS]
    assert (len(objects), len(detections)) == (15, 24)
    categories = [{"id": 1, "name": "object"}]
    content = {"images": images, "annotations": objects, "categories": categories}
    ground_truth = validate_ground_truth(content)
    detections = validate_results(ground_truth, detections)
    matches = match_voc(evaluate_images(ground_truth, detections), "box").select_thresholds([2])
    assert 100 * average_precision(matches, points="all").item() == pytest.approx(AP_ALL, abs=0.01)
    assert 100 * average_precision(matches, points="11").item() == pytest.approx(AP_11, abs=0.01)
    # Boxes alone can be evaluated.
    assert set(evaluate(ground_truth, detections).summary) == {"box_AP", "box_AP50", "box_AP75"}


@on_random_sets(60)
def test_equals_an_independent_loop(pair):
    matches = match_voc(evaluate_images(*pair), "mask").select_thresholds([4, 6])
    categories = sorted(c["id"] for c in pair[0]["categories"])
    for points in ("all", "11"):
        ap = average_precision(matches, points=points)[0]
        for row, threshold in enumerate((0.5, 0.7)):
            known = {c: ap[row, k] for k, c in enumerate(categories) if not np.isnan(ap[row, k])}
            expected = ap_by_loop(*pair, threshold, points == "11")
            assert known == pytest.approx(expected, abs=1e-9)


def test_real_predictions_equal_the_loop(real_predictions):
    ground_truth, models = real_predictions
    detections = models["mask_rcnn"]
    values = metrics_table(evaluate(ground_truth, detections)).set_index(KEYS)

    def by_loop(threshold, eleven=False):
        ap = ap_by_loop(ground_truth, detections, threshold, eleven)
        return 100 * np.mean(list(ap.values()))

    ap = {t: by_loop(t / 10) for t in range(1, 10)}
    expected = {"voc_AP50": ap[5], "voc_AP70": ap[7], "voc_AP_vol": np.mean(list(ap.values()))}
    expected["voc_AP50_11"] = by_loop(0.5, eleven=True)
    for metric, value in expected.items():
        assert values["value"]["mask", metric, "all"] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("crowd_first", [True, False])
def test_a_crowd_region_around_an_object_takes_nothing_from_it(crowd_first):
    crowd, inside = {**entry(1, 3, (0, 0, 18, 18)), "iscrowd": 1}, entry(1, 3, (4, 4, 8, 8))
    ground_truth = ground_truth_of(*([crowd, inside] if crowd_first else [inside, crowd]))
    detections = [entry(1, 3, (4, 4, 8, 7), 0.9), entry(1, 3, (1, 1, 3, 3), 0.95)]
    values = metrics_table(evaluate(ground_truth, detections))
    values = values[values["class"] == "all"].set_index(["kind", "metric"])["value"]
    assert values["mask", "voc_AP50"] == values["box", "voc_AP70"] == 100
