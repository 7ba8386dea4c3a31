"""Palettes with colors that are no class's, or that several values share."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.layout import CLASSES, OBJECTS, write_devkit
from vocseg_lib.data.classes import VOID, palette, read_class_map
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import read_sample


def test_palettes_whose_background_is_white_or_whose_last_class_is_black(tmp_path):
    devkit = write_devkit(tmp_path / "d")
    (devkit / "class_names.txt").write_text("".join(f"c{k}\n" for k in range(1, 23)))
    (devkit / "Class_Names.txt").write_text("other\n")
    classes = np.where(CLASSES == 12, 21, 15).astype(np.uint8)
    for values, colors in (
        (CLASSES, [255, 255, 255, *palette()[1:].ravel().tolist()]),
        (classes, [*palette()[:21].ravel().tolist(), *[0] * 705]),
    ):
        image = Image.fromarray(values)
        image.putpalette(colors)
        image.save(devkit / "SegmentationClass/a0.png")
        assert np.array_equal(read_class_map(devkit / "SegmentationClass/a0.png", devkit), values)


@pytest.mark.parametrize("covered", [False, True])
def test_a_palette_padded_with_zeros_keeps_its_void(tmp_path, covered):
    classes = np.where(CLASSES == 0, 15, CLASSES).astype(np.uint8) if covered else CLASSES
    objects = np.where(OBJECTS == 0, 3, OBJECTS).astype(np.uint8) if covered else OBJECTS
    devkit = write_devkit(tmp_path / "d", classes=classes, objects=objects)
    for folder, values in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        image = Image.fromarray(values)
        image.putpalette([*palette()[:21].ravel().tolist(), *[0] * (235 * 3)])
        image.save(devkit / folder / "a0.png")
    sample = read_sample(devkit, "a0")
    assert sample.labels.tolist() == [15, 12, 15][: 2 + covered]
    assert np.array_equal(sample.void, CLASSES == VOID)
    assert {p.kind for p in verify(devkit)} == {"id in train and val"}
