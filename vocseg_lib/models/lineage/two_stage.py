"""Fast R-CNN (arXiv 1504.08083) and Faster R-CNN (arXiv 1506.01497): Mask R-CNN without what it added, on the same pyramid."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes

from vocseg_lib.models.config import MaskRCNNConfig
from vocseg_lib.models.mask_rcnn import MaskRCNN


class FasterRCNN(MaskRCNN):
    """Mask R-CNN without its mask branch, and with RoI pooling for RoIAlign. Gives boxes, labels, scores; no masks."""

    def __init__(self, config: MaskRCNNConfig, num_classes: int = 21):
        super().__init__(config, num_classes)
        self.roi_heads.mask_roi_pool = self.roi_heads.mask_head = self.roi_heads.mask_predictor = (
            None
        )

    def postprocess(self, out: dict) -> list[dict]:
        """Scale boxes to the image."""
        rows = zip(out["detections"], out["resized"], out["image_sizes"], strict=True)
        return [
            {
                "boxes": resize_boxes(found["boxes"].float(), *sizes),
                "labels": found["labels"],
                "scores": found["scores"].float(),
            }
            for found, *sizes in rows
        ]


class ExternalProposals(nn.Module):
    """In the place of the RPN: proposals that were found before, scaled to the resized images. Has no loss.

    Where none were found, the whole image is one: a loss over no regions is no number.
    """

    def __init__(self):
        super().__init__()
        self.proposals: list[tuple[Tensor, tuple[int, int]]] = []

    def forward(
        self, images, features: dict, targets: list[dict] | None = None
    ) -> tuple[list[Tensor], dict]:
        given = []
        for (boxes, (height, width)), resized in zip(
            self.proposals, images.image_sizes, strict=True
        ):
            boxes = boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]])
            given.append(resize_boxes(boxes, (height, width), resized).to(images.tensors))
        return given, {}


class FastRCNN(FasterRCNN):
    """Faster R-CNN with proposals from outside: `search(image)` gives boxes [p, 4] (xyxy pixels) for an image in 0..1."""

    def __init__(
        self,
        search: Callable[[Tensor], Tensor],
        config: MaskRCNNConfig,
        num_classes: int = 21,
    ):
        super().__init__(config, num_classes)
        self.search, self.rpn = search, ExternalProposals()

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        if self.training:
            self._look(images)
        return super().forward(images, targets)

    def network(self, images: list[Tensor]) -> dict:
        """As Mask R-CNN's; proposals are searched first."""
        self._look(images)
        return super().network(images)

    def _look(self, images: list[Tensor]) -> None:
        with ThreadPoolExecutor() as pool:
            found = pool.map(self.search, images)
        self.rpn.proposals = [
            (boxes, tuple(image.shape[-2:])) for boxes, image in zip(found, images, strict=True)
        ]
