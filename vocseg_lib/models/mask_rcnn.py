"""Mask R-CNN (arXiv 1703.06870) from torchvision's parts, every layer trained."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops.poolers import initLevelMapper

from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.config import SHORT_SIDE, MaskRCNNConfig
from vocseg_lib.models.contract import ClassLayer, SmallMaskModel
from vocseg_lib.models.roi_pooling import POOLING
from vocseg_lib.utils import distributed
from vocseg_lib.utils.masks import split_masks

LONG_SIDE = 1333  # pixels, at most, of an image whose short side is 800
STRIDES = (4, 8, 16, 32)  # of the FPN's levels P2 to P5, in which regions are pooled
ANCHOR_SIZES = (32, 64, 128, 256, 512)  # pixels on an image whose short side is 800


def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks [n, m, m] resized into their boxes (xyxy pixels), > .5: bool [n, height, width]."""
    parts = [split_masks(tensor, height, width) for tensor in (masks[:, None], boxes)]
    pasted = (paste_masks_in_image(*part, (height, width)) for part in zip(*parts, strict=True))
    return torch.cat([part[:, 0] > 0.5 for part in pasted])


class AnySizeTransform(detection.transform.GeneralizedRCNNTransform):
    """torchvision's resizing; very thin images are padded, or their short side would be 0."""

    def resize(self, image: Tensor, target: dict | None = None) -> tuple[Tensor, dict | None]:
        height, width = image.shape[-2:]
        least = math.ceil(max(height, width) / self.max_size) + 1
        padding = (0, max(0, least - width), 0, max(0, least - height))
        if any(padding):
            image = F.pad(image, padding)
            target = {**target, "masks": F.pad(target["masks"], padding)} if target else target
        if not target:
            return super().resize(image)
        # torchvision makes floats of all masks.
        masks = target["masks"].as_subclass(Tensor).to(torch.uint8)
        others = {name: value for name, value in target.items() if name != "masks"}
        image, target = super().resize(image, others)
        masks = F.interpolate(masks[:, None], image.shape[-2:], mode="nearest")[:, 0]
        return image, {**target, "masks": masks}

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        batch = super().batch_images(images, size_divisible)
        return batch.contiguous(memory_format=torch.channels_last)


class CountingSampler(detection._utils.BalancedPositiveNegativeSampler):
    """torchvision's sampler; keeps its sample counts divided by their means over all ranks.

    torchvision averages losses over the samples of a process, and DDP averages gradients over
    processes. A loss times `weight` (`positive_weight` for one over positives) is normalized over
    the samples of all.
    """

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = super().__call__(matched_idxs)
        positives, negatives = (torch.cat(masks).sum().float() for masks in (positive, negative))
        counts = torch.stack([positives + negatives, positives])
        means = distributed.all_reduce_mean(counts).clamp(min=torch.finfo().tiny)
        self.weight, self.positive_weight = counts / means
        return positive, negative


