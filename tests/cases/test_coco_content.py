"""COCO files as exporters write them; masks, classes and AP against PIL and pycocotools alone."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.helpers.cli import vocseg
from vocseg_lib.data.coco import read_coco


def annotated(path, without=()):
    """Name of the image, class and mask of each annotation of a file, by pycocotools alone."""
    coco, objects = COCO(path), Counter()
    for annotation in coco.loadAnns(coco.getAnnIds()):
        if annotation["id"] not in without:
            name = coco.imgs[annotation["image_id"]]["file_name"].removesuffix(".jpg")
            category = coco.cats[annotation["category_id"]]["name"]
            mask = coco.annToMask(annotation).astype(bool)
            objects[name, category, mask.tobytes()] += bool(mask.any())
    return +objects


def written(devkit):
    """The same of a devkit, by PIL alone: class k is the k-th line of its class names."""
    classes, objects = (devkit / "class_names.txt").read_text().split(), Counter()
    for path in sorted((devkit / "SegmentationObject").iterdir()):
        ids = np.array(Image.open(path))
        labels = np.array(Image.open(devkit / "SegmentationClass" / path.name))
        for number in np.setdiff1d(ids, (0, 255)):
            (label,) = np.unique(labels[ids == number])
            objects[path.stem, classes[label - 1], (ids == number).tobytes()] += 1
    return objects


def imported(folder, file):
    result = vocseg("import-coco", folder / file, "--images", folder, "--out", folder / "out")
    assert result.exit_code == 0, result.stderr
    return written(folder / "out")


@pytest.mark.parametrize(
    ("path", "left_out", "classes"),
    [
        ("coco_background_category_shifts_classes/annotations", "_background_", "person dog car"),
        ("roboflow_root_category/annotations", "fish", "fish crab"),
        ("roboflow_root_category/other_root", "seafood", "fish crab"),
        ("roboflow_root_category/background", "background", "cat dog"),
    ],
)
def test_categories_that_are_no_classes_are_left_out(case, path, left_out, classes):
    name, file = path.split("/")
    folder = case(name)
    assert imported(folder, f"{file}.json") == annotated(folder / f"{file}.json")
    assert (folder / "out" / "class_names.txt").read_text().split() == classes.split()
    _, report = read_coco(folder / f"{file}.json")
    assert [category["name"] for category, _ in report.left_out] == [left_out]
    assert left_out in report.lines[0]


@pytest.mark.parametrize(
    ("file", "bad", "lost"),
    [
        *((f, 4, 1) for f in ("two_points", "empty_list", "list_of_empty", "null", "flat_polygon")),
        ("image_not_listed", 999, 0),
        *((f, 4, 0) for f in ("spare_two_points", "area_null")),
    ],
)
def test_one_odd_annotation_does_not_end_an_import(case, file, bad, lost):
    folder = case("one_bad_annotation_ends_the_import")
    assert imported(folder, f"{file}.json") == annotated(folder / "base.json", without=[bad] * lost)
    content, report = read_coco(folder / f"{file}.json")
    (line,) = [line for line in report.lines if str(bad) in line]
    assert (report.objects, len(content["annotations"])) == (20 - lost, 20 - lost)
    mended = file in ("spare_two_points", "area_null")
    assert [entry.id for entry in report.passed_over] == [bad] * (not mended)
    assert mended or ("unlisted" if bad == 999 else "img1.jpg") in line


def test_masks_are_held_against_their_boxes(case):
    folder = case("annotations_that_contradict_themselves")
    assert read_coco(folder / "base.json")[1].lines == []
    for file, words in (("rle_by_rows", "rows"), ("normalised", "0..1")):
        result = vocseg("import-coco", folder / f"{file}.json", "--out", folder / "out")
        assert result.exit_code == 2
        assert all(word in result.stderr for word in (f"{file}.json", "6 of 6", words))
        assert not (folder / "out").exists()
    # A box as x1 y1 x2 y2 is reported once and evaluated as it is given, as COCO does.
    evaluated = vocseg(
        *("evaluate", "--resamples", 0, "--data", folder / "bbox_xyxy.json"),
        *("--predictions", folder / "pred.json", "--out", folder / "metrics.json"),
    )
    (line,) = evaluated.stderr.splitlines()
    assert all(word in line for word in ("6 of 6", "x1 y1 x2 y2", "1, 2, 3, 4, 5, 6"))
    coco = COCO(folder / "bbox_xyxy.json")
    metrics = json.loads((folder / "metrics.json").read_text())
    for kind, key in (("bbox", "box_AP"), ("segm", "mask_AP")):
        reference = COCOeval(coco, coco.loadRes(str(folder / "pred.json")), kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        assert metrics[key] == pytest.approx(100 * reference.stats[0])


def test_only_crowds_are_refused_or_read_as_objects(case):
    folder = case("cvat_brush_masks_are_all_crowds")
    result = vocseg("import-coco", folder / "annotations.json", "--out", folder / "out")
    assert (result.exit_code, "all 20" in result.stderr) == (2, True)
    assert "--crowds-as-objects" in result.stderr
    content, report = read_coco(folder / "annotations.json", crowds_as_objects=True)
    assert (report.objects, report.crowds) == (20, 0)
    assert not any(annotation["iscrowd"] for annotation in content["annotations"])


def test_objects_without_pixels_or_listed_twice_are_counted(case):
    folder = case("objects_vanish_in_import")
    for file, times, counts in (
        ("outside", 1, "20 annotations: 15 objects written, 5 passed over"),
        ("twice", 2, "40 annotations: 20 objects written, 20 listed twice"),
    ):
        path, out = folder / f"{file}.json", folder / file
        result = vocseg("import-coco", path, "--out", out)
        assert counts in result.stdout
        assert vocseg("verify", path).exit_code == 1
        assert annotated(path) == {key: times for key in written(out)}
        content, report = read_coco(path)  # in evaluation, all count
        assert (len(content["annotations"]), len(report.passed_over)) == (20 * times, 0)
        assert report.notes
        assert [f"annotation {k} of" in result.stdout for k in (1, 5, 9, 13, 17)] == [
            times == 1
        ] * 5


def test_a_root_that_val_alone_uses_stays_a_class(case):
    folder = case("roboflow_root_category")
    content = json.loads((folder / "other_root.json").read_text())
    for name, keep in (("train", lambda i: i <= 6), ("val", lambda i: i > 6)):
        images = [image for image in content["images"] if keep(image["id"])]
        annotations = [a for a in content["annotations"] if keep(a["image_id"])]
        if name == "val":
            annotations[0]["category_id"] = 0
        part = content | {"images": images, "annotations": annotations}
        (folder / f"{name}.json").write_text(json.dumps(part))
    expected = annotated(folder / "train.json") + annotated(folder / "val.json")
    assert imported(folder, "train.json") == expected
    assert (folder / "out" / "class_names.txt").read_text().split() == ["seafood", "fish", "crab"]
