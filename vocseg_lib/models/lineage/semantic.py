"""Semantic segmentation: DeepLabV3, and the connected components of its class map as instances."""

from collections.abc import Callable

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
from vocseg_lib.models.yolact import upsample
from vocseg_lib.utils.boxes import masks_to_boxes

CRF_ITERATIONS = 5
MIN_COMPONENT_AREA = 16
"""Pixels: smaller components are not instances."""


class DeepLabV3Components(nn.Module):
    """DeepLabV3's head (arXiv 1706.05587) on the last map of a backbone.

    Images are resized to squares of `image_size` pixels. Train: cross-entropy over all pixels, void
    as background. Eval: the connected components of each class, scored by their mean probability;
    `class_map(image)` gives the classes. `crf`, such as `dense_crf()`, refines probabilities.
    """

    def __init__(self, num_classes: int, backbone: str, weights: str | None, image_size: int):
        super().__init__()
        base = build_backbone(backbone, weights)
        self.body = IntermediateLayerGetter(base.body, {base.stages[-1]: "last"})
        self.head = DeepLabHead(base.channels[-1], num_classes)
        self.image_size, self.size = image_size, (image_size, image_size)
        self.crf: Callable[[Tensor, Tensor], Tensor] | None = None
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        if not self.training:
            return self.postprocess(self.network(images))
        if targets is None:
            raise ValueError("targets are required in train mode; call model.eval() to predict")
        logits, _ = self.network(images)
        maps = [semantic_map(target)[None, None].float() for target in targets]
        classes = torch.cat([F.interpolate(classes, self.size)[0].long() for classes in maps])
        return {"semantic": F.cross_entropy(upsample(logits, self.size), classes)}

    def network(self, images: list[Tensor]) -> tuple:
        """Logits [b, c, h, w] on the backbone's last map, and the images."""
        batch = torch.cat([upsample(image[None], self.size) for image in images])
        batch = batch.contiguous(memory_format=torch.channels_last)
        return self.head(self.body(normalize(batch, IMAGENET_MEAN, IMAGENET_STD))["last"]), images

    def probabilities(self, out: tuple) -> list[Float[Tensor, "c h w"]]:
        """Probability of each class at each pixel of each image."""
        maps = []
        for logits, image in zip(*out, strict=True):
            probability = upsample(logits[None].float(), image.shape[-2:])[0].softmax(0).cpu()
            maps.append(self.crf(probability, image) if self.crf else probability)
        return maps

    @torch.inference_mode()
    def class_map(self, image: Float[Tensor, "3 h w"]) -> Int[Tensor, "h w"]:
        """The most probable class of each pixel, 0 for background."""
        return self.probabilities(self.network([image]))[0].argmax(0)

    def postprocess(self, out: tuple) -> list[dict]:
        """Connected components of each class: boxes, labels, scores and masks."""
        results = []
        for probability in self.probabilities(out):
            classes, components = probability.argmax(0), []
            for k in classes[classes > 0].unique().tolist():
                count, numbers = cv2.connectedComponents((classes == k).numpy().astype(np.uint8))
                masks = (torch.from_numpy(numbers == c) for c in range(1, count))
                large = (mask for mask in masks if mask.sum() >= MIN_COMPONENT_AREA)
                components += [(k, probability[k][mask].mean(), mask) for mask in large]
            components.sort(key=lambda component: -component[1])
            labels, scores, masks = zip(*components, strict=True) if components else ((), (), ())
            masks = torch.stack([*masks, torch.zeros_like(classes, dtype=torch.bool)])[:-1]
            labels = torch.tensor(labels, dtype=torch.int64)
            boxes, scores = masks_to_boxes(masks), torch.tensor(scores)
            results.append({"boxes": boxes, "labels": labels, "scores": scores, "masks": masks})
        return results


def semantic_map(target: dict) -> Int[Tensor, "h w"]:
    """The class of each pixel, 0 for background, from the instances of an image."""
    masks, labels = torch.as_tensor(target["masks"]).as_subclass(Tensor), target["labels"]
    if not len(labels):
        return masks.new_zeros(masks.shape[-2:], dtype=torch.int64)
    return (masks.long() * labels[:, None, None]).amax(0)


def dense_crf() -> Callable[[Tensor, Tensor], Tensor]:
    """A dense CRF (Krähenbühl and Koltun 2011) that refines class probabilities by the image.

    Raises:
        ModuleNotFoundError: without the package pydensecrf.
    """
    try:
        from pydensecrf import densecrf, utils
    except ImportError:
        problem = "a dense CRF needs the package pydensecrf: pip install pydensecrf2"
        raise ModuleNotFoundError(problem) from None

    def refine(probability: Tensor, image: Tensor) -> Float[Tensor, "c h w"]:
        classes, height, width = probability.shape
        field = densecrf.DenseCRF2D(width, height, classes)
        field.setUnaryEnergy(utils.unary_from_softmax(probability.detach().numpy()))
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=60, srgb=10, rgbim=to_uint8_hwc(image), compat=5)
        refined = np.array(field.inference(CRF_ITERATIONS))
        return torch.from_numpy(refined.reshape(probability.shape))

    return refine
