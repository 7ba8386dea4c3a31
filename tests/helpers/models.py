"""Small models and their targets."""

from pkgutil import resolve_name

import torch

from vocseg_lib.models.config import MODELS

TINY = {"backbone": "tiny", "init": None, "channels": 32}
SMALL = {
    "yolact": {**TINY, "image_size": 96},
    "mask_rcnn": {**TINY, "short_side": 96, "proposals": 64, "rois_per_image": 16},
}


def small(name, num_classes=21, **options):
    """A small plain model; options are fields of its config."""
    torch.manual_seed(0)
    config = MODELS[name](**SMALL[name] | options)
    return resolve_name(config.model)(config, num_classes)


def target(height, width):
    """Two objects."""
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    masks[0, 5:40, 5:40], masks[1, 20:45, 30:60] = 1, 1
    boxes = torch.tensor([[5.0, 5, 40, 40], [30.0, 20, 60, 45]])
    return {"boxes": boxes, "labels": torch.tensor([1, 20]), "masks": masks}


def empty_target(height, width):
    """No objects."""
    return {name: value[:0] for name, value in target(height, width).items()}
