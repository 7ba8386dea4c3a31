"""COCO run-length encoding: encode, decode, areas, validation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pycocotools import mask as coco_mask
from torch import Tensor

DIGIT_BITS = 5
"""Bits a character of a run-length code carries (COCO's variable-length numbers)."""
MAX_DIGITS = 7
"""Characters a number may have: more cannot stand for a run within an image."""
FAR_OUT = 10
"""Image sides that a polygon's corner may lie from the origin; further out, what draws polygons fails."""
AREAS_AT_ONCE = 200


def rle_pixel_counts(codes: Sequence[bytes]) -> Int[np.ndarray, " n"]:
    """How many pixels each COCO run-length code covers, all runs together; -1 for what is no such code."""
    digits = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - 48
    owners = np.repeat(np.arange(len(codes)), [len(code) for code in codes])
    opens = _changes(owners)
    ends = (digits & 32) == 0  # of a number
    starts = np.flatnonzero(np.r_[True, ends[:-1]][: len(ends)] | opens)
    places = np.arange(len(digits)) - np.repeat(starts, np.diff(np.r_[starts, len(digits)]))
    torn = np.r_[opens[1:], True][: len(ends)] & ~ends
    broken = np.zeros(len(codes), dtype=bool)
    broken[owners[(digits < 0) | (digits > 63) | torn | (places >= MAX_DIGITS)]] = True
    places = DIGIT_BITS * places.clip(max=MAX_DIGITS)
    terms = ((digits & 31) << places) - np.where(ends & ((digits & 16) > 0), 32 << places, 0)
    runs, owners = np.add.reduceat(terms, starts) if len(starts) else terms, owners[starts]
    # From the fourth number on, each is the difference to the one before the last.
    firsts = _changes(owners)
    index = np.arange(len(runs)) - np.flatnonzero(firsts)[np.cumsum(firsts) - 1]
    for chain in (index % 2 == 1, (index % 2 == 0) & (index > 0)):
        runs[chain] = _running_sums(runs[chain], owners[chain])
    broken[owners[runs < 0]] = True
    covered = np.bincount(owners, runs.clip(0), minlength=len(codes))
    return np.where(broken, -1, covered).astype(np.int64)


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before it."""
    return np.r_[True, values[1:] != values[:-1]][: len(values)]


def _running_sums(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Sums up to each value, starting anew with each owner."""
    sums, firsts = np.cumsum(values), _changes(owners)
    return sums - (sums - values)[firsts][np.cumsum(firsts) - 1]


def as_rle(segmentation: object, height: int, width: int, what: str) -> dict:
    """A mask in any of COCO's forms as a compressed run-length code. Raises ValueError, naming `what` has it."""
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        size, counts = segmentation["size"], segmentation["counts"]
        if not isinstance(size, list | tuple) or list(size) != [height, width]:
            raise ValueError(
                f"{what} has a mask of size {shorten(size)}, but its image has {[height, width]} (height, width)"
            )
        if isinstance(counts, bytes):
            return {"size": [height, width], "counts": counts.decode("ascii", "replace")}
        if isinstance(counts, str) and counts.isascii():
            return {"size": [height, width], "counts": counts}
        if isinstance(counts, list) and all(
            is_number(c) and c >= 0 and c == int(c) for c in counts
        ):
            if sum(counts) != height * width:
                raise ValueError(
                    f"{what} has a mask whose runs cover {sum(counts):g} of {height * width} pixels"
                )
            return _text(
                coco_mask.frPyObjects(
                    {"size": [height, width], "counts": [int(c) for c in counts]}, height, width
                )
            )
    elif isinstance(segmentation, list) and segmentation:
        corners = all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_number, p))
            for p in segmentation
        )
        if corners and max(abs(c) for p in segmentation for c in p) <= FAR_OUT * max(height, width):
            return _text(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    raise ValueError(
        f"{what} has no mask that can be read: segmentation is {shorten(segmentation)}"
    )


def check_rles(rles: list[dict], what: str) -> None:
    """Raises ValueError, naming the entry, when a run-length code is torn or covers other than its image."""
    codes = [rle["counts"].encode("utf-8") for rle in rles]
    expected = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    for index in np.flatnonzero(rle_pixel_counts(codes) != expected):
        raise ValueError(
            f"{what} {index} has a mask whose run-length code is damaged: it does not cover {expected[index]} pixels"
        )


def is_number(value: object) -> bool:
    """A finite number that a float holds to the unit, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53


def shorten(value: object) -> str:
    """A value, cut so that it fits into a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(rle: dict) -> dict:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def encode_rle(masks: Shaped[Tensor, "n h w"]) -> list[dict]:
    """COCO run-length codes of binary masks, `counts` as str so that they go into JSON."""
    fortran = np.asfortranarray(masks.detach().cpu().numpy().astype(np.uint8).transpose(1, 2, 0))
    return [
        {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        for rle in coco_mask.encode(fortran)
    ]


def decode_rle(rles: list[dict]) -> Bool[np.ndarray, "n h w"]:
    """Masks of run-length codes, all of one size. An empty list gives an array of shape [0, 0, 0]."""
    if not rles:
        return np.zeros((0, 0, 0), dtype=bool)
    return coco_mask.decode(rles).transpose(2, 0, 1).astype(bool)


def mask_areas(rles: list[dict]) -> Float[np.ndarray, " n"]:
    """Pixels of masks given by run-length codes; some at a time, as pycocotools fails on more than 255."""
    parts = [
        coco_mask.area(rles[start : start + AREAS_AT_ONCE])
        for start in range(0, len(rles), AREAS_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0), *parts])
