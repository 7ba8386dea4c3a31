"""How crowded an object's place is, and AP and recall against it."""

import numpy as np
import pytest

from tests.helpers.shapes import ground_truth, mask_of, shape
from vocseg_lib.data.coco import validate_results
from vocseg_lib.failures.crowding import (
    CROWDING,
    IMAGE_COUNT_BINS,
    by_crowding,
    crowding_of,
    neighbors,
)
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import evaluate_images

NEAR = 0.25


def dataset_eval_of(content, found):
    return evaluate_images(content, validate_results(content, found))


def test_neighbours_by_hand():
    boxes = np.array(
        [[0, 0, 10, 10], [13, 14, 10, 10], [0, 5, 10, 10], [40, 0, 5, 20]], dtype=float
    )
    distance, overlap = neighbors(boxes, np.array([1, 1, 1, 2]))
    assert distance[[0, 2, 3]].tolist() == [0, 0, np.inf]
    assert distance[1] == pytest.approx(3 / 10)  # to the third, 3 beside it
    assert overlap.tolist() == pytest.approx([50 / 150, 0, 50 / 150, 0])
    assert [part.shape for part in neighbors(np.zeros((0, 4)), np.zeros(0, int))] == [(0,), (0,)]


@pytest.fixture
def crowds():
    """Two that overlap, one near them, one alone of its class; in a second image one apart from another."""
    objects = [
        shape(mask_of((0, 0, 10, 10))),
        shape(mask_of((8, 0, 10, 10))),
        shape(mask_of((20, 0, 10, 10))),
        shape(mask_of((40, 40, 10, 10)), 3),
        shape(mask_of((0, 0, 10, 10)), image=2),
        shape(mask_of((40, 40, 10, 10)), image=2),
    ]
    return ground_truth(*objects, images=3), objects


def test_each_object_has_its_place(crowds):
    content, _ = crowds
    dataset_eval = dataset_eval_of(content, [])
    names = [
        [CROWDING[k] for k in crowding_of(dataset_eval, image_eval, NEAR)]
        for image_eval in dataset_eval.image_evals
    ]
    assert names == [["overlapping", "overlapping", "near", "alone"], ["apart", "apart"], []]


def test_recall_and_ap_by_hand(crowds):
    content, objects = crowds
    found = [{**o, "score": 0.9} for k, o in enumerate(objects) if k in (0, 3, 4)]
    found.append(
        shape(mask_of((50, 0, 10, 10)), score=0.95)
    )  # nothing there; the nearest of its class is the first
    table = by_crowding({"model": dataset_eval_of(content, found)}, NEAR).set_index(
        ["bin", "metric"]
    )["value"]
    recalls = {name: table[name, "recall"] for name in (*CROWDING, *IMAGE_COUNT_BINS)}
    assert recalls == pytest.approx(
        {
            "overlapping": 50,
            "near": 0,
            "alone": 100,
            "apart": 50,
            "1": np.nan,
            "2": 50,
            "3 to 4": 50,
            "5 and more": np.nan,
        },
        nan_ok=True,
    )
    assert table["overlapping", "AP50"] == pytest.approx(
        100 * 51 / 101 / 2
    )  # the wrong one comes first
    assert table["apart", "AP50"] == pytest.approx(100 * 51 / 101)
    assert table["alone", "AP50"] == 100


def test_all_bins_together_are_all_objects(shared):
    import json

    content = json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    found = json.loads(
        (shared / "predictions" / "mask_rcnn_torchvision_mobilenet320.json").read_text()
    )
    result = evaluate(content, found)
    dataset_eval = dataset_eval_of(result.ground_truth, result.detections)
    weights = bootstrap_weights(len(content["images"]), 100)
    table = by_crowding({"a": dataset_eval, "b": dataset_eval}, NEAR, weights)
    bins = table[~table["bin"].str.contains(" - ")]
    assert bins.groupby(["measure", "metric", "model"])["objects"].sum().unique().tolist() == [
        len(content["annotations"])
    ]
    recalls = bins[(bins["metric"] == "recall") & (bins["model"] == "a")]
    right = (recalls["value"] * recalls["objects"] / 100).groupby(recalls["measure"]).sum()
    matches = result.matches("mask")
    assert right.tolist() == pytest.approx([matches.true_positive[0].sum()] * 2)
    assert ((table["low"] <= table["value"] + 1e-9) & (table["value"] <= table["high"] + 1e-9))[
        recalls.index
    ].all()
    by_bin = table[(table["metric"] == "recall") & (table["model"] == "a")].set_index("bin")[
        "value"
    ]
    assert by_bin["overlapping - alone"] == pytest.approx(by_bin["overlapping"] - by_bin["alone"])
    # Recall of the crowded ones, drawn again by hand.
    crowd = recalls[recalls["bin"] == "overlapping"].iloc[0]
    places = [
        crowding_of(dataset_eval, image_eval, NEAR) == CROWDING.index("overlapping")
        for image_eval in dataset_eval.image_evals
    ]
    objects = np.array([place.sum() for place in places])
    hits = np.zeros(len(objects))
    for image_eval, place in zip(dataset_eval.image_evals, places, strict=True):
        taken = set()
        for row in range(len(image_eval.detections)):
            own = [
                (-1 if j in taken else image_eval.same_class_iou("mask")[row, j])
                for j in range(len(place))
            ]
            if own and max(own) >= 0.5:
                taken.add(int(np.argmax(own)))
        hits[image_eval.image] = sum(place[j] for j in taken)
    drawn = 100 * (weights @ hits) / (weights @ objects)
    assert [crowd["low"], crowd["high"]] == pytest.approx(
        np.percentile(drawn, [2.5, 97.5]).tolist()
    )
    assert crowd["high"] - crowd["low"] > 5
    differences = table[table["model"] == "a - b"]
    assert differences[["value", "low", "high"]].abs().to_numpy().max() == 0
