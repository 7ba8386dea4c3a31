"""Validate COCO ground truth and results: the error says which field of which entry is wrong."""

import re
from collections import Counter
from collections.abc import Callable, Collection
from itertools import product

import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as coco_mask

from vocseg_lib.utils.json_values import is_number, shorten
from vocseg_lib.utils.rle import as_rle, mask_areas, mask_boxes, pixel_counts

MAX_PIXELS = 10**8  # per image: more would exhaust memory
MAX_CATEGORIES = 10_000  # more would exhaust memory as well
MAX_NAME = 1_000  # characters of a class's or file's name
MAX_TEXT = 10**7  # characters of any field of an image or class, as of a picture in its entry
UNCROPPED = "segmentation_uncropped"  # optional field of a detection: its mask before the crop
ENTRIES_TOGETHER = 10_000  # entries at a time, to bound memory
MIN_CONTRADICTIONS = 0.01  # of detections; fewer are not reported
MIN_EXPLAINED = 0.9  # of the boxes that do not fit: they have one other form
ROWS = "run lengths look written along the rows; COCO's go down the columns"
XYWH = Float[np.ndarray, "n 4"]

Check = tuple[Callable[[object], bool], str]  # whether a value is valid, and what is expected
Fields = dict[str, Check]
RESERVED = ("all", "background")  # class names that tables use for other rows
NUMBER: Check = (is_number, "a finite number")
SCORE: Check = (
    lambda v: is_number(v) and 0 <= v <= 1,
    "a number in 0..1 (percents: divide by 100; logits: apply the sigmoid)",
)
ID: Check = (lambda v: is_number(v) and v == int(v) >= 0, "an integer >= 0")
SIDE: Check = (lambda v: is_number(v) and v == int(v) >= 1, "an integer >= 1")
FLAG: Check = (lambda v: isinstance(v, int | float) and v in (0, 1), "0 or 1")
TEXT = f"a text of at most {MAX_NAME} characters, without NUL and lone surrogates"
NAME: Check = (lambda v: is_name(v) and v not in RESERVED, f"{TEXT}, not all or background")
MASK: Check = (bool, "a mask")
BOX: Check = (
    lambda v: type(v) in (list, tuple) and [*map(is_number, v)] == [True] * 4 and min(v[2:]) >= 0,
    "[x, y, width, height]",
)
FILE_NAME: Check = (lambda v: v is None or is_name(v), TEXT)
FIELDS = {
    "images": {"id": ID, "height": SIDE, "width": SIDE, "file_name": FILE_NAME},
    "categories": {"id": ID, "name": NAME},
}


def bbox_xywh(entry: dict) -> list[float]:
    """The box (xywh, pixels) of a validated entry: its own, or its mask's."""
    return entry["bbox"] if "bbox" in entry else coco_mask.toBbox(entry["segmentation"]).tolist()


def subset(ground_truth: dict, image_ids: Collection[int]) -> dict:
    """The images of some ids and their annotations."""
    ids = set(image_ids)
    images = [image for image in ground_truth["images"] if image["id"] in ids]
    annotations = [a for a in ground_truth["annotations"] if a["image_id"] in ids]
    return {**ground_truth, "images": images, "annotations": annotations}


def is_name(value: object) -> bool:
    """Whether a value is a text that can be printed, and not too long."""
    is_short = isinstance(value, str) and len(value) <= MAX_NAME
    return is_short and not re.search("[\0\ud800-\udfff]", value)


def validate_results(ground_truth: dict, detections: list) -> list[dict]:
    """COCO results of validated ground truth, with masks as compressed run-length codes.

    Valid entries are returned as they are, not copied.

    A result has `image_id`, `category_id`, `score` and a `segmentation` (run-length code, plain or
    compressed, or polygons), or a `bbox` (xywh, pixels), or both. Those of categories that the
    cleaning left out are dropped. Raises ValueError.
    """
    if left_out := ground_truth.get("categories_left_out"):
        categories = (d.get("category_id") if isinstance(d, dict) else None for d in detections)
        pairs = zip(detections, categories, strict=True)
        detections = [d for d, category in pairs if category not in left_out]
    return _validate_instances(ground_truth, detections, "detections", {"score": SCORE})


