"""Each kind of damage is done to a copy of a good devkit and has to be reported."""

import numpy as np
import pytest
from PIL import Image

from vocseg_lib.data.classes import save_map
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import BadSample, read_sample, split_ids


def change_map(path, change):
    save_map(path, change(np.array(Image.open(path))).astype(np.uint8))


def half_recolored(pixels):
    rows, columns = np.nonzero((pixels > 0) & (pixels < 255))
    changed = pixels.copy()
    half = len(rows) // 2
    changed[rows[:half], columns[:half]] = pixels[rows[0], columns[0]] % 20 + 1
    return changed


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def damages(devkit, names):
    """Do twelve kinds of damage, one per sample; the {(kind, file name)} expected in the report."""
    jpeg = {n: devkit / "JPEGImages" / f"{n}.jpg" for n in names}
    classes = {n: devkit / "SegmentationClass" / f"{n}.png" for n in names}
    objects = {n: devkit / "SegmentationObject" / f"{n}.png" for n in names}
    lists = devkit / "ImageSets" / "Segmentation"
    n = iter(names)
    expected = set()

    def expect(kind, path):
        expected.add((kind, path.name))
        return path

    expect("missing", jpeg[next(n)]).unlink()
    expect("missing", classes[next(n)]).unlink()
    expect("missing", objects[next(n)]).unlink()
    cut(expect("truncated", jpeg[next(n)]), 0.6)
    cut(expect("truncated", objects[next(n)]), 0.6)
    expect("undecodable", jpeg[next(n)]).write_text("<html>404</html>")
    expect("undecodable", classes[next(n)]).write_bytes(b"")
    change_map(expect("size mismatch", classes[next(n)]), lambda pixels: pixels[:-3])
    change_map(expect("contradiction", objects[k := next(n)]), lambda pixels: pixels)
    change_map(classes[k], half_recolored)
    k = next(n)
    change_map(expect("no instance", objects[k]), np.zeros_like)
    change_map(classes[k], np.zeros_like)
    change_map(
        expect("unknown class", classes[k := next(n)]),
        lambda p: np.where((p > 0) & (p < 255), 77, p),
    )
    with (lists / "train.txt").open("a") as file:
        file.write(f"no_such_image\n{next(n)}\n")
    expected |= {("id without files", "no_such_image.jpg"), ("duplicate id", "train.txt")}
    return expected


def test_twelve_kinds_of_damage_are_all_reported(damageable):
    names = split_ids(damageable, "train")[2:]  # the first two are the edge cases
    assert verify(damageable) == []
    expected = damages(damageable, names)
    assert len(expected) == 13  # twelve kinds of damage; the last one made two
    problems = verify(damageable)
    assert expected <= {(problem.kind, problem.path.name) for problem in problems}
    # Nothing is reported of other files.
    stems = {path.split(".")[0] for _, path in expected}
    assert {problem.path.stem for problem in problems} <= stems | {"train"}


@pytest.mark.parametrize("kept", [-1, -4, -13])
def test_a_png_without_its_very_end_is_truncated(damageable, kept):
    path = damageable / "SegmentationClass" / f"{split_ids(damageable, 'val')[0]}.png"
    path.write_bytes(path.read_bytes()[:kept])
    (problem,) = verify(damageable)
    assert problem.path == path


def test_one_wrong_pixel_is_a_contradiction(damageable):
    name = split_ids(damageable, "val")[0]
    path = damageable / "SegmentationClass" / f"{name}.png"
    pixels = np.array(Image.open(path))
    row, column = np.argwhere((pixels > 0) & (pixels < 255))[0]
    pixels[row, column] = 0
    save_map(path, pixels)
    (problem,) = verify(damageable)
    assert problem.kind == "contradiction"
    assert "1 pixel" in problem.detail


def test_an_object_that_vanished_from_one_map_is_a_contradiction(damageable):
    names = split_ids(damageable, "train")
    crowd = next(name for name in names if len(read_sample(damageable, name).labels) > 2)
    largest = int(read_sample(damageable, crowd).masks.sum((1, 2)).argmax()) + 1
    path = damageable / "SegmentationObject" / f"{crowd}.png"
    whole = path.read_bytes()
    for value in (0, 255):
        path.write_bytes(whole)
        change_map(path, lambda p, new=value: np.where(p == largest, new, p))
        (problem,) = verify(damageable)
        assert problem.kind == "contradiction"
        with pytest.raises(BadSample) as caught:
            read_sample(damageable, crowd)
        assert caught.value.kind == "contradiction"


def test_rgb_map_shared_ids_and_missing_list_are_reported(damageable):
    names = split_ids(damageable, "train")
    path = damageable / "SegmentationObject" / f"{names[3]}.png"
    Image.open(path).convert("RGB").save(path)
    lists = damageable / "ImageSets" / "Segmentation"
    with (lists / "val.txt").open("a") as file:
        file.write(f"{names[4]}\n")
    kinds = {problem.kind for problem in verify(damageable)}
    assert kinds == {"not a palette image", "id in train and val"}
    (lists / "val.txt").unlink()
    assert "missing split list" in {problem.kind for problem in verify(damageable)}


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass", "SegmentationObject"])
def test_reading_a_bad_file_names_it(damageable, folder):
    name = split_ids(damageable, "val")[0]
    path = next((damageable / folder).glob(f"{name}.*"))
    for damage in (lambda: cut(path, 0.5), lambda: path.write_bytes(b"x"), path.unlink):
        damage()
        with pytest.raises(BadSample) as caught:
            read_sample(damageable, name)
        assert caught.value.path == path
        assert str(path) in str(caught.value)


def test_reading_refuses_contradictions_and_unknown_classes(damageable):
    first, second = split_ids(damageable, "val")[:2]
    change_map(damageable / "SegmentationClass" / f"{first}.png", half_recolored)
    change_map(
        damageable / "SegmentationClass" / f"{second}.png",
        lambda p: np.where((p > 0) & (p < 255), 21, p),
    )
    for name, kind in ((first, "contradiction"), (second, "unknown class")):
        with pytest.raises(BadSample) as caught:
            read_sample(damageable, name)
        assert caught.value.kind == kind


def test_real_images_are_whole(real_devkit):
    assert verify(real_devkit) == []
