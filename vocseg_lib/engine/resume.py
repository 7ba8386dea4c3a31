"""Resume a training from its run folder or from its mirror."""

import json
import shutil
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.mirror import KEPT, SUFFIXES, copy_changed
from vocseg_lib.engine.run_folder import BEST, CONFIG, LAST, PREVIOUS, set_aside
from vocseg_lib.utils.files import atomic_write, read_json, remove_temporary_files
from vocseg_lib.utils.json_values import is_number, shorten

RESTORED_KEYS = ("config", "model", "optimizer", "scaler", "random")
"""What a checkpoint must hold to be resumed, besides progress."""
COUNTS = ("iteration", "evals_since_best", "overflows", "skipped_updates", "consecutive_skips")
PROGRESS_KEYS = ("seconds", "best", "bad_samples")
"""The progress of a training: counts, and the rest."""
MAX_COUNT = 10**8
SHOWN_CHANGES = 8  # fields in a message
MIRROR_TRIES, MIRROR_PAUSE_SECONDS = 3, 1.0
"""How often a mirror is read at the start before training continues without it."""


class ChangedConfig(RuntimeError):
    """The run folder holds a training with another config; the message names the fields."""


def check_config(folder: Path, config: dict, checkpoint: dict | None = None) -> None:
    """Raises ChangedConfig if weights in a folder are of another config, by its `config.json`."""
    has_weights = any((folder / name).is_file() for name in (LAST, PREVIOUS, BEST))
    if not checkpoint and not (has_weights and (folder / CONFIG).is_file()):
        return
    recorded = checkpoint["config"] if checkpoint else read_json(folder / CONFIG)
    if lines := config_changes(recorded, config):
        raise ChangedConfig(
            f"{folder} holds a training with another config:\n"
            + "".join(f"  {line}\n" for line in lines)
            + "Choose another folder, or delete this one to train again."
        )


