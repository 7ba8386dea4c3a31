"""Latency as a user of one image at a time sees it, and floating point operations."""

import statistics
import time

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vocseg_lib.utils.device import autocast


@torch.inference_mode()
def measure_speed(
    model: nn.Module,
    images: list[Tensor],
    device: str | torch.device = "cpu",
    warmup: int = 3,
    repeats: int = 15,
    mixed_precision: bool = False,
) -> dict:
    """Median seconds an image at batch 1, network and post-processing apart, with `fps` for both together.

    `images` are float [3, H, W] in 0..1, taken in turn. The device is synchronised before each reading of the clock.
    Where the network ends is the model's word: YOLACT's raw predictions; Mask R-CNN's boxes with their 28 x 28 masks (its
    NMS lies inside).
    """
    device = torch.device(device)
    was_training = model.training
    model.eval().to(device)
    images = [image.to(device) for image in images]
    network, postprocess = [], []
    for run in range(warmup + repeats):
        image = images[run % len(images)]
        start = _now(device)
        with autocast(device, mixed_precision):
            raw = model.network([image])
            middle = _now(device)
            model.postprocess(raw)
            end = _now(device)
        if run >= warmup:
            network.append(middle - start)
            postprocess.append(end - middle)
    model.train(was_training)
    total = statistics.median(n + p for n, p in zip(network, postprocess, strict=True))
    return {
        "network_seconds": statistics.median(network),
        "postprocess_seconds": statistics.median(postprocess),
        "seconds_per_image": total,
        "fps": 1 / total,
    }


@torch.inference_mode()
def count_gflop(model: nn.Module, image: Tensor, device: str | torch.device = "cpu") -> float:
    """Floating point operations (1e9; two for each multiply-add) of finding the objects of one image [3, H, W] in 0..1."""
    was_training = model.training
    model.eval().to(device)
    with FlopCounterMode(display=False) as counter:
        model([image.to(device)])
    model.train(was_training)
    return counter.get_total_flops() / 1e9


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
