"""The models, all under one contract: `model(images, targets) -> losses`, `model(images) -> detections`."""

from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.models.mask_rcnn import MaskRCNN
from vocseg_lib.models.yolact import Yolact

MODELS = {"yolact": Yolact, "mask_rcnn": MaskRCNN}

__all__ = ["MODELS", "MaskRCNN", "WeightsError", "Yolact"]
