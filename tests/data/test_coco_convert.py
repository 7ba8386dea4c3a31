"""COCO annotations to a devkit and back."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from torchvision.ops import box_convert

from tests.helpers.coco_files import picture, plain_set, write_coco
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco import read_coco
from vocseg_lib.data.coco_convert import COCO_RECORD, coco_to_voc, voc_to_coco
from vocseg_lib.data.voc import class_names, read_sample, split_ids
from vocseg_lib.utils.rle import decode_rle


def test_ground_truth_holds_the_samples(devkit, tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(voc_to_coco(devkit, "val")))
    coco = COCO(tmp_path / "coco.json")
    content, report = read_coco(tmp_path / "coco.json")
    assert (content, report.lines) == (coco.dataset, [])
    assert [c["name"] for c in coco.dataset["categories"]] == list(CLASS_NAMES)
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for image_id, name in enumerate(split_ids(devkit, "val"), 1):
        sample = read_sample(devkit, name)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        for annotation, mask, box, label in zip(
            annotations, sample.masks, sample.boxes, sample.labels, strict=True
        ):
            assert np.array_equal(coco.annToMask(annotation), mask)
            assert (annotation["category_id"], annotation["area"]) == (label, mask.sum())
            assert annotation["bbox"] == box_convert(box, "xyxy", "xywh").tolist()
        void = coco.imgs[image_id].get("void")
        assert np.array_equal(decode_rle([void])[0] if void else 0 * sample.void, sample.void)


def test_ground_truth_of_real_images_equals_the_published_one(real_devkit, shared):
    published = json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    content = voc_to_coco(real_devkit, "val")
    assert len(content["images"]) == len(published["images"]) == 135
    keys, pair = ("image_id", "category_id", "area"), (content, published)
    converted, expected = ([tuple(a[k] for k in keys) for a in c["annotations"]] for c in pair)
    assert set(expected) <= set(converted)
    assert len(converted) - len(expected) == 1  # one instance more, of a few pixels


def test_a_devkit_survives_the_way_to_coco_and_back(other_classes, other_classes_coco, tmp_path):
    written = coco_to_voc(other_classes_coco, tmp_path / "written")
    for split in ("train", "val"):
        before, after = (voc_to_coco(devkit, split) for devkit in (other_classes, written))
        before["info"]["devkit"] = "written"
        assert before == after
        assert all("void" in image for image in after["images"])
        name = f"JPEGImages/{after['images'][0]['file_name']}"
        assert (written / name).read_bytes() == (other_classes / name).read_bytes()
    # It is reused while it is up to date, and no other folder is touched.
    before = (written / name).stat().st_mtime_ns
    coco_to_voc(other_classes_coco, written)
    assert (written / name).stat().st_mtime_ns == before
    (written / name).unlink()
    coco_to_voc(other_classes_coco, written)
    assert (written / name).exists()
    record = json.loads((written / COCO_RECORD).read_text())
    (written / COCO_RECORD).write_text(json.dumps(record | {"sources": {}}))
    coco_to_voc(other_classes_coco, written)
    assert (written / name).exists()
    (written / COCO_RECORD).unlink()
    with pytest.raises(FileExistsError, match="written"):
        coco_to_voc(other_classes_coco, written)


def test_overlaps_crowds_other_formats_and_a_held_out_val(tmp_path):
    images = [(f"sub dir/{i} a.png", (40, 30)) for i in range(10)]
    for name, size in images:
        picture(tmp_path / "in" / name, size)
    boxes = [(1, (10, 10, 10, 10)), (1, (12, 12, 4, 4), {"category_id": 2})]
    boxes.append((1, (0, 0, 12, 12), {"iscrowd": 1}))
    path = write_coco(tmp_path / "in/labels.json", images, boxes, ["big  plate", "cup"])
    written = coco_to_voc(path, tmp_path / "out")
    assert class_names(written) == ("big plate", "cup")
    assert split_ids(written, "val") == ["sub_dir_4_a", "sub_dir_9_a"]
    assert len(split_ids(written, "train")) == 8
    sample = read_sample(written, "sub_dir_0_a")
    assert sample.labels.tolist() == [1, 2]
    assert sample.masks.sum((1, 2)).tolist() == [100 - 16, 16]  # the smaller one is in front
    assert int(sample.void.sum()) == 144 - 4  # the crowd, where no object is
    assert sample.image.shape == (3, 30, 40)


def test_unusable_images_are_reported_and_skipped(tmp_path, capsys):
    plain_set(tmp_path, 60)
    images = [(f"{k}.jpg", (60, 40)) for k in range(60)]
    boxes = [(4, (k % 28, k // 28, 2, 2)) for k in range(255)]
    path = write_coco(tmp_path / "labels.json", images, boxes)
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:200])
    written = coco_to_voc(path, tmp_path / "out")
    report = capsys.readouterr().out
    assert all(name in report for name in ("3 of 60", "1.jpg", "2.jpg", "3.jpg", "254"))
    assert len(split_ids(written, "trainval")) == 57
    picture(tmp_path / "5.jpg", (61, 40))
    path.write_text(path.read_text() + " ")
    with pytest.raises(ValueError, match=r"4 of 60(?s:.*)5.jpg.* \(40, 61\), .*\(40, 60\)"):
        coco_to_voc(path, tmp_path / "out")


def test_mistakes_in_annotations_name_the_file(tmp_path):
    path = plain_set(tmp_path, 3)
    with pytest.raises(ValueError, match=r"a.json .* val"):  # fewer than five images
        coco_to_voc(path, tmp_path / "out")
    box = (1, (5, 6, 20, 10), {"segmentation": None})
    write_coco(path, [(f"{k}.jpg", (60, 40)) for k in range(3)], [box])
    with pytest.raises(ValueError, match=r"a.json(?s:.*)segmentation"):
        coco_to_voc(path, tmp_path / "out")
    for k in range(3):
        (tmp_path / f"{k}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"a.json"):
        coco_to_voc(path, tmp_path / "out")


@pytest.mark.parametrize("folder", ["", "images", "train", "images/train"])
def test_images_are_found_where_they_usually_are(tmp_path, folder):
    annotations = tmp_path / "annotations" / "instances_train.json"
    annotations.parent.mkdir()
    plain_set(tmp_path / folder, 5).rename(annotations)
    assert len(split_ids(coco_to_voc(annotations, tmp_path / "out"), "train")) == 4
