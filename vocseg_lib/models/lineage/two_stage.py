"""Fast R-CNN (arXiv 1504.08083) and Faster R-CNN (arXiv 1506.01497), with Mask R-CNN's FPN."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from torch import nn
from torchvision.models.detection.transform import resize_boxes

from vocseg_lib.models.config import MaskRCNNConfig
from vocseg_lib.models.mask_rcnn import MaskRCNN


class FasterRCNN(MaskRCNN):
    """Mask R-CNN without its mask branch, and with RoI pooling whatever the config says."""

    def __init__(self, config: MaskRCNNConfig, num_classes: int = 21):
        super().__init__(replace(config, roi_pooling="pool"), num_classes)
        heads = self.roi_heads
        heads.mask_roi_pool = heads.mask_head = heads.mask_predictor = None


class FastRCNN(FasterRCNN):
    """Faster R-CNN with `search(image)`, boxes [p, 4] in pixels, instead of an RPN."""

    def __init__(self, search: Callable, config: MaskRCNNConfig, num_classes: int = 21):
        super().__init__(config, num_classes)
        self.rpn = ExternalProposals(search)
        self.transform.register_forward_pre_hook(self.rpn.propose)


class ExternalProposals(nn.Module):
    """Replaces the RPN: the proposals of a search, scaled to the resized images; no loss.

    Where there are none, the whole image is one: a loss over no regions is not a number.
    """

    def __init__(self, search: Callable):
        super().__init__()
        self.search = search

    def propose(self, _, inputs: tuple) -> None:
        """Search the images (first of the inputs) before they are resized."""
        with ThreadPoolExecutor() as pool:
            self.proposals = list(pool.map(self.search, inputs[0]))
        self.sizes = [image.shape[-2:] for image in inputs[0]]

    def forward(self, images, features: dict, targets: list | None = None) -> tuple[list, dict]:
        scaled = []
        per_image = zip(self.proposals, self.sizes, images.image_sizes, strict=True)
        for boxes, size, resized in per_image:
            boxes = boxes if len(boxes) else boxes.new_tensor([[0, 0, *size[::-1]]])
            scaled.append(resize_boxes(boxes, size, resized).to(images.tensors))
        return scaled, {}
