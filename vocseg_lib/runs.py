"""The run folder: checkpoints that outlive kills, torn files and full disks, the log, and what the training ran on."""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocseg_lib.files import move, read_json, replacing, write_json
from vocseg_lib.mirror import LAST, PREVIOUS, copy_changed

BEST, LOG = "best.pt", "log.jsonl"


class RunningElsewhere(RuntimeError):
    """Another process is training in the run folder."""


class ChangedSettings(ValueError):
    """The run folder holds a training with other settings; the message names them."""


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
        with replacing(path, keep) as beside:
            beside.write_bytes(whole.getbuffer())
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error}. The checkpoint before it is untouched: make room, then run again to go on"
        ) from error


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict:
    """What a checkpoint holds. Raises ValueError, naming the file, when it is torn or foreign."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} is damaged ({reason})") from error
    if not isinstance(content, dict) or "checksum" not in content:
        raise ValueError(f"{path} is not a checkpoint of a training: it has no checksum")
    if content.pop("checksum") != checksum(content):
        raise ValueError(f"{path} is damaged: it does not have the checksum that it was written with")
    return content


def hold_to_settings(folder: Path, settings: dict, accept_changes: bool = False) -> tuple[dict, ...]:
    """The settings that the checkpoints of a run folder may have: those in its `recipe.json`, and `settings`.

    Raises ChangedSettings, naming the fields, when these differ, unless that is accepted.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        return (settings,)
    before = read_json(path)
    changed = [k for k in sorted(before.keys() | settings.keys()) if before.get(k) != settings.get(k)]
    if changed and not accept_changes:
        lines = "\n".join(f"  {k}: {before.get(k)!r} there, {settings.get(k)!r} now" for k in changed)
        raise ChangedSettings(
            f"{folder} holds a training with other settings:\n{lines}\n"
            "Accept the changes (accept_changes=True, --accept-changes) to go on from its weights with the new ones, choose "
            "another folder, or delete this one to train anew."
        )
    return before, settings


def newest_checkpoint(folder: Path, settings: tuple[dict, ...]) -> dict | None:
    """The last checkpoint of a run folder or, where that cannot be used, the one before it; None when there was never one.

    One that is torn, or of a training with settings not among `settings`, is skipped with a warning and set aside.
    Raises ValueError when there are some and none can be used.
    """
    unusable = {}
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            content = load_checkpoint(path)
            if content.get("settings") not in settings:
                raise ValueError(f"{path} is of another training: its settings are not those in {folder / 'recipe.json'}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            unusable[path] = str(error)
            continue
        for skipped, reason in unusable.items():
            aside = skipped.with_name(skipped.name + ".unusable")
            warnings.warn(f"{reason}. It is skipped, kept as {aside.name}, and the one before it is used", stacklevel=2)
            move(skipped, aside)
        return content
    if unusable:
        raise ValueError("; ".join(unusable.values()) + f". No other checkpoint is left; delete {folder} to train anew")
    return None


def resume(folder: Path, mirror: Path | None, settings: dict, accept_changes: bool = False) -> dict | None:
    """The newest checkpoint of a run folder or of its mirror, whose files then are copied to the folder.

    Leaves `settings` in the folder's `recipe.json`, and in its checkpoints when they were of others. See `newest_checkpoint`.
    """
    mirrored = _mirrored(mirror, settings, accept_changes) if mirror else None
    allowed = hold_to_settings(folder, settings, accept_changes)
    try:
        content = newest_checkpoint(folder, allowed)
    except ValueError as error:
        if mirrored is None:
            raise
        warnings.warn(f"{error}. The one in {mirror} is used", stacklevel=2)
        content = None
    if mirrored and (content is None or mirrored["iteration"] > content["iteration"]):
        content = mirrored
        copy_changed(mirror, folder, {})
    if content and content["settings"] != settings:
        for _ in (LAST, PREVIOUS):  # both, so that each can be used later on
            save_checkpoint(folder / LAST, {**content, "settings": settings}, keep=folder / PREVIOUS)
    write_json(folder / "recipe.json", settings)
    return content


def _mirrored(mirror: Path, settings: dict, accept_changes: bool) -> dict | None:
    """The newest checkpoint of a mirror; None, with a warning, when it cannot be read."""
    try:
        return newest_checkpoint(mirror, hold_to_settings(mirror, settings, accept_changes))
    except ChangedSettings:
        raise
    except (OSError, ValueError) as error:
        warnings.warn(f"the mirror {mirror} cannot be read: {error}", stacklevel=2)
        return None


def append_log(path: Path, entry: dict) -> None:
    """Add a line to a log. Raises OSError, naming the file."""
    try:
        with path.open("a") as log:
            log.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise OSError(f"cannot write {path}: {error}. The checkpoints are untouched: make room, then run again to go on") from error


def read_log(path: str | Path) -> list[dict]:
    """The entries of a `log.jsonl`; a last line cut off by a kill is left out."""
    entries = []
    for line in Path(path).read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def cut_log(path: Path, iteration: int) -> None:
    """Drop what a killed training logged after its last checkpoint: it will be logged again."""
    if path.is_file():
        kept = [entry for entry in read_log(path) if entry["iteration"] <= iteration]
        with replacing(path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within, no other process of this machine trains in a run folder. Raises RunningElsewhere when one does already."""
    if os.name != "posix":
        yield
        return
    import fcntl

    path = folder / "running"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends; forks do not have it
        except (BlockingIOError, PermissionError):
            raise RunningElsewhere(f"another process is training in {folder}: wait for it, or end it") from None
        except OSError as error:
            warnings.warn(f"{folder} cannot be locked ({error}): see to it that nothing else trains in it", stacklevel=3)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def record_call(path: Path, facts: dict) -> None:
    """Add a call of a training to its `run.json`: what it ran on, and when."""
    calls = read_json(path)["calls"] if path.is_file() else []
    write_json(path, {"calls": [*calls, {"started": datetime.now(UTC).isoformat(timespec="seconds"), **facts}]})
