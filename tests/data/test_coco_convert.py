"""Data of one's own: other classes and counts, in VOC's layout or as COCO annotations, through the same study."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.data.coco_convert import coco_to_voc, voc_to_coco
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import (
    BadSample,
    VocDataset,
    class_names,
    fingerprint,
    read_sample,
    split_ids,
)
from vocseg_lib.study.open import open_study
from vocseg_lib.study.recipes import PROFILES
from vocseg_lib.study.run import load_run, predict_run

NAMES = ("bottle", "person", "woolly sheep")
OF_VOC = {
    CLASS_NAMES.index("bottle") + 1: 1,
    CLASS_NAMES.index("person") + 1: 2,
    CLASS_NAMES.index("sheep") + 1: 3,
}
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> Path:
    """A devkit of three classes, numbered 1 to 3, in `class_names.txt`."""
    devkit = synthetic.write(tmp_path_factory.mktemp("three"), train=12, val=6, seed=4)
    (devkit / synthetic.STAMP).unlink()
    for path in sorted((devkit / "SegmentationClass").iterdir()):
        with Image.open(path) as image:
            colours, class_map = image.getpalette(), np.array(image)
        objects = devkit / "SegmentationObject" / path.name
        object_map = np.array(Image.open(objects))
        object_map[np.isin(class_map, [0, 255, *OF_VOC], invert=True)] = 0
        table = np.array([OF_VOC.get(v, v if v in (0, 255) else 0) for v in range(256)], np.uint8)
        for place, pixels in ((path, table[class_map]), (objects, object_map)):
            png = Image.fromarray(pixels)
            png.putpalette(colours)
            png.save(place)
    (devkit / "class_names.txt").write_text("_background_\n" + "\n".join(NAMES) + "\n")
    return devkit


@pytest.fixture(scope="module")
def as_coco(three_classes, tmp_path_factory) -> Path:
    """The same as COCO annotations beside the images, category ids 7, 3 and 90; what is trained on."""
    folder = tmp_path_factory.mktemp("coco")
    shutil.copytree(three_classes / "JPEGImages", folder / "images")
    (folder / "annotations").mkdir()
    ids = {1: 3, 2: 7, 3: 90}
    for split in ("train", "val"):
        truth = voc_to_coco(three_classes, split)
        for entry in truth["annotations"]:
            entry["category_id"] = ids[entry["category_id"]]
        for entry in truth["categories"]:
            entry["id"] = ids[entry["id"]]
        truth["categories"].reverse()
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    return folder / "annotations" / "instances_train.json"


@pytest.fixture
def tiny_profile(monkeypatch):
    small = {
        "image_size": 64,
        "short_side": 64,
        "channels": 16,
        "proposals": 32,
        "rois_per_image": 16,
    }
    monkeypatch.setitem(
        PROFILES,
        "quick",
        replace(PROFILES["quick"], **small, iterations=4, batch_size=2, eval_every=2),
    )


def test_names_come_from_the_devkit(three_classes, devkit):
    assert class_names(three_classes) == NAMES
    assert class_names(devkit) == CLASS_NAMES
    assert VocDataset(three_classes, "train").class_names == NAMES
    assert [c["name"] for c in voc_to_coco(three_classes, "val")["categories"]] == list(NAMES)


def test_names_tell_data_sets_apart(three_classes, tmp_path):
    other = shutil.copytree(three_classes, tmp_path / "other")
    assert fingerprint(other) == fingerprint(three_classes)
    (other / "class_names.txt").write_text("bottle\nperson\nlamb\n")
    assert fingerprint(other) != fingerprint(three_classes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has 0 class names"),
        ("a\nb\na\n", "has the class 'a' twice"),
        ("a\nall\n", "has a class 'all'"),
    ],
)
def test_a_class_file_that_cannot_be_used_is_named(three_classes, tmp_path, content, message):
    other = shutil.copytree(three_classes, tmp_path / "other")
    (other / "class_names.txt").write_text(content)
    with pytest.raises(ValueError, match=rf"{other / 'class_names.txt'} {message}"):
        VocDataset(other, "train")


def test_a_class_value_without_a_name_is_named(three_classes, tmp_path):
    other = shutil.copytree(three_classes, tmp_path / "other")
    (other / "class_names.txt").write_text("bottle\nperson\n")
    with pytest.raises(
        BadSample, match=r"has class value 3, but those of class_names.txt are 0 to 2 and 255"
    ):
        list(VocDataset(other, "train"))
    assert any(problem.kind == "unknown class" for problem in verify(other))


def test_voc_layout_without_problems(three_classes):
    assert [p for p in verify(three_classes) if p.kind != "no instance"] == []


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_three_classes_go_through_the_same_notebooks(
    kind, three_classes, as_coco, devkit, tiny_profile, monkeypatch, tmp_path
):
    """PROFILE and DATA are set, nothing else; the cells run as they stand."""
    monkeypatch.chdir(tmp_path)
    data = three_classes if kind == "voc" else as_coco
    shell = InteractiveShell.instance()
    for name, extra in (
        ("01_voc_data", {}),
        ("03_train", {"MODEL": "mask_rcnn"}),
        ("03_train", {}),
        ("04_precision_recall", {}),
    ):
        for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells:
            if cell.cell_type == "code":
                assert shell.run_cell(cell.source).error_in_exec is None, cell.source
            if "parameters" in cell.metadata.get("tags", []):
                shell.push({"PROFILE": "quick", "DATA": str(data), **extra})
    study = shell.user_ns["study"]
    plt.close("all")
    assert study.class_names == NAMES
    for name in ("yolact", "mask_rcnn"):
        run = tmp_path / "results" / "quick" / "runs" / name
        model, settings, _ = load_run(run)
        assert settings["class_names"] == list(NAMES)
        assert read_predictions(run / "predictions.json")["header"]["recipe"][
            "class_names"
        ] == list(NAMES)
        last = [
            v.shape[0]
            for k, v in model.named_parameters()
            if k.endswith(("head.classes.0.weight", "cls_score.weight"))
        ]
        assert last in ([(len(NAMES) + 1) * 3], [len(NAMES) + 1])
    with pytest.raises(
        ValueError,
        match=r"was trained on other classes \(bottle, person, woolly sheep\) than .* has \(aeroplane,",
    ):
        predict_run(run, devkit)
    assert set(shell.user_ns["table"]["model"]) >= {"YOLACT", "Mask R-CNN"}


def test_coco_annotations_become_the_devkit_that_they_came_from(three_classes, as_coco, tmp_path):
    written = coco_to_voc(as_coco, tmp_path / "written")
    for split in ("train", "val"):
        before, after = (voc_to_coco(devkit, split) for devkit in (three_classes, written))
        assert [c["name"] for c in after["categories"]] == list(NAMES)
        assert [i["file_name"] for i in after["images"]] == [
            i["file_name"] for i in before["images"]
        ]
        pairs = list(zip(before["annotations"], after["annotations"], strict=True))
        assert pairs
        for one, other in pairs:
            assert {k: one[k] for k in ("image_id", "category_id", "segmentation")} == {
                k: other[k] for k in ("image_id", "category_id", "segmentation")
            }
        name = before["images"][0]["file_name"]
        assert (written / "JPEGImages" / name).read_bytes() == (
            three_classes / "JPEGImages" / name
        ).read_bytes()


def test_it_is_written_once(as_coco, tmp_path):
    written = coco_to_voc(as_coco, tmp_path / "written")
    (written / "JPEGImages" / "extra.jpg").touch()
    assert (coco_to_voc(as_coco, tmp_path / "written") / "JPEGImages" / "extra.jpg").exists()
    (written / "from_coco.txt").write_text("of other annotations")
    assert not (coco_to_voc(as_coco, tmp_path / "written") / "JPEGImages" / "extra.jpg").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="holds other data"):
        coco_to_voc(as_coco, tmp_path / "mine")


def coco_file(
    folder: Path, images: dict[str, Image.Image], annotations: list[dict], sizes: dict | None = None
) -> Path:
    """COCO annotations of images, by file name, written beside them."""
    entries = []
    for number, (name, image) in enumerate(images.items(), 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
        width, height = (sizes or {}).get(name, image.size)
        entries.append({"id": number, "file_name": name, "width": width, "height": height})
    categories = [{"id": 5, "name": "cup"}, {"id": 2, "name": "big  plate"}]
    path = folder / "labels.json"
    path.write_text(
        json.dumps({"images": entries, "annotations": annotations, "categories": categories})
    )
    return path


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def test_overlaps_crowds_other_formats_and_a_split_of_its_own(tmp_path):
    images = {f"sub dir/{i} a.png": Image.new("RGB", (40, 30), (i, 0, 0)) for i in range(10)}
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 2, "segmentation": square(10, 10, 10)},
        {"id": 2, "image_id": 1, "category_id": 5, "segmentation": square(12, 12, 4)},
        {"id": 3, "image_id": 1, "category_id": 2, "segmentation": square(0, 0, 12), "iscrowd": 1},
    ]
    written = coco_to_voc(coco_file(tmp_path / "in", images, annotations), tmp_path / "out")
    assert class_names(written) == ("big plate", "cup")
    assert split_ids(written, "val") == ["sub_dir_4_a", "sub_dir_9_a"]
    assert len(split_ids(written, "train")) == 8
    sample = read_sample(written, "sub_dir_0_a")
    assert sample.labels.tolist() == [1, 2]
    assert sample.masks.sum((1, 2)).tolist() == [100 - 16, 16]  # the smaller one lies in front
    assert int(sample.void.sum()) == 144 - 4  # the crowd, where no object is
    assert sample.image.shape == (3, 30, 40)


def test_a_picture_that_only_its_exif_turns_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = coco_file(
        tmp_path,
        {f"{i}.jpg": Image.new("RGB", (40, 30)) for i in range(5)},
        [],
        {"0.jpg": (30, 40)},
    )
    Image.new("RGB", (40, 30)).save(tmp_path / "0.jpg", exif=exif)
    written = coco_to_voc(path, tmp_path / "out")
    assert read_sample(written, "0").image.shape == (3, 40, 30)


def test_what_cannot_be_used_is_named_and_passed_over(tmp_path, capsys):
    images = {f"{i}.jpg": Image.new("RGB", (8, 8)) for i in range(60)}
    many = [
        {"id": i + 1, "image_id": 4, "category_id": 5, "segmentation": square(0, 0, 2)}
        for i in range(255)
    ]
    path = coco_file(tmp_path, images, many)
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:200])
    written = coco_to_voc(path, tmp_path / "out")
    listed = capsys.readouterr().out
    assert "3 of 60 images cannot be used" in listed
    assert "1.jpg: file is missing" in listed
    assert "2.jpg: " in listed
    assert "3.jpg: has 255 objects; a VOC map holds 254" in listed
    assert len(split_ids(written, "trainval")) == 57
    Image.new("RGB", (9, 8)).save(tmp_path / "5.jpg")
    path.write_text(path.read_text() + " ")
    with pytest.raises(
        ValueError,
        match=r"4 of 60 images cannot be used(?s:.*)5.jpg: is 9 x 8 pixels, but its annotations say 8 x 8",
    ):
        coco_to_voc(path, tmp_path / "out")


def test_mistakes_in_annotations_are_named(tmp_path):
    images = {f"{i}.jpg": Image.new("RGB", (8, 8)) for i in range(3)}
    box = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 2, 2]}
    with pytest.raises(ValueError, match=r"labels.json has boxes without masks"):
        coco_to_voc(coco_file(tmp_path, images, [box]), tmp_path / "out")
    path = coco_file(tmp_path, images, [])
    with pytest.raises(ValueError, match=r"leaves no image for val"):
        coco_to_voc(path, tmp_path / "out")
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"0.jpg, the first image of .*labels.json, is in none of"
    ):
        coco_to_voc(path, tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        open_study("quick", tmp_path / "no.json")
