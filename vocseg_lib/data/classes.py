"""PASCAL VOC's class names and the color map of its PNGs (VOC devkit, `VOClabelcolormap`)."""

import re
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vocseg_lib.data.image_files import BadFile, Color, StoredMap, read_map
from vocseg_lib.utils.files import read_bytes
from vocseg_lib.utils.json_values import shorten

CLASS_NAMES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)
"""Label k (1..20) is `CLASS_NAMES[k - 1]`; 0 is background."""
VOC_NAMES = {"airplane": "aeroplane", "couch": "sofa", "motorcycle": "motorbike", "tv": "tvmonitor"}
"""COCO's names of VOC's classes where they are not the same but for blanks."""
VOID = 255  # pixels that evaluation ignores: object borders and objects too hard to label
VOID_COLOR, BLACK, WHITE = (224, 224, 192), (0, 0, 0), (255, 255, 255)
CLASS_FILE = "class_names.txt"  # of a devkit with other classes: one per line, by class value
LABELMAP = "labelmap.txt"  # CVAT's, with the colors of the class maps
CLASS_FILES = (CLASS_FILE, LABELMAP, "classes.txt", "labels.txt")  # labels.txt: labelme's
LABELMAP_LINE = re.compile(
    r"(?P<name>.*?)(:(?P<color>\s*\d+\s*,\s*\d+\s*,\s*\d+\s*)?(:[^:]*){0,2})?"
)

COMMENTS = ("#", "//")  # begins of lines in class lists that are no class
BACKGROUND_NAMES = ("", "background", "_background_", "__background__", "__ignore__", "_ignore_")
"""Names in class lists that are no class, in any case: labelme's, CVAT's, VOC's own."""
MAX_LIST_BYTES, MAX_LIST_LINE = 1 << 27, 1_024  # bytes of a list, characters of a name in it
MEAN_NAME = "all"  # stands for the mean over classes in tables


def name_key(name: str) -> str:
    """What equal names have in common: no case, no blanks, VOC's name for COCO's."""
    key = "".join(name.lower().split())
    return VOC_NAMES.get(key, key)


def is_background(name: str) -> bool:
    """Whether a name in a list of classes or categories is none of a class."""
    return name.strip().lower() in BACKGROUND_NAMES


def check_class_names(names: Sequence[str], source: object) -> None:
    """Raise ValueError, naming `source`: too few or many, equal but for case or blanks, "all"."""
    if not 0 < len(names) < VOID:
        raise ValueError(f"{source} has {len(names)} class names; expected 1 to {VOID - 1}")
    if len(names) > 1 and all(re.match(rf"({k}|{k + 1})\W+\S", n) for k, n in enumerate(names)):
        way = "give names alone, that of class value 1 first"
        raise ValueError(f"{source} has numbers before its names, as in {names[0]!r}: {way}")
    seen = {"".join(MEAN_NAME.split()): f"{MEAN_NAME!r}, the mean in tables,"}
    for name in names:
        if is_void(name) or name.startswith(COMMENTS):
            raise ValueError(f"{source} has {name!r}, which is not a class: remove or rename it")
        if re.search("[\ud800-\udfff]", name):
            raise ValueError(f"{source} has {name!r}, which is not valid Unicode: rename it")
        key = "".join(name.lower().split())
        if key in seen:
            raise ValueError(
                f"{source} has {name!r} beside {seen[key]}: rename or merge one of them"
            )
        seen[key] = repr(name)


def class_names(devkit: Path) -> tuple[str, ...]:
    """The class names of a devkit, label 1 first: those of the first of `CLASS_FILES`, or VOC's.

    Raises ValueError, also where there is no `class_names.txt` and other lists differ.
    """
    found = class_files(devkit)
    files = [found[name] for name in CLASS_FILES if name in found]
    if not files:
        return CLASS_NAMES
    lists = [_names_of(file) for file in files]
    if files[0].name.lower() != CLASS_FILE and len(set(lists)) > 1:
        listed = " and ".join(file.name for file in files)
        raise ValueError(f"{listed} in {devkit} differ: write the classes to {CLASS_FILE}")
    check_class_names(lists[0], files[0])
    return lists[0]


