"""Atomic writes: a kill at any moment leaves the old file or the new one; JSON; paths."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def project_root() -> Path:
    """Folder of data/ and results/: the current one, or the parent of a checkout's notebooks/."""
    here = Path().absolute()
    in_checkout = here.name == "notebooks" and (here.parent / "vocseg_lib").is_dir()
    return here.parent if in_checkout else Path()


def resolve_path(path: str | Path) -> Path:
    """A path from here or, if nothing is there, from the project's root."""
    from_root = project_root() / path
    return from_root if from_root.exists() and not Path(path).exists() else Path(path)


def reuse_or_clear(marker: Path, stamp: str, subfolders: Iterable[str]) -> bool:
    """True if the folder is up to date (its `marker` has this stamp); else clear it, return False.

    Raises FileExistsError if it holds other data: there is no marker.
    """
    folder = marker.parent
    if marker.is_file() and marker.read_text() == stamp:
        return True
    if folder.exists():
        if not marker.is_file() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} holds other data; choose another folder")
        shutil.rmtree(folder)
    for subfolder in subfolders:
        (folder / subfolder).mkdir(parents=True)
    marker.touch()  # so that the folder can be cleared if writing is cut off
    return False


@contextmanager
def atomic_write(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Context manager: a temporary path to write to, which then replaces `path`.

    What was at `path` is renamed to `keep`, if given. Raises OSError, with the file's name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".writing")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if keep and path.is_file():
            durable_rename(path, keep)
        durable_rename(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a full disk does not name it
        raise


def durable_rename(path: Path, target: Path) -> None:
    """Rename within a folder, so that it outlasts a power cut."""
    path.replace(target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_json(path: Path) -> Any:
    """Read JSON in UTF-8, -16 or -32, with a byte order mark or without.

    Raises FileNotFoundError, and ValueError naming a file that is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically. Raises ValueError for numbers that are not finite."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False))


def to_jsonable(value: object, digits: int | None = None) -> object:
    """A value as JSON has it: NaN is None, NumPy's numbers are Python's, rounded to `digits`."""
    if isinstance(value, dict):
        return {str(key): to_jsonable(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item, digits) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and (value != value or digits is not None):
        return None if value != value else round(value, digits)
    return value
