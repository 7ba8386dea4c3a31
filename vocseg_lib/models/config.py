"""Options of the two models; defaults are the published comparison's and their papers'."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from vocseg_lib.utils.config import ABOVE_ZERO, Config, bounded, share

SCALES_FOR_SIZE, SHORT_SIDE = 550, 800  # pixels of the input, YOLACT's and Mask R-CNN's
PASCAL_SCALES = (32, 64, 128, 256, 512)
COCO_SCALES = (24, 48, 96, 192, 384)
"""Sides of YOLACT's priors, pixels in a 550 x 550 image, one per level P3..P7."""

NO_EPSILON = 1e-20
"""Of batch norm that was trained without (torchvision's COCO weights); PyTorch refuses 0."""
COCO_PRIORS = {"scales": COCO_SCALES, "square_priors": True}
"""Of the official code's COCO configuration."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """Options that every model has."""

    title: ClassVar[str]  # in tables and figures
    model: ClassVar[str]  # "module:class"
    backbone: Literal["resnet50", "resnet101", "mobilenet_v2", "tiny"] = "resnet50"  # (published)
    init: str | None = "imagenet"  # what it starts from: see `study.initial_weights`
    channels: int = bounded(256, least=1, below=1e4)  # of FPN and heads (YOLACT, sec. 4; FPN paper)
    score_threshold: float = share(0.05)  # of detections (both papers' code)
    nms_iou: float = share(0.5)  # largest IoU of two detections of a class
    max_detections: int = bounded(100, least=1)  # per image
    compile: bool = False  # the network through torch.compile: slow to start, then faster


@dataclass(frozen=True, kw_only=True)
class YolactConfig(ModelConfig):
    """Options of YOLACT (arXiv 1904.02689)."""

    title: ClassVar[str] = "YOLACT"  # in tables and figures
    model: ClassVar[str] = "vocseg_lib.models.yolact:Yolact"  # "module:class"
    image_size: int = bounded(SCALES_FOR_SIZE, least=32, below=1e4)  # pixels, of a square (sec. 6)
    semantic_loss: bool = False  # the fourth loss term; published: three
    crop_in_training: bool = True  # mask loss inside the ground-truth box (sec. 3.1)
    crop_in_inference: bool = True  # masks cropped with the predicted box (sec. 3.1)
    normalize_by_area: bool = True  # mask loss / box area, else / image area (sec. 3.1)
    nms: Literal["fast", "standard"] = "fast"  # (sec. 4)
    scales: tuple[int, ...] = bounded(PASCAL_SCALES, least=1)  # pixels at 550, per level
    square_priors: bool = False  # the official code's bug, which its COCO weights assume
    normalization: Literal["imagenet", "official"] = "imagenet"  # of pixels: the official weights'

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.scales) != len(PASCAL_SCALES):
            raise ValueError(f"scales must be {len(PASCAL_SCALES)} numbers, got {self.scales}")


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig(ModelConfig):
    """Options of Mask R-CNN (arXiv 1703.06870)."""

    title: ClassVar[str] = "Mask R-CNN"  # in tables and figures
    model: ClassVar[str] = "vocseg_lib.models.mask_rcnn:MaskRCNN"  # "module:class"
    short_side: int = bounded(SHORT_SIDE, least=32, below=1e4)  # pixels (sec. 3.1; not published)
    proposals: int = bounded(2_000, least=2)  # per image in training, half in inference (FPN, 5.2)
    rois_per_image: int = bounded(512, least=1)  # regions in the loss (FPN paper; sec. 3.1)
    roi_pooling: Literal["align", "pool", "round"] = "align"  # (sec. 3); others round regions
    batch_norm_eps: float = bounded(1e-5, least=ABOVE_ZERO, below=1)  # or `NO_EPSILON`


MODELS = {"yolact": YolactConfig, "mask_rcnn": MaskRCNNConfig}
"""The config of each model, by the model's name."""
NETWORK_FIELDS = {
    "yolact": ("backbone", "channels", "scales", "square_priors", "normalization"),
    "mask_rcnn": ("backbone", "channels", "batch_norm_eps"),
}
"""Fields that a model's weights were trained with, and cannot be used without."""
