import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.devkits import OTHER_CLASSES
from vocseg_lib.data import voc
from vocseg_lib.data.classes import CLASS_NAMES, palette, save_map
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import VocDataset, read_sample


def test_palette_is_voc():
    colors = palette().tolist()
    assert colors[:3] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert colors[15] == [192, 128, 128]  # person
    assert colors[255] == [224, 224, 192]  # void


def test_sample_by_hand(tmp_path):
    image, *maps = voc.sample_paths(tmp_path, "a")
    for path, values in zip(maps, ((1, 2), (20, 3)), strict=True):
        pixels = np.zeros((6, 8), np.uint8)
        pixels[1:3, 2:5], pixels[4:, 6:], pixels[0] = *values, 255
        path.parent.mkdir()
        save_map(path, pixels)
    image.parent.mkdir()
    Image.new("RGB", (8, 6), (10, 200, 30)).save(image)
    sample = read_sample(tmp_path, "a")
    assert sample.image.shape == (3, 6, 8)
    assert sample.image.dtype == torch.uint8
    assert sample.labels.tolist() == [20, 3]
    assert sample.boxes.tolist() == [[2, 1, 5, 3], [6, 4, 8, 6]]
    assert sample.masks.sum((1, 2)).tolist() == [6, 4]
    assert sample.void.sum() == sample.void[0].sum() == 8


def test_devkit_is_found_from_above(devkit):
    assert {voc.find_devkit(f) for f in (devkit, *list(devkit.parents)[:2])} == {devkit}
    with pytest.raises(FileNotFoundError, match="JPEGImages"):
        voc.find_devkit(devkit / "JPEGImages")
    with pytest.raises(FileNotFoundError, match=r"test.txt .*train, trainval, val"):
        voc.split_ids(devkit, "test")


def test_split_lists_as_editors_write_them(damageable):
    """A byte order mark, blanks in names and around them, and the flag of VOC's class lists."""
    first, second = voc.split_ids(damageable, "val")[:2]
    for path in voc.sample_paths(damageable, second):
        path.rename(path.with_stem("my photo 1"))
    path = damageable / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text(f"\ufeff{first}  1\r\n\nmy photo 1 \n", encoding="utf-8")
    assert voc.split_ids(damageable, "val") == [first, "my photo 1"]
    assert VocDataset(damageable, "val")[1][1]["name"] == "my photo 1"


def test_a_data_set_ends(devkit):
    assert len(list(VocDataset(devkit, "val"))) == len(voc.split_ids(devkit, "val"))


def test_bad_samples_are_skipped_on_request(damageable):
    first, second = voc.split_ids(damageable, "val")[:2]
    (damageable / "JPEGImages" / f"{first}.jpg").write_bytes(b"no image")
    with pytest.raises(BadFile, match=f"{first}.jpg"):
        VocDataset(damageable, "val")[0]
    _, target = VocDataset(damageable, "val", skip_bad=True)[0]
    assert target["name"] == second
    assert target["image_id"] == 2
    (bad,) = target["bad_samples"]
    assert bad.startswith(f"JPEGImages/{first}.jpg: ")
    for path in (damageable / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(BadFile, match="JPEGImages"):
        VocDataset(damageable, "val", skip_bad=True)[0]


def test_class_names_come_from_the_devkit(other_classes, devkit):
    assert voc.class_names(devkit) == CLASS_NAMES
    assert voc.class_names(other_classes) == OTHER_CLASSES
    assert VocDataset(other_classes, "train").class_names == OTHER_CLASSES
    assert {p.kind for p in verify(other_classes)} <= {"no instance"}


@pytest.fixture
def named(other_classes, tmp_path):
    """A devkit for one test, and its file of class names."""
    devkit = shutil.copytree(other_classes, tmp_path / "named")
    return devkit, devkit / "class_names.txt"


@pytest.mark.parametrize("content", ["", "a\nb\na\n", "a\nall\n"])
def test_class_names_that_cannot_be_used_name_their_file(named, content):
    devkit, path = named
    path.write_text(content)
    with pytest.raises(ValueError, match=str(path)):
        VocDataset(devkit, "train")


def test_a_class_value_without_a_name_is_refused(named):
    devkit, path = named
    path.write_text("bottle\nperson\n")
    with pytest.raises(BadFile, match=r"\b3\b.* 0 to 2 or 255") as caught:
        list(VocDataset(devkit, "train"))
    assert caught.value.kind == "unknown class"


def test_fingerprint_tells_data_apart(devkit, damageable, named):
    assert voc.fingerprint(devkit) == voc.fingerprint(devkit) != voc.fingerprint(damageable)
    class_map = voc.sample_paths(damageable, voc.split_ids(damageable, "train")[3])[2]
    for folder, path in ((damageable, class_map), named):
        before = voc.fingerprint(folder)
        path.write_text("bottle\nperson\nlamb\n")
        assert voc.fingerprint(folder) != before
