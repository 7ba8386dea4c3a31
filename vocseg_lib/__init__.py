"""Mask R-CNN or YOLACT, and why? Instance segmentation on PASCAL VOC 2012 with both models.

The names below are imported when they are first used; modules have more.
"""

import vocseg_lib.utils.parent  # noqa: F401  # first of all
from vocseg_lib.utils.lazy import attach

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
        "study.study": "open_study",
        "study.recipes": "Recipe get_recipe",
        "study.results": "open_files open_results",
        "study.run": "load_model",
        "study.train": "train_model",
    },
)
