"""Semantic segmentation: a class for each pixel, by DeepLabV3's head; as instances, its connected components."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.transforms.v2.functional import normalize

from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.lineage.proposals import to_uint8_hwc
from vocseg_lib.utils.boxes import masks_to_boxes

CRF_ROUNDS = 5
SMALLEST_COMPONENT = 16
"""Pixels: smaller components are no instances."""


class DeepLabV3Components(nn.Module):
    """DeepLabV3's head (arXiv 1706.05587) on the last map of a backbone; images become squares of `image_size` pixels.

    Train: one loss, cross-entropy over all pixels. Eval: the components of each class as instances, with the mean probability
    as score; `class_map(image)` gives the classes themselves. Void counts as background in training, which wants two images or
    more a batch unless batch norm is frozen. With `crf`, a dense CRF (package `pydensecrf`) sharpens them.
    """

    def __init__(
        self,
        num_classes: int = 21,
        backbone: str = "resnet50",
        weights: str | Path | None = "imagenet",
        image_size: int = 550,
        crf: bool = False,
    ):
        super().__init__()
        base = build_backbone(backbone, weights)
        self.body = IntermediateLayerGetter(base.body, {base.stages[-1]: "last"})
        self.head = DeepLabHead(base.channels[-1], num_classes)
        self.image_size, self.crf = image_size, crf and dense_crf()
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        if not self.training:
            return self.postprocess(self.network(images))
        if targets is None:
            raise ValueError("targets are needed in train mode; call model.eval() to predict")
        if len(images) < 2 and any(
            part.training for part in self.head.modules() if isinstance(part, nn.BatchNorm2d)
        ):
            raise ValueError(
                "DeepLabV3's head needs two images or more in a batch, unless batch norm is frozen: raise batch_size"
            )
        logits = self._logits(images)
        truth = torch.stack(
            [
                self._resized(semantic_map(t)[None, None].float(), "nearest")[0, 0].long()
                for t in targets
            ]
        )
        logits = F.interpolate(logits, truth.shape[-2:], mode="bilinear", align_corners=False)
        return {"semantic": F.cross_entropy(logits, truth)}

    def _resized(
        self, maps: Float[Tensor, "b c h w"], mode: str = "bilinear"
    ) -> Float[Tensor, "b c s s"]:
        size = (self.image_size, self.image_size)
        return F.interpolate(
            maps, size, mode=mode, **({} if mode == "nearest" else {"align_corners": False})
        )

    def _logits(self, images: list[Tensor]) -> Float[Tensor, "b c h w"]:
        batch = torch.cat([self._resized(image[None]) for image in images]).contiguous(
            memory_format=torch.channels_last
        )
        return self.head(self.body(normalize(batch, IMAGENET_MEAN, IMAGENET_STD))["last"])

    def network(self, images: list[Tensor]) -> tuple:
        """Class scores [b, c, h, w] on the backbone's grid, and the images."""
        return self._logits(images), images

    def probabilities(self, out: tuple) -> list[Float[Tensor, "c h w"]]:
        """Of each class at each pixel of each image."""
        maps = []
        for logits, image in zip(*out, strict=True):
            full = (
                F.interpolate(
                    logits[None].float(), image.shape[-2:], mode="bilinear", align_corners=False
                )[0]
                .softmax(0)
                .cpu()
            )
            maps.append(self.crf(full, image) if self.crf else full)
        return maps

    @torch.inference_mode()
    def class_map(self, image: Float[Tensor, "3 h w"]) -> Int[Tensor, "h w"]:
        """The most probable class of each pixel, 0 for background."""
        (probability,) = self.probabilities(self.network([image]))
        return probability.argmax(0)

    def postprocess(self, out: tuple) -> list[dict]:
        """Connected components of each class: boxes, labels, scores and masks."""
        results = []
        for probability in self.probabilities(out):
            classes, labels, masks = probability.argmax(0).numpy(), [], []
            for k in np.unique(classes[classes > 0]).tolist():
                count, components = cv2.connectedComponents(
                    (classes == k).astype(np.uint8), connectivity=8
                )
                mine = [components == c for c in range(1, count)]
                mine = [mask for mask in mine if mask.sum() >= SMALLEST_COMPONENT]
                masks, labels = masks + mine, labels + [k] * len(mine)
            masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *classes.shape))
            labels = torch.tensor(labels, dtype=torch.int64)
            scores = (
                torch.stack([probability[k][m].mean() for k, m in zip(labels, masks, strict=True)])
                if len(masks)
                else torch.zeros(0)
            )
            order = scores.argsort(descending=True)
            found = {
                "labels": labels,
                "scores": scores,
                "masks": masks,
                "boxes": masks_to_boxes(masks),
            }
            results.append({name: value[order] for name, value in found.items()})
        return results


def semantic_map(target: dict) -> Int[Tensor, "h w"]:
    """The class of each pixel, 0 for background, from an image's instances."""
    masks, labels = torch.as_tensor(target["masks"]).as_subclass(Tensor), target["labels"]
    return (
        (masks.long() * labels[:, None, None]).amax(0)
        if len(labels)
        else masks.new_zeros(masks.shape[-2:], dtype=torch.int64)
    )


def dense_crf() -> Callable[[Tensor, Tensor], Tensor]:
    """Refines class probabilities by the picture (Krähenbühl and Koltun 2011). Raises ModuleNotFoundError without its package."""
    try:
        from pydensecrf import densecrf, utils
    except ImportError:
        raise ModuleNotFoundError(
            "a dense CRF needs the package pydensecrf: pip install pydensecrf2"
        ) from None

    def refine(
        probability: Float[Tensor, "c h w"], image: Float[Tensor, "3 h w"]
    ) -> Float[Tensor, "c h w"]:
        classes, height, width = probability.shape
        field = densecrf.DenseCRF2D(width, height, classes)
        field.setUnaryEnergy(utils.unary_from_softmax(probability.detach().numpy()))
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=60, srgb=10, rgbim=to_uint8_hwc(image), compat=5)
        return torch.from_numpy(np.array(field.inference(CRF_ROUNDS)).reshape(probability.shape))

    return refine
