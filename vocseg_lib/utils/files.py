"""Writing files so that a kill at any moment leaves the old one or the new one, whole."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def project_root() -> Path:
    """Where data/ and results/ go: here or, in the notebooks/ of a checkout, where a kernel starts, the checkout."""
    here = Path()
    return (
        here.absolute().parent
        if here.absolute().name == "notebooks" and Path("../vocseg_lib").is_dir()
        else here
    )


def resolve_path(path: str | Path) -> Path:
    """What someone names: a path from here or, where that leads to nothing, from the workspace."""
    from_workspace = project_root() / path
    return from_workspace if from_workspace.exists() and not Path(path).exists() else Path(path)


def reuse_or_clear(made: Path, stamp: str) -> bool:
    """Whether the folder of the file `made`, written by us, holds what `stamp` says; if not, it is made anew, with `made` in it.

    Raises FileExistsError when it holds other data.
    """
    folder = made.parent
    if folder.exists():
        if made.is_file() and made.read_text() == stamp:
            return True
        if not made.is_file() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} holds other data; choose another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    made.touch()  # says whose folder this is, should the writing be cut off
    return False


@contextmanager
def atomic_write(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """A path beside `path` to write to; on success it is flushed to disk and takes `path`'s place, else it is removed.

    What was at `path` goes to `keep`, when that is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".writing")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        if keep and path.is_file():
            durable_rename(path, keep)
        durable_rename(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if (
            isinstance(error, OSError) and error.errno and not error.filename
        ):  # a full disk does not say where
            error.filename = str(path)
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
    """Read JSON. Raises FileNotFoundError, and ValueError naming the file when it is torn or no JSON."""
    try:
        return json.loads(path.read_text())
    except (
        ValueError,
        RecursionError,
    ) as error:  # no JSON, no text, numbers of thousands of digits, endless brackets
        raise ValueError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON; non-finite numbers raise ValueError."""
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(content, allow_nan=False))


def to_jsonable(value: object, digits: int | None = None) -> object:
    """A value as JSON has it: None for what is not a number, Python's numbers for numpy's, rounded to `digits` if any."""
    if isinstance(value, dict):
        return {str(key): to_jsonable(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item, digits) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and (value != value or digits is not None):
        return None if value != value else round(value, digits)
    return value
