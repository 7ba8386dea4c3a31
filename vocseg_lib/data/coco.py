"""COCO ground truth, COCO results and prediction files: validated entry by entry when read."""

from collections.abc import Collection
from pathlib import Path, PurePath

from pycocotools import mask as coco_mask

from vocseg_lib.utils.files import read_json
from vocseg_lib.utils.rle import as_rle, check_rles, is_number, shorten

MAX_PIXELS = 10**8  # per image: more would exhaust memory
UNCROPPED = "segmentation_uncropped"
"""Optional field of a detection: its mask before the crop to its box."""
RESERVED_NAMES = ("all", "background")  # class names that tables use for other rows


def validate_results(ground_truth: dict, detections: list) -> list[dict]:
    """COCO results of validated ground truth, with masks as compressed run-length codes.

    A result has `image_id`, `category_id`, `score` and a `segmentation` (run-length code, plain or
    compressed, or polygons), or a `bbox` (xywh, pixels), or both.

    Raises ValueError: an entry has a field that is missing or invalid.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    known = {"image_id": sizes, "category_id": {c["id"] for c in ground_truth["categories"]}}
    with_masks = any(isinstance(d, dict) and "segmentation" in d for d in detections)
    required = *known, "score", "segmentation" if with_masks else "bbox"
    checked = []
    for index, detection in enumerate(detections):
        what = f"detection {index}"
        _require_keys(detection, required, what)
        for key, ids in known.items():
            if not is_number(detection[key]) or detection[key] not in ids:
                raise _invalid(what, key, detection[key], f"one of the ground truth's {key}s")
        if not is_number(detection["score"]):
            raise _invalid(what, "score", detection["score"], "a finite number")
        entry = {k: v for k, v in detection.items() if k != "bbox" or v or not with_masks}
        if "bbox" in entry:
            box = entry["bbox"]
            four = isinstance(box, list | tuple) and len(box) == 4 and all(map(is_number, box))
            if not four or min(box[2:]) < 0:
                raise _invalid(what, "bbox", box, "[x, y, width, height]")
        if with_masks:
            for key, prefix in (("segmentation", ""), (UNCROPPED, f"{UNCROPPED} of ")):
                if key in entry:
                    entry[key] = as_rle(entry[key], *sizes[entry["image_id"]], prefix + what)
        checked.append(entry)
    if with_masks:
        check_rles([d["segmentation"] for d in checked], "detection")
        whole = [d.get(UNCROPPED, d["segmentation"]) for d in checked]
        check_rles(whole, f"{UNCROPPED} of detection")
    return checked


def validate_ground_truth(content: object) -> dict:
    """COCO ground truth with annotation ids from 1, masks as compressed codes, `area`, `iscrowd`.

    Annotations have masks or, all of them, boxes alone. An image may have `void`, the mask of its
    ignored pixels.

    Raises ValueError: an entry has a field that is missing or invalid.
    """
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in lists):
        raise ValueError(f"COCO ground truth must have lists of {', '.join(lists)}")
    _check_entries(content["images"], "images", ("id", "height", "width"))
    _check_entries(content["categories"], "categories", ("id", "name"))
    if not content["images"]:
        raise ValueError("the ground truth has no images")
    images, voids = [], []
    for index, image in enumerate(content["images"]):
        image = {**image, "height": int(image["height"]), "width": int(image["width"])}
        if image["height"] * image["width"] > MAX_PIXELS:
            raise ValueError(f"images[{index}] has more than {MAX_PIXELS} pixels")
        if "void" in image:
            what = f"void of image {image['id']}"
            image["void"] = as_rle(image["void"], image["height"], image["width"], what)
            voids.append(image["void"])
        images.append(image)
    check_rles(voids, "void mask")
    # An annotation is checked like a result with a score; an empty list is no mask.
    results = []
    for a in content["annotations"]:
        keys = [k for k in a if (k, a[k]) != ("segmentation", [])] if isinstance(a, dict) else []
        results.append({"score": 1.0} | {k: a[k] for k in keys} if keys else a)
    try:
        results = validate_results({**content, "images": images}, results)
    except ValueError as error:
        raise ValueError(str(error).replace("detection", "annotation", 1)) from None
    annotations = []
    for index, annotation in enumerate(results):
        box, rle = bbox_xywh(annotation), annotation.get("segmentation")
        area = annotation.get("area", float(coco_mask.area(rle)) if rle else box[2] * box[3])
        if not is_number(area):
            raise _invalid(f"annotation {index}", "area", area, "a finite number")
        entry = {k: v for k, v in annotation.items() if k not in ("score", "ignore")}
        iscrowd = int(bool(annotation.get("iscrowd", 0)))
        annotations.append(entry | {"id": index + 1, "bbox": box, "area": area, "iscrowd": iscrowd})
    return {**content, "images": images, "annotations": annotations}


def _check_entries(entries: list, name: str, keys: tuple[str, ...]) -> None:
    """Raise ValueError unless images or categories have valid keys, and ids and names once."""
    for index, entry in enumerate(entries):
        what = f"{name}[{index}]"
        _require_keys(entry, keys, what)
        for key in keys:
            value, least = entry[key], 0 if key == "id" else 1
            if key == "name":
                if not isinstance(value, str) or value in RESERVED_NAMES:
                    raise _invalid(what, key, value, f"a text, none of {RESERVED_NAMES}")
            elif not (is_number(value) and value == int(value) >= least):
                raise _invalid(what, key, value, f"an integer >= {least}")
    for key in {"id", "name"} & set(keys):
        values = [entry[key] for entry in entries]
        if len(set(values)) < len(values):
            raise ValueError(f"two {name} have the {key} {max(values, key=values.count)!r}")


def _require_keys(entry: object, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(entry, dict) or not set(keys) <= entry.keys():
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        raise ValueError(f"{what} has no {', '.join(missing)}: {shorten(entry)}")


def _invalid(what: str, key: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{what} has {key} {shorten(value)}: must be {expected}")


def bbox_xywh(entry: dict) -> list[float]:
    """The box (xywh, pixels) of a validated entry: its own, or its mask's."""
    return entry["bbox"] if "bbox" in entry else coco_mask.toBbox(entry["segmentation"]).tolist()


