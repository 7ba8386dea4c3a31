"""Copies a run folder to a second place that may be slow or unavailable, such as Google Drive."""

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from vocseg_lib.engine.run_folder import LAST, PREVIOUS
from vocseg_lib.utils.files import atomic_write

KEPT = "kept"
"""Folder in a mirror for what it held of a training that was not resumed."""
SUFFIXES = (".json", ".jsonl", ".pt")
"""Of the files that are mirrored."""
CLOSING_SECONDS = 120.0
"""How long the end of a training waits for its mirror."""


def copy_changed(
    folder: Path, target: Path, copied: dict[Path, tuple], suffixes: Collection[str] = SUFFIXES
) -> None:
    """Copy the files of a run folder that are not `copied` (path to size and time), atomically."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix in suffixes]
    paths = [path for path in paths if path.name != PREVIOUS and path.parts[0] != KEPT]
    for path in sorted(paths, key=lambda path: path.name == LAST):  # it needs the others
        with (folder / path).open("rb") as source:
            info = os.fstat(source.fileno())  # of what is copied, which may be replaced meanwhile
            state = info.st_size, info.st_mtime_ns
            if copied.get(path) != state:
                keep = target / PREVIOUS if path.name == LAST else None
                with atomic_write(target / path, keep) as temporary, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
                copied[path] = state


@contextmanager
def mirrored(
    folder: Path,
    target: Path | None,
    prepare: Callable[[Path], str | None] = lambda target: None,
    suffixes: Collection[str] = SUFFIXES,
) -> Iterator[Callable[[], None]]:
    """Context manager: a function that has what changed in a folder copied to `target`.

    A thread copies, once more at the end; a failure is a warning, and the next copy tries again.
    `prepare(target)` precedes the first copy; a text that it returns is a warning, too. Without a
    target, nothing is copied.
    """
    if target is None:
        yield lambda: None
        return
    wanted, closing, messages = threading.Event(), threading.Event(), SimpleQueue()

    def work() -> None:
        prepared, copied, last = False, {}, False
        while not last:
            wanted.wait()
            wanted.clear()
            last = closing.is_set()
            try:
                if not prepared and (message := prepare(target)):
                    messages.put(message)
                prepared = True
                copy_changed(folder, target, copied, suffixes)
            except OSError as error:
                messages.put(f"cannot mirror to {target}: {error}. The next copy tries again")

    def update() -> None:
        wanted.set()
        for message in dict.fromkeys(messages.get() for _ in range(messages.qsize())):
            warnings.warn(message, stacklevel=2)

    thread = threading.Thread(target=work, name="mirror", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        closing.set()
        wanted.set()
        thread.join(CLOSING_SECONDS)
        update()
        if thread.is_alive():
            message = f"{target} is not up to date: its last copy has not ended. Copy {folder}"
            warnings.warn(message, stacklevel=3)
