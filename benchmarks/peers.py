"""From small masks to codes, prediction of pictures, and Mask R-CNN, against what others do."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn

from benchmarks.cases import (
    HEIGHT,
    WIDTH,
    Row,
    log_uniform_boxes,
    relative_error,
    smooth_masks,
    time_alternating,
    training_batch,
)
from vocseg_lib.data.loader import PictureDataset
from vocseg_lib.data.transforms import model_input
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.batch_norm import batch_norm_layers
from vocseg_lib.engine.predict import eval_mode, predict
from vocseg_lib.models.box_resampling import PASTING, UPSAMPLING
from vocseg_lib.models.config import MaskRCNNConfig, YolactConfig
from vocseg_lib.models.mask_rcnn import MaskRCNN, paste_masks
from vocseg_lib.models.postprocess import mask_logits, upsample_masks
from vocseg_lib.models.speedups import speed_up
from vocseg_lib.models.yolact import PROTOTYPES, Yolact
from vocseg_lib.utils.device import keep_freed_memory

EFFICIENCIES = {"r50": ("resnet50", 256, 550), "mobilenet": ("mobilenet_v2", 128, 320)}
"""Backbone, width and image size of the models whose prediction is measured."""
PREDICTED_IMAGES = 16


def by_pycocotools(masks: Tensor) -> list[dict]:
    """Codes of masks [n, h, w] of their image's size."""
    codes = coco_mask.encode(np.asfortranarray(masks.numpy().view(np.uint8).transpose(1, 2, 0)))
    return [{"size": c["size"], "counts": c["counts"].decode()} for c in codes]


def measure_codes(repeats: int) -> Iterator[tuple[str, Row]]:
    """100 masks of either model, from what the network gives to codes."""
    boxes, size = log_uniform_boxes(100), (HEIGHT, WIDTH)
    relative = boxes / torch.tensor([WIDTH, HEIGHT] * 2)
    prototypes = F.interpolate(torch.randn(1, PROTOTYPES, 9, 9), size=(138, 138), mode="bicubic")[0]
    prototypes = prototypes.relu().permute(1, 2, 0).contiguous()
    coefficients, small = torch.randn(100, PROTOTYPES).tanh(), smooth_masks(100)

    def yolact_plain() -> list[dict]:
        logits = mask_logits(prototypes, coefficients)
        return by_pycocotools(upsample_masks(logits, relative, *size))

    def mask_rcnn_plain() -> list[dict]:
        return by_pycocotools(paste_masks(small, boxes, *size))

    def yolact_ours() -> list[dict]:
        return UPSAMPLING.encode(mask_logits(prototypes, coefficients), relative, *size)

    def mask_rcnn_ours() -> list[dict]:
        return PASTING.encode(small, boxes, *size)

    pairs = {"yolact": (yolact_plain, yolact_ours), "mask_rcnn": (mask_rcnn_plain, mask_rcnn_ours)}
    with torch.inference_mode():
        for name, (plain, ours) in pairs.items():
            wrong = sum(a != b for a, b in zip(plain(), ours(), strict=True)) / 100
            slow, fast = time_alternating(plain, ours, 3 * repeats)
            row = {"value": slow / fast, "seconds": fast, "base_seconds": slow}
            row |= {"check": "codes equal to pycocotools'", "error": wrong}
            yield f"{name}_masks_to_rle_speedup", row


def measure_prediction(devkit: str | Path, repeats: int) -> Iterator[tuple[str, Row]]:
    """`predict` on a folder of pictures against the network alone on the same, decoded ones."""
    val = VocDataset(devkit, "val", masks=False)
    paths = [val.devkit / "JPEGImages" / f"{name}.jpg" for name in val.names[:PREDICTED_IMAGES]]
    images = [model_input(picture) for picture, _ in PictureDataset(paths)]
    for name, (backbone, channels, side) in EFFICIENCIES.items():
        torch.manual_seed(0)
        options = {"backbone": backbone, "channels": channels, "image_size": side}
        options["score_threshold"] = 0.0  # so that untrained ones, too, have detections
        model = speed_up(Yolact(YolactConfig(init=None, **options)))
        # Untrained, but normalized: else activations of MobileNetV2 vanish from layer to layer.
        for norm in batch_norm_layers(model):
            norm.momentum = 1.0
        with torch.no_grad():
            model.train().network(images[:4])

        @torch.inference_mode()
        def network(model: Yolact = model) -> None:
            with keep_freed_memory(), eval_mode(model, "cpu"):
                for image in images:
                    model.network([image])

        whole = partial(predict, model, PictureDataset(paths), progress=False)
        alone, seconds = time_alternating(network, whole, max(1, repeats // 3))
        found = len(whole()["detections"]) / len(paths)
        check = f"{len(paths)} pictures of {val.devkit.name}, {found:.0f} detections each"
        row = {"value": alone / seconds, "seconds": seconds, "base_seconds": alone, "check": check}
        yield f"predict_efficiency_{name}", row


def measure_mask_rcnn(repeats: int) -> Iterator[tuple[str, Row]]:
    """torchvision's Mask R-CNN over ours, with the same weights, on an image at 800 pixels."""
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
    ours = speed_up(MaskRCNN(MaskRCNNConfig(init=None)))
    ours.load_state_dict(theirs.state_dict())
    images, targets = (part[:1] for part in training_batch())
    models = {"theirs": theirs, "ours": ours}

    def infer(model: torch.nn.Module) -> None:
        with torch.inference_mode():
            model(images)

    def step(model: torch.nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        sum(model(images, [dict(targets[0])]).values()).backward()

    with torch.inference_mode():
        features = [
            torch.cat([f.flatten() for f in model.eval().backbone(images[0][None]).values()])
            for model in models.values()
        ]
    row = {"check": "features equal to torchvision's", "error": relative_error(*features)}
    for name, run in (("infer", infer), ("train_step", step)):
        functions = [partial(run, model.train(run is step)) for model in models.values()]
        slow, fast = time_alternating(*functions, max(1, repeats // 2))
        times = {"value": slow / fast, "seconds": fast, "base_seconds": slow}
        yield f"mask_rcnn_{name}_speedup", row | times
