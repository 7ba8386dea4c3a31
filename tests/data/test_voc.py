import numpy as np
import pytest
import torch
from PIL import Image

from vocseg_lib.data.classes import CLASS_NAMES, palette
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import (
    BadSample,
    VocDataset,
    find_devkit,
    fingerprint,
    read_sample,
    split_ids,
)
from vocseg_lib.utils.rle import decode_rle


def write_maps(devkit, name, object_map, class_map):
    for folder, pixels in (("SegmentationObject", object_map), ("SegmentationClass", class_map)):
        image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
        image.putpalette(palette().ravel().tolist())
        image.save(devkit / folder / f"{name}.png")


def test_palette_is_voc():
    colours = palette().tolist()
    assert colours[:3] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert colours[15] == [192, 128, 128]  # person
    assert colours[255] == [224, 224, 192]  # void


def test_sample_by_hand(tmp_path):
    devkit = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (devkit / folder).mkdir(parents=True)
    Image.new("RGB", (8, 6), (10, 200, 30)).save(devkit / "JPEGImages" / "a.jpg")
    objects = np.zeros((6, 8))
    objects[1:3, 2:5], objects[4:, 6:], objects[0] = 1, 2, 255
    classes = np.zeros((6, 8))
    classes[1:3, 2:5], classes[4:, 6:], classes[0] = 20, 3, 255
    write_maps(devkit, "a", objects, classes)
    sample = read_sample(devkit, "a")
    assert sample.image.shape == (3, 6, 8)
    assert sample.image.dtype == torch.uint8
    assert sample.labels.tolist() == [20, 3]
    assert sample.boxes.tolist() == [[2, 1, 5, 3], [6, 4, 8, 6]]
    assert sample.masks.sum((1, 2)).tolist() == [6, 4]
    assert sample.void.sum() == 8
    assert sample.void[0].all()


def test_devkit_is_found_from_above(devkit):
    assert (
        find_devkit(devkit.parent.parent)
        == find_devkit(devkit.parent)
        == find_devkit(devkit)
        == devkit
    )
    with pytest.raises(FileNotFoundError, match="not a VOC devkit"):
        find_devkit(devkit / "JPEGImages")
    with pytest.raises(FileNotFoundError, match="splits in this devkit: train, trainval, val"):
        split_ids(devkit, "test")


def test_split_lists_as_editors_write_them(damageable):
    """A byte order mark, blanks in names and around them, and the flag of VOC's lists of a class."""
    first, second = split_ids(damageable, "val")[:2]
    for folder, ending in (
        ("JPEGImages", "jpg"),
        ("SegmentationObject", "png"),
        ("SegmentationClass", "png"),
    ):
        (damageable / folder / f"{second}.{ending}").rename(
            damageable / folder / f"my photo 1.{ending}"
        )
    path = damageable / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text(f"\ufeff{first}  1\r\n\nmy photo 1 \n", encoding="utf-8")
    assert split_ids(damageable, "val") == [first, "my photo 1"]
    assert VocDataset(damageable, "val")[1][1]["name"] == "my photo 1"


def test_dataset_skips_bad_samples_only_when_told(damageable):
    first, second = split_ids(damageable, "val")[:2]
    (damageable / "JPEGImages" / f"{first}.jpg").write_bytes(b"no image")
    with pytest.raises(BadSample, match=f"{first}.jpg"):
        VocDataset(damageable, "val")[0]
    _, target = VocDataset(damageable, "val", skip_bad=True)[0]
    assert target["name"] == second
    assert target["image_id"] == 2
    assert len(target["bad_samples"]) == 1
    assert first in target["bad_samples"][0]
    for path in (damageable / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(BadSample, match="not one of its samples"):
        VocDataset(damageable, "val", skip_bad=True)[0]


def test_coco_ground_truth_holds_the_samples(devkit):
    truth = voc_to_coco(devkit, "val")
    assert [i["id"] for i in truth["images"]] == list(range(1, 7))
    assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert [c["name"] for c in truth["categories"]] == list(CLASS_NAMES)
    sample = read_sample(devkit, split_ids(devkit, "val")[2])
    mine = [a for a in truth["annotations"] if a["image_id"] == 3]
    assert np.array_equal(
        decode_rle([a["segmentation"] for a in mine]), sample.masks.numpy().astype(bool)
    )
    assert [a["area"] for a in mine] == sample.masks.sum((1, 2)).tolist()


def test_fingerprint_tells_data_apart(devkit, damageable):
    assert fingerprint(devkit) == fingerprint(devkit) != fingerprint(damageable)
    before = fingerprint(damageable)
    name = split_ids(damageable, "train")[3]
    (damageable / "SegmentationClass" / f"{name}.png").write_bytes(b"changed")
    assert fingerprint(damageable) != before


def test_real_ground_truth_equals_the_published_one(real_devkit, shared):
    import json

    theirs = json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    ours = voc_to_coco(real_devkit, "val")
    assert len(ours["images"]) == len(theirs["images"]) == 135
    areas = [
        sorted((a["image_id"], a["category_id"], a["area"]) for a in truth["annotations"])
        for truth in (ours, theirs)
    ]
    assert set(areas[1]) - set(areas[0]) == set()  # ours has one instance more, of a few pixels
    assert len(areas[0]) - len(areas[1]) == 1
