import json

import numpy as np
import pytest
from hypothesis import strategies as st

from tests.helpers.random_sets import on_random_sets
from tests.helpers.shapes import FAR, LEFT, RIGHT, dataset_eval, ground_truth, mask_of, shape
from vocseg_lib.metrics.confusion import BACKGROUND, UNMATCHED, confusion_matrix

CAT, DOG, HORSE, PERSON = 8, 12, 13, 15
HALF, BELOW = mask_of((5, 5, 20, 10)), mask_of((5, 5, 20, 9))  # of LEFT: IoU .5, .45


def counts(content, detections, min_score=0.3, **options):
    """The matrix's counts above 0, by ground truth and predicted class."""
    table = confusion_matrix(dataset_eval(content, detections), min_score, **options).stack()
    return table[table > 0].to_dict()


def test_two_images_by_hand():
    objects = shape(LEFT, CAT), shape(RIGHT, DOG), shape(FAR, PERSON, image=2)
    crowd = {**shape(RIGHT, PERSON, image=2), "iscrowd": 1}
    content = ground_truth(*objects, crowd, images=2)
    detections = [
        shape(LEFT, DOG, 0.9),  # on the cat
        shape(LEFT, CAT, 0.8),  # which is taken now
        shape(RIGHT, DOG, 0.3),
        shape(FAR, PERSON, 0.29, image=2),  # below the threshold
        shape(RIGHT, HORSE, 0.7, image=2),  # in a crowd region
        shape(LEFT, HORSE, 0.7, image=2),
    ]
    expected = {("cat", "dog"): 1, (BACKGROUND, "cat"): 1, ("dog", "dog"): 1}
    expected |= {("person", UNMATCHED): 1, (BACKGROUND, "horse"): 1}
    assert counts(content, detections) == expected
    assert counts(content, []) == {(name, UNMATCHED): 1 for name in ("cat", "dog", "person")}
    table = confusion_matrix(dataset_eval(content, detections), 0.3)
    assert table.shape == (21, 21)
    assert (table.index[-1], table.columns[-1]) == (BACKGROUND, UNMATCHED)


@pytest.mark.parametrize(
    ("pixels", "options", "detected"),
    [
        (HALF, {}, True),
        (BELOW, {}, False),
        (BELOW, {"min_iou": 0.4}, True),
        (BELOW, {"iou_type": "box"}, True),
    ],
)
def test_iou_from_the_threshold_on(pixels, options, detected):
    detections = [shape(pixels, CAT, 0.9, box=(5, 5, 20, 20))]
    expected = {("cat", "cat"): 1} if detected else {("cat", UNMATCHED): 1, (BACKGROUND, "cat"): 1}
    assert counts(ground_truth(shape(LEFT, CAT)), detections, **options) == expected


def by_brute_force(evals, min_score):
    """The matrix by loops over pairs."""
    size = len(evals.categories) + 1
    table = np.zeros((size, size), dtype=int)
    for e in evals.image_evals:
        free = set(range(len(e.objects)))
        for row, detection in enumerate(e.detections):
            if detection["score"] < min_score:
                continue
            pairs = [(-e.iou["mask"][row, j], j) for j in free if e.iou["mask"][row, j] >= 0.5]
            if pairs:
                free.remove(best := min(pairs)[1])
                table[e.objects["category"][best], detection["category"]] += 1
            elif not any(share >= 0.5 for share in e.in_crowd["mask"][row]):
                table[-1, detection["category"]] += 1
        for j in free:
            table[e.objects["category"][j], -1] += 1
    return table


@on_random_sets(40, st.sampled_from([0.0, 0.3, 0.7]))
def test_sums_and_brute_force_on_random_sets(pair, min_score):
    evals = dataset_eval(*pair)
    table = confusion_matrix(evals, min_score).to_numpy()
    classes = range(len(evals.categories))
    objects, rows = evals.object_rows["category"], evals.detection_rows
    assert table[:-1].sum(1).tolist() == [(objects == k).sum() for k in classes]
    assert table[-1, -1] == 0
    if not any(len(e.crowds) for e in evals.image_evals):
        predicted = rows["category"][rows["score"] >= min_score]
        assert table[:, :-1].sum(0).tolist() == [(predicted == k).sum() for k in classes]
    assert np.array_equal(table, by_brute_force(evals, min_score))


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_equals_vernier_on_real_predictions(model, real_predictions):
    core = pytest.importorskip("vernier._core")
    ground_truth, models = real_predictions
    encoded = [json.dumps(part).encode() for part in (ground_truth, models[model])]
    table = core.confusion_matrix_segm(*encoded, "strict", 0.5, 100, True)
    index = {str(c["id"]): k for k, c in enumerate(ground_truth["categories"])} | {"__none__": -1}
    expected = np.zeros((len(index), len(index)), dtype=int)
    names = ("gt_class", "dt_class", "count")
    for true, predicted, count in zip(*(table[name] for name in names), strict=True):
        expected[index[true], index[predicted]] += count
    ours = confusion_matrix(dataset_eval(ground_truth, models[model]), 0.0)
    assert np.array_equal(ours.to_numpy(), expected)
