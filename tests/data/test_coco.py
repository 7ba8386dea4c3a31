import copy
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from vocseg_lib.data.coco import read_predictions, validate_ground_truth, validate_results
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import read_sample, split_ids
from vocseg_lib.utils.rle import encode_rle


@pytest.fixture
def pair():
    """Ground truth and results of one image, with two masks each."""
    masks = torch.zeros(2, 30, 40, dtype=torch.uint8)
    masks[0, 5:20, 5:20], masks[1, 10:28, 15:38] = 1, 1
    entries = [
        {"image_id": 7, "category_id": c, "segmentation": rle}
        for c, rle in zip((3, 8), encode_rle(masks), strict=True)
    ]
    more = {"id": 0, "area": 9, "bbox": [1, 1, 2, 2], "iscrowd": 0}
    ground_truth = {
        "images": [{"id": 7, "height": 30, "width": 40, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "bird"}, {"id": 8, "name": "cat"}],
        "annotations": [{**entry, **more} for entry in entries],
    }
    return ground_truth, [{**e, "score": 0.9, "bbox": [5.0, 5.0, 15.0, 15.0]} for e in entries]


def test_valid_results_stay_as_they_are(pair):
    assert validate_results(*pair) == pair[1]


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "segmentation"])
def test_a_missing_field_of_a_result_is_reported(pair, key):
    del pair[1][1][key]
    with pytest.raises(ValueError, match=rf"detection 1.*{key}"):
        validate_results(*pair)


@pytest.mark.parametrize(
    ("key", "values"),
    {
        "image_id": (8, True, [7]),
        "category_id": (4, "bird"),
        "score": (float("nan"), float("inf"), "0.9", 10**400),
        "bbox": ([1, 2, 3], [1, 2, -3, 4], "box"),
        "mask": ("x", {"size": [40, 30], "counts": "0"}, {"size": [30, 40], "counts": "abc"}),
    }.items(),
)
def test_an_invalid_field_of_a_result_is_reported(pair, key, values):
    ground_truth, results = pair
    for value in values:
        changed = {**results[1], "segmentation" if key == "mask" else key: value}
        with pytest.raises(ValueError, match=rf"detection 1.*{key}"):
            validate_results(ground_truth, [results[0], changed])
    with pytest.raises(ValueError, match="detection 1"):
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
    "categories.*'cat'": lambda t: t["categories"][0].update(name="cat"),
    "annotation 1.*category_id 77": lambda t: t["annotations"][1].update(category_id=77),
    "annotation 0.*size": lambda t: t["images"][0].update(height=31),
    "annotation 0.*area 'much'": lambda t: t["annotations"][0].update(area="much"),
    "void mask 0": lambda t: t["images"][0].update(void={"size": [30, 40], "counts": "zz"}),
}


@pytest.mark.parametrize("message", INVALID_GROUND_TRUTH)
def test_invalid_ground_truth_is_reported(pair, message):
    INVALID_GROUND_TRUTH[message](pair[0])
    with pytest.raises(ValueError, match=message):
        validate_ground_truth(pair[0])


def test_ground_truth_in_other_forms_is_completed(pair):
    ground_truth, _ = pair
    # An annotation with id 0 never matches in pycocotools.
    assert [a["id"] for a in validate_ground_truth(ground_truth)["annotations"]] == [1, 2]
    bare = copy.deepcopy(ground_truth)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["bbox"], annotation["iscrowd"]
        annotation["ignore"] = 1
    (first, _) = validate_ground_truth(bare)["annotations"]
    assert (first["area"], first["bbox"], first["iscrowd"]) == (225, [5, 5, 15, 15], 0)
    assert "ignore" not in first


def test_prediction_files_are_validated_where_they_are_read(pair, tmp_path):
    ground_truth, results = pair
    image = {"id": 7, "name": "a", "height": 30, "width": 40}
    path = tmp_path / "predictions.json"

    def read(detections=results, **header):
        path.write_text(json.dumps({"header": header, "detections": detections}))
        return read_predictions(path, ground_truth)

    assert read(images=[image]) == {"header": {"images": [image]}, "detections": results}
    assert read() == {"header": {}, "detections": results}
    for header in ({**image, "name": "b"}, {**image, "id": [7]}, {"id": 7}):
        with pytest.raises(ValueError, match=r"predictions\.json"):
            read(images=[header])
    with pytest.raises(ValueError, match=r"predictions\.json.*detection 1"):
        read([results[0], {**results[1], "image_id": 8}])


def test_an_exported_devkit_is_valid_coco(devkit, tmp_path):
    ground_truth = voc_to_coco(devkit, "val")
    (tmp_path / "coco.json").write_text(json.dumps(ground_truth))
    coco = COCO(tmp_path / "coco.json")
    for image_id, name in enumerate(split_ids(devkit, "val"), 1):
        sample = read_sample(devkit, name)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        masks = np.stack([coco.annToMask(a) for a in annotations])
        assert np.array_equal(masks, sample.masks.numpy())
        assert [a["category_id"] for a in annotations] == sample.labels.tolist()
        assert [a["area"] for a in annotations] == sample.masks.sum((1, 2)).tolist()
        void = coco.loadImgs(image_id)[0].get("void")
        void = coco_mask.decode(void) if void else np.zeros(sample.void.shape)
        assert np.array_equal(void, sample.void.numpy())
    assert validate_ground_truth(json.loads((tmp_path / "coco.json").read_text())) == ground_truth
