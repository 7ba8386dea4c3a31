"""Average precision from a prediction file and ground truth, by pycocotools (COCO evaluation: 101 points, best free object)."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KINDS = {"mask": "segm", "box": "bbox"}


@dataclass(frozen=True)
class Evaluation:
    """AP in percent, for masks and boxes.

    `summary`: mask_AP, mask_AP50, mask_AP75, box_AP, box_AP50, box_AP75. `per_class`: the same a class, with its number
    of instances; classes without ground truth are left out, there and in every mean. `precision[kind]`: 0..1 at
    IoU .5 to .95, recall 0 to 1, for the classes of `per_class`.
    """

    summary: dict[str, float]
    per_class: pd.DataFrame
    precision: dict[str, Float[np.ndarray, "10 101 k"]]


def evaluate(ground_truth: dict, detections: list[dict]) -> Evaluation:
    """Judge COCO results against COCO ground truth (categories and images are the ground truth's).

    A detection without `bbox` gets its mask's. Raises ValueError, naming the entry, when one lacks anything else or its
    image or category is not in the ground truth.
    """
    _check(ground_truth, detections)
    counts = pd.Series([a["category_id"] for a in ground_truth["annotations"]], dtype=int).value_counts()
    judged = [c for c in sorted(ground_truth["categories"], key=lambda c: c["id"]) if counts.get(c["id"], 0)]
    per_class = pd.DataFrame({"class": [c["name"] for c in judged], "instances": [int(counts[c["id"]]) for c in judged]})
    summary, precision = {}, {}
    for kind, coco_kind in KINDS.items():
        precision[kind] = _precision(ground_truth, detections, coco_kind, [c["id"] for c in judged])
        by_class = 100 * precision[kind].mean(1)  # [iou, class]
        for name, rows in (("AP", slice(None)), ("AP50", slice(0, 1)), ("AP75", slice(5, 6))):
            per_class[f"{kind}_{name}"] = by_class[rows].mean(0)
            summary[f"{kind}_{name}"] = float(by_class[rows].mean()) if judged else float("nan")
    return Evaluation(summary, per_class, precision)


def _precision(
    ground_truth: dict, detections: list[dict], coco_kind: str, category_ids: list[int]
) -> Float[np.ndarray, "10 101 k"]:
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = _coco(ground_truth, [dict(a) for a in ground_truth["annotations"]])
        found = _coco(ground_truth, [_as_annotation(i, d, coco_kind) for i, d in enumerate(detections, 1)])
        judge = COCOeval(truth, found, coco_kind)
        judge.params.catIds = category_ids
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, -1]  # all sizes, 100 detections an image


def _as_annotation(annotation_id: int, detection: dict, coco_kind: str) -> dict:
    box = detection.get("bbox") or coco_mask.toBbox(detection["segmentation"]).tolist()
    area = float(coco_mask.area(detection["segmentation"])) if coco_kind == "segm" else box[2] * box[3]
    return {**detection, "bbox": box, "id": annotation_id, "area": area, "iscrowd": 0}


def _coco(ground_truth: dict, annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": ground_truth["images"],
        "categories": ground_truth["categories"],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _check(ground_truth: dict, detections: list[dict]) -> None:
    known = {
        "image_id": {i["id"] for i in ground_truth["images"]},
        "category_id": {c["id"] for c in ground_truth["categories"]},
    }
    for index, detection in enumerate(detections):
        for key in (*known, "score", "segmentation"):
            if not isinstance(detection, dict) or key not in detection:
                raise ValueError(f"detection {index} has no {key}; COCO results with RLE masks are expected")
        for key, ids in known.items():
            if detection[key] not in ids:
                raise ValueError(f"detection {index} has {key} {detection[key]}, which the ground truth does not have")


def restricted(ground_truth: dict, image_ids: list[int]) -> dict:
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
        image["id"]: (image["file_name"].rsplit(".", 1)[0], image["height"], image["width"]) for image in ground_truth["images"]
    }
    for image in header.get("images", []):
        predicted = (image["name"], image["height"], image["width"])
        if truth.get(image["id"]) != predicted:
            raise ValueError(
                f"image {image['id']} is {predicted} in the predictions and {truth.get(image['id'])} in the ground truth: "
                "these predictions are of other data, or of another split"
            )
