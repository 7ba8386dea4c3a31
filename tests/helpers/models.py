"""Small models and their targets; detectors of other code with random weights."""

from pkgutil import resolve_name

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from benchmarks.attack_seeds import official_state as official_state
from vocseg_lib.models.config import COCO_PRIORS, MODELS, YolactConfig
from vocseg_lib.models.yolact import Yolact

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


def yolact(outputs=81, image_size=138):
    """A plain YOLACT as the official code's COCO configuration, in eval mode."""
    torch.manual_seed(0)
    options = {"semantic_loss": True, "normalization": "official", "image_size": image_size}
    model = Yolact(YolactConfig(init=None, **COCO_PRIORS, **options), outputs).eval()
    return detecting(model, model.body, model.head.classes[0])


def mask_rcnn(outputs=91, side=160):
    """torchvision's Mask R-CNN, in eval mode."""
    torch.manual_seed(0)
    sizes = [(round(size * side / 800),) for size in (32, 64, 128, 256, 512)]
    anchors = AnchorGenerator(tuple(sizes), ((0.5, 1.0, 2.0),) * 5)
    options = {"min_size": side, "max_size": round(1333 * side / 800)}
    options |= {"rpn_anchor_generator": anchors, "rpn_pre_nms_top_n_test": 200}
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=outputs, **options
    ).eval()
    return detecting(model, model.backbone, model.roi_heads.box_predictor.cls_score)


@torch.no_grad()
def detecting(model, body, logits):
    """A random model with batch norm's statistics, and with classes that differ."""
    logits.weight *= 25
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            layer.momentum = None  # the mean over all batches
    body(torch.stack([picture(160, 160) for _ in range(4)]))
    return model.eval()


def picture(height, width):
    """Spots of colors: of noise, all maps would be nearly constant."""
    return functional.interpolate(torch.rand(1, 3, 8, 8), (height, width), mode="bicubic")[0].clip(
        0, 1
    )
