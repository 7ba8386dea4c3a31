"""PASCAL VOC's class names and the colour map of its PNGs (VOC devkit, `VOClabelcolormap`)."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Label k (1..20) is `CLASS_NAMES[k - 1]`; 0 is background."""
VOID = 255
"""Pixel value of "do not judge": object borders and objects too hard to label."""


def save_map(path: Path, values: np.ndarray) -> None:
    """Write class or object numbers, uint8 [h, w], as a PNG with VOC's colours."""
    png = Image.fromarray(values)
    png.putpalette(palette().ravel().tolist())
    png.save(path)


@cache
def palette() -> np.ndarray:
    """VOC's 256 RGB colours, uint8 [256, 3]: the bits of the index, dealt to R, G and B from the highest bit down."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours
