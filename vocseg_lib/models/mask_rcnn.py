"""Mask R-CNN (arXiv 1703.06870) on torchvision's parts, with the study's settings and masks pasted all at once."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops.poolers import initLevelMapper

from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.config import MaskRCNNConfig
from vocseg_lib.models.roi_pooling import POOLING
from vocseg_lib.utils import distributed
from vocseg_lib.utils.boxes import nearest_box
from vocseg_lib.utils.masks import paste_masks

SHORT_SIDE, LONG_SIDE = 800, 1333
STRIDES = (4, 8, 16, 32)
"""Of the FPN's levels P2 to P5, in which regions are pooled."""
ANCHOR_SIZES = (32, 64, 128, 256, 512)
"""Pixels on an image whose short side is 800; they shrink with it."""


class AnySizeTransform(GeneralizedRCNNTransform):
    """torchvision's resizing, with images too thin for it (their short side would become 0) padded until they are not."""

    def resize(self, image: Tensor, target: dict | None = None) -> tuple[Tensor, dict | None]:
        height, width = image.shape[-2:]
        thinnest = math.ceil(max(height, width) / self.max_size) + 1
        if min(height, width) < thinnest:
            padding = (0, max(0, thinnest - width), 0, max(0, thinnest - height))
            image = F.pad(image, padding)
            target = {**target, "masks": F.pad(target["masks"], padding)} if target else target
        return super().resize(image, target)

    def torch_choice(self, sizes: Sequence[int]) -> int:
        """The one size there is, without drawing a random number, of which processes with fewer images would draw fewer."""
        return sizes[0]

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        if (
            self.training and distributed.world_size() > 1
        ):  # all are padded to the largest of the whole batch
            sizes = distributed.all_gather_counts(
                [side for image in images for side in image.shape[-2:]], images[0].device
            )
            height, width = images[0].shape[-2:]
            images = [
                F.pad(images[0], (0, max(sizes[1::2]) - width, 0, max(sizes[::2]) - height)),
                *images[1:],
            ]
        return (
            super()
            .batch_images(images, size_divisible)
            .contiguous(memory_format=torch.channels_last)
        )


class SharedSampler(BalancedPositiveNegativeSampler):
    """torchvision's draw of the regions that count in the loss, with the same random numbers however a batch is shared.

    Processes average their gradients, and torchvision averages over the regions of a process. `share` and
    `positive_share` make that the average over all: this process's regions (or positives) over the mean of the processes.
    """

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        found = [
            ((labels >= 1).nonzero()[:, 0], (labels == 0).nonzero()[:, 0])
            for labels in matched_idxs
        ]
        counts = [(len(positive), len(negative)) for positive, negative in found]
        device = matched_idxs[0].device
        everyones = distributed.all_gather_counts(
            [count for pair in counts for count in pair], device
        )
        offset = distributed.rank() * len(found)
        masks = [], []
        for i, totals in enumerate(zip(everyones[::2], everyones[1::2], strict=True)):
            wanted = min(totals[0], int(self.batch_size_per_image * self.positive_fraction))
            for total, size, kind in zip(
                totals, (wanted, self.batch_size_per_image - wanted), (0, 1), strict=True
            ):
                drawn = torch.randperm(total, device=device)[:size]
                if 0 <= i - offset < len(found):
                    mask = torch.zeros_like(matched_idxs[i - offset], dtype=torch.uint8)
                    mask[found[i - offset][kind][drawn]] = 1
                    masks[kind].append(mask)
        positives, negatives = (
            torch.stack([mask.sum() for mask in of_kind]).sum() for of_kind in masks
        )
        self.positive_share, self.share = (
            self._share(count.float()) for count in (positives, positives + negatives)
        )
        return masks

    @staticmethod
    def _share(count: Tensor) -> Tensor:
        return count / distributed.all_reduce_mean(count).clamp(min=torch.finfo().tiny)


