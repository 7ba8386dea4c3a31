"""Crowding of objects, and AP and recall against it."""

import numpy as np
import pytest

from tests.helpers.shapes import dataset_eval, ground_truth, mask_of, shape
from vocseg_lib.failures.crowding import CROWDING, IMAGE_COUNT_BINS, by_crowding, crowding_of
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.metrics.coco_eval import evaluate

DISTANCE = 0.25


def labels_of(data, distance=DISTANCE):
    return [[CROWDING[k] for k in crowding_of(data, e, distance)] for e in data.image_evals]


@pytest.mark.parametrize(("distance", "second"), [(0.29, "apart"), (0.3, "near")])
def test_distances_are_in_roots_of_the_area(distance, second):
    boxes = (0, 0, 10, 10), (13, 14, 10, 10), (0, 5, 10, 10), (40, 0, 5, 20)
    objects = [shape(mask_of(box), label) for box, label in zip(boxes, (1, 1, 1, 2), strict=True)]
    labels = labels_of(dataset_eval(ground_truth(*objects), []), distance)
    # The second is 3 pixels beside the third.
    assert labels == [["overlapping", second, "overlapping", "alone"]]


@pytest.fixture
def crowds():
    """Two that overlap, one near them, one alone of its class; then two that are apart."""
    boxes = ((0, 0, 10, 10), (8, 0, 10, 10), (20, 0, 10, 10), (40, 40, 10, 10))
    labels, masks = (15, 15, 15, 3), [mask_of(box) for box in boxes]
    objects = [shape(mask, label) for mask, label in zip(masks, labels, strict=True)]
    objects += [shape(mask, image=2) for mask in (masks[0], masks[3])]
    return ground_truth(*objects, images=3), objects


def test_crowding_of_each_object(crowds):
    labels = labels_of(dataset_eval(crowds[0], []))
    assert labels == [["overlapping", "overlapping", "near", "alone"], ["apart", "apart"], []]


def test_recall_and_ap_by_hand(crowds):
    content, objects = crowds
    detections = [{**objects[k], "score": 0.9} for k in (0, 3, 4)]
    # On no object; the nearest of its class is the first one.
    detections.append(shape(mask_of((50, 0, 10, 10)), score=0.95))
    table = by_crowding({"model": dataset_eval(content, detections)}, DISTANCE)
    table = table.set_index(["bin", "metric"])["value"]
    recalls = {name: table[name, "recall"] for name in (*CROWDING, *IMAGE_COUNT_BINS)}
    by_neighbor = {"overlapping": 50, "near": 0, "alone": 100, "apart": 50}
    by_count = {"1": np.nan, "2": 50, "3 to 4": 50, "5 and more": np.nan}
    assert recalls == pytest.approx(by_neighbor | by_count, nan_ok=True)
    one_of_two = 100 * 51 / 101
    assert table["overlapping", "AP50"] == pytest.approx(one_of_two / 2)  # after a false positive
    assert table["apart", "AP50"] == pytest.approx(one_of_two)
    assert table["alone", "AP50"] == 100


def test_bins_and_intervals_on_real_predictions(real_predictions):
    content, models = real_predictions
    evaluation = evaluate(content, models["mask_rcnn"])
    data = evaluation.dataset_eval
    weights = bootstrap_weights(len(content["images"]), 100)
    table = by_crowding({"a": data, "b": data}, DISTANCE, weights)
    bins = table[~table["bin"].str.contains(" - ")]
    objects = bins.groupby(["measure", "metric", "model"])["objects"].sum()
    assert set(objects) == {len(content["annotations"])}
    recalls = bins[(bins["metric"] == "recall") & (bins["model"] == "a")]
    hits = (recalls["value"] * recalls["objects"] / 100).groupby(recalls["measure"]).sum()
    true_positives = evaluation.matches("mask").true_positive[0].sum()
    assert hits.tolist() == pytest.approx([true_positives] * 2)
    assert (recalls["low"] <= recalls["value"] + 1e-9).all()
    assert (recalls["value"] <= recalls["high"] + 1e-9).all()
    by_bin = table[(table["metric"] == "recall") & (table["model"] == "a")].set_index("bin")
    change = by_bin["value"]["overlapping"] - by_bin["value"]["alone"]
    assert by_bin["value"]["overlapping - alone"] == pytest.approx(change)
    assert table[table["model"] == "a - b"][["value", "low", "high"]].abs().to_numpy().max() == 0

    # Recall of the overlapping objects, matched and resampled by hand.
    crowd, hits, objects = by_bin.loc["overlapping"], [], []
    for image_eval in data.image_evals:
        labels, taken = crowding_of(data, image_eval, DISTANCE), set()
        for iou in image_eval.same_class_iou("mask"):
            free = [-1 if j in taken else value for j, value in enumerate(iou)]
            if free and max(free) >= 0.5:
                taken.add(int(np.argmax(free)))
        in_bin = labels == CROWDING.index("overlapping")
        hits.append(sum(in_bin[j] for j in taken))
        objects.append(in_bin.sum())
    resampled = 100 * (weights @ hits) / (weights @ objects)
    assert [crowd["low"], crowd["high"]] == pytest.approx(np.percentile(resampled, [2.5, 97.5]))
    assert crowd["high"] - crowd["low"] > 5
