"""COCO run-length encoding: encode, decode, areas, validation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pycocotools import mask as coco_mask
from torch import Tensor

DIGIT_BITS = 5
"""Bits per character of a compressed code (numbers have a variable number of characters)."""
MAX_DIGITS = 7  # characters per number: a run within an image needs no more
MAX_CORNER = 10
"""Largest polygon coordinate, in image sides; pycocotools fails on corners further out."""
MAX_MASKS = 200  # masks per call of `pycocotools.mask.area`, which fails on more than 255


def rle_pixel_counts(codes: Sequence[bytes]) -> Int[np.ndarray, " n"]:
    """Pixels in all runs of each compressed code; -1 for an invalid code."""
    # Bits 0 to 4 of a character are a digit, bit 5 says that the number continues.
    digits = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - 48
    owners = np.repeat(np.arange(len(codes)), [len(code) for code in codes])
    is_first = _changes(owners)
    is_end = (digits & 32) == 0
    starts = np.flatnonzero(np.r_[True, is_end[:-1]][: len(is_end)] | is_first)
    position = np.arange(len(digits)) - np.repeat(starts, np.diff(np.r_[starts, len(digits)]))
    truncated = np.r_[is_first[1:], True][: len(is_end)] & ~is_end
    invalid = np.zeros(len(codes), dtype=bool)
    invalid[owners[(digits < 0) | (digits > 63) | truncated | (position >= MAX_DIGITS)]] = True
    # Bit 4 of a number's last digit is its sign.
    shift = DIGIT_BITS * position.clip(max=MAX_DIGITS)
    terms = ((digits & 31) << shift) - np.where(is_end & ((digits & 16) > 0), 32 << shift, 0)
    runs, owners = np.add.reduceat(terms, starts) if len(starts) else terms, owners[starts]
    # From the fourth number on, each is the difference to the one before the last.
    is_first = _changes(owners)
    index = np.arange(len(runs)) - np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    for chain in (index % 2 == 1, (index % 2 == 0) & (index > 0)):
        sums, firsts = np.cumsum(runs[chain]), _changes(owners[chain])
        runs[chain] = sums - (sums - runs[chain])[firsts][np.cumsum(firsts) - 1]
    invalid[owners[runs < 0]] = True
    pixels = np.bincount(owners, runs.clip(0), minlength=len(codes))
    return np.where(invalid, -1, pixels).astype(np.int64)


def _changes(values: np.ndarray) -> np.ndarray:
    """Whether a value differs from the one before it."""
    return np.r_[True, values[1:] != values[:-1]][: len(values)]


def as_rle(segmentation: object, height: int, width: int, what: str) -> dict:
    """A mask in any of COCO's forms as a compressed code; `what` has it, for the message.

    Raises ValueError: the mask is invalid, or not of the image's size.
    """
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        size, counts = segmentation["size"], segmentation["counts"]
        if not isinstance(size, list | tuple) or list(size) != [height, width]:
            image = f"its image has {[height, width]} (height, width)"
            raise ValueError(f"{what} has a mask of size {shorten(size)}, but {image}")
        if isinstance(counts, bytes):
            return {"size": [height, width], "counts": counts.decode("ascii", "replace")}
        if isinstance(counts, str) and counts.isascii():
            return {"size": [height, width], "counts": counts}
        numbers = isinstance(counts, list) and all(map(is_number, counts))
        if numbers and all(c >= 0 and c == int(c) for c in counts):
            if sum(counts) != height * width:
                pixels = f"{sum(counts):g} of {height * width} pixels"
                raise ValueError(f"{what} has a mask whose runs cover {pixels}")
            plain = {"size": [height, width], "counts": [int(c) for c in counts]}
            return _as_text(coco_mask.frPyObjects(plain, height, width))
    elif isinstance(segmentation, list) and segmentation:
        valid = all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_number, p))
            for p in segmentation
        )
        most = MAX_CORNER * max(height, width)
        if valid and all(abs(c) <= most for p in segmentation for c in p):
            return _as_text(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    raise ValueError(f"{what} has an invalid mask: segmentation is {shorten(segmentation)}")


def check_rles(rles: list[dict], what: str) -> None:
    """Raise ValueError for the first code that is damaged or does not cover its image."""
    codes = [rle["counts"].encode("utf-8") for rle in rles]
    expected = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    for index in np.flatnonzero(rle_pixel_counts(codes) != expected):
        pixels = f"it does not cover {expected[index]} pixels"
        raise ValueError(f"{what} {index} has a mask with a damaged run-length code: {pixels}")


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float, up to 2**53, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53


def shorten(value: object) -> str:
    """The repr of a value, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _as_text(rle: dict) -> dict:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def encode_rle(masks: Shaped[Tensor, "n h w"]) -> list[dict]:
    """Compressed codes of binary masks, `counts` as str for JSON."""
    fortran = np.asfortranarray(masks.detach().cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    return [_as_text(rle) for rle in coco_mask.encode(fortran)]


def decode_rle(rles: list[dict]) -> Bool[np.ndarray, "n h w"]:
    """Masks of codes of one size; of none, an array of shape [0, 0, 0]."""
    if not rles:
        return np.zeros((0, 0, 0), dtype=bool)
    return coco_mask.decode(rles).transpose(2, 0, 1).astype(bool)


def mask_areas(rles: list[dict]) -> Float[np.ndarray, " n"]:
    """Pixels of each mask."""
    parts = [coco_mask.area(rles[i : i + MAX_MASKS]) for i in range(0, len(rles), MAX_MASKS)]
    return np.concatenate([np.zeros(0), *parts])
