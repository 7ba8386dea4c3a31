import copy
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from vocseg_lib.data.coco import check_images, validate_ground_truth, validate_results
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import read_sample, split_ids
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.utils.rle import decode_rle, encode_rle, rle_pixel_counts


def truth_and_found():
    masks = torch.zeros(2, 30, 40, dtype=torch.uint8)
    masks[0, 5:20, 5:20], masks[1, 10:28, 15:38] = 1, 1
    truth = {
        "images": [{"id": 7, "height": 30, "width": 40, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "bird"}, {"id": 8, "name": "cat"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 7,
                "category_id": c,
                "segmentation": rle,
                "area": 9,
                "bbox": [1, 1, 2, 2],
                "iscrowd": 0,
            }
            for c, rle in zip((3, 8), encode_rle(masks), strict=True)
        ],
    }
    found = [
        {
            "image_id": 7,
            "category_id": c,
            "score": 0.9,
            "segmentation": rle,
            "bbox": [5.0, 5.0, 15.0, 15.0],
        }
        for c, rle in zip((3, 8), encode_rle(masks), strict=True)
    ]
    return truth, found


def test_codes_of_random_masks_cover_their_image():
    random = np.random.default_rng(0)
    masks = [
        np.asfortranarray(
            random.random(random.integers(1, 90, 2)) < random.random(), dtype=np.uint8
        )
        for _ in range(200)
    ]
    codes = [coco_mask.encode(mask)["counts"] for mask in masks]
    assert rle_pixel_counts(codes).tolist() == [mask.size for mask in masks]
    assert rle_pixel_counts([]).tolist() == []
    assert rle_pixel_counts([b"", codes[0]]).tolist() == [0, masks[0].size]


def test_codes_that_are_torn_or_of_other_bytes_are_seen():
    random = np.random.default_rng(1)
    mask = np.asfortranarray(random.random((40, 50)) < 0.5, dtype=np.uint8)
    code = coco_mask.encode(mask)["counts"]
    for cut in range(1, 40):
        assert rle_pixel_counts([code[:-cut]])[0] != mask.size
    assert rle_pixel_counts([b"\x00", b"~~~", b"oooooooooooo0", b"P0"]).tolist()[:3] == [-1, -1, -1]


def test_every_form_of_a_mask_is_read():
    truth, found = truth_and_found()
    (plain,) = validate_results(truth, found[:1])
    mask = decode_rle([plain["segmentation"]])[0]
    runs = np.diff(
        np.r_[0, np.flatnonzero(np.diff(mask.T.ravel().astype(int))) + 1, mask.size]
    ).tolist()
    forms = [
        {"size": [30, 40], "counts": runs},
        {"size": [30, 40], "counts": plain["segmentation"]["counts"].encode()},
        [[5, 5, 20, 5, 20, 20, 5, 20]],
    ]
    for form in forms:
        (read,) = validate_results(truth, [{**found[0], "segmentation": form}])
        assert np.array_equal(decode_rle([read["segmentation"]])[0], mask), form


BAD_RESULTS = {
    "detection 1 is 3, not an object": 3,
    "detection 1 has no image_id": {"image_id": None},
    "detection 1 has no score": {"score": None},
    "detection 1 has no segmentation": {"segmentation": None},
    "detection 1 has image_id 8, which": {"image_id": 8},
    "detection 1 has image_id True, which": {"image_id": True},
    r"detection 1 has image_id \[7\], which": {"image_id": [7]},
    "detection 1 has category_id 4, which": {"category_id": 4},
    "detection 1 has category_id 'bird', which": {"category_id": "bird"},
    "detection 1 has score nan, which is no finite number": {"score": float("nan")},
    "detection 1 has score '0.9', which": {"score": "0.9"},
    "detection 1 has score inf": {"score": float("inf")},
    r"detection 1 has bbox \[1, 2, 3\]": {"bbox": [1, 2, 3]},
    r"detection 1 has bbox \[1, 2, -3, 4\]": {"bbox": [1, 2, -3, 4]},
    r"mask of size \[40, 30\], but its image has \[30, 40\]": {
        "segmentation": {"size": [40, 30], "counts": "0"}
    },
    "detection 1 has a mask whose run-length code is damaged": {
        "segmentation": {"size": [30, 40], "counts": "abc"}
    },
    "detection 1 has a mask whose runs cover 3 of 1200 pixels": {
        "segmentation": {"size": [30, 40], "counts": [1, 2]}
    },
    "detection 1 has no mask that can be read: segmentation is 'x'": {"segmentation": "x"},
    "detection 1 has no mask that can be read": {"segmentation": [[1, 2, 3]]},
    r"detection 1 has no mask that can be read: segmentation is \[\[0, 0, 1000000000, 0": {
        "segmentation": [[0, 0, 10**9, 0, 10**9, 10**9]]
    },
    r"detection 1 has no mask that can be read: segmentation is \{'size'": {
        "segmentation": {"size": [30, 40], "counts": "\ud800"}
    },
    "detection 1 has score 1000000": {"score": 10**400},
    "detection 1 has a mask whose runs|detection 1 has no mask": {
        "segmentation": {"size": [30, 40], "counts": [10**400]}
    },
}


