"""What the benchmarks time: models, batches and synthetic prediction files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.coco_validation import validate_ground_truth, validate_results
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.optim import build_optimizer
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.yolact import Yolact
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.rle import encode_rle

HEIGHT, WIDTH = 375, 500
"""Pixels: the most common size of a VOC image."""
EVALUATED_IMAGES, EVALUATED_DETECTIONS = 1_449, 15_000
"""As many as VOC's val and what a model detects on it."""


def relative_error(values: Tensor, reference: Tensor) -> float:
    return ((values - reference).norm() / reference.norm()).item()


def make_yolact(train: bool = False) -> Yolact:
    """YOLACT-550 of random weights, plain; in training as the official code with batches of 2.

    That is with the semantic term and frozen batch norm.
    """
    torch.manual_seed(0)
    model = Yolact(YolactConfig(weights=None, semantic_loss=True))
    if not train:
        return model.eval()
    for norm in batch_norm_layers(model):
        norm.requires_grad_(False)
    return set_train_mode(model, freeze_bn=True)


def training_batch() -> tuple[list[Tensor], list[dict]]:
    """Two images of three objects each."""
    boxes = torch.tensor([[60.0, 50, 300, 200], [250, 100, 450, 300], [10, 10, 80, 60]])
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, 5, 15]), "masks": masks}
    return [torch.rand(3, HEIGHT, WIDTH) for _ in range(2)], [target, target]


def train_step(model: Yolact, mixed_precision: bool) -> Callable[[], None]:
    """A whole update: forward, loss, backward, SGD."""
    optimizer = build_optimizer(model, TrainConfig(learning_rate=1e-6))
    batch = training_batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast("cpu", mixed_precision):
            losses = model(*batch)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def log_uniform_boxes(count: int, smallest: float = 16.0) -> Tensor:
    """Boxes in an image; sides log-uniform from `smallest` pixels to the image's."""
    torch.manual_seed(0)
    image = torch.tensor([WIDTH, HEIGHT])
    sides = smallest * (image / smallest) ** torch.rand(count, 2)
    corner = torch.rand(count, 2) * (image - sides)
    return torch.cat([corner, corner + sides], 1)


def synthetic_results(devkit: str | Path) -> tuple[dict, list]:
    """Validated COCO ground truth and results of VOC val's size.

    The ground truth repeats a devkit's val; the detections are its objects, moved, many of a wrong
    class.
    """
    source = voc_to_coco(devkit, "val")
    by_image = {image["id"]: [] for image in source["images"]}
    for annotation in source["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    sources = [image for image in source["images"] if by_image[image["id"]]]
    rng, images, annotations, detections = np.random.default_rng(0), [], [], []
    for image_id in range(1, EVALUATED_IMAGES + 1):
        image = sources[image_id % len(sources)]
        objects = by_image[image["id"]]
        images.append({**image, "id": image_id})
        for annotation in objects:
            ids = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append({**annotation, **ids})
        for i in range(image_id * EVALUATED_DETECTIONS // EVALUATED_IMAGES - len(detections)):
            source_object = objects[i % len(objects)]
            mask = coco_mask.decode(source_object["segmentation"])
            moved = np.roll(mask, rng.integers(-12, 13, 2), (0, 1))
            wrong = rng.random() >= 0.7
            category = (
                rng.integers(1, len(CLASS_NAMES) + 1) if wrong else source_object["category_id"]
            )
            (rle,) = encode_rle(torch.from_numpy(moved[None]))
            detection = {"image_id": image_id, "category_id": int(category)}
            detection |= {
                "score": float(rng.random()),
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": rle,
            }
            detections.append(detection)
    ground_truth = {**source, "images": images, "annotations": annotations}
    ground_truth = validate_ground_truth(ground_truth)
    return ground_truth, validate_results(ground_truth, detections)
