import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from tests.helpers.coco import entry, truth_of
from tests.helpers.fifteen_objects import AP_11, AP_ALL, FOUND, OBJECTS
from tests.helpers.random_sets import judged_sets
from vocseg_lib.data.coco import validate_ground_truth, validate_results
from vocseg_lib.metrics.average_precision import average_precision
from vocseg_lib.metrics.coco_eval import evaluate, metrics_table
from vocseg_lib.metrics.matching import evaluate_images
from vocseg_lib.metrics.voc_eval import match_voc


def brute_force_ap(truth, found, threshold, eleven):
    """VOC's AP (0..1) a category, a loop over detections; crowd regions play VOC's difficult objects."""
    result = {}
    for category in sorted(c["id"] for c in truth["categories"]):
        objects = [a for a in truth["annotations"] if a["category_id"] == category]
        total = sum(not a["iscrowd"] for a in objects)
        if not total:
            continue
        order = [image["id"] for image in sorted(truth["images"], key=lambda i: i["id"])]
        mine = sorted(
            (d for d in found if d["category_id"] == category),
            key=lambda d: order.index(d["image_id"]),
        )
        taken, hits = set(), []
        for detection in sorted(mine, key=lambda d: -d["score"]):
            best, which, crowded = -1.0, None, False
            for number, annotation in enumerate(objects):
                if annotation["image_id"] == detection["image_id"]:
                    iou = coco_mask.iou(
                        [detection["segmentation"]],
                        [annotation["segmentation"]],
                        [annotation["iscrowd"]],
                    )[0, 0]
                    if annotation["iscrowd"]:
                        crowded |= iou >= threshold
                    elif iou > best:
                        best, which = iou, number
            if best < threshold and crowded:
                continue
            hits.append(best >= threshold and which not in taken)
            if hits[-1]:
                taken.add(which)
        points, right = [], 0
        for rank, hit in enumerate(hits, 1):
            right += hit
            points.append((right / total, right / rank))
        if eleven:
            levels = [max((p for r, p in points if r >= i * 0.1), default=0.0) for i in range(11)]
            result[category] = sum(levels) / 11
        else:
            area, before = 0.0, 0.0
            for recall, _ in points:
                area += (recall - before) * max(p for r, p in points if r >= recall)
                before = recall
            result[category] = area
    return result


def test_the_published_example():
    def entry_of(image_id, box, **more):
        x, y, w, h = box  # its pixels are counted from the first to the last one
        return {"image_id": image_id, "category_id": 1, "bbox": [x, y, w + 1, h + 1], **more}

    images = [{"id": i, "height": 200, "width": 200} for i in OBJECTS]
    objects = [entry_of(i, box) for i, boxes in OBJECTS.items() for box in boxes]
    found = [entry_of(i, box, score=score) for i, rows in FOUND.items() for score, *box in rows]
    truth = validate_ground_truth(
        {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}
    )
    matches = match_voc(evaluate_images(truth, validate_results(truth, found)), "box", (0.3,))
    assert (len(objects), len(found)) == (15, 24)
    assert 100 * average_precision(matches, points="all").item() == pytest.approx(AP_ALL, abs=0.01)
    assert 100 * average_precision(matches, points="11").item() == pytest.approx(AP_11, abs=0.01)
    assert set(evaluate(truth, found).summary) == {
        "box_AP",
        "box_AP50",
        "box_AP75",
    }  # boxes alone can be judged


@settings(deadline=None, max_examples=60)
@given(judged_sets())
def test_equals_an_independent_loop(judged):
    truth, found = judged
    truth = validate_ground_truth(truth)
    matches = match_voc(evaluate_images(truth, found), "mask", (0.5, 0.7))
    for points in ("all", "11"):
        ap = average_precision(matches, points=points)[0]
        for row, threshold in enumerate((0.5, 0.7)):
            wanted = brute_force_ap(truth, found, threshold, points == "11")
            ours = {
                c: ap[row, k]
                for k, c in enumerate(matches.category_ids)
                if not np.isnan(ap[row, k])
            }
            assert ours == pytest.approx(wanted, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(judged_sets(void=False))
def test_without_void_nothing_changes(judged):
    table = metrics_table(evaluate(*judged)).set_index(["metric", "class"])
    masks = table[table["kind"] == "mask"]["value"]
    for metric in ("AP", "AP50", "AP75"):
        assert masks.loc[f"{metric}_without_void"].equals(masks.loc[metric])


def test_values_of_voc_tables_on_real_predictions_are_the_loops(shared):
    import json

    folder = shared / "predictions"
    truth = json.loads((folder / "voc2012_val_gt.json").read_text())
    found = json.loads((folder / "mask_rcnn_torchvision_mobilenet320.json").read_text())
    table = metrics_table(evaluate(truth, found)).set_index(["kind", "metric", "class"])["value"]
    for metric, threshold, eleven in (
        ("voc_AP50", 0.5, False),
        ("voc_AP70", 0.7, False),
        ("voc_AP50_11", 0.5, True),
    ):
        wanted = brute_force_ap(truth, found, threshold, eleven)
        assert table["mask", metric, "all"] == pytest.approx(
            100 * np.mean(list(wanted.values())), abs=1e-6
        )
    volume = [
        np.mean(list(brute_force_ap(truth, found, t / 10, False).values())) for t in range(1, 10)
    ]
    assert table["mask", "voc_AP_vol", "all"] == pytest.approx(100 * np.mean(volume), abs=1e-6)


@pytest.mark.parametrize("crowd_first", [True, False])
def test_a_crowd_region_around_an_object_takes_nothing_from_it(crowd_first):
    crowd, inside = {**entry(1, 3, (0, 0, 18, 18)), "iscrowd": 1}, entry(1, 3, (4, 4, 8, 8))
    truth = truth_of(*([crowd, inside] if crowd_first else [inside, crowd]))
    values = metrics_table(
        evaluate(truth, [entry(1, 3, (4, 4, 8, 7), 0.9), entry(1, 3, (1, 1, 3, 3), 0.95)])
    )
    values = values[values["class"] == "all"].set_index(["kind", "metric"])["value"]
    assert values["mask", "voc_AP50"] == values["box", "voc_AP70"] == 100
