"""COCO run-length encoding: encode, decode, areas, validation."""

import re
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from pycocotools import mask as coco_mask
from torch import Tensor

from vocseg_lib.utils.masks import split_masks

DIGIT_BITS = 5  # per character of a compressed code; a number has one or more characters
MAX_DIGITS = 7  # characters per number: a run within an image needs no more
MAX_CORNER = 10  # largest coordinate, in image sides; pycocotools fails on corners further out
MIN_IOU = 0.5  # of a mended mask's box with the bbox
MAX_MASKS = 200  # masks per call of `pycocotools.mask.area`, which fails on more than 255


def as_rle(segmentation: object, height: int, width: int, what: str) -> dict:
    """A mask in any of COCO's forms as a compressed code.

    Raises ValueError: `what`, so named in the message, is not a mask of this size.
    """
    size, pixels = [height, width], height * width
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        counts = segmentation["counts"]
        if segmentation["size"] not in (size, tuple(size)):
            given = shorten(segmentation["size"])
            raise ValueError(f"{what} is a mask of size {given}, but its image has {size}")
        if isinstance(counts, bytes):
            counts = counts.decode("ascii", "replace")
        if isinstance(counts, str) and counts.isascii():
            if _pixel_count(counts.encode()) == pixels:
                return {"size": size, "counts": counts}
        elif isinstance(counts, list) and all(is_number(c) and c == int(c) >= 0 for c in counts):
            if sum(counts) == pixels:
                runs = {"size": size, "counts": [int(c) for c in counts]}
                return _as_text(coco_mask.frPyObjects(runs, height, width))
    elif isinstance(segmentation, list) and segmentation:
        sizes_fit = (isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation)
        corners = [*chain(*segmentation)] if all(sizes_fit) else [None]
        if all(is_number(c) and abs(c) <= MAX_CORNER * max(size) for c in corners):
            return _as_text(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    expected = f"polygons of 3 or more corners, or runs that cover {pixels} pixels"
    raise ValueError(f"{what} is not a mask: {shorten(segmentation)}; expected {expected}")


def usable_polygons(segmentation: object) -> list[list[float]]:
    """The usable polygons of a list of them, or of one, in flat lists or lists of points."""

    def in_points(polygon: object) -> bool:
        points = polygon if isinstance(polygon, list) else []
        return len(points) > 2 and all(isinstance(p, list) and len(p) == 2 for p in points)

    parts = segmentation if isinstance(segmentation, list) else []
    if in_points(parts) or any(map(is_number, parts)):
        parts = [parts]
    parts = [[*chain(*part)] if in_points(part) else part for part in parts]
    parts = [p for p in parts if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
    return [part for part in parts if all(map(is_number, part))]


def mend_mask(
    segmentation: object, height: int, width: int, bbox: list[float] | None
) -> tuple[dict, str]:
    """A mask as a compressed code, and how it was mended, if it was.

    Polygons in other lists are taken as meant if they are where `bbox` (xywh, pixels) says. Raises
    ValueError.
    """
    try:
        return as_rle(segmentation, height, width, "segmentation"), ""
    except ValueError:
        polygons = usable_polygons(segmentation)
        if not polygons:
            raise
    rle = as_rle(polygons, height, width, "segmentation")
    if all(polygon in segmentation for polygon in polygons):
        return rle, "parts with fewer than 3 corners are left out of its polygons"
    if bbox and coco_mask.iou([coco_mask.toBbox(rle).tolist()], [bbox], [0])[0, 0] < MIN_IOU:
        problem = "is not a list of polygons in its bbox"
        raise ValueError(f"segmentation {shorten(segmentation)} {problem}")
    return rle, "segmentation is not a list of polygons x, y, x, y, ..., and read as one"


def _pixel_count(code: bytes) -> int:
    """Pixels in all runs of a compressed code; -1 if it is invalid, which crashes pycocotools."""
    runs = run_lengths(code)
    return int(runs.sum()) if (runs >= 0).all() else -1


def run_lengths(code: bytes) -> Int64[np.ndarray, " runs"]:
    """Pixels in each run of a compressed code, column by column, without and with the object.

    An invalid code has negative ones.
    """
    # Bits 0 to 4 of a character are a digit, bit 5 says that the number continues.
    characters = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((characters & 32) == 0)
    lengths = np.diff(ends, prepend=-1)
    in_range = (characters >= 0) & (characters <= 63)
    if not in_range.all() or lengths.sum() < len(code) or lengths.max(initial=0) > MAX_DIGITS:
        return np.array([-1])
    position = np.arange(len(code)) - np.repeat(ends + 1 - lengths, lengths)
    sums = np.cumsum((characters & 31) << (DIGIT_BITS * position))
    # Bit 4 of a number's last digit is its sign.
    negative = (characters[ends] & 16) > 0
    runs = np.diff(sums[ends], prepend=0) - negative * (1 << DIGIT_BITS * lengths)
    # From the fourth number on, each is the difference to the one before the last.
    for differences in (runs[1::2], runs[2::2]):
        np.cumsum(differences, out=differences)
    return runs


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float, up to 2**53, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53


def as_number(value: object) -> object:
    """The number that a text is; other values as they are."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    try:
        number = float(value) if isinstance(value, str) else value
        return int(number) if isinstance(value, str) and number == int(number) else number
    except (ValueError, OverflowError):
        return value


def id_key(value: object) -> str:
    """An id as text: 7, 7.0, "7" and "007" are the same one."""
    text = str(value).strip()
    number = re.fullmatch(r"(\d+)(\.0*)?", text)
    return str(int(number[1])) if number else text


def shorten(value: object) -> str:
    """The repr of a value, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def encode_rle(masks: Shaped[Tensor, "n h w"], size: tuple[int, int] | None = None) -> list[dict]:
    """Compressed codes of binary masks, `counts` as str for JSON; resized to `size`, if given."""
    codes, size = [], size or tuple(masks.shape[1:])
    for part in split_masks(masks.detach(), *size):
        part = part.cpu().to(torch.uint8).transpose(1, 2)  # codes go down the columns
        if part.shape[:0:-1] != size:
            part = F.interpolate(part[:, None], size[::-1], mode="nearest-exact")[:, 0]
        fortran = np.asfortranarray(part.numpy().transpose(2, 1, 0))
        codes += map(_as_text, coco_mask.encode(fortran))
    return codes


def encode_map(values: UInt8[np.ndarray, "h w"], ids: UInt8[np.ndarray, " n"]) -> list[dict]:
    """Compressed codes of the pixels of each id in a map, in memory of a few maps."""
    # Runs of equal values, column by column, as the codes are.
    columns, (height, width) = values.T.ravel(), values.shape
    starts = np.flatnonzero(np.diff(columns, prepend=columns[:1] + 1))
    ends, of_runs = np.append(starts[1:], columns.size), columns[starts]
    codes = []
    for value in ids:
        runs = of_runs == value
        edges = np.stack([starts[runs], ends[runs]], 1).ravel()
        counts = np.diff(edges, prepend=0, append=columns.size)
        counts = counts[: len(counts) - (counts[-1] == 0)].tolist()
        codes.append(
            coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        )
    return [_as_text(code) for code in codes]


def _as_text(rle: dict) -> dict:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def decode_rle(rles: list[dict]) -> Bool[np.ndarray, "n h w"]:
    """Masks of codes of one size; of none, an array of shape [0, 0, 0]."""
    if not rles:
        return np.zeros((0, 0, 0), dtype=bool)
    return coco_mask.decode(rles).transpose(2, 0, 1).astype(bool)


def mask_areas(rles: list[dict]) -> Float[np.ndarray, " n"]:
    """Pixels of each mask."""
    parts = [coco_mask.area(rles[i : i + MAX_MASKS]) for i in range(0, len(rles), MAX_MASKS)]
    return np.concatenate([np.zeros(0), *parts])
