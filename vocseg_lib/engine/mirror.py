"""A second home for a run folder, such as a mounted Drive: slow, and at times not there."""

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from vocseg_lib.utils.files import atomic_write

LAST, PREVIOUS, KEPT = "last.pt", "previous.pt", "kept"
SUFFIXES = (".json", ".jsonl", ".pt")
"""Of the files that are mirrored."""
RETRY_SECONDS = 30.0
CLOSING_SECONDS = 120.0
"""How long the end of a training waits for its mirror."""


def copy_changed(
    folder: Path, target: Path, copied: dict[Path, tuple], suffixes: Collection[str] = SUFFIXES
) -> None:
    """Copy the files of a run folder that are not `copied` (name to size and time), each whole or not at all."""
    paths = [
        path for path in folder.rglob("*") if path.suffix in suffixes and path.name != PREVIOUS
    ]
    paths = [path for path in paths if path.relative_to(folder).parts[0] != KEPT]
    for path in sorted(
        paths, key=lambda path: path.name == LAST
    ):  # the others are no use without it
        name = path.relative_to(folder)
        with path.open("rb") as source:
            facts = os.fstat(source.fileno())  # of what is copied, which may be replaced meanwhile
            state = facts.st_size, facts.st_mtime_ns
            if copied.get(name) == state:
                continue
            with atomic_write(
                target / name, keep=target / PREVIOUS if path.name == LAST else None
            ) as beside:
                with beside.open("wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
        copied[name] = state


class Mirror:
    """A second folder that gets what changes in a run folder, copied by a thread beside the training.

    A copy that fails is tried again; `report` warns of it, and nothing else happens. `before` is called with the target before
    the first copy; what it returns is warned of.
    """

    def __init__(
        self,
        folder: Path,
        target: Path,
        retry_seconds: float = RETRY_SECONDS,
        before: Callable[[Path], str | None] | None = None,
        suffixes: Collection[str] = SUFFIXES,
    ):
        self.folder, self.target, self.retry_seconds, self.before, self.suffixes = (
            folder,
            target,
            retry_seconds,
            before,
            suffixes,
        )
        self._copied: dict[Path, tuple] = {}
        self._notes: SimpleQueue = SimpleQueue()
        self._wanted, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def update(self) -> None:
        """Copy what has changed, soon."""
        self._wanted.set()
        self.report()

    def report(self) -> None:
        """Warn of the copies that failed since the last report."""
        for note in dict.fromkeys(self._notes.get() for _ in range(self._notes.qsize())):
            warnings.warn(note, stacklevel=2)

    def close(self) -> None:
        """Copy what has changed for the last time, and wait a while for it."""
        self._wanted.set()
        self._closing.set()
        self._thread.join(CLOSING_SECONDS)
        self.report()
        if self._thread.is_alive():
            warnings.warn(
                f"{self.target} is not up to date: its last copy has not ended. Copy {self.folder} by hand",
                stacklevel=2,
            )

    def _work(self) -> None:
        while self._wanted.is_set() or not self._closing.is_set():
            self._wanted.wait()
            self._wanted.clear()
            try:
                if self.before:
                    note, self.before = self.before(self.target), None
                    if note:
                        self._notes.put(note)
                copy_changed(self.folder, self.target, self._copied, self.suffixes)
            except OSError as error:
                self._notes.put(
                    f"cannot mirror to {self.target}: {error}. Training goes on; it is tried again"
                )
                if not self._closing.wait(self.retry_seconds):
                    self._wanted.set()


@contextmanager
def mirrored(folder: Path, target: Path | None, **options) -> Iterator[Callable[[], None]]:
    """A function that has a folder mirrored to `target`, soon; it is once more at the end. Without a target, nothing is done.

    `options` are `Mirror`'s.
    """
    if target is None:
        yield lambda: None
        return
    mirror = Mirror(folder, target, **options)
    try:
        yield mirror.update
    finally:
        mirror.close()
