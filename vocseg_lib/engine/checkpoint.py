"""Checkpoint files, atomic and with a checksum; `TrainState.save` says what a training stores."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocseg_lib.utils.files import atomic_write
from vocseg_lib.utils.weights import read_weights


def checksum(content: Any) -> str:
    """SHA-256 of nested dicts, lists and tuples: bytes of tensors, text of everything else."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict | list | tuple):
            for item in value.items() if isinstance(value, dict) else value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()


def save_checkpoint(path: Path, content: dict, keep: Path | None = None) -> None:
    """Write a checkpoint with its checksum, atomically; the one before it is renamed to `keep`."""
    buffer = io.BytesIO()
    torch.save({**content, "checksum": checksum(content)}, buffer)
    with atomic_write(path, keep) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: Path, required: Sequence[str] = ()) -> dict:
    """What a checkpoint holds, on the CPU.

    Raises ValueError, naming the file, if it is damaged, foreign or lacks a `required` key.
    """
    content = read_weights(path)
    if not isinstance(content, dict) or content.pop("checksum", None) != checksum(content):
        raise ValueError(f"{path} is damaged or not a checkpoint: its checksum does not match")
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{path} is not a checkpoint of that kind: {', '.join(missing)} missing")
    return content
