"""Read COCO ground truth and prediction files; parts of both."""

from collections.abc import Collection
from pathlib import Path, PurePath

from pycocotools import mask as coco_mask

from vocseg_lib.data.classes import check_class_names
from vocseg_lib.data.coco_cleaning import CleaningReport, clean_ground_truth
from vocseg_lib.data.coco_validation import validate_results
from vocseg_lib.utils.files import read_json
from vocseg_lib.utils.rle import shorten


def bbox_xywh(entry: dict) -> list[float]:
    """The box (xywh, pixels) of a validated entry: its own, or its mask's."""
    return entry["bbox"] if "bbox" in entry else coco_mask.toBbox(entry["segmentation"]).tolist()


def subset(ground_truth: dict, image_ids: Collection[int]) -> dict:
    """The images of some ids and their annotations."""
    ids = set(image_ids)
    images = [image for image in ground_truth["images"] if image["id"] in ids]
    annotations = [a for a in ground_truth["annotations"] if a["image_id"] in ids]
    return {**ground_truth, "images": images, "annotations": annotations}


def read_coco(
    path: Path, to_devkit: bool = False, crowds_as_objects: bool = False
) -> tuple[dict, CleaningReport]:
    """COCO ground truth and what was changed in it: see `clean_ground_truth`.

    Raises FileNotFoundError, ValueError.
    """
    content = read_json(path)
    try:
        ground_truth, report = clean_ground_truth(content, to_devkit, crowds_as_objects)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if to_devkit:
        check_class_names([category["name"] for category in ground_truth["categories"]], path)
    return ground_truth, report


def read_predictions(path: str | Path, ground_truth: dict | None = None) -> dict:
    """A prediction file, or a bare list of COCO results (its header is empty): header, detections.

    With validated `ground_truth`, they are validated and have to be of its images.
    Raises FileNotFoundError, ValueError.
    """
    content = read_json(Path(path))
    content = content if isinstance(content, dict) else {"detections": content}
    header, detections = content.setdefault("header", {}), content.get("detections")
    if not (isinstance(header, dict) and isinstance(detections, list)):
        raise ValueError(f"{path} is not a prediction file: expected header and detections")
    if ground_truth is None:
        return content
    # The header's images have to be in the ground truth.
    images, known = header.get("images", []), set()
    for entry in ground_truth["images"]:
        name = PurePath(str(entry.get("file_name", ""))).stem
        known.add((str(entry["id"]), name, str(entry["height"]), str(entry["width"])))
    keys = ("id", "name", "height", "width")
    for image in images if isinstance(images, list) else [images]:
        if not isinstance(image, dict) or tuple(str(image.get(key)) for key in keys) not in known:
            problem = f"{shorten(image)} is not in the ground truth: other data or split?"
            raise ValueError(f"{path}: header: image {problem}")
    try:
        return {**content, "detections": validate_results(ground_truth, detections)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
