"""PASCAL VOC's class names and the color map of its PNGs (VOC devkit, `VOClabelcolormap`)."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

CLASS_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)
"""Label k (1..20) is `CLASS_NAMES[k - 1]`; 0 is background."""
VOID = 255  # pixels that evaluation ignores: object borders and objects too hard to label


def save_map(path: Path, values: np.ndarray) -> None:
    """Write class or object numbers, uint8 [h, w], as a PNG with VOC's colors."""
    png = Image.fromarray(values)
    png.putpalette(palette().ravel().tolist())
    png.save(path)


@cache
def palette() -> np.ndarray:
    """VOC's 256 RGB colors, uint8 [256, 3]: the index's bits, dealt to R, G, B from the top bit."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    bits = np.pad(bits, ((0, 0), (0, 1))).reshape(256, 3, 3)  # color, bit of a channel, channel
    return np.einsum("kbc,b->kc", bits, [128, 64, 32]).astype(np.uint8)
