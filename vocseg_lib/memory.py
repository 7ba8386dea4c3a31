"""Memory of this process: how much it took, and keeping it from being fetched anew in each iteration."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's names for two of malloc's settings (malloc.h)."""


@contextmanager
def memory_kept() -> Iterator[None]:
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


def memory_size_gb(device: str | torch.device = "cpu") -> float:
    """How much memory the device has, in units of 1e9 bytes; NaN where that is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e9
    if sys.platform == "win32":
        return float("nan")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
