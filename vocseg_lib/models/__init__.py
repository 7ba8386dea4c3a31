"""The models, under torchvision's contract: see `yolact` and `mask_rcnn`.

Loaded when first used: a model's name and config are known without PyTorch.
"""

from typing import TYPE_CHECKING, Any

from vocseg_lib.utils.lazy import attach

if TYPE_CHECKING:
    from vocseg_lib.models.backbones import WeightsError
    from vocseg_lib.models.mask_rcnn import MaskRCNN
    from vocseg_lib.models.yolact import Yolact

    MODELS: dict[str, type[Yolact | MaskRCNN]]

__all__ = ["MODELS", "MaskRCNN", "WeightsError", "Yolact"]

_class, _ = attach(
    __name__, {"backbones": "WeightsError", "mask_rcnn": "MaskRCNN", "yolact": "Yolact"}
)


def __getattr__(name: str) -> Any:
    if name == "MODELS":
        return {"yolact": _class("Yolact"), "mask_rcnn": _class("MaskRCNN")}
    return _class(name)