def check_lists(content: object) -> None:
    """Raise ValueError if one of the three lists of COCO ground truth is missing."""
    lists = (*FIELDS, "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in lists):
        raise ValueError(f"COCO ground truth must have lists of {', '.join(lists)}")
    for name, index, entry in ((n, k, e) for n in FIELDS for k, e in enumerate(content[n])):
        texts = entry if isinstance(entry, dict) else {}
        for key, value in texts.items():
            if key != "void" and isinstance(value, str) and len(value) > MAX_TEXT:
                raise ValueError(
                    f"{name}[{index}] has {shorten(key)} of more than {MAX_TEXT} characters"
                )


def validate_ground_truth(content: object) -> dict:
    """COCO ground truth with annotation ids from 1, masks as compressed codes, `area`, `iscrowd`.

    Annotations have masks or, all of them, boxes alone. An image may have `void`, the mask of its
    ignored pixels. Raises ValueError.
    """
    check_lists(content)
    for name, fields in FIELDS.items():
        _check_fields(content[name], name, fields, optional=["file_name"])
        for key in {"id", "name"} & fields.keys():
            values = [entry[key] for entry in content[name]]
            for value, count in Counter(values).most_common(1):
                if count > 1:
                    raise ValueError(f"{count} {name} have the {key} {shorten(value)}")
    if len(content["categories"]) > MAX_CATEGORIES:
        raise ValueError(f"there are more than {MAX_CATEGORIES} categories")
    images = []
    for index, image in enumerate(content["images"]):
        height, width = int(image["height"]), int(image["width"])
        if height * width > MAX_PIXELS:
            raise ValueError(f"images[{index}] has more than {MAX_PIXELS} pixels")
        images.append({**image, "height": height, "width": width})
        if not image.get("void", True):
            images[-1].pop("void")
        elif "void" in image:
            images[-1]["void"] = as_rle(image["void"], height, width, f"void of images[{index}]")
    if not images:
        raise ValueError("the ground truth has no images")
    content = {**content, "images": images}
    fields = {"area": NUMBER, "iscrowd": FLAG}
    annotations = _validate_instances(content, content["annotations"], "annotations", fields)
    return {**content, "annotations": complete_annotations(annotations)}


def complete_annotations(annotations: list[dict]) -> list[dict]:
    """Valid annotations with ids from 1, and with `bbox`, `area` and `iscrowd`."""
    completed = []
    for number, annotation in enumerate(annotations, 1):
        rle = annotation.get("segmentation")
        box = annotation.get("bbox") or coco_mask.toBbox(rle).tolist()
        area = int(coco_mask.area(rle)) if rle else box[2] * box[3]
        entry = {"area": area, "iscrowd": 0, **annotation, "id": number, "bbox": box}
        completed.append(entry | {"iscrowd": int(bool(entry["iscrowd"]))})
    return completed


def _validate_instances(ground_truth: dict, entries: list, name: str, fields: Fields) -> list[dict]:
    """Annotations or detections with valid fields, and masks as compressed codes."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    ids = {"image_id": _one_of(sizes, "images"), "category_id": _one_of(categories, "categories")}
    _check_fields(entries, name, ids | fields, optional=["area", "iscrowd"])
    # An empty mask or box is none; if one entry has a mask, all need one.
    shapes = {"segmentation": MASK, "bbox": BOX}
    entries = [
        e
        if all(e.get(k, True) for k in shapes)
        else {k: v for k, v in e.items() if v or k not in shapes}
        for e in entries
    ]
    optional = "bbox" if any("segmentation" in entry for entry in entries) else "segmentation"
    _check_fields(entries, name, shapes, [optional])
    for start, key in product(
        range(0, len(entries), ENTRIES_TOGETHER), ("segmentation", UNCROPPED)
    ):
        part = {
            i: e for i, e in enumerate(entries[start : start + ENTRIES_TOGETHER], start) if key in e
        }
        codes = {i: e[key].get("counts") for i, e in part.items() if isinstance(e[key], dict)}
        codes = {i: code for i, code in codes.items() if isinstance(code, str)}
        pixels = dict(zip(codes, pixel_counts([*codes.values()]).tolist(), strict=True))
        for i, entry in part.items():
            what = f"{key} of {name}[{i}]"
            rle = as_rle(entry[key], *sizes[entry["image_id"]], what, pixels.get(i))
            if rle is not entry[key]:
                entries[i] = entries[i] | {key: rle}
    return entries


def _one_of(ids: Collection[int], name: str) -> Check:
    return lambda v: is_number(v) and v in ids, f"an id of the ground truth's {name}"


def _check_fields(entries: list, name: str, fields: Fields, optional: Collection = ()) -> None:
    """Raise ValueError for the first entry with a field that is missing or invalid."""
    for index, entry in enumerate(entries):
        present = entry if isinstance(entry, dict) else {}
        missing = [key for key in fields if key not in present and key not in optional]
        if missing:
            raise ValueError(f"{name}[{index}] has no {', '.join(missing)}: {shorten(entry)}")
        for key, (valid, expected) in fields.items():
            if key in entry and not valid(entry[key]):
                problem = f"has {key} {shorten(entry[key])}: must be {expected}"
                raise ValueError(f"{name}[{index}] {problem}")


def find_contradictions(
    ground_truth: dict, annotations: list[dict], predicted: bool = False
) -> dict[str, list]:
    """Ids of annotations whose `bbox` or `area` does not fit their mask, by a text that says so.

    Loose boxes, boxes around hidden parts, and the box's area are no contradiction; `predicted`
    boxes are one only where more than a few have another form, and their ids are indices. Where
    there are no masks, boxes have to be in their images, nearly.
    """
    if not any("bbox" in a or "area" in a for a in annotations):
        return {}
    masks = [a["segmentation"] for a in annotations if "segmentation" in a]
    sides = {image["id"]: (image["width"], image["height"]) * 2 for image in ground_truth["images"]}
    sides = np.array([sides[a["image_id"]] for a in annotations], dtype=float)
    no_box = (np.nan,) * 4
    boxes = np.array([a.get("bbox", no_box) for a in annotations], dtype=float)
    areas = (a.get("area") for a in annotations)  # of detections: any value
    areas = np.array([area if is_number(area) else np.nan for area in areas], dtype=float)
    if masks:
        own, actual = mask_boxes(masks), mask_areas(masks)
        own[predicted & (actual == 0)] = np.nan  # a mask without pixels contradicts no box
        wrong_box, form = _compare_boxes(boxes, own, masks, sides)
        wrong_box &= bool(form) or not predicted
        outline, high = 2 * own[:, 2:].sum(1), np.fmax(actual, boxes[:, 2:].prod(1))
        wrong_area = (areas < actual / 2 - outline) | (areas > 2 * high + outline)
        checks = {"bbox does not fit the mask": wrong_box, "area does not fit the mask": wrong_area}
    else:
        outside = (_corners(boxes) > 1.1 * sides).any(1)
        small, form = (boxes[:, 2:] <= 1).all(1), ""
        checks = {"bbox is outside of its image or below a pixel": outside | small}
    found = {}
    for problem, wrong in checks.items():
        ids = [a.get("id", k) for k, a in enumerate(annotations) if wrong[k]]
        what = "detections" if predicted else "annotations"
        text = f"{problem} in {len(ids)} of {len(annotations)} {what}"
        if len(ids) > predicted * MIN_CONTRADICTIONS * len(annotations):
            found[f"{text}: {form}" if form and "bbox" in problem else text] = ids
    return found


def _compare_boxes(
    boxes: XYWH, own: XYWH, masks: list[dict], sides: XYWH
) -> tuple[Bool[np.ndarray, " n"], str]:
    """Which boxes contradict those of their masks, and what explains nearly all of these."""
    given, expected = _corners(boxes).clip(0, sides), _corners(own)
    off = (np.abs(given - expected) > 2 + 0.1 * own[:, [2, 3, 2, 3]]).any(1)
    # A box around the mask may be loose, or that of an object which is hidden in part.
    around = (given[:, :2] <= own[:, :2] + 2).all(1) & (given[:, 2:] >= expected[:, 2:] - 2).all(1)
    wrong = off & (_box_iou(given, expected) < np.where(around, 0.1, 0.5))
    if off.sum() < 3:
        return wrong, ""
    ratios = own[:, 2:] / np.maximum(boxes[:, 2:], 1e-6)
    scale = np.median(ratios[~np.isnan(ratios[:, 0])], axis=0)
    rows, masks = (
        np.flatnonzero(off),
        [rle for rle, is_off in zip(masks, off, strict=True) if is_off],
    )
    turned = mask_boxes([{**rle, "size": rle["size"][::-1]} for rle in masks])[:, [1, 0, 3, 2]]
    boxes, own, sides, given, expected = (x[rows] for x in (boxes, own, sides, given, expected))
    tolerance = 1.5 + 0.02 * own[:, [2, 3, 2, 3]]
    forms = {ROWS: given + expected - _corners(turned)} | _other_forms(boxes, sides, scale)
    for form, corners in forms.items():
        if (np.abs(corners - expected) <= tolerance).all(1).mean() >= MIN_EXPLAINED:
            return off, form
    return wrong, ""


def _other_forms(boxes: XYWH, sides: XYWH, scale: Float[np.ndarray, " 2"]) -> dict[str, XYWH]:
    """Corners of boxes that are not in COCO's form, by the form."""
    x, y, a, b = boxes.T
    forms = {
        "x1 y1 x2 y2": (x, y, a, b),
        "center and size": (x - a / 2, y - b / 2, x + a / 2, y + b / 2),
        "x y width height": (x, y, x + a, y + b),
    }
    candidates = {}
    for unit, factor in {"pixels": 1, "0..1": sides, "percent": sides / 100}.items():
        for form, corners in forms.items():
            text = f"it looks like {form} in {unit} instead of x y width height in pixels"
            candidates[text] = np.stack(corners, 1) * factor
    candidates["x and y look swapped in one of them"] = _corners(boxes[:, [1, 0, 3, 2]])
    candidates["it looks like y1 x1 y2 x2"] = boxes[:, [1, 0, 3, 2]]
    text = f"masks look {scale[0]:.3g} times as wide, {scale[1]:.3g} times as high as bbox"
    return candidates | {text: _corners(boxes * np.tile(scale, 2))}


def _corners(boxes: XYWH) -> XYWH:
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def _box_iou(a: XYWH, b: XYWH) -> Float[np.ndarray, " n"]:
    """IoU of pairs of boxes, xyxy."""
    inter = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(-1)
    union = sum((box[:, 2:] - box[:, :2]).prod(-1) for box in (a, b)) - inter
    return inter / np.maximum(union, 1e-9)
