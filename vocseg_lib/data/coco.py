"""COCO's formats: ground truth and results from anywhere, checked entry by entry, masks as run-length codes."""

from collections.abc import Collection
from pathlib import Path, PurePath

from pycocotools import mask as coco_mask

from vocseg_lib.utils.files import read_json
from vocseg_lib.utils.rle import as_rle, check_rles, is_number, shorten

MOST_PIXELS = 10**8
"""Of an image; what claims to be larger is a mistake, and would take all memory."""
UNCROPPED = "segmentation_uncropped"
"""Of a detection, an option: its mask before the crop with its box, as a mask may be given."""


def validate_results(ground_truth: dict, detections: list) -> list[dict]:
    """COCO results with each mask as a compressed run-length code; see `validate_ground_truth` for `ground_truth`.

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
            raise ValueError(
                f"{what} is {shorten(detection)}, not an object with image_id, category_id, score and segmentation"
            )
        for key in (*known, "score", *(["segmentation"] if with_masks else ["bbox"])):
            if key not in detection:
                raise ValueError(
                    f"{what} has no {key}; COCO results with masks are expected, or with boxes alone"
                )
        for key, ids in known.items():
            if not is_number(detection[key]) or detection[key] not in ids:
                raise ValueError(
                    f"{what} has {key} {shorten(detection[key])}, which the ground truth does not have"
                )
        if not is_number(detection["score"]):
            raise ValueError(
                f"{what} has score {shorten(detection['score'])}, which is no finite number"
            )
        kept = {k: v for k, v in detection.items() if k != "bbox" or v or not with_masks}
        if "bbox" in kept:
            check_box(kept["bbox"], what)
        if with_masks:
            for key, of in (("segmentation", ""), (UNCROPPED, f"{UNCROPPED} of ")):
                if key in kept:
                    kept[key] = as_rle(kept[key], *sizes[kept["image_id"]], of + what)
        checked.append(kept)
    if with_masks:
        check_rles([d["segmentation"] for d in checked], "detection")
        check_rles(
            [d.get(UNCROPPED, d["segmentation"]) for d in checked], f"{UNCROPPED} of detection"
        )
    return checked


def validate_ground_truth(content: object) -> dict:
    """COCO ground truth as this library uses it: annotation ids from 1, masks as compressed run-length codes, `area`, `iscrowd`.

    Annotations have masks or, all of them, boxes alone. An image may have `void`: the mask of pixels that count for nobody.
    Raises ValueError naming the entry that lacks something, or whose mask cannot be.
    """
    if not isinstance(content, dict) or not all(
        isinstance(content.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise ValueError(
            "no COCO ground truth: lists of images, annotations and categories are expected"
        )
    for kind, keys in (("images", ("id", "height", "width")), ("categories", ("id", "name"))):
        for index, entry in enumerate(content[kind]):
            missing = [k for k in keys if not isinstance(entry, dict) or k not in entry]
            if missing:
                raise ValueError(f"{kind}[{index}] has no {' and no '.join(missing)}")
            for key in keys:
                value, least = entry[key], 0 if key == "id" else 1
                if key != "name" and not (is_number(value) and value == int(value) >= least):
                    raise ValueError(
                        f"{kind}[{index}] has {key} {shorten(value)}, which is no whole number of at least {least}"
                    )
            if kind == "images" and entry["height"] * entry["width"] > MOST_PIXELS:
                raise ValueError(f"images[{index}] has more than {MOST_PIXELS} pixels")
            if kind == "categories" and (
                not isinstance(entry["name"], str) or entry["name"] in ("all", "background")
            ):
                raise ValueError(
                    f"categories[{index}] has name {shorten(entry['name'])}, which cannot be that of a class"
                )
        for key in {"id", *keys} & {"id", "name"}:
            values = [entry[key] for entry in content[kind]]
            if len(set(values)) < len(values):
                raise ValueError(
                    f"two {kind} have the {key} {shorten(max(values, key=values.count))}"
                )
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
    check_rles(what, "void mask")
    scored = [
        {"score": 1.0} | {k: v for k, v in a.items() if k != "segmentation" or v != []}
        if isinstance(a, dict)
        else a
        for a in content["annotations"]
    ]
    try:
        annotations = validate_results({**content, "images": images}, scored)
    except ValueError as error:
        raise ValueError(str(error).replace("detection", "annotation", 1)) from None
    ours = []
    for number, annotation in enumerate(annotations, 1):
        rle = annotation.get("segmentation")
        box = bbox_xywh(annotation)
        area = annotation.get("area", float(coco_mask.area(rle)) if rle else box[2] * box[3])
        if not is_number(area):
            raise ValueError(
                f"annotation {number - 1} has area {shorten(area)}, which is no finite number"
            )
        facts = {
            "id": number,
            "bbox": box,
            "area": area,
            "iscrowd": int(bool(annotation.get("iscrowd", 0))),
        }
        ours.append({k: v for k, v in annotation.items() if k not in ("score", "ignore")} | facts)
    return {**content, "images": images, "annotations": ours}


def check_box(box: object, what: str) -> None:
    """Raises ValueError when this is no box x, y, width, height."""
    if (
        not isinstance(box, list | tuple)
        or len(box) != 4
        or not all(map(is_number, box))
        or min(box[2:]) < 0
    ):
        raise ValueError(f"{what} has bbox {shorten(box)}, which is no [x, y, width, height]")


def bbox_xywh(entry: dict) -> list[float]:
    """The box (xywh) of a checked result: its own, or its mask's."""
    return entry["bbox"] if "bbox" in entry else coco_mask.toBbox(entry["segmentation"]).tolist()


def subset(ground_truth: dict, image_ids: Collection[int]) -> dict:
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
        image["id"]: (
            PurePath(str(image.get("file_name", ""))).stem,
            image["height"],
            image["width"],
        )
        for image in ground_truth["images"]
    }
    for image in header.get("images", []):
        if (
            not isinstance(image, dict)
            or not {"id", "name", "height", "width"} <= image.keys()
            or not is_number(image["id"])
        ):
            raise ValueError(
                f"the header of the predictions has an image without id, name, height and width: {shorten(image)}"
            )
        predicted = (image["name"], image["height"], image["width"])
        if truth.get(image["id"]) != predicted:
            raise ValueError(
                f"image {image['id']} is {predicted} in the predictions and {truth.get(image['id'])} in the ground truth: "
                "these predictions are of other data, or of another split"
            )


def read_predictions(path: str | Path) -> dict:
    """A prediction file, or a bare list of COCO results (its header is then empty).

    Raises:
        FileNotFoundError, ValueError: naming the file, if it is neither.
    """
    content = read_json(Path(path))
    if isinstance(content, list):
        content = {"detections": content}
    if not isinstance(content, dict) or not isinstance(content.get("detections"), list):
        raise ValueError(
            f'{path} is not a prediction file: expected {{"header", "detections"}} or a list of '
            "COCO results"
        )
    content = {"header": {}, **content}
    header = content["header"]
    if not isinstance(header, dict) or not isinstance(header.get("images", []), list):
        raise ValueError(f"{path} is not a prediction file: its header has no list of images")
    return content
