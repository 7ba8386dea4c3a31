"""What all models have in common: torchvision's detection contract."""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vocseg_lib.utils.boxes import box_iou
from vocseg_lib.utils.rle import encode_rle


class ClassLayer(NamedTuple):
    """How the outputs of a layer are ordered: [repeats, classes, values]."""

    repeats: int = 1  # such as priors per cell
    values: int = 1  # such as the four numbers of a box
    first: int = 0  # the first label: 1 without the background


class InstanceModel(nn.Module):
    """Base of the models, on images [3, H, W] in 0..1 of any size; `config.MODELS` lists them.

    Train: `model(images, targets)` returns `losses`, weighted. Eval: `model(images)` returns
    `postprocess(network(images))`, a dict per image: `boxes` [n, 4] (xyxy pixels), `labels`,
    `scores` and `masks` bool [n, H, W], by descending score.
    """

    num_classes: float = math.inf  # background counted
    class_names: tuple[str, ...] = ()  # label 1 first, if they are known
    class_layers: ClassVar[dict[str, ClassLayer]] = {}  # of outputs per class, its logits first
    body_and_fpn: ClassVar[tuple[str, ...]] = ()  # beginnings of parameter names

    def input_size(self, height: int, width: int) -> tuple[float, float]:
        """Height and width to which the model resizes an image."""
        return height, width

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        if not self.training:
            return self.postprocess(self.network(images))
        if targets is None:
            raise ValueError("targets are required in train mode; call model.eval() to predict")
        for target in targets:
            boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"]
            if not (boxes[:, 2:] > boxes[:, :2]).all():
                raise ValueError(f"a target has a box of no width or height: {boxes.tolist()}")
            if not ((labels >= 1) & (labels < self.num_classes)).all():
                limits = f"outside 1..{self.num_classes - 1}"
                raise ValueError(f"a target has a label {limits}: {labels.tolist()}")
        return self.losses(images, targets)

    @torch.inference_mode()
    def explain_mask(self, image: Tensor, box: Tensor, label: int) -> list[tuple[str, Tensor]]:
        """`mask_terms` of the detection nearest to a box (xyxy pixels) and label; eval mode.

        Empty without detections.
        """
        out = self.network([image])
        (detections,) = self.postprocess(out)
        if not len(detections["boxes"]):
            return []
        iou = box_iou(detections["boxes"], box[None].to(detections["boxes"]))[:, 0]
        nearest = int((iou + (detections["labels"] == label)).argmax())
        return self.mask_terms(out, detections, nearest)


class SmallMaskModel(InstanceModel):
    """A model whose masks are small until they are resized to their image.

    `postprocess` resizes them all. `encode(detections, size)` makes run-length codes of what
    `detect(network(images))` gives of an image, on the CPU, for an image of any size (height,
    width) of which the model may have seen a smaller copy.
    """

    def detect(self, out: dict) -> list[dict]:
        """Detections of each image, on the model's device: what `finish` takes."""
        raise NotImplementedError

    def finish(self, detections: dict, resize: Callable, uncropped: bool = False) -> dict:
        """Detections of an image in its pixels, with masks by `resize`.

        It takes small masks, their boxes, height and width. With `uncropped`, models that crop have
        masks before it as `uncropped_masks`, too.
        """
        raise NotImplementedError

    def postprocess(self, out: dict) -> list[dict]:
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):  # masks are computed in single precision
            return [self.finish(detections, self.resize_masks) for detections in self.detect(out)]

    def encode(self, detections: dict, size: tuple[int, int], uncropped: bool = False) -> dict:
        return self.finish({**detections, "image_size": size}, self.encode_masks, uncropped)

    def encode_masks(self, *arguments) -> list[dict]:
        """Run-length codes of `resize_masks`."""
        return encode_rle(self.resize_masks(*arguments))
