"""YOLACT and Mask R-CNN by name, under torchvision's contract; loaded when first used."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "MODELS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vocseg_lib.models.mask_rcnn import MaskRCNN
    from vocseg_lib.models.yolact import Yolact

    return {"yolact": Yolact, "mask_rcnn": MaskRCNN}