def subset(ground_truth: dict, image_ids: Collection[int]) -> dict:
    """The images of some ids and their annotations."""
    ids = set(image_ids)
    images = [image for image in ground_truth["images"] if image["id"] in ids]
    annotations = [a for a in ground_truth["annotations"] if a["image_id"] in ids]
    return {**ground_truth, "images": images, "annotations": annotations}


def read_predictions(path: str | Path, ground_truth: dict | None = None) -> dict:
    """A prediction file, or a bare list of COCO results (its header is empty): header, detections.

    Validated if the validated `ground_truth` is given.

    Raises:
        FileNotFoundError, ValueError: the file, or an entry of it, is invalid, or is of other
            images than the ground truth.
    """
    content = read_json(Path(path))
    content = {"detections": content} if isinstance(content, list) else content
    content = {"header": {}, **content} if isinstance(content, dict) else {"header": None}
    header, detections = content["header"], content.get("detections")
    if not (isinstance(header, dict) and isinstance(detections, list)):
        raise ValueError(f"{path} is not a prediction file: expected header and detections")
    if ground_truth is None:
        return content
    try:
        _check_images(ground_truth, header.get("images", []))
        return {**content, "detections": validate_results(ground_truth, detections)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _check_images(ground_truth: dict, images: list) -> None:
    """Raise ValueError if a header's images are not in the ground truth."""
    keys = ("id", "name", "height", "width")
    known = {}
    for entry in ground_truth["images"]:
        name = PurePath(str(entry.get("file_name", ""))).stem
        known[entry["id"]] = [name, entry["height"], entry["width"]]
    for index, image in enumerate(images if isinstance(images, list) else [images]):
        _require_keys(image, keys, f"header: images[{index}]")
        image_id, *rest = (image[key] for key in keys)
        if not is_number(image_id) or known.get(image_id) != rest:
            raise ValueError(f"{shorten(image)} is not in the ground truth: other data or split?")
