"""The run folder: checkpoints that outlive kills, torn files and full disks, the log, and what the training ran on."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from vocseg_lib.engine.resume import _read_list
from vocseg_lib.utils.files import atomic_write, write_json


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
    """Within, no other process of this machine trains in a run folder. Raises RunningElsewhere when one does already."""
    if os.name != "posix":
        yield
        return
    import fcntl

    path = folder / "running"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(
                file, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # ends with this process, however it ends; forks do not have it
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise RunningElsewhere(
                f"process {file.read()} is training in {folder}: wait for it, or end it"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{folder} cannot be locked ({error}): see to it that nothing else trains in it",
                stacklevel=3,
            )
        file.truncate(0)
        print(os.getpid(), end="", file=file, flush=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def read_sessions(path: Path) -> list[dict]:
    """The calls of a training in its `run.json`; a file that is torn is left out, with a warning."""
    return _read_list(path, ("started",), "calls")


def append_session(path: Path, facts: dict) -> None:
    """Add a call of a training to its `run.json`: what it ran on, and when."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {"calls": [*read_sessions(path), {"started": started, **facts}]})
