"""The models, under one contract: `model(images, targets) -> losses`, `model(images) -> detections`.

Loaded when first used: a model's name and config are known without PyTorch.
"""

from typing import TYPE_CHECKING, Any

from vocseg_lib.utils.lazy import lazy_getattr

if TYPE_CHECKING:
    from vocseg_lib.models.backbones import WeightsError
    from vocseg_lib.models.mask_rcnn import MaskRCNN
    from vocseg_lib.models.yolact import Yolact

    MODELS: dict[str, type[Yolact | MaskRCNN]]

__all__ = ["MODELS", "MaskRCNN", "WeightsError", "Yolact"]

_submodule_getattr = lazy_getattr(
    __name__, {"MaskRCNN": "mask_rcnn", "WeightsError": "backbones", "Yolact": "yolact"}
)


def __getattr__(name: str) -> Any:
    if name == "MODELS":
        return {"yolact": __getattr__("Yolact"), "mask_rcnn": __getattr__("MaskRCNN")}
    return _submodule_getattr(name)