def _names_of(file: Path) -> tuple[str, ...]:
    if file.name.lower() == LABELMAP:
        return tuple(n for n in _read_labelmap(file) if not (is_background(n) or is_void(n)))
    lines = [line for line in read_lines(file) if not line.startswith(COMMENTS)]
    return tuple(line for line in lines if not is_background(line))


def class_files(devkit: Path) -> dict[str, Path]:
    """The `CLASS_FILES` that a devkit has, by name, in any case; those of the name itself first."""
    rank = {path: (path.name not in CLASS_FILES, path.name) for path in devkit.iterdir()}
    last_wins = sorted(rank, key=rank.get, reverse=True)
    return {key: path for path in last_wins if (key := path.name.lower()) in CLASS_FILES}


def is_void(name: str) -> bool:
    """Whether a name in a list of classes stands for ignored pixels."""
    return name.strip("_").lower() in ("void", "ignore", "ignored")


def _read_labelmap(file: Path) -> dict[str, Color | None]:
    """Labels and colors, in order, of CVAT's lines `label:color_rgb:parts:actions`."""
    labels = {}
    for line in read_lines(file):
        if line.startswith("#"):
            continue
        name, color = LABELMAP_LINE.fullmatch(line).group("name", "color")
        color = tuple(map(int, color.split(","))) if color else None
        if max(color or [0]) > 255 or (":" in name and not color):
            raise ValueError(f"{file}: {line!r} is not NAME:R,G,B:: with a color in 0..255")
        if name.strip() in labels or (color and color in labels.values()):
            raise ValueError(f"{file}: {line!r} has the name or color of another label")
        labels[name.strip()] = color
    return labels


def class_colors(devkit: Path) -> dict[Color, int]:
    """The class value of each color: of CVAT's `labelmap.txt`, or VOC's. Raises ValueError."""
    names, file = ("", *class_names(devkit)), class_files(devkit).get(LABELMAP)
    labels = _read_labelmap(file) if file else {}
    if not any(labels.values()):
        voc = {color: value for color, value in _voc_values().items() if value < len(names)}
        return voc | {VOID_COLOR: VOID, WHITE: VOID}
    colors = {BLACK: 0, VOID_COLOR: VOID}
    for name, color in labels.items():
        if color and (name in names or is_void(name) or is_background(name)):
            other = VOID if is_void(name) else 0
            colors[color] = names.index(name) if name in names else other
    return colors


def read_class_map(path: Path, devkit: Path) -> UInt8[np.ndarray, "h w"]:
    """Class values: numbers, or by color where a map has other colors than VOC's palette.

    Raises BadFile.
    """
    stored = read_map(path)
    if stored.colors is None or (_is_standard(stored) and LABELMAP not in class_files(devkit)):
        return stored.values
    used, colors = _used(stored)
    table, classes = class_colors(devkit), len(class_names(devkit))
    numbers = _class_numbers(stored, used, colors, table, classes)
    if numbers is None:
        unknown = [color for color in colors if color not in table]
        reason = f"has colors, {shorten(unknown or colors)}, that "
        reason += "do not belong to classes" if unknown else "stand at other values than theirs"
        reason += f": list them in {LABELMAP} (NAME:R,G,B::), or write gray PNGs of class numbers"
        raise BadFile(path, "unknown colors", f"{reason}, or export as COCO")
    if stored.is_palette and numbers != used and LABELMAP not in class_files(devkit):
        text = "class maps with the colors of other numbers in their palette are read by color"
        warnings.warn(f"{devkit}: {text}; verify lists them", stacklevel=3)
    return _replace(stored, used, numbers)


def _class_numbers(
    stored: StoredMap, used: list[int], colors: list[Color], table: dict[Color, int], classes: int
) -> list[int] | None:
    """The class values that the colors of the used values stand for; None: unknown."""
    is_gray, grays = all(map(_is_gray, colors)), [color[0] for color in colors]
    are_numbers = is_gray and all(gray <= classes or gray == VOID for gray in grays)
    if are_numbers and any(0 < gray < VOID for gray in grays):
        return grays
    known = [table.get(color) for color in colors]
    if not stored.is_palette:
        return known if None not in known else grays if are_numbers else None
    if _is_padded(stored, used, colors) or (is_gray and WHITE in colors):
        return used
    if _keeps_numbers(known, used, colors):
        return used
    if None not in known:
        return known if _is_voc_like(stored, table) else None
    clashes = [k is not None and k != u for k, u in zip(known, used, strict=True) if k != 0]
    return None if 2 * sum(clashes) >= len(clashes) else used