@pytest.mark.parametrize("message", BAD_RESULTS)
def test_results_that_cannot_be_judged_are_named(message):
    truth, found = truth_and_found()
    change = BAD_RESULTS[message]
    if isinstance(change, dict):
        for key, value in change.items():
            found[1][key] = value
            if value is None:
                del found[1][key]
    else:
        found[1] = change
    with pytest.raises(ValueError, match=message):
        evaluate(truth, found)


BAD_TRUTH = {
    "no COCO ground truth": lambda t: t.pop("images"),
    r"images\[0\] has no height": lambda t: t["images"][0].pop("height"),
    r"categories\[1\] has no name": lambda t: t["categories"][1].pop("name"),
    r"images\[0\] has width 'wide'": lambda t: t["images"][0].update(width="wide"),
    "two categories have the id 3": lambda t: t["categories"][1].update(id=3),
    "no COCO ground truth: it has no images": lambda t: t.update(images=[], annotations=[]),
    r"images\[0\] has height -30": lambda t: t["images"][0].update(height=-30),
    r"images\[0\] has more than 100000000 pixels": lambda t: t["images"][0].update(
        height=10**6, width=10**6
    ),
    r"categories\[0\] has name 'all'": lambda t: t["categories"][0].update(name="all"),
    "two categories have the name 'cat'": lambda t: t["categories"][0].update(name="cat"),
    "annotation 1 has category_id 77": lambda t: t["annotations"][1].update(category_id=77),
    "annotation 0 has a mask of size": lambda t: t["images"][0].update(height=31),
    "annotation 0 has area 'much'": lambda t: t["annotations"][0].update(area="much"),
    "void mask 0 has a mask whose run-length code is damaged": lambda t: t["images"][0].update(
        void={"size": [30, 40], "counts": "zz"}
    ),
}


@pytest.mark.parametrize("message", BAD_TRUTH)
def test_ground_truth_that_cannot_be_judged_by_is_named(message):
    truth, found = truth_and_found()
    BAD_TRUTH[message](truth)
    with pytest.raises(ValueError, match=message):
        evaluate(truth, found)


def test_ground_truth_in_other_forms_is_made_good():
    truth, _ = truth_and_found()
    plain = validate_ground_truth(truth)
    assert [a["id"] for a in plain["annotations"]] == [1, 2]  # id 0 never matches in pycocotools
    bare = copy.deepcopy(truth)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["bbox"], annotation["iscrowd"]
        annotation["ignore"] = 1
    (first, _) = validate_ground_truth(bare)["annotations"]
    assert (first["area"], first["bbox"], first["iscrowd"]) == (225, [5, 5, 15, 15], 0)
    assert "ignore" not in first


def test_predictions_of_other_images_are_refused():
    truth, _ = truth_and_found()
    image = {"id": 7, "name": "a", "height": 30, "width": 40}
    check_images(truth, {"images": [image]})
    check_images(truth, {})
    with pytest.raises(ValueError, match="of other data, or of another split"):
        check_images(truth, {"images": [{**image, "name": "other"}]})
    with pytest.raises(ValueError, match="an image without id, name, height and width"):
        check_images(truth, {"images": [{"id": 7}]})


def test_an_exported_devkit_is_valid_coco_and_comes_back(devkit, tmp_path):
    truth = voc_to_coco(devkit, "val")
    (tmp_path / "coco.json").write_text(json.dumps(truth))
    coco = COCO(tmp_path / "coco.json")
    for image_id, name in enumerate(split_ids(devkit, "val"), 1):
        sample = read_sample(devkit, name)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        masks = np.stack([coco.annToMask(a) for a in annotations])
        assert np.array_equal(masks, sample.masks.numpy())
        assert [a["category_id"] for a in annotations] == sample.labels.tolist()
        assert [a["area"] for a in annotations] == sample.masks.sum((1, 2)).tolist()
        void = coco.loadImgs(image_id)[0].get("void")
        assert np.array_equal(
            coco_mask.decode(void) if void else np.zeros(sample.void.shape), sample.void.numpy()
        )
    read = validate_ground_truth(json.loads((tmp_path / "coco.json").read_text()))
    assert read == truth
