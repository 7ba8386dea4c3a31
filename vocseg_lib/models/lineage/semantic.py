"""Semantic segmentation: DeepLabV3, and the connected components of its class map as instances."""

import torch
import torch.nn.functional as F
from jaxtyping import Int
from skimage.measure import label
from torch import Tensor
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.contract import InstanceModel
from vocseg_lib.models.yolact import square_batch, upsample
from vocseg_lib.utils.boxes import masks_to_boxes

MIN_COMPONENT_AREA = 16  # pixels; smaller components are not instances


class DeepLabV3Components(InstanceModel):
    """DeepLabV3's head (arXiv 1706.05587) on the last map of a backbone.

    Images are resized to squares of `image_size` pixels. Train: cross-entropy over all pixels, void
    as background. Eval: the connected components of each class, scored by their mean probability.
    """

    def __init__(self, num_classes: int, backbone: str, init: str | None, image_size: int):
        super().__init__()
        base = build_backbone(backbone, init)
        self.body = IntermediateLayerGetter(base.body, {base.stages[-1]: "last"})
        self.head = DeepLabHead(base.channels[-1], num_classes)
        self.image_size = image_size
        self.to(memory_format=torch.channels_last)

    def input_size(self, height: int, width: int) -> tuple[float, float]:
        return self.image_size, self.image_size

    def losses(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        logits, _ = self.network(images)
        size = (self.image_size, self.image_size)
        maps = [semantic_map(target)[None, None].float() for target in targets]
        classes = torch.cat([F.interpolate(classes, size)[0].long() for classes in maps])
        return {"semantic": F.cross_entropy(upsample(logits, size), classes)}

    def network(self, images: list[Tensor]) -> tuple:
        """Logits [b, c, h, w] on the backbone's last map, and the images' (height, width)."""
        logits = self.head(self.body(square_batch(images, self.image_size))["last"])
        return logits, [image.shape[-2:] for image in images]

    def postprocess(self, out: tuple) -> list[dict]:
        """Connected components of each class: boxes, labels, scores and masks."""
        results = []
        for logits, size in zip(*out, strict=True):
            probability, classes = upsample(logits[None].float(), size)[0].softmax(0).cpu().max(0)
            components = torch.from_numpy(label(classes.numpy(), connectivity=2))
            flat = components.flatten()
            areas = flat.bincount()
            scores = flat.bincount(probability.double().flatten()) / areas
            labels = flat.bincount(classes.double().flatten()) / areas
            # The large ones, by descending score; 0 is background.
            order = scores.argsort(descending=True)
            order = order[(areas[order] >= MIN_COMPONENT_AREA) & (labels[order] > 0)]
            masks = components == order[:, None, None]
            result = {"boxes": masks_to_boxes(masks), "labels": labels[order].round().long()}
            results.append({**result, "scores": scores[order].float(), "masks": masks})
        return results


def semantic_map(target: dict) -> Int[Tensor, "h w"]:
    """The class of each pixel, 0 for background, from the instances of an image."""
    masks = torch.as_tensor(target["masks"]).as_subclass(Tensor).long()
    return F.pad(masks * target["labels"][:, None, None], (0, 0, 0, 0, 0, 1)).amax(0)
