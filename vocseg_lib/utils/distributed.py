"""One training in several processes (PyTorch DDP): which of them this is, and what the others have.

Alone, every function gives back what it was given. With others, all processes have to make the same calls in the same order.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=2)
"""How long processes wait for each other: the first one may be fetching data."""
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that torchrun started and yield the device of this one; without torchrun, yield `device`."""
    if not under_torchrun():
        yield device
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        device = f"cuda:{local_rank()}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def single_process() -> Iterator[None]:
    """Within, this process has no others: for work of which they do not all have the same share."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world_size() -> int:
    """How many processes train together."""
    return (
        dist.get_world_size()
        if dist.is_available() and dist.is_initialized() and not _alone.get()
        else 1
    )


def rank() -> int:
    """Which of them this is, from 0; the first writes files."""
    return dist.get_rank() if world_size() > 1 else 0


def local_rank() -> int:
    """Which of the processes on this machine this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Let the first process of each machine do this before its others: it finds nothing there, they what it made."""
    if world_size() == 1:
        yield
        return
    if local_rank():
        dist.barrier()
    yield
    if not local_rank():
        dist.barrier()


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / world_size()


def all_gather_object(value: Any) -> list:
    """What each process has, in order of rank."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def interleave_shards(dealt: list) -> list:
    """Items that were dealt out to the processes like cards, the first one first, in the order of before."""
    parts = all_gather_object(dealt)
    return [part[i] for i in range(len(parts[0])) for part in parts if i < len(part)]


def all_gather_counts(counts: list[int], device: torch.device) -> list[int]:
    """Counts of this process's images, joined with the others' in order of rank; all have as many images."""
    if world_size() == 1:
        return counts
    mine = torch.tensor(counts, device=device)
    gathered = mine.new_empty(world_size() * len(mine))
    dist.all_gather_into_tensor(gathered, mine)
    return gathered.tolist()


def broadcast_object(value: Any) -> Any:
    """What the first process has."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_tensor(value: Tensor) -> Tensor:
    """The first process's tensor."""
    if world_size() > 1:
        value = value.detach().clone()
        dist.broadcast(value, src=0)
    return value
