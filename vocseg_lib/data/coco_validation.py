"""Validate COCO ground truth and results: the error says which field of which entry is wrong."""

from collections.abc import Callable, Collection

import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as coco_mask

from vocseg_lib.utils.rle import as_rle, is_number, mask_areas, shorten

MAX_PIXELS = 10**8  # per image: more would exhaust memory
UNCROPPED = "segmentation_uncropped"  # optional field of a detection: its mask before the crop
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
NAME: Check = (lambda v: isinstance(v, str) and v not in RESERVED, "a text, not all or background")
MASK: Check = (bool, "a mask")
BOX: Check = (
    lambda v: type(v) in (list, tuple) and [*map(is_number, v)] == [True] * 4 and min(v[2:]) >= 0,
    "[x, y, width, height]",
)
FILE_NAME: Check = (lambda v: v is None or isinstance(v, str), "a text")
FIELDS = {
    "images": {"id": ID, "height": SIDE, "width": SIDE, "file_name": FILE_NAME},
    "categories": {"id": ID, "name": NAME},
}


def validate_results(ground_truth: dict, detections: list) -> list[dict]:
    """COCO results of validated ground truth, with masks as compressed run-length codes.

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
            if len(set(values)) < len(values):
                raise ValueError(f"two {name} have the {key} {max(values, key=values.count)!r}")
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
    entries = [{k: v for k, v in e.items() if v or k not in shapes} for e in entries]
    optional = "bbox" if any("segmentation" in entry for entry in entries) else "segmentation"
    _check_fields(entries, name, shapes, [optional])
    for index, entry in enumerate(entries):
        for key in ("segmentation", UNCROPPED):
            if key in entry:
                what = f"{key} of {name}[{index}]"
                entry[key] = as_rle(entry[key], *sizes[entry["image_id"]], what)
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
    if not annotations:
        return {}
    masks = [a["segmentation"] for a in annotations if "segmentation" in a]
    sides = {image["id"]: (image["width"], image["height"]) * 2 for image in ground_truth["images"]}
    sides = np.array([sides[a["image_id"]] for a in annotations], dtype=float)
    boxes = np.array([a.get("bbox", [np.nan] * 4) for a in annotations], dtype=float)
    areas = np.array([a.get("area", np.nan) for a in annotations], dtype=float)
    if masks:
        own, actual = coco_mask.toBbox(masks), mask_areas(masks)
        turned = coco_mask.toBbox([{**rle, "size": rle["size"][::-1]} for rle in masks])
        wrong_box, form = _compare_boxes(boxes, own, turned[:, [1, 0, 3, 2]], sides)
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
    boxes: XYWH, own: XYWH, own_by_rows: XYWH, sides: XYWH
) -> tuple[Bool[np.ndarray, " n"], str]:
    """Which boxes contradict those of their masks, and what explains nearly all of these."""
    given, expected, tolerance = _corners(boxes).clip(0, sides), _corners(own), own[:, [2, 3, 2, 3]]
    off = (np.abs(given - expected) > 2 + 0.1 * tolerance).any(1)
    other_forms = _other_forms(boxes, own, sides) if off.sum() >= 3 else {}
    for form, corners in {ROWS: given + expected - _corners(own_by_rows), **other_forms}.items():
        fits = (np.abs(corners - expected) <= 1.5 + 0.02 * tolerance).all(1)
        if other_forms and (fits & off).sum() >= MIN_EXPLAINED * off.sum():
            return off, form
    # A box around the mask may be loose, or that of an object which is hidden in part.
    around = (given[:, :2] <= own[:, :2] + 2).all(1) & (given[:, 2:] >= expected[:, 2:] - 2).all(1)
    return off & (_box_iou(given, expected) < np.where(around, 0.1, 0.5)), ""


def _other_forms(boxes: XYWH, own: XYWH, sides: XYWH) -> dict[str, XYWH]:
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
    ratios = own[:, 2:] / np.maximum(boxes[:, 2:], 1e-6)
    scale = np.median(ratios[~np.isnan(ratios[:, 0])], axis=0)
    text = f"masks look {scale[0]:.3g} times as wide, {scale[1]:.3g} times as high as bbox"
    return candidates | {text: _corners(boxes * np.tile(scale, 2))}


def _corners(boxes: XYWH) -> XYWH:
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def _box_iou(a: XYWH, b: XYWH) -> Float[np.ndarray, " n"]:
    """IoU of pairs of boxes, xyxy."""
    inter = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(-1)
    union = sum((box[:, 2:] - box[:, :2]).prod(-1) for box in (a, b)) - inter
    return inter / np.maximum(union, 1e-9)
