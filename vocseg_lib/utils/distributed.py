"""Distributed training (DDP): rank, world size, all_gather, broadcast.

In a single process, values stay as they are. Otherwise all processes have to make the same calls
in the same order.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import cycle
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vocseg_lib.utils.parent import PARENT

TIMEOUT = timedelta(hours=2)  # of waiting for each other: the first may be downloading data
PARENT_SECONDS = 5.0  # between two looks at whether torchrun still runs
_single: ContextVar[bool] = ContextVar("single", default=False)
_micro_batches: ContextVar["MicroBatches | None"] = ContextVar("micro_batches", default=None)


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Context manager: join the processes that torchrun started; yields the device of this one."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield device
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        device = f"cuda:{dist.get_node_local_rank()}"
        torch.cuda.set_device(device)
    threading.Thread(target=_end_with, args=[PARENT], daemon=True).start()
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _end_with(parent: int) -> None:
    """End this process once its parent, torchrun's agent, has ended; else it waits for TIMEOUT."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    print("torchrun has ended, and so does this process", file=sys.stderr, flush=True)
    os._exit(1)  # other threads may wait in collective calls, which nothing interrupts


@contextmanager
def single_process() -> Iterator[None]:
    """Context manager: act as a single process; for work that is not split evenly across ranks."""
    token = _single.set(True)
    try:
        yield
    finally:
        _single.reset(token)


def world_size() -> int:
    """Number of processes that train together."""
    together = dist.is_available() and dist.is_initialized() and not _single.get()
    return dist.get_world_size() if together else 1


def rank() -> int:
    """Index of this process, from 0; the first writes files."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Context manager: the first process of each machine is through before its others enter."""
    if world_size() > 1 and dist.get_node_local_rank():
        dist.barrier()
    yield
    if world_size() > 1 and not dist.get_node_local_rank():
        dist.barrier()


def all_reduce_mean(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes and the micro-batches that share a batch."""
    micro_batches = _micro_batches.get()
    if micro_batches and micro_batches.means:
        return next(micro_batches.means)
    if world_size() > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
        value /= world_size()
    if micro_batches:
        micro_batches.values.append(value)
    return value


def shares() -> int:
    """Processes times micro-batches that share a batch."""
    micro_batches = _micro_batches.get()
    return world_size() * (micro_batches.number if micro_batches else 1)


class MicroBatches:
    """Micro-batches that share a batch as processes do, one after the other.

    Run them twice within `sharing`: what `all_reduce_mean` gets the first time is averaged by
    `average`, and is what it returns the second time.
    """

    def __init__(self, number: int):
        self.number, self.values, self.means = number, [], None

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Context manager: act as one micro-batch after the other."""
        token = _micro_batches.set(self)
        try:
            yield
        finally:
            _micro_batches.reset(token)

    def average(self) -> None:
        """Take the means of the values that the micro-batches have had."""
        calls = len(self.values) // self.number  # of each
        means = [torch.stack(self.values[call::calls]).mean(0) for call in range(calls)]
        self.means = cycle(means)


def all_gather_object(value: Any) -> list:
    """The values of all processes, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def interleave_shards(shard: list) -> list:
    """All items in their order, of which each process has every `world_size`th from its rank."""
    shards = all_gather_object(shard)
    return [part[i] for i in range(len(shards[0])) for part in shards if i < len(part)]


def broadcast_object(value: Any) -> Any:
    """The value of the first process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_tensor_(value: Tensor) -> None:
    """Overwrite a tensor by the first process's."""
    if world_size() > 1:
        dist.broadcast(value, src=0)


def run_subprocess(command: list[str], on_output: Callable[[], None]) -> None:
    """Run a command and pass on its output to stderr; `on_output` is called for each part of it.

    Raises:
        RuntimeError: when it fails, with its last output.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        tail = b""
        while chunk := process.stdout.read1():
            tail = (tail + chunk)[-2_000:]
            sys.stderr.write(chunk.decode(errors="replace"))
            on_output()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{tail.decode(errors='replace')}")
