"""COCO run-length encoding: encode, decode, areas, validation."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from pycocotools import mask as coco_mask
from torch import Tensor

from vocseg_lib.utils.json_values import is_number, shorten
from vocseg_lib.utils.masks import split_masks

DIGIT_BITS = 5  # per character of a compressed code; a number has one or more characters
MAX_DIGITS = 7  # characters per number: a run within an image needs no more
MAX_CODE = 10**7  # characters of a compressed code: its numbers take 50 bytes each to check
CHECKED_TOGETHER = 1 << 18  # characters, to bound memory
MAX_CORNER = 10  # largest coordinate, in image sides; pycocotools fails on corners further out
MAX_COORDINATE = 10**8  # pixels: five times as much has to fit into pycocotools' 32 bits
MAX_OUTLINE = 10**7  # pixels along the edges of polygons, of which pycocotools makes 5 points each
MERGED_TOGETHER = 100  # polygons: the time of one merge grows with their square
MIN_IOU = 0.5  # of a mended mask's box with the bbox
MAX_MASKS = 200  # masks per call of `pycocotools.mask.area`, which fails on more than 255


def as_rle(
    segmentation: object, height: int, width: int, what: str, coded: int | None = None
) -> dict:
    """A mask in any of COCO's forms as a compressed code; one that is such a code as it is.

    `coded`: the pixels of its code, if known: see `pixel_counts`. Raises ValueError: `what`, so
    named in the message, is not a mask of this size.
    """
    size, pixels = [height, width], height * width
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        counts = segmentation["counts"]
        if segmentation["size"] not in (size, tuple(size)):
            given = shorten(segmentation["size"])
            raise ValueError(f"{what} is a mask of size {given}, but its image has {size}")
        if isinstance(counts, bytes):
            counts = counts.decode("ascii", "replace")
        if isinstance(counts, str):
            if (pixel_counts([counts])[0] if coded is None else coded) == pixels:
                is_plain = segmentation["size"] == size and type(segmentation["size"][0]) is int
                same = is_plain and counts is segmentation["counts"]
                return segmentation if same else {"size": size, "counts": counts}
        elif isinstance(counts, list) and all(is_number(c) and c == int(c) >= 0 for c in counts):
            if sum(counts) == pixels:
                runs = {"size": size, "counts": [int(c) for c in counts]}
                return _as_text(coco_mask.frPyObjects(runs, height, width))
    elif isinstance(segmentation, list) and segmentation:
        sizes_fit = (isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation)
        corners, furthest = chain(*segmentation), min(MAX_CORNER * max(size), MAX_COORDINATE)
        if all(sizes_fit) and all(is_number(c) and abs(c) <= furthest for c in corners):
            if sum(map(_outline, segmentation)) > min(4 * pixels + 10**5, MAX_OUTLINE):
                problem = f"{what} has polygons whose edges are much longer than the {pixels}"
                raise ValueError(f"{problem} pixels of its image could take")
            rles = coco_mask.frPyObjects(segmentation, height, width)
            while len(rles) > 1:
                starts = range(0, len(rles), MERGED_TOGETHER)
                rles = [coco_mask.merge(rles[i : i + MERGED_TOGETHER]) for i in starts]
            return _as_text(rles[0])
    expected = f"polygons of 3 or more corners, or runs that cover {pixels} pixels"
    raise ValueError(f"{what} is not a mask: {shorten(segmentation)}; expected {expected}")


def _outline(polygon: list[float]) -> float:
    """Steps of a pixel along the edges of a polygon."""
    corners = np.array(polygon, dtype=float).reshape(-1, 2)
    return np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum() + len(corners)


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


def pixel_counts(codes: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """Pixels in all runs of compressed codes; -1 for an invalid one, which crashes pycocotools."""
    counts, start, length = [np.zeros(0, dtype=np.int64)], 0, 0
    for end, code in enumerate(codes, 1):
        length += len(code)
        if length > CHECKED_TOGETHER or end == len(codes):
            runs, first = _decode_runs(codes[start:end])
            filled = np.diff(first) > 0
            sums = np.full(len(filled), -1)
            if filled.any():
                starts = first[:-1][filled]
                is_valid = np.minimum.reduceat(runs, starts) >= 0
                sums[filled] = np.where(is_valid, np.add.reduceat(runs, starts), -1)
            counts.append(sums)
            start, length = end, 0
    return np.concatenate(counts)


def paint_masks(
    columns: Shaped[np.ndarray, " pixels"], rles: list[dict], values: Iterable[int]
) -> None:
    """Write a value to the pixels of each mask, in order; a map's columns, one after the other."""
    runs, first = _decode_runs([rle["counts"] for rle in rles])
    before = np.repeat(np.arange(len(rles)) * len(columns), np.diff(first))
    ends = (np.cumsum(runs) - before).tolist()
    for value, (start, end) in zip(values, pairwise(first.tolist()), strict=True):
        for left, right in zip(ends[start:end:2], ends[start + 1 : end : 2], strict=False):
            columns[left:right] = value


