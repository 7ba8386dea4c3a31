"""The run folder: checkpoints that outlive kills, torn files and full disks, the log, and what the training ran on."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from vocseg_lib.engine.resume import set_aside
from vocseg_lib.utils.files import atomic_write, read_json, write_json

LOCK_SECONDS = 10.0
"""How long a training waits for the run folder."""


class RunningElsewhere(RuntimeError):
    """Another process is training in the run folder."""


def append_log(path: Path, entry: dict) -> None:
    """Add a line to a log. Raises OSError, naming the file."""
    try:
        with path.open("a") as log:
            log.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error}. The checkpoints are untouched: make room, then run again to go on"
        ) from error


def read_log(path: str | Path) -> list[dict]:
    """The entries of a `log.jsonl`. A last line cut off by a kill is left out, and others that are damaged, with a warning."""
    lines = [
        line for line in Path(path).read_text(errors="replace").splitlines() if line.strip("\0 ")
    ]
    entries, bad = [], []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get("iteration"), int):
            entries.append(entry)
        else:
            bad.append(number)
    bad = [number for number in bad if number < len(lines)]
    if bad:
        warnings.warn(
            f"{path}: {len(bad)} lines cannot be read and are left out, the first is line {bad[0]}",
            stacklevel=2,
        )
    return entries


def truncate_log(path: Path, iteration: int) -> None:
    """Drop what a killed training logged after its last checkpoint: it will be logged again."""
    if path.is_file():
        kept = [entry for entry in read_log(path) if entry["iteration"] <= iteration]
        with atomic_write(path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Context manager: no other process trains in the run folder.

    Raises:
        RunningElsewhere: if one does already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The workers of a killed training hold its lock for some seconds.
    lock = FileLock(folder / "running.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise RunningElsewhere(
            f"another process is training in {folder}: wait for it, or end it"
        ) from None
    except (NotImplementedError, OSError) as error:
        warnings.warn(
            f"{folder} cannot be locked ({error}): make sure that nothing else trains in it",
            stacklevel=3,
        )
    try:
        yield
    finally:
        lock.release()


def read_sessions(path: Path) -> list[dict]:
    """The sessions in a `run.json`; a damaged file is set aside with a warning."""
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except ValueError as error:
        warnings.warn(f"{error}. It is {set_aside(path)}", stacklevel=2)
        return []
    sessions = content.get("sessions") if isinstance(content, dict) else None
    if isinstance(sessions, list) and all(isinstance(s, dict) for s in sessions):
        return sessions
    warnings.warn(f"{path} does not list sessions. It is {set_aside(path)}", stacklevel=2)
    return []


def append_session(path: Path, info: dict) -> None:
    """Add a session to a `run.json`: when it started and what it ran on."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {"sessions": [*read_sessions(path), {"started": started, **info}]})
