"""COCO's formats: ground truth and results from anywhere, checked entry by entry, masks as run-length codes."""

from collections.abc import Collection, Sequence
from pathlib import PurePath

import numpy as np
from jaxtyping import Int
from pycocotools import mask as coco_mask

DIGIT_BITS = 5
"""Bits a character of a run-length code carries (COCO's variable-length numbers)."""
MOST_DIGITS = 7
"""Characters a number may have: more cannot stand for a run within an image."""
MOST_PIXELS = 10**8
"""Of an image; what claims to be larger is a mistake, and would take all memory."""
UNCROPPED = "segmentation_uncropped"
"""Of a detection, an option: its mask before the crop with its box, as a mask may be given."""
FAR_OUT = 10
"""Image sides that a polygon's corner may lie from the origin; further out, what draws polygons fails."""


def pixels_coded(codes: Sequence[bytes]) -> Int[np.ndarray, " n"]:
    """How many pixels each COCO run-length code covers, all runs together; -1 for what is no such code."""
    digits = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - 48
    owners = np.repeat(np.arange(len(codes)), [len(code) for code in codes])
    opens = _changes(owners)
    ends = (digits & 32) == 0  # of a number
    starts = np.flatnonzero(np.r_[True, ends[:-1]][: len(ends)] | opens)
    places = np.arange(len(digits)) - np.repeat(starts, np.diff(np.r_[starts, len(digits)]))
    torn = np.r_[opens[1:], True][: len(ends)] & ~ends
    broken = np.zeros(len(codes), dtype=bool)
    broken[owners[(digits < 0) | (digits > 63) | torn | (places >= MOST_DIGITS)]] = True
    places = DIGIT_BITS * places.clip(max=MOST_DIGITS)
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


