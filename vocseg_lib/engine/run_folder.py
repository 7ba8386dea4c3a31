"""What a run folder holds: the names of its files, its lock, its log and its sessions."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from vocseg_lib.utils.files import atomic_write, durable_rename, read_json, write_json

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
CONFIG, SESSIONS, LOG = "config.json", "run.json", "log.jsonl"
LOCK_SECONDS = 10.0
"""How long a training waits for the run folder: workers of a killed one may hold it for a while."""


class RunningElsewhere(RuntimeError):
    """Another process is training in the run folder."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Context manager: no other process trains in the run folder.

    Raises:
        RunningElsewhere: if one does already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "running.lock", timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        message = f"another process is training in {folder}: wait for it, or end it"
        raise RunningElsewhere(message) from None
    except (NotImplementedError, OSError) as error:
        message = f"{folder} cannot be locked ({error}): make sure that nothing else trains in it"
        warnings.warn(message, stacklevel=3)
    try:
        yield
    finally:
        lock.release()


def append_log(path: Path, entry: dict) -> None:
    """Add a line to a log. Raises OSError with the file's name."""
    try:
        with path.open("a") as log:
            log.write(json.dumps(entry) + "\n")
    except OSError as error:
        error.filename = str(path)  # a full disk does not name it
        raise


def read_log(path: str | Path) -> list[dict]:
    """The entries of a `log.jsonl`, without lines that are damaged.

    Warns of them, except of a last line cut off by a kill.
    """
    lines = Path(path).read_text(errors="replace").splitlines()
    lines = [line for line in lines if line.strip("\0 ")]
    entries, bad = [], []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get("iteration"), int):
            entries.append(entry)
        elif number < len(lines):
            bad.append(number)
    if bad:
        message = f"{path}: {len(bad)} lines are damaged and skipped, the first is line {bad[0]}"
        warnings.warn(message, stacklevel=2)
    return entries


def truncate_log(path: Path, iteration: int) -> None:
    """Drop what a killed training logged after its last checkpoint: it will be logged again."""
    if path.is_file():
        kept = [entry for entry in read_log(path) if entry["iteration"] <= iteration]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


def read_sessions(path: Path) -> list[dict]:
    """The sessions in a `run.json`; a damaged one is set aside, with a warning."""
    try:
        return [dict(session) for session in read_json(path)["sessions"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValueError, TypeError, KeyError) as error:
        message = f"{path} does not list sessions ({error!r}). It is {set_aside(path)}"
        warnings.warn(message, stacklevel=2)
        return []


def append_session(path: Path, info: dict) -> None:
    """Add a session to a `run.json`: when it started and what it ran on."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {"sessions": [*read_sessions(path), {"started": started, **info}]})


def set_aside(path: Path) -> str:
    """Rename a file that cannot be used; what happened to it, for a message."""
    aside = path.with_name(path.name + ".unusable")
    try:
        durable_rename(path, aside)
    except OSError as error:
        return f"left where it is ({error})"
    return f"kept as {aside.name}"