def config_changes(before: object, now: dict) -> list[str]:
    """One line for each field in which two configs differ, of some."""
    try:
        before, now = (_flat(json.loads(json.dumps(config))) for config in (before, now))
    except (AttributeError, TypeError, ValueError):
        return [f"not a config: {shorten(before)}"]
    changes = [
        f"{shorten(key)[1:-1]}: {shorten(before.get(key))} there, {shorten(now.get(key))} now"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    more = len(changes) - SHOWN_CHANGES
    return changes[:SHOWN_CHANGES] + [f"and {more} more"] * (more > 0)


def _flat(config: dict) -> dict[str, Any]:
    """Nested dicts as one, with keys such as "train.seed"."""
    flat, parts = {}, [("", config)]
    while parts:
        prefix, part = parts.pop()
        for key, value in part.items():
            if isinstance(value, dict):
                parts.append((f"{prefix}{key}.", value))
            else:
                flat[f"{prefix}{key}"] = value
    return flat


def _load_newest(folder: Path) -> tuple[dict | None, dict[Path, str]]:
    """The newest readable checkpoint of a folder, and what is wrong with those after it."""
    damaged = {}
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            if path.exists() and not path.is_file():
                raise ValueError(f"{path} is not a file")
            checkpoint = load_checkpoint(path, (*RESTORED_KEYS, *COUNTS, *PROGRESS_KEYS))
            if _is_sound(checkpoint):
                return checkpoint, damaged
            damaged[path] = f"{path} is not a checkpoint of a training"
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            damaged[path] = str(error)
    return None, damaged


def _is_sound(checkpoint: dict) -> bool:
    """Whether the progress in a checkpoint has values of its kinds."""
    best, bad = checkpoint["best"], checkpoint["bad_samples"]
    counts = [checkpoint[name] for name in COUNTS]
    numbers = [checkpoint["seconds"]]
    if isinstance(best, dict):
        counts.append(best.get("iteration"))
        numbers += [best[name] for name in ("mask_AP50", "val_loss") if best.get(name) is not None]
    is_of_kinds = isinstance(checkpoint["config"], dict) and isinstance(bad, dict)
    return (
        is_of_kinds
        and (best is None or (isinstance(best, dict) and "mask_AP50" in best))
        and all(type(n) is int and 0 <= n < MAX_COUNT for n in (*counts, *bad.values()))
        and all(map(is_number, numbers))
    )


def newest_checkpoint(folder: Path, config: dict) -> dict | None:
    """The last checkpoint of a folder or, if it is damaged, the one before; None without any.

    A damaged one is set aside, with a warning. Raises ChangedConfig; ValueError if all are damaged.
    """
    checkpoint, damaged = _load_newest(folder)
    if damaged and not checkpoint:
        raise ValueError("; ".join(damaged.values()))
    check_config(folder, config, checkpoint)
    for path, reason in damaged.items():
        message = f"{reason}. It is kept as {set_aside(path)}, and the one before it is used"
        warnings.warn(message, stacklevel=2)
    return checkpoint


def resume(folder: Path, mirror: Path | None, config: dict) -> dict | None:
    """The newest checkpoint of a run folder or of its mirror, whose files are then copied back.

    A mirror that cannot be read is a warning. Raises what `newest_checkpoint` does, and
    FileExistsError if the run folder holds weights of something else.
    """
    checkpoint = damage = None
    try:
        checkpoint = newest_checkpoint(folder, config)
    except ValueError as error:
        damage = error
    for tries_left in reversed(range(MIRROR_TRIES if mirror else 0)):
        try:
            mirrored = newest_checkpoint(mirror, config)
            if mirrored and (not checkpoint or mirrored["iteration"] > checkpoint["iteration"]):
                copy_changed(mirror, folder, {})
                checkpoint = mirrored
            break
        except (OSError, ValueError) as error:
            if tries_left and isinstance(error, OSError):  # damage stays damage
                time.sleep(MIRROR_PAUSE_SECONDS)
                continue
            message = f"the mirror {mirror} cannot be read: {error}. Its content moves to {KEPT}/"
            warnings.warn(message, stacklevel=2)
    if damage and not checkpoint:
        raise ValueError(f"{damage}. Delete {folder} to train again") from damage
    if not checkpoint and (folder / BEST).is_file():
        problem = f"{folder} holds {BEST} and no checkpoint"
        if not (folder / CONFIG).is_file():
            raise FileExistsError(f"{problem}: choose another folder, or move it away")
        warnings.warn(f"{problem}: it is kept as {set_aside(folder / BEST)}", stacklevel=2)
    if damage:
        warnings.warn(f"{damage}. The checkpoint in {mirror} is used", stacklevel=2)
    if checkpoint and mirror and _is_best(mirror / BEST, config):
        if not _is_best(folder / BEST, config):
            aside = f" ({set_aside(folder / BEST)} is kept)" if (folder / BEST).exists() else ""
            with atomic_write(folder / BEST) as temporary:
                shutil.copyfile(mirror / BEST, temporary)
            warnings.warn(f"{BEST} is taken from {mirror}{aside}", stacklevel=2)
    return checkpoint


def _is_best(path: Path, config: dict) -> bool:
    """Whether a file has the best weights of a training with a config."""
    try:
        best = load_checkpoint(path, ("config", "model", "iteration", "mask_AP50"))
    except (OSError, ValueError):
        return False
    return not config_changes(best["config"], config)


def preserve_newer_mirror(mirror: Path, iteration: int) -> str | None:
    """Set aside what a mirror has of a training that is beyond `iteration` or unreadable.

    Returns what was kept where, for a warning, or that it has nothing of a training that is
    resumed. Raises OSError if it cannot be moved now.
    """
    remove_temporary_files(mirror)
    checkpoint, damaged = _load_newest(mirror)
    has_best = (mirror / BEST).is_file()
    if not checkpoint and not damaged and not has_best:
        question = f"{mirror} holds nothing of this training, and gets all of it: is it mounted?"
        return question if iteration else None
    if checkpoint and checkpoint["iteration"] <= iteration:
        return None
    aside = mirror / KEPT / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    aside.mkdir(parents=True)
    for path in [path for path in mirror.iterdir() if path.suffix in SUFFIXES]:
        path.replace(aside / path.name)
    held = f"iteration {checkpoint['iteration']}" if checkpoint else "no usable checkpoint"
    return f"{mirror} holds {held}, this training is at {iteration}. It is kept in {aside}"
