"""Checkpoints: written whole or not at all, each with its checksum; what is torn or foreign is told from what is good."""

import hashlib
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocseg_lib.utils.files import atomic_write


def checksum(content: Any) -> str:
    """SHA-256 over the bytes of all tensors and the text of everything else in nested dicts, lists and tuples."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(value, dict):
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()


def save_checkpoint(path: Path, content: dict, keep: Path | None = None) -> None:
    """Write a checkpoint with its checksum, whole or not at all; the one before it goes to `keep`.

    Raises OSError, naming the file, when the disk is full or cannot be written to.
    """
    whole = io.BytesIO()
    torch.save({**content, "checksum": checksum(content)}, whole)
    try:
        with atomic_write(path, keep) as beside:
            beside.write_bytes(whole.getbuffer())
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error}. The checkpoint before it is untouched: make room, then run again to go on"
        ) from error


def load_checkpoint(
    path: Path, needed: Sequence[str] = (), device: str | torch.device = "cpu"
) -> dict:
    """What a checkpoint holds. Raises ValueError, naming the file, when it is torn or foreign (lacks what is `needed`).

    Raises OSError when it cannot be read now, FileNotFoundError when it is not there.
    """
    try:
        with path.open("rb") as file:
            content = torch.load(file, map_location=device, weights_only=True)
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a checkpoint") from None
    except OSError as error:
        if error.errno:
            raise
        raise ValueError(f"{path} is damaged ({error})") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} is damaged, or no checkpoint of PyTorch's") from error
    except Exception as error:  # a damaged archive may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} is damaged ({reason})") from error
    if not isinstance(content, dict) or "checksum" not in content:
        raise ValueError(f"{path} is not a checkpoint of a training: it has no checksum")
    if content.pop("checksum") != checksum(content):
        raise ValueError(
            f"{path} is damaged: it does not have the checksum that it was written with"
        )
    missing = [key for key in needed if key not in content]
    if missing:
        raise ValueError(
            f"{path} is not that kind of checkpoint: it has no {' and no '.join(missing)}"
        )
    return content
