"""Resume a training from its run folder or from its mirror."""

import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.mirror import KEPT, LAST, PREVIOUS, SUFFIXES, copy_changed
from vocseg_lib.utils.files import durable_rename, read_json

BEST, CONFIG, LOG = "best.pt", "config.json", "log.jsonl"
REQUIRED_KEYS = ("config", "model", "optimizer", "scaler", "random", "iteration", "best")
"""What a checkpoint must hold to be resumed."""
MIRROR_TRIES, MIRROR_PAUSE_SECONDS = 3, 1.0
"""How often a mirror is read at the start before training continues without it."""


class ChangedConfig(ValueError):
    """The run folder holds a training with another config; the message names the fields."""


def read_config(folder: Path) -> dict | None:
    """The config in a run folder or, if that is damaged, in its checkpoints; None without either."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = read_json(path)
        if isinstance(config, dict):
            return config
        reason = f"{path} does not hold a config"
    except ValueError as error:
        reason = str(error)
    warnings.warn(f"{reason}. The config in the checkpoints is used", stacklevel=2)
    for name in (LAST, PREVIOUS):
        try:
            return load_checkpoint(folder / name, REQUIRED_KEYS)["config"]
        except (FileNotFoundError, ValueError):
            continue
    return None


def check_config(folder: Path, config: dict) -> None:
    """Raises ChangedConfig, naming the fields, if a run folder has another config."""
    recorded = read_config(folder)
    changed = {} if recorded is None else config_changes(recorded, config)
    if changed:
        lines = "\n".join(f"  {k}: {was!r} there, {now!r} now" for k, (was, now) in changed.items())
        raise ChangedConfig(
            f"{folder} holds a training with another config:\n{lines}\n"
            "Choose another folder, or delete this one to train again."
        )


def config_changes(before: dict, now: dict, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """What differs between two configs, nested or not: "part.field" to (before, now)."""
    changes = {}
    for key in sorted(before.keys() | now.keys()):
        values = before.get(key), now.get(key)
        if all(isinstance(value, dict) for value in values):
            changes |= config_changes(*values, f"{prefix}{key}.")
        elif values[0] != values[1]:
            changes[prefix + key] = values
    return changes


def newest_checkpoint(folder: Path, config: dict) -> dict | None:
    """The last checkpoint of a run folder that can be used, or None if there was never one.

    A damaged one, or one of another config, is skipped with a warning and set aside.

    Raises:
        ValueError: if there are some and none can be used.
        OSError: if one cannot be read now.
    """
    unusable = {}
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            content = load_checkpoint(path, REQUIRED_KEYS)
            if content["config"] != config:
                raise ValueError(f"{path} is of another training than {folder / CONFIG}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            unusable[path] = str(error)
            continue
        for skipped, reason in unusable.items():
            warnings.warn(
                f"{reason}. It is skipped, {set_aside(skipped)}, and the one before it is used",
                stacklevel=2,
            )
        return content
    if unusable:
        reasons = "; ".join(unusable.values())
        raise ValueError(f"{reasons}. No other checkpoint is left; delete {folder} to train again")
    return None


def set_aside(path: Path) -> str:
    """Rename a file that cannot be used; what happened to it, for a message."""
    aside = path.with_name(path.name + ".unusable")
    try:
        durable_rename(path, aside)
    except OSError as error:
        return f"left where it is ({error})"
    return f"kept as {aside.name}"


def resume(folder: Path, mirror: Path | None, config: dict) -> dict | None:
    """The newest checkpoint of a run folder or of its mirror, whose files are then copied back."""
    check_config(folder, config)
    mirrored = _read_mirror(mirror, config) if mirror else None
    try:
        content = newest_checkpoint(folder, config)
    except ValueError as error:
        if mirrored is None:
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
    for tries_left in range(MIRROR_TRIES - 1, -1, -1):
        try:
            check_config(mirror, config)
            return newest_checkpoint(mirror, config)
        except ChangedConfig:
            raise
        except (OSError, ValueError) as error:
            if tries_left and isinstance(error, OSError):
                time.sleep(MIRROR_PAUSE_SECONDS)
                continue
            warnings.warn(
                f"the mirror {mirror} cannot be read: {error}. Its content will be kept in {KEPT}/",
                stacklevel=3,
            )
    return None


def preserve_newer_mirror(mirror: Path, iteration: int) -> str | None:
    """Set aside what a mirror has of a training that is beyond `iteration` or unreadable.

    Returns:
        What was kept where, for a warning; None if there was nothing to keep.

    Raises:
        OSError: if it cannot be read or moved now.
    """
    reason = None
    for path in (mirror / LAST, mirror / PREVIOUS):
        try:
            found = load_checkpoint(path, REQUIRED_KEYS)["iteration"]
        except FileNotFoundError:
            continue
        except ValueError as error:
            reason = str(error)
            continue
        if found <= iteration:
            return None
        reason = f"{mirror} holds iteration {found}, this training continues from {iteration}"
        break
    if reason is None:
        return None
    aside = mirror / KEPT / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    aside.mkdir(parents=True)
    for path in [path for path in mirror.iterdir() if path.suffix in SUFFIXES]:
        path.replace(aside / path.name)
    return f"{reason}. It is kept in {aside}"
