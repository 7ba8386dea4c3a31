"""Mixed precision: which half-precision format a device computes fast in, if any."""

from contextlib import AbstractContextManager, nullcontext

import torch

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which bf16 is native. A Tesla T4 (7.5) says that it supports bf16, and emulates it."""


def half_precision(device: str | torch.device) -> torch.dtype | None:
    """fp16 on GPUs below compute capability 8, bf16 on newer ones and on CPUs that have it; None elsewhere."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY else torch.float16
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return None


def autocast_to(device: str | torch.device, half: torch.dtype | None) -> AbstractContextManager:
    """The context in which a model computes in a half-precision format; None leaves all as it is."""
    return torch.autocast(torch.device(device).type, half) if half else nullcontext()


def autocast(device: str | torch.device, mixed_precision: bool) -> AbstractContextManager:
    """The context in which a model computes in `half_precision`, when that is asked for and the device has it."""
    return autocast_to(device, half_precision(device) if mixed_precision else None)
