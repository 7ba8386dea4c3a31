"""Mask R-CNN or YOLACT, and why? Instance segmentation on PASCAL VOC 2012 with both models.

The names below are imported when they are first used; modules have more.
"""

from typing import TYPE_CHECKING

from vocseg_lib.utils.lazy import attach

if TYPE_CHECKING:
    from vocseg_lib.data.coco import read_predictions
    from vocseg_lib.data.voc import VocDataset
    from vocseg_lib.engine.config import TrainConfig
    from vocseg_lib.engine.predict import predict, save_predictions
    from vocseg_lib.engine.train import Session, train
    from vocseg_lib.failures.analysis import analyze
    from vocseg_lib.metrics.coco_eval import evaluate
    from vocseg_lib.models.config import MaskRCNNConfig, YolactConfig
    from vocseg_lib.models.mask_rcnn import MaskRCNN
    from vocseg_lib.models.speedups import speed_up
    from vocseg_lib.models.yolact import Yolact
    from vocseg_lib.plots.gallery import Gallery
    from vocseg_lib.plots.gallery_page import export_page
    from vocseg_lib.plots.images import draw_instances
    from vocseg_lib.study.open import open_study
    from vocseg_lib.study.recipes import Recipe, get_recipe
    from vocseg_lib.study.results import open_files, open_results
    from vocseg_lib.study.train import train_model

__version__ = "0.1.0"

__getattr__, __all__ = attach(
    __name__,
    {
        "data.coco": "read_predictions",
        "data.voc": "VocDataset",
        "engine.config": "TrainConfig",
        "engine.predict": "predict save_predictions",
        "engine.train": "Session train",
        "failures.analysis": "analyze",
        "metrics.coco_eval": "evaluate",
        "models.config": "MaskRCNNConfig YolactConfig",
        "models.mask_rcnn": "MaskRCNN",
        "models.speedups": "speed_up",
        "models.yolact": "Yolact",
        "plots.gallery": "Gallery",
        "plots.gallery_page": "export_page",
        "plots.images": "draw_instances",
        "study.open": "open_study",
        "study.recipes": "Recipe get_recipe",
        "study.results": "open_files open_results",
        "study.train": "train_model",
    },
)
