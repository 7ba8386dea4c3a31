"""YOLACT (arXiv 1904.02689): prototypes per image; class, box and mask coefficients per prior."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.transforms.v2.functional import normalize

from vocseg_lib.data.transforms import NORMALIZATIONS
from vocseg_lib.losses import YolactOutputs, yolact_loss
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.contract import ClassLayer, SmallMaskModel
from vocseg_lib.models.postprocess import detect, mask_logits, scale_boxes, upsample_masks
from vocseg_lib.models.priors import ASPECT_RATIOS, prior_boxes

PROTOTYPES = 32


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Module:
    """A convolution outside the backbone: Xavier-uniform weights, zero bias, no batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU(inplace=True)) if relu else nn.Sequential(layer)


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [b, c, h, w], bilinearly resized."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


def square_batch(images: list[Tensor], side: int, normalization: str = "imagenet") -> Tensor:
    """Images resized to squares and normalized; see `YolactConfig.normalization`."""
    size = (side, side)
    resized = torch.cat([upsample(image[None].as_subclass(Tensor), size) for image in images])
    batch = normalize(resized, *NORMALIZATIONS[normalization], inplace=True)
    return batch.contiguous(memory_format=torch.channels_last)


class FPN(nn.Module):
    """YOLACT's FPN: bilinear top-down, 3x3 + ReLU on P3..P5; P6, P7 by stride 2 without ReLU."""

    def __init__(self, inputs: Sequence[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(conv(c, channels, 1, relu=False) for c in inputs)
        self.smooth = nn.ModuleList(conv(channels, channels, 3) for _ in inputs)
        self.down = nn.ModuleList(conv(channels, channels, 3, 2, relu=False) for _ in range(2))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for k in range(len(levels) - 1, 0, -1):
            levels[k - 1] = levels[k - 1] + upsample(levels[k], levels[k - 1].shape[2:])
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels


class ProtoNet(nn.Module):
    """Prototypes at twice the resolution of P3, ReLU at the end (sec. 3.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.before = nn.Sequential(*(conv(channels, channels, 3) for _ in range(3)))
        self.after = nn.Sequential(conv(channels, channels, 3), conv(channels, PROTOTYPES, 1))

    def forward(self, p3: Tensor) -> Tensor:
        # No ReLU after the upsampling, unlike the official code: interpolated values stay >= 0.
        height, width = p3.shape[2:]
        return self.after(upsample(self.before(p3), (2 * height, 2 * width)))


class PredictionHead(nn.Module):
    """Class logits, box offsets and coefficients per prior; one head for all levels (sec. 4)."""

    def __init__(self, channels: int, num_classes: int, priors_per_cell: int):
        super().__init__()
        self.shared = conv(channels, channels, 3)
        self.classes = conv(channels, num_classes * priors_per_cell, 3, relu=False)
        self.box = conv(channels, 4 * priors_per_cell, 3, relu=False)
        self.coefficients = conv(channels, PROTOTYPES * priors_per_cell, 3, relu=False)
        self.sizes = (num_classes, 4, PROTOTYPES)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        shared = [self.shared(level) for level in levels]
        branches = zip((self.classes, self.box, self.coefficients), self.sizes, strict=True)
        classes, box, coefficients = (
            torch.cat(
                [branch(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, size) for x in shared], 1
            )
            for branch, size in branches
        )
        return classes, box, coefficients.tanh()


@lru_cache(maxsize=8)
def _priors(sizes: tuple, scales: tuple, square: bool, device: torch.device) -> Tensor:
    """`prior_boxes` on a device, to which they are copied once."""
    with torch.inference_mode(False):  # or they could not be used in training
        return prior_boxes(sizes, scales, square=square).to(device)


class Yolact(SmallMaskModel):
    """YOLACT; the aspect of images is not kept (sec. 6).

    Detections have `coefficients` [n, 32], too.
    """

    resize_masks = staticmethod(upsample_masks)
    class_layers: ClassVar = {
        "head.classes.0": ClassLayer(repeats=len(ASPECT_RATIOS)),
        "semantic.0": ClassLayer(first=1),
    }
    body_and_fpn = ("body.", "pyramid.")

    def __init__(self, config: YolactConfig | None = None, num_classes: int = 21):
        super().__init__()
        self.config, self.num_classes = config or YolactConfig(), num_classes
        config = self.config
        base = build_backbone(config.backbone, config.init)
        self.body = IntermediateLayerGetter(base.body, {name: name for name in base.stages[1:]})
        self.pyramid = FPN(base.channels[1:], config.channels)
        self.protonet = ProtoNet(config.channels)
        self.head = PredictionHead(config.channels, num_classes, len(ASPECT_RATIOS))
        if config.semantic_loss:
            self.semantic = conv(config.channels, num_classes - 1, 1, relu=False)
        layers = self.forward_layers
        self._layers = torch.compile(layers) if config.compile else layers
        self.to(memory_format=torch.channels_last)

    def input_size(self, height: int, width: int) -> tuple[float, float]:
        return self.config.image_size, self.config.image_size

    def losses(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        out, relative = self.network(images), []
        for target, (height, width) in zip(targets, out.pop("image_sizes"), strict=True):
            boxes, masks = (target[name].as_subclass(Tensor) for name in ("boxes", "masks"))
            boxes = boxes / boxes.new_tensor([width, height, width, height])
            relative.append({"boxes": boxes, "labels": target["labels"], "masks": masks})
        crop, by_area = self.config.crop_in_training, self.config.normalize_by_area
        with torch.autocast(out["priors"].device.type, enabled=False):
            return yolact_loss(YolactOutputs(**out), relative, crop, by_area)

    def network(self, images: list[Tensor]) -> dict:
        """Raw predictions: the fields of `YolactOutputs`, and image_sizes (height, width)."""
        batch = square_batch(images, self.config.image_size, self.config.normalization)
        out, feature_sizes = self._layers(batch)
        options = tuple(feature_sizes), self.config.scales, self.config.square_priors
        out = {name: value.float() for name, value in out.items()}
        sizes = [tuple(image.shape[-2:]) for image in images]
        return {**out, "priors": _priors(*options, batch.device), "image_sizes": sizes}

    def forward_layers(self, batch: Tensor) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        levels = self.pyramid(list(self.body(batch).values()))
        class_logits, box_offsets, coefficients = self.head(levels)
        prototypes = self.protonet(levels[0]).permute(0, 2, 3, 1)
        out = {"class_logits": class_logits, "box_offsets": box_offsets}
        out |= {"coefficients": coefficients, "prototypes": prototypes}
        if self.config.semantic_loss and self.training:
            out["semantic_logits"] = self.semantic(levels[0])
        return out, [tuple(level.shape[2:]) for level in levels]

    @torch.no_grad()
    def detect(self, out: dict) -> list[dict]:
        """Boxes (relative), labels, scores and masks before the sigmoid [n, h, w] of each image.

        On a GPU there are `max_detections`, of which those that are none have negative scores.
        """
        results = []
        for i, size in enumerate(out["image_sizes"]):
            scores = out["class_logits"][i].T.contiguous().softmax(0)[1:]
            raw = out["box_offsets"][i], out["coefficients"][i], out["priors"]
            boxes, classes, scores, coefficients = detect(scores, *raw, self.config)
            result = {"boxes": boxes, "labels": classes + 1, "scores": scores}
            result |= {"coefficients": coefficients, "image_size": size}
            result["mask_logits"] = mask_logits(out["prototypes"][i], coefficients)
            results.append(result)
        return results

    @torch.no_grad()
    def finish(self, detections: dict, resize: Callable, uncropped: bool = False) -> dict:
        height, width = detections["image_size"]
        result, found = {**detections}, detections["scores"] >= 0
        del result["image_size"]
        if not found.all():
            result = {name: values[found] for name, values in result.items()}
        boxes, logits = result["boxes"], result.pop("mask_logits")
        result["boxes"] = scale_boxes(boxes, height, width)
        crop = boxes if self.config.crop_in_inference else None
        result["masks"] = resize(logits, crop, height, width)
        if uncropped:
            result["uncropped_masks"] = resize(logits, None, height, width)
        return result

    def mask_terms(self, out: dict, detections: dict, index: int) -> list[tuple[str, Tensor]]:
        """The four largest prototypes times coefficients, as titled maps; the sigmoid of all 32."""
        coefficients = detections["coefficients"][index]
        terms = out["prototypes"][0] * coefficients
        order = terms.abs().mean((0, 1)).argsort(descending=True)[:4].tolist()
        maps = [(f"prototype {k} x {coefficients[k]:+.2f}", terms[..., k]) for k in order]
        return [*maps, ("all 32 added up, before the crop", terms.sum(-1).sigmoid())]
