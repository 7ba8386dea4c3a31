"""What the benchmarks compare: plain twins of the fast paths, models, batches and synthetic results."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.engine.optim import build_optimizer
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.postprocess import detect, mask_logits
from vocseg_lib.models.speedups import BatchNorm2d, FoldingConv2d
from vocseg_lib.models.yolact import Yolact
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.masks import box_mask
from vocseg_lib.utils.rle import encode_rle

HEIGHT, WIDTH = 375, 500
"""Pixels: the most common size of a VOC image."""
EVALUATED_IMAGES, EVALUATED_DETECTIONS = 1_449, 15_000
"""As many as VOC's val and what a model finds on it."""


def plain_path(model: nn.Module) -> nn.Module:
    """A copy of a model in which each convolution and each batch norm does its own work: what folding must equal."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FoldingConv2d):
                shape = (
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    child.stride,
                    child.padding,
                )
                conv = nn.Conv2d(*shape, groups=child.groups, bias=False)
                conv.weight = child.weight
                setattr(parent, name, conv)
            elif isinstance(child, BatchNorm2d):
                norm = nn.BatchNorm2d(child.num_features)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm.train(child.training))
    return model


def plain_masks(out: dict) -> Tensor:
    """The masks of an image's detections, each interpolated over the whole image."""
    prototypes = out["prototypes"][0]
    scores = out["class_logits"][0].softmax(-1)[:, 1:]
    boxes, *_, coefficients = detect(
        scores, out["box_offsets"][0], out["coefficients"][0], out["priors"]
    )
    cropped = mask_logits(prototypes, coefficients).sigmoid() * box_mask(
        boxes, *prototypes.shape[:2]
    )
    return F.interpolate(cropped[None], (HEIGHT, WIDTH), mode="bilinear")[0] > 0.5


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def make_yolact(train: bool = False) -> Yolact:
    """YOLACT-550 from random weights; in training with the semantic term and frozen batch norm, as the official code's
    batches of 2."""
    torch.manual_seed(0)
    model = Yolact(YolactConfig(weights=None, semantic_loss=True))
    if not train:
        return model.eval()
    for norm in batch_norm_layers(model):
        norm.requires_grad_(False)
    return set_train_mode(model, frozen=True)


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
    optimizer = build_optimizer(model, "sgd", 1e-6, 0.9, 5e-4)
    batch = training_batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast("cpu", mixed_precision):
            losses = model(*batch)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def log_uniform_boxes(count: int, smallest: float = 16.0) -> Tensor:
    """Boxes in an image, their sides spread evenly over the scales from `smallest` pixels to the image's, as anchors are."""
    torch.manual_seed(0)
    image = torch.tensor([WIDTH, HEIGHT])
    sides = smallest * (image / smallest) ** torch.rand(count, 2)
    corner = torch.rand(count, 2) * (image - sides)
    return torch.cat([corner, corner + sides], 1)


def synthetic_results(
    devkit: str | Path, images: int = EVALUATED_IMAGES, detections: int = EVALUATED_DETECTIONS
) -> tuple[dict, list]:
    """COCO ground truth of as many images, a devkit's val over and over, and detections: its objects, moved, many wrong."""
    truth = voc_to_coco(devkit, "val")
    random, kept, objects, found = np.random.default_rng(0), [], [], []
    by_image = {
        image["id"]: [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        for image in truth["images"]
    }
    sources = [image for image in truth["images"] if by_image[image["id"]]]
    for number in range(1, images + 1):
        source = sources[number % len(sources)]
        theirs = by_image[source["id"]]
        kept.append({**source, "id": number})
        objects += [
            {**a, "id": len(objects) + i, "image_id": number} for i, a in enumerate(theirs, 1)
        ]
        for i in range(number * detections // images - len(found)):
            form = theirs[i % len(theirs)]
            moved = np.roll(
                coco_mask.decode(form["segmentation"]), random.integers(-12, 13, 2), (0, 1)
            )
            category = (
                form["category_id"]
                if random.random() < 0.7
                else int(random.integers(1, len(CLASS_NAMES) + 1))
            )
            (code,) = encode_rle(torch.from_numpy(moved[None]))
            facts = {"image_id": number, "category_id": category, "score": float(random.random())}
            found.append({**facts, "bbox": coco_mask.toBbox(code).tolist(), "segmentation": code})
    return {**truth, "images": kept, "annotations": objects}, found
