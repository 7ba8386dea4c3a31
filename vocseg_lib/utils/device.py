"""Mixed precision: which half-precision format a device computes fast in, if any."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which bf16 is native. A Tesla T4 (7.5) says that it supports bf16, and emulates it."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's names for two of malloc's settings (malloc.h)."""


def half_precision(device: str | torch.device) -> torch.dtype | None:
    """fp16 on GPUs below compute capability 8, bf16 on newer ones and on CPUs that have it; None elsewhere."""
    device = torch.device(device)
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
            else torch.float16
        )
    if device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    ):
        return torch.bfloat16
    return None


def autocast_to(device: str | torch.device, half: torch.dtype | None) -> AbstractContextManager:
    """The context in which a model computes in a half-precision format; None leaves all as it is."""
    return torch.autocast(torch.device(device).type, half) if half else nullcontext()


def autocast(device: str | torch.device, mixed_precision: bool) -> AbstractContextManager:
    """The context in which a model computes in `half_precision`, when that is asked for and the device has it."""
    return autocast_to(device, half_precision(device) if mixed_precision else None)


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let the C library keep freed memory for the next iteration: on the CPU, fetching it anew is part of a step's time.

    For glibc, which hands large blocks back at once; elsewhere it does nothing. Afterwards it hands back again.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, 65_536)
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)


def peak_memory_gb(device: str | torch.device = "cpu") -> float:
    """The most memory so far, in units of 1e9 bytes: tensors on a GPU, or this whole process; NaN where nobody counts it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return float("nan")
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def total_memory_gb(device: str | torch.device = "cpu") -> float:
    """How much memory the device has, in units of 1e9 bytes; NaN where that is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e9
    if sys.platform == "win32":
        return float("nan")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