def read_object_map(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Object numbers: numbers, or one for each color; 0 background, 255 void. Raises BadFile."""
    stored = read_map(path)
    if stored.colors is None or _is_standard(stored):
        return stored.values
    used, colors = _used(stored)
    if _is_padded(stored, used, colors):
        return stored.values
    if all(map(_is_gray, colors)) and (not stored.is_palette or set(colors) - {BLACK, WHITE}):
        return _replace(stored, used, [color[0] for color in colors])
    table = _voc_values() | {WHITE: VOID}
    numbers = [table.get(color) for color in colors]
    if _keeps_numbers(numbers, used, colors):
        return stored.values if stored.is_palette else _replace(stored, used, numbers)
    if None not in numbers and _is_voc_like(stored, table):
        return _replace(stored, used, numbers)
    if stored.is_palette and (BLACK not in colors or colors[0] == BLACK):
        return stored.values
    counter, fixed = count(1), {BLACK: 0, VOID_COLOR: VOID}
    numbers = [fixed[color] if color in fixed else next(counter) for color in colors]
    if next(counter) > VOID:
        raise BadFile(path, "too many objects", f"has more than {VOID - 1} objects")
    return _replace(stored, used, numbers)


def _is_standard(stored: StoredMap) -> bool:
    """Whether a map's palette is VOC's."""
    return stored.is_palette and np.array_equal(stored.colors, palette()[: len(stored.colors)])


def _is_padded(stored: StoredMap, used: list[int], colors: list[Color]) -> bool:
    """Whether values of a palette have no color of their own: black, as 0 has, or another one's."""
    is_second_black = BLACK in colors and used[colors.index(BLACK)] > 0
    return len(set(colors)) < len(colors) or (is_second_black and not stored.colors[0].any())


def _keeps_numbers(numbers: list[int | None], used: list[int], colors: list[Color]) -> bool:
    """Whether all colors but white stand at the numbers that they stand for."""
    return all(n == u or c == WHITE for n, u, c in zip(numbers, used, colors, strict=True))


def _is_voc_like(stored: StoredMap, table: dict[Color, int]) -> bool:
    """Whether a palette has no color that is neither VOC's nor the table's nor gray."""
    colors = map(tuple, stored.colors.tolist())
    return all(c in table or c in _voc_values() or _is_gray(c) for c in colors)


def _is_gray(color: Color) -> bool:
    return len(set(color)) == 1


def _used(stored: StoredMap) -> tuple[list[int], list[Color]]:
    """The values in a map and their colors; black for those without."""
    used, colors = np.unique(stored.values).tolist(), dict(enumerate(stored.colors.tolist()))
    return used, [tuple(colors.get(value, BLACK)) for value in used]


def _replace(stored: StoredMap, used: list[int], numbers: list[int]) -> UInt8[np.ndarray, "h w"]:
    new_values = np.zeros(256, np.uint8)
    new_values[used] = numbers
    return new_values[stored.values]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped. Raises OSError, ValueError."""
    try:
        lines = read_bytes(path, MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8: {error}") from None
    lines = [line.strip() for line in lines if line.strip()]
    if unusable := next(
        (line for line in lines if "\0" in line or len(line) > MAX_LIST_LINE), None
    ):
        raise ValueError(f"{path} is not a list of names: it has the line {shorten(unusable)}")
    return lines


def save_map(path: Path, values: np.ndarray, **options: Any) -> None:
    """Write class or object numbers, uint8 [h, w], as a PNG with VOC's colors."""
    png = Image.fromarray(values)
    png.putpalette(palette().ravel().tolist())
    png.save(path, "PNG", **options)


@cache
def palette() -> np.ndarray:
    """VOC's 256 RGB colors, uint8 [256, 3]: the index's bits, dealt to R, G, B from the top bit."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    bits = np.pad(bits, ((0, 0), (0, 1))).reshape(256, 3, 3)  # color, bit of a channel, channel
    return np.einsum("kbc,b->kc", bits, [128, 64, 32]).astype(np.uint8)


@cache
def _voc_values() -> dict[Color, int]:
    return {tuple(color): value for value, color in enumerate(palette().tolist())}
