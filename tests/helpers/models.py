"""Small models and their targets."""

import torch

from vocseg_lib.models import MODELS

SMALL = {
    "yolact": {"backbone": "tiny", "weights": None, "channels": 32, "image_size": 96},
    "mask_rcnn": {
        "backbone": "tiny",
        "weights": None,
        "channels": 32,
        "short_side": 96,
        "proposals": 64,
        "rois_per_image": 16,
    },
}


def small(name, **options):
    torch.manual_seed(0)
    return MODELS[name](**SMALL[name], **options)


def target(height, width):
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    masks[0, 5:40, 5:40], masks[1, 20:45, 30:60] = 1, 1
    boxes = torch.tensor([[5.0, 5, 40, 40], [30.0, 20, 60, 45]])
    return {"boxes": boxes, "labels": torch.tensor([1, 20]), "masks": masks}
