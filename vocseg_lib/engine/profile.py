"""Latency at batch size 1, and floating-point operations."""

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
) -> dict[str, float]:
    """Median seconds per image of the network, of post-processing and of both, and `fps` of both.

    Images [3, H, W] in 0..1 are used in turn; the device is synchronized before the clock is read.
    `postprocess` is YOLACT's NMS and mask assembly; of Mask R-CNN, only pasting 28 x 28 masks.
    """
    device = torch.device(device)
    was_training = model.training
    model.eval().to(device)
    images = [image.to(device) for image in images]
    rows = []
    for run in range(warmup + repeats):
        with autocast(device, mixed_precision):
            start = _now(device)
            raw = model.network([images[run % len(images)]])
            middle = _now(device)
            model.postprocess(raw)
            end = _now(device)
        rows.append((middle - start, end - middle, end - start))
    model.train(was_training)
    network, postprocess, total = map(statistics.median, zip(*rows[warmup:], strict=True))
    seconds = {"network_seconds": network, "postprocess_seconds": postprocess}
    return {**seconds, "seconds_per_image": total, "fps": 1 / total}


@torch.inference_mode()
def count_gflop(model: nn.Module, image: Tensor, device: str | torch.device = "cpu") -> float:
    """Floating-point operations for one image [3, H, W] in 0..1: 1e9, two per multiply-add."""
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
