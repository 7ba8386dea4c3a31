"""Resume a training from its run folder or its mirror."""

import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.mirror import KEPT, LAST, PREVIOUS, SUFFIXES, copy_changed
from vocseg_lib.utils.files import durable_rename, read_json, write_json

BEST, LOG, EARLIER_RECIPES = "best.pt", "log.jsonl", "earlier_recipes.json"
REQUIRED_KEYS = ("settings", "model", "optimizer", "scaler", "random", "iteration", "best")
"""What there is in a checkpoint that a training goes on from."""
MIRROR_TRIES, MIRROR_PAUSE_SECONDS = 3, 1.0
"""How often a mirror is read at the start before training goes on without it."""


class ChangedConfig(ValueError):
    """The run folder holds a training with other settings; the message names them."""


def read_config(folder: Path) -> dict | None:
    """The settings in a run folder's `recipe.json` or, where that is torn, in its checkpoints; None without either."""
    path = folder / "recipe.json"
    if not path.is_file():
        return None
    try:
        settings = read_json(path)
        if isinstance(settings, dict):
            return settings
        reason = f"{path} holds no settings"
    except ValueError as error:
        reason = str(error)
    warnings.warn(f"{reason}. The settings in the checkpoints are used", stacklevel=2)
    for name in (LAST, PREVIOUS):
        try:
            return load_checkpoint(folder / name, REQUIRED_KEYS)["settings"]
        except (FileNotFoundError, ValueError):
            continue
    return None


def earlier_recipes(folder: Path) -> list[dict]:
    """The settings that a training had before accepted changes: `until` an iteration, `settings`."""
    return _read_list(folder / EARLIER_RECIPES, ("until", "settings"))


def accepted_configs(folder: Path, settings: dict, accept_changes: bool = False) -> list[dict]:
    """The settings that the checkpoints of a run folder may have: `settings`, those recorded and those before them.

    Raises ChangedSettings, naming the fields, when `settings` and those recorded differ, unless that is accepted.
    """
    recorded = read_config(folder)
    changed = config_changes(recorded, settings) if recorded is not None else {}
    if changed and not accept_changes:
        lines = "\n".join(
            f"  {k}: {before!r} there, {now!r} now" for k, (before, now) in changed.items()
        )
        raise ChangedConfig(
            f"{folder} holds a training with other settings:\n{lines}\n"
            "Accept the changes (accept_changes=True, --accept-changes) to go on from its weights with the new ones, choose "
            "another folder, or delete this one to train anew."
        )
    return [
        settings,
        recorded or settings,
        *(entry["settings"] for entry in earlier_recipes(folder)),
    ]


def config_changes(before: dict, now: dict) -> dict[str, tuple]:
    """What differs between settings: field to (before, now)."""
    return {
        k: (before.get(k), now.get(k))
        for k in sorted(before.keys() | now.keys())
        if before.get(k) != now.get(k)
    }


def write_config(folder: Path, settings: dict, iteration: int) -> None:
    """Write `recipe.json`; other settings that it had until this iteration go to `earlier_recipes.json` first."""
    recorded = read_config(folder)
    if recorded is not None and recorded != settings:
        write_json(
            folder / EARLIER_RECIPES,
            [*earlier_recipes(folder), {"until": iteration, "settings": recorded}],
        )
    write_json(folder / "recipe.json", settings)


def newest_checkpoint(folder: Path, known: list[dict]) -> dict | None:
    """The last checkpoint of a run folder or, where that cannot be used, the one before it; None when there was never one.

    One that is torn, or of a training with settings that are not `known`, is skipped with a warning and set aside.
    Raises ValueError when there are some and none can be used, OSError when one cannot be read now.
    """
    unusable = {}
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            content = load_checkpoint(path, REQUIRED_KEYS)
            if content["settings"] not in known:
                raise ValueError(
                    f"{path} is of another training: its settings are not those in {folder / 'recipe.json'}"
                )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            unusable[path] = str(error)
            continue
        for skipped, reason in unusable.items():
            warnings.warn(
                f"{reason}. It is skipped, {_set_aside(skipped)}, and the one before it is used",
                stacklevel=2,
            )
        return content
    if unusable:
        raise ValueError(
            "; ".join(unusable.values())
            + f". No other checkpoint is left; delete {folder} to train anew"
        )
    return None


def _set_aside(path: Path) -> str:
    """Rename a file that cannot be used; what became of it."""
    aside = path.with_name(path.name + ".unusable")
    try:
        durable_rename(path, aside)
    except OSError as error:
        return f"left where it is ({error})"
    return f"kept as {aside.name}"


def resume(
    folder: Path, mirror: Path | None, settings: dict, accept_changes: bool = False
) -> dict | None:
    """The newest checkpoint of a run folder or of its mirror, whose files then are copied to the folder."""
    known = accepted_configs(folder, settings, accept_changes)
    mirrored = _mirrored(mirror, known, accept_changes) if mirror else None
    try:
        content = newest_checkpoint(folder, known)
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


def _mirrored(mirror: Path, known: list[dict], accept_changes: bool) -> dict | None:
    """The newest checkpoint of a mirror; None, with a warning, when it cannot be read."""
    for tries_left in range(MIRROR_TRIES - 1, -1, -1):
        try:
            accepted = accept_changes or read_config(mirror) in known
            return newest_checkpoint(
                mirror, [*known, *accepted_configs(mirror, known[0], accepted)]
            )
        except ChangedConfig:
            raise
        except (OSError, ValueError) as error:
            if tries_left and isinstance(error, OSError):
                time.sleep(MIRROR_PAUSE_SECONDS)
                continue
            warnings.warn(
                f"the mirror {mirror} cannot be read: {error}. What it has will be kept in {KEPT}/",
                stacklevel=3,
            )
    return None


def preserve_newer_mirror(mirror: Path, iteration: int) -> str | None:
    """Set aside what a mirror has of a training that is further on than `iteration`, or cannot be read: it was not resumed.

    Says what was kept where; None when there was nothing to keep. Raises OSError when it cannot be read or moved now.
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
        reason = f"{mirror} holds a training at iteration {found}, which this one (from {iteration} on) does not go on from"
        break
    if reason is None:
        return None
    aside = mirror / KEPT / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    aside.mkdir(parents=True)
    for path in [path for path in mirror.iterdir() if path.suffix in SUFFIXES]:
        path.replace(aside / path.name)
    return f"{reason}. It is kept in {aside}"


def _read_list(path: Path, keys: Sequence[str], name: str = "") -> list[dict]:
    """A list of objects with such keys from a JSON file, or from the entry `name` of its object; a torn file is set aside."""
    try:
        content = read_json(path)
        if name:
            content = content.get(name) if isinstance(content, dict) else None
        if isinstance(content, list) and all(
            isinstance(entry, dict) and entry.keys() >= set(keys) for entry in content
        ):
            return content
        reason = f"{path} does not hold what it should"
    except (FileNotFoundError, NotADirectoryError):
        return []
    except ValueError as error:
        reason = str(error)
    warnings.warn(f"{reason}. It is {_set_aside(path)}", stacklevel=3)
    return []