def _decode_runs(
    codes: Sequence[str],
) -> tuple[Int64[np.ndarray, " runs"], Int64[np.ndarray, " _"]]:
    """Runs of codes, one code after the other, and where each code starts.

    Invalid codes have a negative run, or none.
    """
    codes = [code if len(code) <= MAX_CODE and code.isascii() else "" for code in codes]
    text = np.frombuffer("".join(codes).encode(), np.uint8)
    # Bits 0 to 4 of a character are a digit, bit 5 says that the number continues.
    characters = text.astype(np.int64) - 48
    code_lengths = np.array([*map(len, codes)], dtype=np.int64)
    last = np.cumsum(code_lengths) - 1  # character of each code
    is_end = (characters & 32) == 0
    is_bad = (characters < 0) | (characters > 63)
    ends_of_codes = last[code_lengths > 0]
    is_bad[ends_of_codes] |= ~is_end[ends_of_codes]
    is_end[ends_of_codes] = True
    ends = np.flatnonzero(is_end)
    starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
    lengths = ends + 1 - starts
    first = np.append(0, np.searchsorted(ends, last, "right"))  # run of each code
    if not len(ends):
        return ends, first
    position = np.arange(len(text)) - np.repeat(starts, lengths)
    digits = (characters & 31) << (DIGIT_BITS * np.minimum(position, MAX_DIGITS))
    # Bit 4 of a number's last digit is its sign.
    negative = (characters[ends] & 16) > 0
    lengths = np.minimum(lengths, MAX_DIGITS + 1)
    numbers = np.add.reduceat(digits, starts) - negative * (1 << DIGIT_BITS * lengths)
    # From the fourth number of a code on, each is the difference to the one before the last.
    sizes = np.diff(first)
    index = np.arange(len(numbers)) - np.repeat(first[:-1], sizes)
    runs = numbers.copy()
    for of_code in (index % 2 == 1, (index % 2 == 0) & (index > 0)):
        sums = np.cumsum(np.where(of_code, numbers, 0))
        before = np.append(0, sums)[first[:-1]]  # in the codes before
        runs[of_code] = (sums - np.repeat(before, sizes))[of_code]
    runs[(lengths > MAX_DIGITS) | np.logical_or.reduceat(is_bad, starts)] = -1
    return runs, first


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
    columns = values.T.ravel()
    starts = np.flatnonzero(np.diff(columns, prepend=columns[:1] + 1))
    ends, of_runs = np.append(starts[1:], columns.size), columns[starts]
    runs = [of_runs == value for value in ids]
    edges = [np.stack([starts[of_id], ends[of_id]], 1).ravel() for of_id in runs]
    lengths = np.array([*map(len, edges)], dtype=np.int64)
    return encode_edges(np.concatenate([np.zeros(0, np.int64), *edges]), lengths, *values.shape)


def encode_edges(
    edges: Int64[np.ndarray, " edges"], lengths: Int64[np.ndarray, " n"], height: int, width: int
) -> list[dict]:
    """Compressed codes of masks whose runs of ones are known.

    `edges`: where each run starts and ends, pixels counted down the columns, mask after mask;
    `lengths`: how many are of each mask.
    """
    ends = np.insert(edges, np.cumsum(lengths), height * width)  # and of each mask's last zeros
    first = np.append(0, np.cumsum(lengths + 1))
    runs = np.diff(ends, prepend=0)
    runs[first[:-1]] = ends[first[:-1]]
    # No code ends with a run of no pixels.
    last = first[1:] - 1
    is_empty = runs[last] == 0
    runs = np.delete(runs, last[is_empty])
    first -= np.append(0, np.cumsum(is_empty))
    return [{"size": [height, width], "counts": code} for code in _encode_runs(runs, first)]


def _encode_runs(runs: Int64[np.ndarray, " runs"], first: Int64[np.ndarray, " _"]) -> Iterator[str]:
    """The inverse of `_decode_runs`."""
    numbers = runs.copy()
    numbers[2:] -= runs[:-2]
    start = (first[:-1, None] + np.arange(3)).ravel()  # of a code, these are no differences
    start = start[start < np.repeat(first[1:], 3)]
    numbers[start] = runs[start]
    # Another digit while the number, with its sign, does not fit into those before.
    size = numbers ^ numbers >> 63
    limits = [1 << DIGIT_BITS * k - 1 for k in range(1, MAX_DIGITS)]
    goes_on = [size >= limit for limit in limits if limit <= size.max(initial=0)]
    is_digit = np.stack([np.ones(len(size), bool), *goes_on], 1)
    digits = np.empty(is_digit.shape, np.uint8)
    for k, more in enumerate([*goes_on, np.zeros(len(size), bool)]):
        digit = (numbers >> DIGIT_BITS * k).astype(np.uint8)
        digits[:, k] = (digit & 31) + (more.view(np.uint8) << DIGIT_BITS) + 48
    ends = np.cumsum(sum(goes_on, start=np.ones(len(size), np.int64)))
    text = digits[is_digit].tobytes().decode()
    return (text[start:end] for start, end in pairwise(np.append(0, ends)[first].tolist()))


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


def mask_boxes(rles: list[dict]) -> Float[np.ndarray, "n 4"]:
    """Box of each mask, xywh in pixels."""
    parts = [coco_mask.toBbox(rles[i : i + MAX_MASKS]) for i in range(0, len(rles), MAX_MASKS)]
    return np.concatenate([np.zeros((0, 4)), *parts])
