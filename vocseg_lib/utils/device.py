"""Mixed precision and memory of a device."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # options of glibc's malloc (malloc.h)
_keeps_memory: ContextVar[bool] = ContextVar("keeps_memory", default=False)


def half_precision(device: str | torch.device) -> torch.dtype | None:
    """The fast half-precision format: bf16 on GPUs and CPUs with it, else fp16 on GPUs, or None."""
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)  # a T4 (7.5) emulates bf16
        return torch.bfloat16 if native else torch.float16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and native else None


def autocast(
    device: str | torch.device, mixed_precision: bool, predicting: bool = False
) -> AbstractContextManager:
    """Context manager: compute in `half_precision`, if that is wanted and the device has it.

    Predictions are never in bf16, whose 8 bits cost up to 2 points of AP50 (docs/findings.md).
    """
    half = half_precision(device) if mixed_precision else None
    if predicting and half is torch.bfloat16:
        half = torch.float16 if torch.device(device).type == "cuda" else None
    return torch.autocast(torch.device(device).type, half) if half else nullcontext()


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Context manager: glibc keeps freed memory for the next iteration, which is faster on CPUs."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if _keeps_memory.get() or not hasattr(libc, "mallopt"):
        yield
        return
    token = _keeps_memory.set(True)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        _keeps_memory.reset(token)
        libc.mallopt(M_MMAP_MAX, 65_536)
        # What glibc adjusts them to, until they are set for the first time.
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        release_freed_memory()


def release_freed_memory() -> None:
    """Give what was freed back to the system, where glibc would keep it."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def peak_memory_gb(device: str | torch.device = "cpu") -> float:
    """Peak memory so far, 1e9 bytes: tensors on a GPU, or this whole process; NaN on Windows."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return float("nan")
    import resource  # missing on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
