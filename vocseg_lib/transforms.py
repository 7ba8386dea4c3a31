"""SSD's augmentation (SSD paper, sec. 2.2 and 3.6) from torchvision's v2 transforms, made safe for masks.

Transforms take and return `(image, target)` as `VocDataset` gives them. Resizing is the model's business.
"""

from collections.abc import Callable

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from vocseg_lib.boxes import masks_to_boxes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALLEST_SIDE = 4
"""Pixels: an object whose visible mask is narrower or lower than this is dropped."""


def model_input(image: torch.Tensor, device: str | torch.device = "cpu") -> torch.Tensor:
    """A uint8 image of a data set as models take it: a plain float tensor in 0..1, on the device."""
    return image.as_subclass(torch.Tensor).to(device).float() / 255


class PhotometricDistort(v2.RandomPhotometricDistort):
    """SSD's brightness, contrast, saturation and hue, without torchvision's channel permutation, which YOLACT lacks."""

    def make_params(self, flat_inputs: list) -> dict:
        return super().make_params(flat_inputs) | {"channel_permutation": None}


class IoUCrop(v2.RandomIoUCrop):
    """SSD's random crop. Images without an object, or too small to cut, are left alone instead of tried for ever."""

    def make_params(self, flat_inputs: list) -> dict:
        boxes = next(x for x in flat_inputs if isinstance(x, tv_tensors.BoundingBoxes))
        # A side under 4 pixels can be cut to nothing: the smallest crop is 0.3 of it.
        if not len(boxes) or min(boxes.canvas_size) < SMALLEST_SIDE:
            return {}
        return super().make_params(flat_inputs)


class DropLostObjects(v2.Transform):
    """Set each box to what is left of its mask and drop objects whose mask or box is (nearly) gone."""

    def forward(self, image: torch.Tensor, target: dict) -> tuple[torch.Tensor, dict]:
        masks, boxes = target["masks"], target["boxes"]
        tight = masks_to_boxes(masks)
        # The IoU crop empties the boxes of objects whose centre it cut off.
        in_crop = (boxes[:, 2:] > boxes[:, :2]).all(1)
        keep = in_crop & ((tight[:, 2:] - tight[:, :2]) >= SMALLEST_SIDE).all(1)
        size = image.shape[-2:]
        kept = {
            "boxes": tv_tensors.BoundingBoxes(tight[keep], format="XYXY", canvas_size=size),
            "labels": target["labels"][keep],
            "masks": tv_tensors.Mask(masks[keep]),
        }
        return image, target | kept


def ssd_augmentation() -> Callable:
    """Photometric distortion, zoom out (p .5, 1 to 4 times, mean colour), IoU crop, mirror (p .5): SSD's order."""
    mean_colour = tuple(round(255 * m) for m in IMAGENET_MEAN)
    return v2.Compose(
        [
            PhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: mean_colour, tv_tensors.Mask: 0}),
            IoUCrop(),
            v2.RandomHorizontalFlip(),
            DropLostObjects(),
        ]
    )


def light_augmentation() -> Callable:
    """Photometric distortion and mirror only: learns faster when training is short."""
    return v2.Compose([PhotometricDistort(), v2.RandomHorizontalFlip(), DropLostObjects()])


AUGMENTATIONS = {"ssd": ssd_augmentation, "light": light_augmentation, "none": DropLostObjects}
