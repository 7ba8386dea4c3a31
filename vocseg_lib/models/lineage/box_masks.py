"""Masks for models that only give boxes: the whole box, or GrabCut inside it."""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from vocseg_lib.models.lineage.features import whole_pixels
from vocseg_lib.models.lineage.proposals import to_uint8_hwc
from vocseg_lib.utils.masks import box_mask

AROUND = 0.3
"""Of a box's sides: how much around it GrabCut sees, which is background to it."""
ROUNDS = 5
LARGEST = 200
"""Pixels: the longer side of what GrabCut is shown; more is shrunk to it, as its time goes with the pixels."""
SMALLEST = 4
"""Pixels: a box with a shorter side has too little to tell foreground by, and is filled."""


def box_masks(
    picture: UInt8[np.ndarray, "h w 3"], boxes: Float[Tensor, "n 4"]
) -> Bool[Tensor, "n h w"]:
    """The pixels whose centre lies in each box."""
    height, width = picture.shape[:2]
    relative = (boxes - 0.5) / boxes.new_tensor([width, height, width, height])
    return box_mask(relative, height, width, padding=0)


def grabcut(
    picture: UInt8[np.ndarray, "h w 3"], boxes: Float[Tensor, "n 4"]
) -> Bool[Tensor, "n h w"]:
    """GrabCut (Rother et al. 2004) with each box as what is drawn around an object; never a pixel outside of it.

    Where it finds nothing, and in boxes too small for it, the box is filled.
    """
    masks = box_masks(picture, boxes)
    height, width = picture.shape[:2]
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for mask, (x1, y1, x2, y2) in zip(
        masks, whole_pixels(boxes.numpy(), height, width).tolist(), strict=True
    ):
        if min(x2 - x1, y2 - y1) < SMALLEST or not mask.any():
            continue
        left, top = (
            max(0, round(low - AROUND * (high - low))) for low, high in ((x1, x2), (y1, y2))
        )
        right, bottom = (
            min(end, round(high + AROUND * (high - low)))
            for low, high, end in ((x1, x2, width), (y1, y2, height))
        )
        seen, inside = bgr[top:bottom, left:right], mask[top:bottom, left:right]
        scale = min(1.0, LARGEST / max(seen.shape[:2]))
        size = tuple(max(1, round(scale * side)) for side in seen.shape[1::-1])
        seeds = np.where(inside.numpy(), cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        seeds = cv2.resize(seeds, size, interpolation=cv2.INTER_NEAREST)
        if (seeds == cv2.GC_PR_FGD).all():
            continue  # the whole picture: there is no background to learn from
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        try:
            shrunk = cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
            cv2.grabCut(shrunk, seeds, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
        except cv2.error:
            continue  # too few colours for its mixtures
        found = (seeds == cv2.GC_PR_FGD).astype(np.uint8)
        found = inside & torch.from_numpy(
            cv2.resize(found, seen.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        )
        if found.any():
            mask[top:bottom, left:right] = found
    return masks


MASKS = {"box": box_masks, "GrabCut": grabcut}


class MasksFromBoxes(nn.Module):
    """A model with other masks, made from its boxes: those of `MASKS`. Eval only."""

    def __init__(self, model: nn.Module, mask_from: str = "box", max_masks: int = 100):
        super().__init__()
        if mask_from not in MASKS:
            raise ValueError(f"no masks from {mask_from!r}; choose one of {', '.join(MASKS)}")
        self.model, self.mask_from, self.max_masks = model, mask_from, max_masks

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        return (
            self.model(images, targets) if self.training else self.postprocess(self.network(images))
        )

    def network(self, images: list[Tensor]) -> tuple:
        """What the model makes of images, and the images."""
        return self.model.network(images), images

    def postprocess(self, out: tuple) -> list[dict]:
        """The model's detections, the best `max_masks` of them, with masks bool [n, H, W]."""
        results = []
        for found, image in zip(self.model.postprocess(out[0]), out[1], strict=True):
            best = {
                name: found[name][: self.max_masks].detach().cpu()
                for name in ("boxes", "labels", "scores")
            }
            results.append(
                {**best, "masks": MASKS[self.mask_from](to_uint8_hwc(image), best["boxes"])}
            )
        return results
