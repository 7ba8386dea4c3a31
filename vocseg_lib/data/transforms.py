"""SSD's augmentation (SSD paper, sec. 2.2 and 3.6) from torchvision's v2 transforms, made safe for masks.

Transforms take and return `(image, target)` as `VocDataset` gives them. Resizing is the model's business.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from vocseg_lib.utils.boxes import box_iou, masks_to_boxes

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MEAN_COLOR = tuple(round(255 * m) for m in IMAGENET_MEAN)
SMALLEST_SIDE = 4
"""Pixels: an object whose visible mask is narrower or lower than this is dropped."""
LARGEST_ZOOM = 4.0
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)
"""Least IoU of a crop with an object whose centre it holds; None: no crop."""
CROP_TRIALS = 40


def model_input(image: Tensor, device: str | torch.device = "cpu") -> Tensor:
    """A uint8 image of a data set as models take it: a plain float tensor in 0..1, on the device."""
    return image.as_subclass(Tensor).to(device).float() / 255


class PhotometricDistort(v2.RandomPhotometricDistort):
    """SSD's brightness, contrast, saturation and hue, without torchvision's channel permutation, which YOLACT lacks."""

    def make_params(self, flat_inputs: list) -> dict:
        return super().make_params(flat_inputs) | {"channel_permutation": None}


def drop_lost_objects(image: Tensor, target: dict) -> tuple[Tensor, dict]:
    """Set each box to what is left of its mask and drop objects whose mask is (nearly) gone."""
    masks = target["masks"].as_subclass(Tensor)
    boxes = masks_to_boxes(masks)
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_SIDE).all(1)
    kept = {
        "boxes": tv_tensors.BoundingBoxes(boxes[keep], format="XYXY", canvas_size=image.shape[-2:]),
        "labels": target["labels"][keep],
        "masks": tv_tensors.Mask(masks if keep.all() else masks[keep]),
    }
    return tv_tensors.Image(image), target | kept


class SsdAugmentation(torch.nn.Module):
    """SSD's augmentation: photometric distortion, zoom out (p .5, 1 to 4 times, mean colour), random crop, mirror (p .5).

    Zooming out and cropping are drawn first and done as one cut, so that no pixel is touched that is not kept. Colours
    are distorted after the cut and before the mean colour is put around it.
    """

    def __init__(self):
        super().__init__()
        self.distort = PhotometricDistort()

    def forward(self, image: Tensor, target: dict) -> tuple[Tensor, dict]:
        height, width = image.shape[-2:]
        (left, top, right, bottom), kept = draw_window(
            target["boxes"].as_subclass(Tensor), height, width
        )
        rows, columns = (
            slice(max(top, 0), min(bottom, height)),
            slice(max(left, 0), min(right, width)),
        )
        around = (rows.start - top, bottom - rows.stop, columns.start - left, right - columns.stop)
        image = self.distort(tv_tensors.Image(image[:, rows, columns])).as_subclass(Tensor)
        masks = target["masks"].as_subclass(Tensor)[kept][:, rows, columns]
        if torch.rand(()) < 0.5:
            image, masks, around = (
                image.flip(-1),
                masks.flip(-1),
                (*around[:2], around[3], around[2]),
            )
        image, masks = surround(image, around, MEAN_COLOR), surround(masks, around, (0,))
        return drop_lost_objects(
            image, {**target, "masks": masks, "labels": target["labels"][kept]}
        )


def draw_window(
    boxes: Float[Tensor, "n 4"], height: int, width: int
) -> tuple[tuple[int, int, int, int], Bool[Tensor, " n"]]:
    """Left, top, right and bottom of what SSD's zoom out and crop leave of an image, in its pixels, and which objects.

    The window may reach beyond the image. Objects whose centre is cut off are lost.
    """
    zoomed_height, zoomed_width, top, left = height, width, 0, 0
    if torch.rand(()) < 0.5:
        ratio, across, down = torch.rand(3).tolist()
        zoomed_height, zoomed_width = (
            int(side * (1 + (LARGEST_ZOOM - 1) * ratio)) for side in (height, width)
        )
        top, left = int((zoomed_height - height) * down), int((zoomed_width - width) * across)
    boxes = boxes + boxes.new_tensor([left, top, left, top])
    x1, y1, x2, y2, kept = draw_crop(boxes, zoomed_height, zoomed_width)
    return (x1 - left, y1 - top, x2 - left, y2 - top), kept


def draw_crop(
    boxes: Float[Tensor, "n 4"], height: int, width: int
) -> tuple[int, int, int, int, Bool[Tensor, " n"]]:
    """SSD's random crop (SSD paper, sec. 2.2): sides of .3 to 1 of the image's, aspect ratio 1/2 to 2, the centre of an
    object in it, and an overlap with such an object that is drawn too; or the whole image.

    As torchvision's `RandomIoUCrop`, with its 40 trials made at once. Images without an object, or too small to cut, stay
    whole.
    """
    whole = 0, 0, width, height, torch.ones(len(boxes), dtype=torch.bool)
    if not len(boxes) or min(height, width) < SMALLEST_SIDE:
        return whole
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    image = torch.tensor([width, height])
    while True:
        least_overlap = CROP_OVERLAPS[int(torch.randint(len(CROP_OVERLAPS), ()))]
        if least_overlap is None:
            return whole
        size = (image * (0.3 + 0.7 * torch.rand(CROP_TRIALS, 2))).int()
        low = ((image - size) * torch.rand(CROP_TRIALS, 2)).int()
        crops = torch.cat([low, low + size], 1)
        aspect = size[:, 0] / size[:, 1]
        inside = ((centre > low[:, None]) & (centre < (low + size)[:, None])).all(2)
        overlap = (box_iou(crops.to(boxes), boxes) * inside).amax(1)
        valid = (aspect >= 0.5) & (aspect <= 2) & inside.any(1) & (overlap >= least_overlap)
        if valid.any():
            chosen = int(valid.int().argmax())
            return (*crops[chosen].tolist(), inside[chosen])


def surround(
    pixels: UInt8[Tensor, "c _ _"], around: tuple[int, int, int, int], fill: tuple[int, ...]
) -> UInt8[Tensor, "c _ _"]:
    """Pixels with `around` (top, bottom, left, right) pixels of a colour on their sides."""
    top, bottom, left, right = around
    if not any(around):
        return pixels
    channels, height, width = pixels.shape
    canvas = pixels.new_tensor(fill)[:, None, None].expand(
        -1, top + height + bottom, left + width + right
    )
    canvas = canvas.repeat(channels // len(fill), 1, 1)
    canvas[:, top : top + height, left : left + width] = pixels
    return canvas


def light_augmentation() -> Callable:
    """Photometric distortion and mirror only: learns faster when training is short."""
    return v2.Compose([PhotometricDistort(), v2.RandomHorizontalFlip(), drop_lost_objects])


AUGMENTATIONS = {
    "ssd": SsdAugmentation,
    "light": light_augmentation,
    "none": lambda: drop_lost_objects,
}
