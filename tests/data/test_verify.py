"""Each kind of damage is done to a copy of a good devkit and has to be reported."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vocseg_lib.data.classes import save_map
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import read_sample, sample_paths, split_ids


def change_map(path, change):
    save_map(path, change(np.array(Image.open(path))).astype(np.uint8))


def recolor_half(path):
    pixels = np.array(Image.open(path))
    rows, columns = np.nonzero((pixels > 0) & (pixels < 255))
    half = len(rows) // 2
    pixels[rows[:half], columns[:half]] = pixels[rows[0], columns[0]] % 20 + 1
    save_map(path, pixels)


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def paint_noise(path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)


def kinds(devkit):
    return {(problem.kind, problem.path.name) for problem in verify(devkit)}


IMAGE, OBJECTS, CLASSES = range(3)
DAMAGES = [  # kind, file that it is reported of, files that are damaged, how
    ("missing", IMAGE, [IMAGE], Path.unlink),
    ("missing", OBJECTS, [OBJECTS], Path.unlink),
    ("missing", CLASSES, [CLASSES], Path.unlink),
    ("truncated", IMAGE, [IMAGE], lambda path: cut(path, 0.6)),
    ("truncated", OBJECTS, [OBJECTS], lambda path: cut(path, 0.6)),
    ("undecodable", IMAGE, [IMAGE], lambda path: path.write_text("<html>404</html>")),
    ("undecodable", CLASSES, [CLASSES], lambda path: path.write_bytes(b"")),
    ("not a map", OBJECTS, [OBJECTS], paint_noise),
    ("size mismatch", CLASSES, [CLASSES], lambda path: change_map(path, lambda p: p[:-3])),
    ("contradiction", OBJECTS, [CLASSES], recolor_half),
    (
        "unknown class",
        CLASSES,
        [CLASSES],
        lambda path: change_map(path, lambda p: np.where(p % 255, 77, p)),
    ),
    ("no instance", OBJECTS, [OBJECTS, CLASSES], lambda path: change_map(path, np.zeros_like)),
]


def test_each_kind_of_damage_is_reported_and_nothing_else(damageable):
    assert verify(damageable) == []
    names = split_ids(damageable, "train")[2:]  # the first two are the edge cases
    expected = set()
    for name, (kind, reported, damaged, damage) in zip(names, DAMAGES, strict=True):
        paths = sample_paths(damageable, name)
        for index in damaged:
            damage(paths[index])
        expected.add((kind, paths[reported].name))
        if kind == "no instance":  # which can be read, unlike the others
            assert len(read_sample(damageable, name).labels) == 0
            continue
        with pytest.raises(BadFile, match=str(paths[reported])) as caught:
            read_sample(damageable, name)
        assert (caught.value.kind, caught.value.path) == (kind, paths[reported])
    assert kinds(damageable) == expected


def test_every_contradiction_of_a_sample_is_reported(damageable):
    name = split_ids(damageable, "train")[2]
    _, objects, classes = sample_paths(damageable, name)
    labels = np.array(Image.open(classes))
    recolor_half(classes)
    change_map(objects, lambda p: np.where((labels > 0) & (np.arange(len(p))[:, None] < 40), 0, p))
    assert {problem.path for problem in verify(damageable)} == {objects, classes}


def test_mistakes_in_split_lists_are_reported(damageable):
    lists = damageable / "ImageSets" / "Segmentation"
    names = split_ids(damageable, "train")
    with (lists / "train.txt").open("a") as file:
        file.write(f"no_such_image\n{names[3]}\n")
    with (lists / "val.txt").open("a") as file:
        file.write(f"{names[4]}\n")
    mistakes = {("id without files", "no_such_image.jpg"), ("duplicate id", "train.txt")}
    assert kinds(damageable) == mistakes | {("id in train and val", "val.txt")}
    (lists / "val.txt").unlink()
    assert kinds(damageable) == mistakes | {("missing split list", "val.txt")}


@pytest.mark.parametrize("kept", [-1, -4, -13])
def test_a_png_without_its_very_end_is_truncated(damageable, kept):
    path = sample_paths(damageable, split_ids(damageable, "val")[0])[CLASSES]
    path.write_bytes(path.read_bytes()[:kept])
    (problem,) = verify(damageable)
    assert problem.path == path


def test_one_wrong_pixel_is_a_contradiction(damageable):
    path = sample_paths(damageable, split_ids(damageable, "val")[0])[CLASSES]
    pixels = np.array(Image.open(path))
    row, column = np.argwhere((pixels > 0) & (pixels < 255))[0]
    for value in (0, 255):
        pixels[row, column] = value
        save_map(path, pixels)
        (problem,) = verify(damageable)
        assert problem.kind == "contradiction"
        assert " 1 pixel" in problem.reason
        read_sample(damageable, path.stem)  # allows for a few


def test_an_object_that_vanished_from_one_map_is_a_contradiction(damageable):
    names = split_ids(damageable, "train")
    crowd = next(name for name in names if len(read_sample(damageable, name).labels) > 2)
    largest = int(read_sample(damageable, crowd).masks.sum((1, 2)).argmax()) + 1
    path = sample_paths(damageable, crowd)[OBJECTS]
    whole = path.read_bytes()
    for value in (0, 255):
        path.write_bytes(whole)
        change_map(path, lambda p, new=value: np.where(p == largest, new, p))
        (problem,) = verify(damageable)
        with pytest.raises(BadFile) as caught:
            read_sample(damageable, crowd)
        assert problem.kind == caught.value.kind == "contradiction"


def test_real_images_are_whole(real_devkit):
    assert verify(real_devkit) == []
