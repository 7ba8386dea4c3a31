"""Fast R-CNN (arXiv 1504.08083) and Faster R-CNN (arXiv 1506.01497), with Mask R-CNN's FPN."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from vocseg_lib.models.config import MaskRCNNConfig
from vocseg_lib.models.mask_rcnn import MaskRCNN


class FasterRCNN(MaskRCNN):
    """Mask R-CNN without its mask branch, and with RoI pooling whatever the config says."""

    def __init__(self, config: MaskRCNNConfig, num_classes: int = 21):
        super().__init__(replace(config, roi_pooling="pool"), num_classes)
        heads = self.roi_heads
        heads.mask_roi_pool = heads.mask_head = heads.mask_predictor = None

    def postprocess(self, out: dict) -> list[dict]:
        """Boxes (pixels of the image), labels and scores."""
        results, sizes = [], zip(out["resized"], out["image_sizes"], strict=True)
        for detections, (resized, size) in zip(out["detections"], sizes, strict=True):
            boxes = resize_boxes(detections["boxes"].float(), resized, size)
            results.append({**detections, "boxes": boxes, "scores": detections["scores"].float()})
        return results


class ExternalProposals(nn.Module):
    """Replaces the RPN: proposals from outside, scaled to the resized images; no loss.

    Where there are none, the whole image is one: a loss over no regions is not a number.
    """

    def __init__(self):
        super().__init__()
        self.proposals: list[tuple[Tensor, tuple[int, int]]] = []  # boxes, (height, width)

    def forward(self, images, features: dict, targets: list | None = None) -> tuple[list, dict]:
        scaled = []
        for (boxes, size), resized in zip(self.proposals, images.image_sizes, strict=True):
            boxes = boxes if len(boxes) else boxes.new_tensor([[0, 0, *size[::-1]]])
            scaled.append(resize_boxes(boxes, size, resized).to(images.tensors))
        return scaled, {}


class FastRCNN(FasterRCNN):
    """Faster R-CNN with `search(image)`, boxes [p, 4] in pixels, instead of an RPN."""

    def __init__(self, search: Callable, config: MaskRCNNConfig, num_classes: int = 21):
        super().__init__(config, num_classes)
        self.search, self.rpn = search, ExternalProposals()

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        if self.training:
            self._search(images)
        return super().forward(images, targets)

    def network(self, images: list[Tensor]) -> dict:
        """As Mask R-CNN's, after the search."""
        self._search(images)
        return super().network(images)

    def _search(self, images: list[Tensor]) -> None:
        with ThreadPoolExecutor() as pool:
            boxes = list(pool.map(self.search, images))
        self.rpn.proposals = [(b, image.shape[-2:]) for b, image in zip(boxes, images, strict=True)]
