"""Class-agnostic object proposals: selective search, and those of the two models."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import nms

from vocseg_lib.models.postprocess import scale_boxes
from vocseg_lib.utils.boxes import Boxes, box_iou, decode_boxes
from vocseg_lib.utils.files import atomic_write

Image = Float[Tensor, "3 h w"]  # 0..1
Pixels = UInt8[np.ndarray, "h w 3"]  # RGB
BoxArray = Float[np.ndarray, "p 4"]  # xyxy, pixels
AR_IOUS = np.linspace(0.5, 0.95, 10).tolist()
SEARCHED_SIDES = 8, 200
"""Pixels: smaller images have no regions to merge; larger short sides are shrunk to 200."""


class DiskCache:
    """A function of arrays and plain values; its arrays are kept in a folder (if any) by these.

    Safe in threads and processes; what is damaged is computed again. While `enabled` is False, all
    are computed, as a speed measurement needs.
    """

    enabled = True

    def __init__(self, function: Callable[..., np.ndarray], folder: str | Path | None):
        self.function, self.folder = function, folder and Path(folder) / function.__name__
        self.code = inspect.getsource(function)

    def __call__(self, *arguments: Any) -> np.ndarray:
        if not (self.folder and DiskCache.enabled):
            return self.function(*arguments)
        digest = hashlib.sha256(self.code.encode())
        for value in arguments:
            is_array = isinstance(value, np.ndarray)
            digest.update(repr((value.dtype, value.shape) if is_array else value).encode())
            digest.update(value.tobytes() if is_array else b"")
        path = self.folder / f"{digest.hexdigest()}.npz"  # whose checksum is compared by `load`
        try:
            with np.load(path) as stored:
                return stored["values"]
        except Exception:  # missing; damaged, which may raise anything
            values = self.function(*arguments)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, values=values)
        return values


def to_uint8_hwc(image: Image) -> Pixels:
    """A model's input as RGB values."""
    pixels = (image.detach().cpu() * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous().numpy()


class SelectiveSearch:
    """OpenCV's selective search (Uijlings et al. 2013, fast mode): at most `count` boxes.

    The paper orders boxes by their level in the hierarchy times a random number; here it is the
    rank by size times a random number from `seed`, as OpenCV's cannot be seeded.
    """

    def __init__(self, count: int = 500, seed: int = 0, cache: str | Path | None = None):
        self.count, self.seed, self.search = count, seed, DiskCache(_selective_search, cache)

    def __call__(self, image: Image) -> Boxes:
        return torch.from_numpy(self.search(to_uint8_hwc(image), self.seed)[: self.count])


def _selective_search(pixels: Pixels, seed: int) -> BoxArray:
    height, width = pixels.shape[:2]
    if min(height, width) < SEARCHED_SIDES[0]:
        return np.zeros((0, 4), np.float32)
    # Search a smaller image.
    scale = min(1.0, SEARCHED_SIDES[1] / min(height, width))
    size = round(width * scale), round(height * scale)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    search.switchToSelectiveSearchFast()
    boxes = np.asarray(search.process(), dtype=np.float32).reshape(-1, 4)
    # Scale the boxes back and order them.
    boxes[:, 2:] += boxes[:, :2]
    boxes *= np.array([width / size[0], height / size[1]] * 2, dtype=np.float32)
    boxes = np.unique(boxes, axis=0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    boxes = boxes[np.argsort(-area, kind="stable")]
    rank = np.random.default_rng(seed).random(len(boxes)) * np.arange(1, len(boxes) + 1)
    return boxes[np.argsort(rank, kind="stable")]


def labeled_regions(target: dict, proposals: Boxes) -> tuple[Tensor, ...]:
    """Boxes of objects and proposals; IoU, label and box of each one's best object, else zeros."""
    gt_boxes = target["boxes"].as_subclass(Tensor).float()
    boxes = torch.cat([gt_boxes, proposals])
    gt_boxes, gt_labels = F.pad(gt_boxes, (0, 0, 0, 1)), F.pad(target["labels"], (0, 1))
    iou, index = box_iou(boxes, gt_boxes).max(1)
    return boxes, iou, gt_labels[index], gt_boxes[index]


def proposal_recall(
    proposals: list[Tensor], gt_boxes: list[Tensor], counts: list[int], ious: Sequence[float]
) -> Float[np.ndarray, " counts"]:
    """Percent of the objects covered by the first `counts` boxes of their image, mean over IoUs.

    At `AR_IOUS` it is the average recall (Hosang et al. 2015; COCO's AR).
    """
    best = []
    for boxes, objects in zip(proposals, gt_boxes, strict=True):
        overlap = torch.cat([torch.zeros(1, len(objects)), box_iou(boxes.float(), objects.float())])
        best.append(overlap.cummax(0).values[torch.tensor(counts).clamp(max=len(boxes))])
    covered = torch.cat(best, 1) >= torch.tensor(ious)[:, None, None]
    return 100 * covered.float().mean((0, 2)).numpy()


@torch.inference_mode()
def rpn_proposals(model: nn.Module, image: Image) -> Boxes:
    """The proposals of a Mask R-CNN's RPN, by descending score."""
    out = model.network([image])
    return resize_boxes(out["proposals"][0].float(), out["resized"][0], out["image_sizes"][0])


@torch.inference_mode()
def scored_priors(model: nn.Module, image: Image) -> Boxes:
    """The priors of a YOLACT with their offsets, least background first, after NMS at IoU .7."""
    out = model.network([image])
    boxes = scale_boxes(decode_boxes(out["box_offsets"][0], out["priors"]), *image.shape[-2:])
    return boxes[nms(boxes, 1 - out["class_logits"][0].softmax(1)[:, 0], 0.7)]
