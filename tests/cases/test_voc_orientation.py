"""Maps of pictures that EXIF turns: the picture's own colors say where the objects are."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.layout import CLASSES, OBJECTS, write_devkit
from vocseg_lib.data.classes import save_map
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import read_sample


def check_masks(devkit, name, expected):
    for number, mask in zip((1, 2), read_sample(devkit, name).masks.numpy() > 0, strict=True):
        assert np.array_equal(mask, expected[number])


def shown_masks(picture: Path):
    """Masks by object from the colors of the picture as it is shown, by Pillow alone."""
    with Image.open(picture) as image:
        gray = np.array(ImageOps.exif_transpose(image).convert("L"))
    return {number: gray == number * 60 for number in (1, 2)}


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_maps_are_turned_with_pictures_where_they_fit_only_these_as_stored(
    tmp_path, orientation, square
):
    """a0 has the orientation; what its size does not decide, a1 does where it is on its side."""
    classes, objects = (CLASSES[:, :20], OBJECTS[:, :20]) if square else (CLASSES, OBJECTS)
    undecided = square or orientation < 5
    devkit = write_devkit(tmp_path / "d", (orientation,), classes, objects)
    # Nothing but this picture: as shown where the size leaves it open.
    masks = shown_masks(devkit / "JPEGImages/a0.png")
    as_shown = {number: objects == number for number in (1, 2)} if undecided else masks
    check_masks(devkit, "a0", as_shown)
    kinds = {p.kind for p in verify(devkit, ["train"])}
    assert kinds == ({"ambiguous orientation"} if undecided else set())
    # With a picture whose maps fit it as stored only.
    other = write_devkit(tmp_path / "other", (6, 6))
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        shutil.copy(other / folder / "a1.png", devkit / folder / "a1.png")
    check_masks(devkit, "a0", masks)
    # With one more, whose maps are as shown, the data set does not decide.
    for folder, values in (("SegmentationObject", OBJECTS), ("SegmentationClass", CLASSES)):
        shutil.copy(other / "JPEGImages/a1.png", devkit / "JPEGImages/a2.png")
        save_map(devkit / folder / "a2.png", np.rot90(values, -1))
    check_masks(devkit, "a0", as_shown)
    check_masks(devkit, "a2", shown_masks(devkit / "JPEGImages/a2.png"))