def checked_results(ground_truth: dict, detections: list) -> list[dict]:
    """COCO results with each mask as a compressed run-length code; see `checked_ground_truth` for `ground_truth`.

    A result has `image_id`, `category_id`, `score` and a `segmentation` (run-length code, plain or compressed, or polygons),
    or a `bbox` (xywh, pixels), or both. Raises ValueError naming the entry that lacks something, is about an image or a
    category that the ground truth does not have, or has a score, box or mask that cannot be.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    known = {"image_id": sizes, "category_id": {c["id"] for c in ground_truth["categories"]}}
    with_masks = any(isinstance(d, dict) and "segmentation" in d for d in detections)
    checked = []
    for index, detection in enumerate(detections):
        what = f"detection {index}"
        if not isinstance(detection, dict):
            raise ValueError(f"{what} is {shown(detection)}, not an object with image_id, category_id, score and segmentation")
        for key in (*known, "score", *(["segmentation"] if with_masks else ["bbox"])):
            if key not in detection:
                raise ValueError(f"{what} has no {key}; COCO results with masks are expected, or with boxes alone")
        for key, ids in known.items():
            if not is_number(detection[key]) or detection[key] not in ids:
                raise ValueError(f"{what} has {key} {shown(detection[key])}, which the ground truth does not have")
        if not is_number(detection["score"]):
            raise ValueError(f"{what} has score {shown(detection['score'])}, which is no finite number")
        kept = {k: v for k, v in detection.items() if k != "bbox" or v or not with_masks}
        if "bbox" in kept:
            check_box(kept["bbox"], what)
        if with_masks:
            for key, of in (("segmentation", ""), (UNCROPPED, f"{UNCROPPED} of ")):
                if key in kept:
                    kept[key] = as_rle(kept[key], *sizes[kept["image_id"]], of + what)
        checked.append(kept)
    if with_masks:
        check_codes([d["segmentation"] for d in checked], "detection")
        check_codes([d.get(UNCROPPED, d["segmentation"]) for d in checked], f"{UNCROPPED} of detection")
    return checked


def checked_ground_truth(content: object) -> dict:
    """COCO ground truth as this library uses it: annotation ids from 1, masks as compressed run-length codes, `area`, `iscrowd`.

    Annotations have masks or, all of them, boxes alone. An image may have `void`: the mask of pixels that count for nobody.
    Raises ValueError naming the entry that lacks something, or whose mask cannot be.
    """
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations", "categories")):
        raise ValueError("no COCO ground truth: lists of images, annotations and categories are expected")
    for kind, keys in (("images", ("id", "height", "width")), ("categories", ("id", "name"))):
        for index, entry in enumerate(content[kind]):
            missing = [k for k in keys if not isinstance(entry, dict) or k not in entry]
            if missing:
                raise ValueError(f"{kind}[{index}] has no {' and no '.join(missing)}")
            for key in keys:
                value, least = entry[key], 0 if key == "id" else 1
                if key != "name" and not (is_number(value) and value == int(value) >= least):
                    raise ValueError(f"{kind}[{index}] has {key} {shown(value)}, which is no whole number of at least {least}")
            if kind == "images" and entry["height"] * entry["width"] > MOST_PIXELS:
                raise ValueError(f"images[{index}] has more than {MOST_PIXELS} pixels")
            if kind == "categories" and (not isinstance(entry["name"], str) or entry["name"] in ("all", "background")):
                raise ValueError(f"categories[{index}] has name {shown(entry['name'])}, which cannot be that of a class")
        for key in {"id", *keys} & {"id", "name"}:
            values = [entry[key] for entry in content[kind]]
            if len(set(values)) < len(values):
                raise ValueError(f"two {kind} have the {key} {shown(max(values, key=values.count))}")
    if not content["images"]:
        raise ValueError("no COCO ground truth: it has no images")
    images, what = [], []
    for image in content["images"]:
        image = {**image, "height": int(image["height"]), "width": int(image["width"])}
        if "void" in image:
            name = f"void of image {image['id']}"
            image = {**image, "void": as_rle(image["void"], image["height"], image["width"], name)}
            what.append(image["void"])
        images.append(image)
    check_codes(what, "void mask")
    scored = [
        {"score": 1.0} | {k: v for k, v in a.items() if k != "segmentation" or v != []} if isinstance(a, dict) else a
        for a in content["annotations"]
    ]
    try:
        annotations = checked_results({**content, "images": images}, scored)
    except ValueError as error:
        raise ValueError(str(error).replace("detection", "annotation", 1)) from None
    ours = []
    for number, annotation in enumerate(annotations, 1):
        rle = annotation.get("segmentation")
        box = box_of(annotation)
        area = annotation.get("area", float(coco_mask.area(rle)) if rle else box[2] * box[3])
        if not is_number(area):
            raise ValueError(f"annotation {number - 1} has area {shown(area)}, which is no finite number")
        facts = {"id": number, "bbox": box, "area": area, "iscrowd": int(bool(annotation.get("iscrowd", 0)))}
        ours.append({k: v for k, v in annotation.items() if k not in ("score", "ignore")} | facts)
    return {**content, "images": images, "annotations": ours}


def as_rle(segmentation: object, height: int, width: int, what: str) -> dict:
    """A mask in any of COCO's forms as a compressed run-length code. Raises ValueError, naming `what` has it."""
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        size, counts = segmentation["size"], segmentation["counts"]
        if not isinstance(size, list | tuple) or list(size) != [height, width]:
            raise ValueError(f"{what} has a mask of size {shown(size)}, but its image has {[height, width]} (height, width)")
        if isinstance(counts, bytes):
            return {"size": [height, width], "counts": counts.decode("ascii", "replace")}
        if isinstance(counts, str) and counts.isascii():
            return {"size": [height, width], "counts": counts}
        if isinstance(counts, list) and all(is_number(c) and c >= 0 and c == int(c) for c in counts):
            if sum(counts) != height * width:
                raise ValueError(f"{what} has a mask whose runs cover {sum(counts):g} of {height * width} pixels")
            return _text(coco_mask.frPyObjects({"size": [height, width], "counts": [int(c) for c in counts]}, height, width))
    elif isinstance(segmentation, list) and segmentation:
        corners = all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_number, p)) for p in segmentation)
        if corners and max(abs(c) for p in segmentation for c in p) <= FAR_OUT * max(height, width):
            return _text(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    raise ValueError(f"{what} has no mask that can be read: segmentation is {shown(segmentation)}")


def check_codes(rles: list[dict], what: str) -> None:
    """Raises ValueError, naming the entry, when a run-length code is torn or covers other than its image."""
    codes = [rle["counts"].encode("utf-8") for rle in rles]
    expected = np.array([rle["size"][0] * rle["size"][1] for rle in rles])
    for index in np.flatnonzero(pixels_coded(codes) != expected):
        raise ValueError(f"{what} {index} has a mask whose run-length code is damaged: it does not cover {expected[index]} pixels")


def check_box(box: object, what: str) -> None:
    """Raises ValueError when this is no box x, y, width, height."""
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(is_number, box)) or min(box[2:]) < 0:
        raise ValueError(f"{what} has bbox {shown(box)}, which is no [x, y, width, height]")


def box_of(entry: dict) -> list[float]:
    """The box (xywh) of a checked result: its own, or its mask's."""
    return entry["bbox"] if "bbox" in entry else coco_mask.toBbox(entry["segmentation"]).tolist()


def is_number(value: object) -> bool:
    """A finite number that a float holds to the unit, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 2**53


def shown(value: object) -> str:
    """A value, cut so that it fits into a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(rle: dict) -> dict:
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def restricted(ground_truth: dict, image_ids: Collection[int]) -> dict:
    """The part of COCO ground truth that is about some images."""
    wanted = set(image_ids)
    return {
        **ground_truth,
        "images": [image for image in ground_truth["images"] if image["id"] in wanted],
        "annotations": [a for a in ground_truth["annotations"] if a["image_id"] in wanted],
    }


def check_images(ground_truth: dict, header: dict) -> None:
    """Raise ValueError when a prediction file's header names other images than the ground truth has."""
    truth = {
        image["id"]: (PurePath(str(image.get("file_name", ""))).stem, image["height"], image["width"])
        for image in ground_truth["images"]
    }
    for image in header.get("images", []):
        if not isinstance(image, dict) or not {"id", "name", "height", "width"} <= image.keys() or not is_number(image["id"]):
            raise ValueError(f"the header of the predictions has an image without id, name, height and width: {shown(image)}")
        predicted = (image["name"], image["height"], image["width"])
        if truth.get(image["id"]) != predicted:
            raise ValueError(
                f"image {image['id']} is {predicted} in the predictions and {truth.get(image['id'])} in the ground truth: "
                "these predictions are of other data, or of another split"
            )
