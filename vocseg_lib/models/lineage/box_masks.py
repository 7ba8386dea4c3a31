"""Masks for models without masks: the whole box, or GrabCut in it."""

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vocseg_lib.models.contract import InstanceModel
from vocseg_lib.models.lineage.features import whole_pixels
from vocseg_lib.models.lineage.proposals import Pixels, to_uint8_hwc
from vocseg_lib.utils.boxes import Boxes
from vocseg_lib.utils.masks import box_mask

GRABCUT_MARGIN = 0.3
"""Background around a box that GrabCut sees, as a fraction of the box's sides."""
GRABCUT_ITERATIONS = 5
GRABCUT_SIDES = 4, 200
"""Pixels: smaller boxes are filled; what GrabCut sees is shrunk to a longer side of 200."""


def box_masks(pixels: Pixels, boxes: Boxes) -> Bool[Tensor, "p h w"]:
    """Masks of the pixels whose centers lie in each box."""
    height, width = pixels.shape[:2]
    relative = (boxes - 0.5) / boxes.new_tensor([width, height, width, height])
    return box_mask(relative, height, width, padding=0)


def grabcut(pixels: Pixels, boxes: Boxes) -> Bool[Tensor, "p h w"]:
    """GrabCut (Rother et al. 2004) of an RGB image, from each box; no pixel outside of the box.

    Boxes that are too small, or in which it finds no foreground, are filled.
    """
    masks, (height, width) = box_masks(pixels, boxes), pixels.shape[:2]
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    for mask, box in zip(masks, whole_pixels(boxes.numpy(), height, width), strict=True):
        sides = box[2:] - box[:2]
        if sides.min() < GRABCUT_SIDES[0] or not mask.any():
            continue
        margin = GRABCUT_MARGIN * sides
        corners = np.rint([box[:2] - margin, box[2:] + margin]).astype(int)
        (left, top), (right, bottom) = corners.clip(0, (width, height))
        window = slice(top, bottom), slice(left, right)
        foreground = mask[window] & _foreground(bgr[window], mask[window])
        if foreground.any():
            mask[window] = foreground
    return masks


def _foreground(crop: Pixels, inside: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """GrabCut's foreground of a crop; none where it cannot tell colors apart."""
    scale = min(1.0, GRABCUT_SIDES[1] / max(crop.shape[:2]))
    size = tuple(max(1, round(scale * side)) for side in crop.shape[1::-1])
    labels = np.where(inside.numpy(), cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(crop, labels, None, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # no background, or too few colors for its mixtures
        return torch.zeros_like(inside)
    labels = cv2.resize(labels, inside.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(labels == cv2.GC_PR_FGD)


BOX_MASKS = {"GrabCut": grabcut, "box": box_masks}


class MasksFromBoxes(InstanceModel):
    """A model with masks made from its boxes, by one of `BOX_MASKS`, for its best detections."""

    def __init__(self, model: nn.Module, mask_from: str = "box", max_masks: int = 100):
        super().__init__()
        if mask_from not in BOX_MASKS:
            raise ValueError(f"mask_from is {mask_from!r}: choose one of {', '.join(BOX_MASKS)}")
        self.model, self.mask_from, self.max_masks = model, mask_from, max_masks

    def input_size(self, height: int, width: int) -> tuple[float, float]:
        return self.model.input_size(height, width)

    def losses(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        return self.model.losses(images, targets)

    def network(self, images: list[Tensor]) -> tuple:
        """The model's output, and the images."""
        return self.model.network(images), images

    def postprocess(self, out: tuple) -> list[dict]:
        """The model's best `max_masks` detections per image, with bool masks [n, H, W]."""
        results = []
        for detections, image in zip(self.model.postprocess(out[0]), out[1], strict=True):
            best = {name: v[: self.max_masks].detach().cpu() for name, v in detections.items()}
            best["masks"] = BOX_MASKS[self.mask_from](to_uint8_hwc(image), best["boxes"])
            results.append(best)
        return results
