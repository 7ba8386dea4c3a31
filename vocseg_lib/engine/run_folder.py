"""What a run folder holds: the names of its files, its lock, its log and its sessions."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from vocseg_lib.utils.files import (
    atomic_write,
    durable_rename,
    named_errors,
    read_bytes,
    read_json,
    remove_temporary_files,
    to_jsonable,
    write_json,
)

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
CONFIG, SESSIONS, LOG, LOCK = "config.json", "run.json", "log.jsonl", "running.lock"
LOCK_SECONDS = 10.0
"""How long a training waits for the run folder: workers of a killed one may hold it for a while."""


def set_aside(path: Path) -> str:
    """Rename a file that cannot be used, so that nothing overwrites it; returns the new name."""
    aside = path.with_name(f"{path.name}.unusable")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}.unusable")
    durable_rename(path, aside)
    return aside.name


class RunningElsewhere(RuntimeError):
    """Another process is training in the run folder."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Context manager: no other process trains in the run folder, or RunningElsewhere is raised."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        message = f"another process is training in {folder}: wait for it, or end it"
        raise RunningElsewhere(message) from None
    except (NotImplementedError, OSError) as error:
        message = f"{folder} cannot be locked ({error}): make sure that nothing else trains in it"
        warnings.warn(message, stacklevel=3)
    if lock.is_locked:
        remove_temporary_files(folder)  # of a killed training
    try:
        yield
    finally:
        lock.release()


def clear_run_folder(folder: Path) -> None:
    """Delete what a training wrote, but its lock: another process may be waiting for it."""
    with run_lock(folder):
        for path in folder.glob("*.*"):
            if path.name != LOCK:
                path.unlink()


def append_log(path: Path, entry: dict) -> None:
    """Add a line to a log. Raises OSError with the file's name."""
    if path.exists() and not path.is_file():  # a pipe waits for a reader
        raise OSError(f"{path} is not a file: move it away")
    with named_errors(path), path.open("a") as log:
        log.write(json.dumps(to_jsonable(entry), allow_nan=False) + "\n")


def read_log(path: str | Path) -> list[dict]:
    """The entries of a `log.jsonl`; warns of damaged lines, except a last one cut off by a kill."""
    entries = []
    for line in read_bytes(path).decode(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            is_whole = type(entry["iteration"]) is int and 0 <= entry["iteration"] < 2**53
            entries.append(entry if is_whole else None)
        except (KeyError, RecursionError, TypeError, ValueError):
            entries.append(None)
    if damaged := entries[:-1].count(None):
        warnings.warn(f"{path}: {damaged} damaged lines are skipped", stacklevel=2)
    return [entry for entry in entries if entry]


def truncate_log(path: Path, iteration: int) -> None:
    """Drop what a killed training logged after its last checkpoint: it will be logged again."""
    if path.is_file():
        kept = [entry for entry in read_log(path) if entry["iteration"] <= iteration]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


def read_sessions(path: Path) -> list[dict]:
    """The sessions in a `run.json`; none without it. Raises ValueError if it is damaged."""
    content = read_json(path) if path.is_file() else {"sessions": []}
    sessions = content.get("sessions") if isinstance(content, dict) else None
    if not (isinstance(sessions, list) and all(isinstance(s, dict) for s in sessions)):
        raise ValueError(f"{path} does not list sessions: delete it, or restore it")
    return sessions


def append_session(path: Path, info: dict) -> None:
    """Add a session to a `run.json`: when it started and what it ran on."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    sessions = [*read_sessions(path), {"started": started, **info}]
    write_json(path, to_jsonable({"sessions": sessions}))
