"""SSD's augmentation (SSD paper, sec. 2.2, 3.6) from torchvision's v2 transforms, safe for masks.

Transforms take and return `(image, target)` as `VocDataset` gives them; models resize.
"""

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from vocseg_lib.data.sample import fit, fitting_size
from vocseg_lib.utils.boxes import masks_to_boxes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALIZATIONS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "official": (
        tuple(m / 255 for m in (123.68, 116.78, 103.94)),
        tuple(s / 255 for s in (58.40, 57.12, 57.38)),
    ),
}
"""Mean and standard deviation of images in 0..1 (RGB): ImageNet's, and the official YOLACT's."""
MEAN_COLOR = tuple(round(255 * m) for m in IMAGENET_MEAN)
MIN_MASK_SIDE = 4  # pixels: an object whose mask is narrower or lower is dropped


def model_input(image: Tensor, device: str | torch.device = "cpu") -> Tensor:
    """A data set's uint8 image as a plain float tensor in 0..1 on the device, as models take it."""
    plain = image.as_subclass(Tensor)
    return plain.to(device, non_blocking=plain.is_pinned()).float() / 255


class PhotometricDistort(v2.RandomPhotometricDistort):
    """SSD's brightness, contrast, saturation and hue, without torchvision's channel permutation."""

    def make_params(self, flat_inputs: list) -> dict:
        return super().make_params(flat_inputs) | {"channel_permutation": None}


class ZoomOut(v2.RandomZoomOut):
    """Zoom out, p .5, 1 to 4 times; large pictures are shrunk so that the canvas fits in memory."""

    def make_params(self, flat_inputs: list) -> dict:
        left, top, right, bottom = super().make_params(flat_inputs)["padding"]
        image, masks = (
            next(x for x in flat_inputs if isinstance(x, kind))
            for kind in (tv_tensors.Image, tv_tensors.Mask)
        )
        height, width = image.shape[-2:]
        canvas = top + height + bottom, left + width + right
        scale = fitting_size(canvas, len(masks))[0] / canvas[0]
        padding = [int(scale * side) for side in (left, top, right, bottom)]
        return {"padding": padding, "size": fit((height, width), scale)}

    def transform(self, inpt: Tensor, params: dict) -> Tensor:
        resized = v2.functional.resize(inpt, params["size"])
        return super().transform(resized, {"padding": params["padding"]})


def drop_lost_objects(image: Tensor, target: dict) -> tuple[Tensor, dict]:
    """Drop objects whose box was cropped away or whose mask is (nearly) gone; refit the boxes.

    `RandomIoUCrop` empties the boxes of objects whose center is outside and keeps their masks, and
    it keeps the box of an object whose mask has become empty.
    """
    masks = target["masks"].as_subclass(Tensor)
    before, boxes = target["boxes"].as_subclass(Tensor), masks_to_boxes(masks)
    keep = (before[:, 2:] > before[:, :2]).all(1)
    keep &= ((boxes[:, 2:] - boxes[:, :2]) >= MIN_MASK_SIDE).all(1)
    kept = {
        "boxes": tv_tensors.BoundingBoxes(boxes[keep], format="XYXY", canvas_size=image.shape[-2:]),
        "labels": target["labels"][keep],
        "masks": tv_tensors.Mask(masks if keep.all() else masks[keep]),
    }
    return tv_tensors.Image(image), target | kept


class SsdAugmentation(torch.nn.Module):
    """SSD's augmentation: photometric distortion, zoom out (p .5, 1 to 4 times, mean color), random
    crop, mirror (p .5)."""

    def __init__(self):
        super().__init__()
        self.distort = PhotometricDistort()
        self.zoom_out = ZoomOut(fill={tv_tensors.Image: MEAN_COLOR, tv_tensors.Mask: 0})
        # The default options include 1.0 (no crop), without which an image may be tried forever.
        self.crop = v2.RandomIoUCrop()
        self.mirror = v2.RandomHorizontalFlip()

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        image, target = self.zoom_out(*self.distort(image, target))
        # The crop fails if 0.3 of a side is less than a pixel.
        if len(target["boxes"]) and min(image.shape[-2:]) >= 4:
            image, target = self.crop(image, target)
        return drop_lost_objects(*self.mirror(image, target))


AUGMENTATIONS = {
    "ssd": SsdAugmentation,
    # Learns faster when training is short.
    "light": lambda: v2.Compose(
        [PhotometricDistort(), v2.RandomHorizontalFlip(), drop_lost_objects]
    ),
    "none": lambda: drop_lost_objects,
}
