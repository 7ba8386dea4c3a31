"""PASCAL VOC's class names and the color map of its PNGs (VOC devkit, `VOClabelcolormap`)."""

from collections.abc import Sequence
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


BACKGROUND_NAMES = ("", "background", "_background_", "__background__", "__ignore__", "_ignore_")
"""Names in class lists that are no class, in any case: labelme's, CVAT's, VOC's own."""
MEAN_NAME = "all"  # stands for the mean over classes in tables


def is_background(name: str) -> bool:
    """Whether a name in a list of classes or categories is none of a class."""
    return name.strip().lower() in BACKGROUND_NAMES


def check_class_names(names: Sequence[str], source: object) -> None:
    """Raise ValueError, naming `source`: too few or many, equal but for case or blanks, "all"."""
    if not 0 < len(names) < VOID:
        raise ValueError(f"{source} has {len(names)} class names; expected 1 to {VOID - 1}")
    seen = {"".join(MEAN_NAME.split()): f"{MEAN_NAME!r}, the mean in tables,"}
    for name in names:
        key = "".join(name.lower().split())
        if key in seen:
            raise ValueError(
                f"{source} has {name!r} beside {seen[key]}: rename or merge one of them"
            )
        seen[key] = repr(name)


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
