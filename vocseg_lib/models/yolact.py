"""YOLACT (arXiv 1904.02689): one pass gives class, box and mask coefficients a prior, and prototypes an image."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.transforms.v2.functional import normalize

from vocseg_lib.boxes import box_iou, decode_boxes
from vocseg_lib.losses import yolact_loss
from vocseg_lib.masks import inside_boxes
from vocseg_lib.models.anchors import ASPECT_RATIOS, PASCAL_SCALES, prior_boxes
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.transforms import IMAGENET_MEAN, IMAGENET_STD

PROTOTYPES = 32
CANDIDATES_PER_CLASS = 200


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """A convolution as everywhere outside the backbone: Xavier-uniform weights, zero bias, no batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU(inplace=True)) if relu else nn.Sequential(layer)


class Pyramid(nn.Module):
    """YOLACT's FPN: bilinear top-down, 3x3 + ReLU on P3..P5, stride-2 convolutions without ReLU for P6 and P7."""

    def __init__(self, inputs: Sequence[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(conv(c, channels, 1, relu=False) for c in inputs)
        self.smooth = nn.ModuleList(conv(channels, channels, 3) for _ in inputs)
        self.down = nn.ModuleList(conv(channels, channels, 3, stride=2, relu=False) for _ in range(2))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for k in range(len(levels) - 1, 0, -1):
            upsampled = F.interpolate(levels[k], levels[k - 1].shape[2:], mode="bilinear", align_corners=False)
            levels[k - 1] = levels[k - 1] + upsampled
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
        x = F.interpolate(self.before(p3), scale_factor=2, mode="bilinear", align_corners=False)
        return self.after(F.relu(x))


class Head(nn.Module):
    """Class logits, box offsets and coefficients for each prior of a level; one head for all levels (sec. 4)."""

    def __init__(self, channels: int, num_classes: int, priors_per_cell: int):
        super().__init__()
        self.shared = conv(channels, channels, 3)
        self.box = conv(channels, 4 * priors_per_cell, 3, relu=False)
        self.classes = conv(channels, num_classes * priors_per_cell, 3, relu=False)
        self.coefficients = conv(channels, PROTOTYPES * priors_per_cell, 3, relu=False)
        self.num_classes = num_classes

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.shared(level)

        def per_prior(out: Tensor, size: int) -> Tensor:
            return out.permute(0, 2, 3, 1).reshape(len(out), -1, size)

        return (
            per_prior(self.classes(x), self.num_classes),
            per_prior(self.box(x), 4),
            per_prior(self.coefficients(x), PROTOTYPES).tanh(),
        )


class Yolact(nn.Module):
    """YOLACT on any image size; images are resized to a square of `image_size` pixels, aspect not kept (sec. 6).

    Train: `model(images, targets)` gives the weighted losses. Eval: `model(images)` gives a dict an image with boxes
    [n, 4] (pixels of the image), labels [n], scores [n], masks bool [n, H, W] and coefficients [n, 32], best score first.
    Images are float [3, H, W] in 0..1. With `semantic`, the loss has the semantic term.
    """

    def __init__(
        self,
        num_classes: int = 21,
        backbone: str = "resnet50",
        weights: str | Path | None = "imagenet",
        image_size: int = 550,
        channels: int = 256,
        freeze_batch_norm: bool = False,
        semantic: bool = False,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ):
        super().__init__()
        base = build_backbone(backbone, weights, freeze_batch_norm)
        self.body = IntermediateLayerGetter(base.body, {name: name for name in base.stages[1:]})
        self.pyramid = Pyramid(base.channels[1:], channels)
        self.protonet = ProtoNet(channels)
        self.head = Head(channels, num_classes, len(ASPECT_RATIOS))
        self.semantic = conv(channels, num_classes - 1, 1, relu=False) if semantic else None
        self.image_size = image_size
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections
        self._priors: dict[tuple, Tensor] = {}

    def forward(self, images: list[Tensor], targets: list[dict] | None = None) -> dict[str, Tensor] | list[dict]:
        if not self.training:
            return self.postprocess(self.network(images))
        if targets is None:
            raise ValueError("targets are needed in train mode; call model.eval() to predict")
        for target in targets:
            if (target["boxes"][:, 2:] <= target["boxes"][:, :2]).any():
                raise ValueError("a target has a box without width or height, which no loss can be computed for")
        out = self.network(images)
        sizes = [image.shape[-2:] for image in images]
        boxes = [
            t["boxes"].as_subclass(Tensor) / t["boxes"].new_tensor([w, h, w, h]) for t, (h, w) in zip(targets, sizes, strict=True)
        ]
        return yolact_loss(
            out["class_logits"],
            out["box_offsets"],
            out["coefficients"],
            out["prototypes"],
            out["priors"],
            boxes,
            [t["labels"] for t in targets],
            [t["masks"].as_subclass(Tensor) for t in targets],
            out.get("semantic_logits"),
        )

    def network(self, images: list[Tensor]) -> dict:
        """Everything up to the raw predictions: class_logits [b,p,c], box_offsets [b,p,4], coefficients [b,p,32],
        prototypes [b,h,w,32], priors [p,4], image_sizes and, in training with the semantic head, semantic_logits."""
        side = (self.image_size, self.image_size)
        resized = [F.interpolate(x[None].as_subclass(Tensor), side, mode="bilinear", align_corners=False) for x in images]
        batch = normalize(torch.cat(resized), IMAGENET_MEAN, IMAGENET_STD)
        levels = self.pyramid(list(self.body(batch.contiguous(memory_format=torch.channels_last)).values()))
        heads = [self.head(level) for level in levels]
        out = {
            "class_logits": torch.cat([h[0] for h in heads], 1),
            "box_offsets": torch.cat([h[1] for h in heads], 1),
            "coefficients": torch.cat([h[2] for h in heads], 1),
            "prototypes": self.protonet(levels[0]).permute(0, 2, 3, 1),
            "priors": self._priors_for([tuple(level.shape[2:]) for level in levels], batch.device),
            "image_sizes": [tuple(image.shape[-2:]) for image in images],
        }
        if self.semantic is not None and self.training:
            out["semantic_logits"] = self.semantic(levels[0])
        return out

    def _priors_for(self, feature_sizes: list[tuple[int, int]], device: torch.device) -> Tensor:
        key = (*feature_sizes, device)
        if key not in self._priors:
            self._priors[key] = prior_boxes(feature_sizes, PASCAL_SCALES, ASPECT_RATIOS).to(device)
        return self._priors[key]

    def postprocess(self, out: dict) -> list[dict]:
        """Raw predictions to detections: decode, Fast NMS, assemble the kept masks."""
        return [
            self._detect(
                out["class_logits"][i],
                out["box_offsets"][i],
                out["coefficients"][i],
                out["prototypes"][i],
                out["priors"],
                size,
            )
            for i, size in enumerate(out["image_sizes"])
        ]

    def _detect(
        self,
        class_logits: Float[Tensor, "p c"],
        box_offsets: Float[Tensor, "p 4"],
        coefficients: Float[Tensor, "p k"],
        prototypes: Float[Tensor, "h w k"],
        priors: Float[Tensor, "p 4"],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        scores = class_logits.softmax(-1)[:, 1:]
        candidate = scores.amax(1) > self.score_threshold
        boxes = decode_boxes(box_offsets[candidate], priors[candidate])
        kept, classes, kept_scores = fast_nms(boxes, scores[candidate], self.nms_iou, CANDIDATES_PER_CLASS, self.max_detections)
        boxes = boxes[kept]
        masks = assemble_masks(prototypes, coefficients[candidate][kept], boxes, *size)
        height, width = size
        pixels = (boxes * boxes.new_tensor([width, height, width, height])).clamp(min=0)
        pixels = torch.minimum(pixels, pixels.new_tensor([width, height, width, height]))
        found = {"boxes": pixels, "labels": classes + 1, "scores": kept_scores, "masks": masks}
        return {**found, "coefficients": coefficients[candidate][kept]}


def fast_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n c"], iou: float, top_k: int, max_detections: int
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Fast NMS (YOLACT paper, sec. 4): per class, drop a box that overlaps *any* higher-scored one by more than `iou`.

    Returns box index, class (0-based) and score of the best `max_detections`, best first. Unlike standard NMS, boxes
    that are dropped still drop others: that is what makes it one matrix operation.
    """
    ranked, order = scores.T.sort(1, descending=True)
    ranked, order = ranked[:, :top_k], order[:, :top_k]
    overlap = box_iou(boxes[order], boxes[order]).triu(diagonal=1)
    survives = overlap.amax(1) <= iou if overlap.shape[1] else torch.zeros_like(ranked, dtype=torch.bool)
    classes, position = survives.nonzero(as_tuple=True)
    best_scores, best = ranked[classes, position].sort(descending=True)
    best_scores, best = best_scores[:max_detections], best[:max_detections]
    return order[classes, position][best], classes[best], best_scores


def assemble_masks(
    prototypes: Float[Tensor, "h w k"],
    coefficients: Float[Tensor, "n k"],
    boxes: Float[Tensor, "n 4"],
    height: int,
    width: int,
) -> Bool[Tensor, "n {height} {width}"]:
    """sigmoid(prototypes @ coefficients), cropped with the predicted box, scaled to the image, > .5 (sec. 3.1)."""
    probabilities = torch.einsum("hwk,nk->nhw", prototypes, coefficients).sigmoid()
    probabilities = probabilities * inside_boxes(boxes, *prototypes.shape[:2])
    if not len(probabilities):
        return torch.zeros((0, height, width), dtype=torch.bool, device=prototypes.device)
    return F.interpolate(probabilities[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0] > 0.5