class MaskRCNN(TorchvisionMaskRCNN):
    """Mask R-CNN with an FPN over C2..C5 and every layer trained; batch norm unfrozen unless asked.

    Same contract as `Yolact`: losses in train mode; boxes, labels, scores and bool masks [n, H, W] in eval mode.
    Images are resized to a short side of `short_side` pixels, aspect kept; the best `proposals` are
    looked at again (half as many in eval mode), of which `rois_per_image` are drawn for the loss. `pooling` is one of
    `pooling.POOLING`: "align", "pool" for Fast R-CNN's, or "round" between the two. At 256 channels and 800 pixels this is
    torchvision's `maskrcnn_resnet50_fpn` layer for layer. `compile` runs the backbone and its FPN, all that does not depend on
    what is found, through torch.compile.
    """

    def __init__(self, config: MaskRCNNConfig | None = None, num_classes: int = 21):
        config = config or MaskRCNNConfig()
        base = build_backbone(config.backbone, config.weights)
        channels, pooling = config.channels, POOLING[config.roi_pooling]
        stages = {name: str(k) for k, name in enumerate(base.stages)}
        scale, levels = config.short_side / SHORT_SIDE, list(stages.values())
        sizes = tuple((max(1, round(size * scale)),) for size in ANCHOR_SIZES)
        super().__init__(
            BackboneWithFPN(base.body, stages, list(base.channels), channels),
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            box_roi_pool=pooling(levels, 7, 2),
            box_head=TwoMLPHead(channels * 7**2, 4 * channels),
            box_predictor=FastRCNNPredictor(4 * channels, num_classes),
            mask_roi_pool=pooling(levels, 14, 2),
            mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, num_classes),
            rpn_pre_nms_top_n_train=config.proposals,
            rpn_post_nms_top_n_train=config.proposals,
            rpn_pre_nms_top_n_test=config.proposals // 2,
            rpn_post_nms_top_n_test=config.proposals // 2,
            box_batch_size_per_image=config.rois_per_image,
            box_score_thresh=config.score_threshold,
            box_nms_thresh=config.nms_iou,
            box_detections_per_img=config.max_detections,
        )
        self.config = config
        if config.compile:
            self.backbone.compile()
        self.to(memory_format=torch.channels_last)
        for part in (self.rpn, self.roi_heads):
            sampler = part.fg_bg_sampler
            part.fg_bg_sampler = SharedSampler(
                sampler.batch_size_per_image, sampler.positive_fraction
            )
        for pool in (
            self.roi_heads.box_roi_pool,
            self.roi_heads.mask_roi_pool,
        ):  # else guessed from the first batch, padding and all
            pool.scales = [1 / stride for stride in STRIDES]
            ends = (int(math.log2(stride)) for stride in (STRIDES[0], STRIDES[-1]))
            pool.map_levels = initLevelMapper(*ends, pool.canonical_scale, pool.canonical_level)
        self.transform = AnySizeTransform(
            config.short_side, round(LONG_SIDE * scale), IMAGENET_MEAN, IMAGENET_STD
        )

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        if not self.training:
            return self.postprocess(self.network(images))
        if targets is None:
            raise ValueError("targets are needed in train mode; call model.eval() to predict")
        losses, shares = super().forward(images, targets), self.loss_shares()
        rest = self.roi_heads.fg_bg_sampler.share
        return {
            name.removeprefix("loss_"): loss * shares.get(name, rest)
            for name, loss in losses.items()
        }

    def loss_shares(self) -> dict[str, Tensor]:
        """Of the losses that are not over all regions drawn in the second stage: see `SharedSampler`."""
        of_rpn, of_heads = self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler
        return {
            "loss_mask": of_heads.positive_share,
            "loss_objectness": of_rpn.share,
            "loss_rpn_box_reg": of_rpn.share,
        }

    def network(self, images: list[Tensor]) -> dict:
        """Everything up to boxes and their small masks: `detections` a list of boxes (resized pixels), labels, scores
        and masks [n, 1, 28, 28] in 0..1; `proposals` a list of [p, 4]; `resized` and `image_sizes` (height, width)."""
        batch, _ = self.transform(images)
        features = self.backbone(batch.tensors)
        proposals, _ = self.rpn(batch, features)
        detections, _ = self.roi_heads(features, proposals, batch.image_sizes)
        return {
            "detections": detections,
            "proposals": proposals,
            "resized": batch.image_sizes,
            "image_sizes": [tuple(image.shape[-2:]) for image in images],
        }

    def postprocess(self, out: dict) -> list[dict]:
        """Scale boxes to the image and paste each small mask into its box."""
        results = []
        for found, resized, size in zip(
            out["detections"], out["resized"], out["image_sizes"], strict=True
        ):
            boxes = resize_boxes(found["boxes"].float(), resized, size)
            masks = paste_masks(found["masks"][:, 0].float(), boxes, *size)
            results.append(
                {
                    "boxes": boxes,
                    "labels": found["labels"],
                    "scores": found["scores"].float(),
                    "masks": masks,
                }
            )
        return results

    @torch.inference_mode()
    def explain_mask(self, image: Tensor, box: Tensor, label: int) -> list[tuple[str, Tensor]]:
        """How the detection that is nearest to a box (xyxy pixels) of a label came about: its region's 28 x 28 mask. Eval mode
        only."""
        out = self.network([image])
        (found,) = self.postprocess(out)
        if not len(found["boxes"]):
            return []
        return [
            (
                "the region's 28 x 28 mask",
                out["detections"][0]["masks"][nearest_box(found, box, label), 0],
            )
        ]
