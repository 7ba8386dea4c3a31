"""Each field that is missing or invalid is reported, with its entry."""

import pytest
import torch

from tests.helpers.coco import entry, ground_truth_of
from vocseg_lib.data.coco_validation import (
    find_contradictions,
    validate_ground_truth,
    validate_results,
)
from vocseg_lib.utils.rle import encode_rle


@pytest.fixture
def ground_truth():
    return ground_truth_of(entry(1, 3, (5, 5, 15, 15)), entry(1, 8, (2, 10, 12, 8)), images=1)


@pytest.fixture
def results(ground_truth):
    return [annotation | {"score": 0.9} for annotation in ground_truth["annotations"]]


def test_valid_results_stay_as_they_are(ground_truth, results):
    assert validate_results(ground_truth, results) == results


@pytest.mark.parametrize(
    ("key", "values"),
    {
        "image_id": (8, True, [1]),
        "category_id": (21, "bird"),
        "score": (float("nan"), float("inf"), "0.9", 10**400),
        "bbox": ([1, 2, 3], [1, 2, -3, 4], "box"),
        "segmentation": ("x", [], {"size": [20, 30], "counts": "0"}),
        "segmentation_uncropped": ("x", {"size": [20, 20], "counts": "abc"}),
    }.items(),
)
def test_a_field_of_a_result_is_missing_or_invalid(ground_truth, results, key, values):
    wrong = [results[1] | {key: value} for value in values]
    if key in ("image_id", "category_id", "score", "segmentation"):
        wrong.append({k: v for k, v in results[1].items() if k != key})
    for changed in wrong:
        with pytest.raises(ValueError, match=rf"{key} of detections\[1\]|detections\[1\].*{key}"):
            validate_results(ground_truth, [results[0], changed])
    with pytest.raises(ValueError, match=r"detections\[1\]"):
        validate_results(ground_truth, [results[0], 3])


INVALID_GROUND_TRUTH = {
    "lists of images": lambda t: t.pop("images"),
    "no images": lambda t: t.update(images=[], annotations=[]),
    r"images\[0\].*height": lambda t: t["images"][0].pop("height"),
    r"images\[0\].*width 'wide'": lambda t: t["images"][0].update(width="wide"),
    r"images\[0\].*height -30": lambda t: t["images"][0].update(height=-30),
    r"images\[0\].*pixels": lambda t: t["images"][0].update(height=10**6, width=10**6),
    r"categories\[1\].*name": lambda t: t["categories"][1].pop("name"),
    r"categories\[0\].*'all'": lambda t: t["categories"][0].update(name="all"),
    "categories.*id 3": lambda t: t["categories"][1].update(id=3),
    "categories.*'bird'": lambda t: t["categories"][0].update(name="bird"),
    r"annotations\[1\].*category_id 77": lambda t: t["annotations"][1].update(category_id=77),
    r"annotations\[0\].*size": lambda t: t["images"][0].update(height=31),
    r"annotations\[0\].*area 'much'": lambda t: t["annotations"][0].update(area="much"),
    r"void of images\[0\]": lambda t: t["images"][0].update(void="zz"),
}


@pytest.mark.parametrize("message", INVALID_GROUND_TRUTH)
def test_invalid_ground_truth_is_reported(ground_truth, message):
    INVALID_GROUND_TRUTH[message](ground_truth)
    with pytest.raises(ValueError, match=message):
        validate_ground_truth(ground_truth)


def test_ground_truth_in_other_forms_is_completed(ground_truth):
    for number, annotation in enumerate(ground_truth["annotations"]):
        annotation["id"] = number  # one with id 0 never matches in pycocotools
        del annotation["area"], annotation["bbox"], annotation["iscrowd"]
    first, second = validate_ground_truth(ground_truth)["annotations"]
    assert (first["area"], first["bbox"], first["iscrowd"]) == (225, [5, 5, 15, 15], 0)
    assert (first["id"], second["id"]) == (1, 2)


def many_images(ground_truth, ids):
    return [{**ground_truth["images"][0], "id": k} for k in ids]


REFUSED_AT_ONCE = {
    r"2 images have the id 7": lambda t: {"images": many_images(t, [7, *range(60_000)])},
    r"more than 10000 categories": lambda t: {
        "categories": [{"id": k, "name": f"class {k}"} for k in range(10**5)]
    },
    r"images\[0\] has 'date'": lambda t: {"images": [t["images"][0] | {"date": "x" * 10**8}]},
    r"images\[0\] has file_name": lambda t: {"images": [t["images"][0] | {"file_name": "\ud800"}]},
    r"categories\[0\] has name": lambda t: {"categories": [t["categories"][0] | {"name": "a\0"}]},
}


@pytest.mark.parametrize("message", REFUSED_AT_ONCE)
def test_what_is_too_much_is_refused_in_a_short_message(ground_truth, message):
    with pytest.raises(ValueError, match=message) as caught:
        validate_ground_truth(ground_truth | REFUSED_AT_ONCE[message](ground_truth))
    assert len(str(caught.value)) < 300


def test_an_area_of_a_detection_may_be_anything(ground_truth, results):
    odd = [results[0] | {"area": "much"}, results[1] | {"area": [1, 2]}]
    assert find_contradictions(ground_truth, odd, predicted=True) == {}


def test_masks_without_pixels_contradict_no_box():
    truth = {"images": [{"id": 1, "width": 20, "height": 30}], "annotations": [], "categories": []}
    (empty,) = encode_rle(torch.zeros(1, 30, 20, dtype=torch.bool))
    found = [{"image_id": 1, "bbox": [2, 2, 9, 9 + k], "segmentation": empty} for k in range(6)]
    assert find_contradictions(truth, found, predicted=True) == {}