class MaskRCNN(SmallMaskModel, detection.MaskRCNN):
    """Mask R-CNN with an FPN over C2..C5.

    With the default config it is torchvision's `maskrcnn_resnet50_fpn`, layer by layer.
    """

    resize_masks = staticmethod(paste_masks)
    class_layers: ClassVar = {
        "roi_heads.box_predictor.cls_score": ClassLayer(),
        "roi_heads.box_predictor.bbox_pred": ClassLayer(values=4),
        "roi_heads.mask_predictor.mask_fcn_logits": ClassLayer(),
    }
    body_and_fpn = ("backbone.",)

    def __init__(self, config: MaskRCNNConfig | None = None, num_classes: int = 21):
        config = config or MaskRCNNConfig()
        base = build_backbone(config.backbone, config.init)
        channels, pooling = config.channels, POOLING[config.roi_pooling]
        stages = {name: str(k) for k, name in enumerate(base.stages)}
        scale, levels = config.short_side / SHORT_SIDE, list(stages.values())
        sizes = tuple((max(1, round(size * scale)),) for size in ANCHOR_SIZES)
        super().__init__(
            BackboneWithFPN(base.body, stages, list(base.channels), channels),
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            box_roi_pool=pooling(levels, 7, 2),
            box_head=detection.faster_rcnn.TwoMLPHead(channels * 7**2, 4 * channels),
            box_predictor=detection.faster_rcnn.FastRCNNPredictor(4 * channels, num_classes),
            mask_roi_pool=pooling(levels, 14, 2),
            mask_head=detection.mask_rcnn.MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=detection.mask_rcnn.MaskRCNNPredictor(channels, channels, num_classes),
            rpn_pre_nms_top_n_train=config.proposals,
            rpn_post_nms_top_n_train=config.proposals,
            rpn_pre_nms_top_n_test=config.proposals // 2,
            rpn_post_nms_top_n_test=config.proposals // 2,
            box_batch_size_per_image=config.rois_per_image,
            box_score_thresh=config.score_threshold,
            box_nms_thresh=config.nms_iou,
            box_detections_per_img=config.max_detections,
        )
        self.config, self.num_classes = config, num_classes
        if config.compile:
            self.backbone.compile()
        for layer in self.backbone.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = config.batch_norm_eps
        self.to(memory_format=torch.channels_last)
        for part in (self.rpn, self.roi_heads):
            part.fg_bg_sampler.__class__ = CountingSampler
        for pool in (self.roi_heads.box_roi_pool, self.roi_heads.mask_roi_pool):
            # Else torchvision guesses them from the first batch, padding included.
            pool.scales = [1 / stride for stride in STRIDES]
            pool.map_levels = initLevelMapper(2, 5, pool.canonical_scale, pool.canonical_level)
        self.transform = AnySizeTransform(
            config.short_side, round(LONG_SIDE * scale), IMAGENET_MEAN, IMAGENET_STD
        )

    def input_size(self, height: int, width: int) -> tuple[float, float]:
        short, long = self.transform.min_size[0], self.transform.max_size
        scale = min(short / min(height, width), long / max(height, width))
        return scale * height, scale * width

    def losses(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        losses = {}
        for name, loss in detection.MaskRCNN.forward(self, images, targets).items():
            part = self.rpn if name in ("loss_objectness", "loss_rpn_box_reg") else self.roi_heads
            sampler = part.fg_bg_sampler
            weight = sampler.positive_weight if name == "loss_mask" else sampler.weight
            losses[name.removeprefix("loss_")] = loss * weight
        return losses

    def network(self, images: list[Tensor]) -> dict:
        """Everything before masks are pasted, as a dict.

        `detections` are boxes (resized pixels), labels, scores and masks [n, 1, 28, 28] in 0..1
        per image, `proposals` [p, 4] per image, `resized` and `image_sizes` (height, width).
        """
        batch, _ = self.transform(images)
        features = self.backbone(batch.tensors)
        proposals, _ = self.rpn(batch, features)
        detections, _ = self.roi_heads(features, proposals, batch.image_sizes)
        sizes = [tuple(image.shape[-2:]) for image in images]
        out = {"detections": detections, "proposals": proposals}
        return {**out, "resized": batch.image_sizes, "image_sizes": sizes}

    def detect(self, out: dict) -> list[dict]:
        """Boxes (resized pixels), labels, scores and masks [n, 28, 28], if any, of each image."""
        sizes = zip(out["resized"], out["image_sizes"], strict=True)
        return [
            {**raw, "resized": resized, "image_size": size}
            for raw, (resized, size) in zip(out["detections"], sizes, strict=True)
        ]

    def finish(self, detections: dict, resize: Callable, uncropped: bool = False) -> dict:
        """Scale boxes to the image and paste each small mask, if any, into its box."""
        resized, size = detections["resized"], detections["image_size"]
        boxes = detection.transform.resize_boxes(detections["boxes"].float(), resized, size)
        result = {"boxes": boxes, "labels": detections["labels"]}
        result["scores"] = detections["scores"].float()
        if "masks" in detections:
            result["masks"] = resize(detections["masks"][:, 0].float(), boxes, *size)
        return result

    def mask_terms(self, out: dict, detections: dict, index: int) -> list[tuple[str, Tensor]]:
        """The region's mask of a detection, as a titled map [28, 28]."""
        return [("the region's 28 x 28 mask", out["detections"][0]["masks"][index, 0])]
