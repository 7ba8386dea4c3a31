"""Resume a training from its run folder or from its mirror."""

import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.mirror import KEPT, SUFFIXES, copy_changed
from vocseg_lib.engine.run_folder import CONFIG, LAST, PREVIOUS, set_aside
from vocseg_lib.utils.files import read_json

RESTORED_KEYS = ("config", "model", "optimizer", "scaler", "random")
REQUIRED_KEYS = (*RESTORED_KEYS, "iteration", "best")
"""What a checkpoint must hold to be resumed."""
MIRROR_TRIES, MIRROR_PAUSE_SECONDS = 3, 1.0
"""How often a mirror is read at the start before training continues without it."""


class ChangedConfig(ValueError):
    """The run folder holds a training with another config; the message names the fields."""


def check_config(folder: Path, config: dict) -> None:
    """Raises ChangedConfig, naming the fields, if a run folder's `config.json` is another."""
    try:
        recorded = read_json(folder / CONFIG)
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError:
        recorded = None
    if isinstance(recorded, dict):
        _refuse_changes(folder, recorded, config)
    else:
        message = f"{folder / CONFIG} is damaged. The config in the checkpoints is used"
        warnings.warn(message, stacklevel=2)


def _refuse_changes(folder: Path, recorded: dict, config: dict) -> None:
    if changes := _changes(recorded, config):
        lines = "\n".join(f"  {k}: {was!r} there, {now!r} now" for k, (was, now) in changes.items())
        raise ChangedConfig(
            f"{folder} holds a training with another config:\n{lines}\n"
            "Choose another folder, or delete this one to train again."
        )


def _changes(before: dict, now: dict, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """What differs between two configs, nested or not: "part.field" to (before, now)."""
    changes = {}
    for key in sorted(before.keys() | now.keys()):
        values = before.get(key), now.get(key)
        if all(isinstance(value, dict) for value in values):
            changes |= _changes(*values, f"{prefix}{key}.")
        elif values[0] != values[1]:
            changes[prefix + key] = values
    return changes


def _load_newest(folder: Path) -> tuple[dict | None, dict[Path, str]]:
    """The newest readable checkpoint of a folder, and what is wrong with those after it."""
    damaged = {}
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            return load_checkpoint(path, REQUIRED_KEYS), damaged
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            damaged[path] = str(error)
    return None, damaged


def newest_checkpoint(folder: Path, config: dict) -> dict | None:
    """The last checkpoint of a run folder or, if it is damaged, the one before; None without any.

    A damaged one is set aside, with a warning.

    Raises:
        ChangedConfig: if it is of another config.
        ValueError: if there are some and none can be used.
        OSError: if one cannot be read now.
    """
    content, damaged = _load_newest(folder)
    if content is None:
        if damaged:
            reasons = "; ".join(damaged.values())
            raise ValueError(f"{reasons}. No other checkpoint: delete {folder} to train again")
        return None
    _refuse_changes(folder, content["config"], config)
    for path, reason in damaged.items():
        message = f"{reason}. It is {set_aside(path)}, and the one before it is used"
        warnings.warn(message, stacklevel=2)
    return content


def resume(folder: Path, mirror: Path | None, config: dict) -> dict | None:
    """The newest checkpoint of a run folder or of its mirror, whose files are then copied back.

    Raises:
        ChangedConfig: if one of them holds a training with another config.
        ValueError, OSError: see `newest_checkpoint`.
    """
    check_config(folder, config)
    mirrored = _read_mirror(mirror, config) if mirror else None
    try:
        content = newest_checkpoint(folder, config)
    except ValueError as error:
        if mirrored is None or isinstance(error, ChangedConfig):
            raise
        warnings.warn(f"{error}. The one in {mirror} is used", stacklevel=2)
        content = None
    if mirrored and (content is None or mirrored["iteration"] > content["iteration"]):
        content = mirrored
        try:
            copy_changed(mirror, folder, {})
        except OSError as error:
            warnings.warn(f"not all of {mirror} could be copied back: {error}", stacklevel=2)
    return content


def _read_mirror(mirror: Path, config: dict) -> dict | None:
    """The newest checkpoint of a mirror; None, with a warning, if it cannot be read."""
    for tries_left in reversed(range(MIRROR_TRIES)):
        try:
            check_config(mirror, config)
            return newest_checkpoint(mirror, config)
        except ChangedConfig:
            raise
        except (OSError, ValueError) as error:
            if tries_left and isinstance(error, OSError):
                time.sleep(MIRROR_PAUSE_SECONDS)
                continue
            message = f"the mirror {mirror} cannot be read: {error}. Its content moves to {KEPT}/"
            warnings.warn(message, stacklevel=3)
            return None
    return None


def preserve_newer_mirror(mirror: Path, iteration: int) -> str | None:
    """Set aside what a mirror has of a training that is beyond `iteration` or unreadable.

    Returns:
        What was kept where, for a warning; None if there was nothing to keep.

    Raises:
        OSError: if it cannot be read or moved now.
    """
    content, damaged = _load_newest(mirror)
    if (content and content["iteration"] <= iteration) or not (content or damaged):
        return None
    reason = "; ".join(damaged.values())
    if content:
        reason = f"{mirror} holds iteration {content['iteration']}, this training is at {iteration}"
    aside = mirror / KEPT / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    aside.mkdir(parents=True)
    for path in [path for path in mirror.iterdir() if path.suffix in SUFFIXES]:
        path.replace(aside / path.name)
    return f"{reason}. It is kept in {aside}"
