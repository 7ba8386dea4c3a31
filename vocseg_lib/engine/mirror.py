"""Copies a run folder to a second place that may be slow or unavailable, such as Google Drive."""

import os
import shutil
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from vocseg_lib.engine.run_folder import CONFIG, LAST, PREVIOUS
from vocseg_lib.utils.files import atomic_write, read_bytes

KEPT = "kept"
"""Folder in a mirror for what it held of a training that was not resumed."""
SUFFIXES = (".json", ".jsonl", ".pt")
"""Of the files that are mirrored."""
CLOSING_SECONDS = 120.0
"""How long the end of a training waits for each of its mirror's last two copies."""


def check_mirror(mirror: Path, folder: Path) -> None:
    """Raises ValueError for a mirror that is the run folder, by whatever links and mounts."""
    is_same = os.path.realpath(mirror) == os.path.realpath(folder)
    if is_same or (os.path.exists(mirror) and os.path.exists(folder) and mirror.samefile(folder)):
        raise ValueError(f"the mirror {mirror} is the run folder: choose another folder")


def copy_changed(folder: Path, target: Path, copied: dict[str, tuple]) -> None:
    """Copy the files of a run folder that `target` does not have, atomically and with their times.

    `copied`: by name, `_state` of a file and of its copy, which may get another time there. Raises
    FileNotFoundError if none of them is there any more, FileExistsError if another training is.
    """
    names = {path.name for path in folder.glob("*") if path.suffix in SUFFIXES} - {PREVIOUS}
    for name in sorted(names, key=lambda name: (name == LAST, name)):  # LAST needs the others
        if copied and not any((target / name).is_file() for name in copied):
            raise FileNotFoundError(f"what was copied there is missing: is {target} mounted?")
        if CONFIG in copied and read_bytes(target / CONFIG) != read_bytes(folder / CONFIG):
            raise FileExistsError(f"another training is in {target} now: is it what was mounted?")
        state = _state(folder / name)  # before copying: what changes meanwhile is copied again
        if (state, _state(target / name)) not in ((state, state), copied.get(name)):
            keep = target / PREVIOUS if name == LAST else None
            with atomic_write(target / name, keep) as temporary:
                shutil.copyfile(folder / name, temporary)
                os.utime(temporary, ns=(state[0], state[0]))
        copied[name] = state, _state(target / name)


def _state(path: Path) -> tuple[int, int]:
    """Time (ns) and size of a file; zeros if it is missing."""
    info = path.stat() if path.is_file() else None
    return (info.st_mtime_ns, info.st_size) if info else (0, 0)


@contextmanager
def mirrored(
    folder: Path,
    target: Path | None,
    prepare: Callable[[Path], str | None] = lambda target: None,
    expected: Collection[str] = (),
) -> Iterator[Callable[[], None]]:
    """Context manager: a function that has what changed in a folder copied to `target`, if any.

    A thread copies, once more at the end; a failure is a warning, and the next copy tries again.
    `prepare(target)` precedes the first copy; a text that it returns is a warning, too. `expected`:
    names of files of which `target` has some already, unless it is not mounted.
    """
    if target is None:
        yield lambda: None
        return
    copied, messages, devices, thread = dict.fromkeys(expected, ()), [], [], None

    def copy() -> None:
        try:
            if not copied and (message := prepare(target)):
                messages.append(message)
            copy_changed(folder, target, copied)
            devices.append(target.stat().st_dev)
            if devices[-1] != devices[0]:
                messages.append(f"{target} is on another device than before: is it mounted?")
                del devices[0]
        except OSError as error:
            messages.append(f"cannot mirror to {target}: {error}. The next copy tries again")

    def update() -> None:
        nonlocal thread
        if thread and thread.is_alive():
            return  # what changed meanwhile is copied next time
        report()
        thread = threading.Thread(target=copy, name="mirror", daemon=True)
        thread.start()

    def report() -> None:
        while messages:
            warnings.warn(messages.pop(0), stacklevel=3)

    try:
        yield update
    finally:
        if thread:
            thread.join(CLOSING_SECONDS)
        update()
        thread.join(CLOSING_SECONDS)
        if thread.is_alive():
            messages.append(f"{target} is out of date: its last copy has not ended. Copy {folder}")
        report()
