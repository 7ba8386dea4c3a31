"""Atomic writes: a kill at any moment leaves the old file or the new one; JSON; paths."""

import gzip
import io
import json
import math
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from filelock import FileLock, Timeout

from vocseg_lib.utils.json_values import JsonStream, unzipped

NAME_CHARACTERS = 50  # of a file, in the name of the temporary one: names are of limited length
SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")  # which file browsers leave behind

STREAMED_BYTES = 1 << 26  # JSON with entries beyond it is read part by part
MAX_FILE_BYTES = 1 << 31  # of a file that is read at once


def project_root() -> Path:
    """Folder of data/ and results/: the current one, or the parent of a checkout's notebooks/."""
    here = Path().absolute()
    in_checkout = here.name == "notebooks" and (here.parent / "vocseg_lib").is_dir()
    return here.parent if in_checkout else Path()


def resolve_path(path: str | Path) -> Path:
    """A path from here or, if nothing is there, from the project's root."""
    from_root = project_root() / path
    return from_root if from_root.exists() and not Path(path).exists() else Path(path)


def open_file(path: str | Path, max_bytes: float = math.inf) -> BinaryIO:
    """Open a file to read: no pipe, which waits for a writer, and no device, which may never end.

    Raises OSError, also if it is larger than `max_bytes`.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise OSError(f"{path} is {kind}; expected a file")
    if status.st_size > max_bytes:
        raise OSError(f"{path} has {status.st_size} bytes; expected at most {max_bytes}")
    return open(path, "rb")


def read_bytes(path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a file, see `open_file`."""
    with named_errors(path), open_file(path, max_bytes) as file:
        return file.read()


def file_crc32(path: Path, checksum: int = 0) -> int:
    """CRC-32 of a file's bytes, after that of others."""
    with open_file(path) as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def file_checksum(path: Path) -> str:
    """Size and CRC-32 of a file's bytes."""
    return f"{path.stat().st_size}:{file_crc32(path):08x}"


def read_record(path: Path) -> dict:
    """The record of a folder that `rebuild_folder` wrote; empty without a readable one."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    is_record = isinstance(content, dict) and isinstance(content.get("files"), dict)
    return content if is_record else {}


def is_current(folder: Path, record_name: str, record: dict) -> bool:
    """Whether a folder that `rebuild_folder` wrote has this record, and all its files are there."""
    written = read_record(folder / record_name)
    same = bool(written) and all(written.get(key) == value for key, value in record.items())
    return same and all((folder / name).is_file() for name in written["files"])


@contextmanager
def rebuild_folder(folder: Path, record_name: str, record: dict) -> Iterator[Path | None]:
    """Context manager: a temporary folder to write to, which then replaces `folder`.

    The record is written to it, with the checksum of each file: a folder with other or changed
    files is not replaced. None if another process has just written the same. Raises
    FileExistsError, with some of the other files' names.
    """
    folder = Path(os.path.realpath(folder))  # a link stays; `resolve` fails for those in a loop
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder, f"another process is writing {folder}"):
        if is_current(folder, record_name, record):
            yield None
            return
        _check_replaceable(folder, record_name)
        temporary, old = (
            folder.with_name(f".{folder.name}.{uuid4().hex}.{w}") for w in ("writing", "old")
        )
        try:
            with named_errors(folder):
                temporary.mkdir()
                yield temporary
                paths = [path for path in temporary.rglob("*") if path.is_file()]
                files = {p.relative_to(temporary).as_posix(): file_checksum(p) for p in paths}
                write_json(temporary / record_name, record | {"files": files})
                _check_replaceable(folder, record_name)
                if folder.exists():
                    folder.rename(old)
                temporary.rename(folder)
        finally:
            for leftover in (temporary, old):
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def file_lock(folder: Path, waiting: str) -> Iterator[None]:
    """Context manager: a lock beside a folder, where the file system has locks.

    What killed processes left beside it is deleted. The lock's file stays: another process may be
    waiting for it.
    """
    folder = Path(os.path.realpath(folder))
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with suppress(NotImplementedError, OSError):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not Path(lock.lock_file).is_file():
                raise  # it cannot be made
            print(f"{waiting}: waiting for it", file=sys.stderr)
            lock.acquire()
        leftovers = re.compile(rf"\.{re.escape(folder.name)}\.\w{{32}}\.(writing|old)")
        for path in folder.parent.iterdir():
            if leftovers.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
    try:
        yield
    finally:
        lock.release()


def _check_replaceable(folder: Path, record_name: str) -> None:
    """Raise FileExistsError if the folder holds files other than its record's, or changed ones."""
    if not folder.is_dir():
        if folder.exists():
            raise FileExistsError(f"{folder} is a file; expected a folder to write to")
        return
    written, others = read_record(folder / record_name).get("files", {}), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in SYSTEM_FILES or (path.is_dir() and not path.is_symlink()):
            continue
        if name == record_name and written:
            continue
        if name not in written or file_checksum(path) != written[name]:
            others.append(f"{name} ({'changed' if name in written else 'other file'})")
    if others:
        some = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        count = f"{len(others)} files that were not written here or were changed since: {some}"
        advice = "choose another folder, or move them away"
        raise FileExistsError(f"{folder} would be written again, but holds {count}; {advice}")


@contextmanager
def atomic_write(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Context manager: a temporary path to write to, which then replaces `path`.

    What was at `path` is renamed to `keep`, if given. Raises OSError, with the file's name.
    """
    if path.exists() and not path.is_file():  # /dev/null would be replaced
        raise OSError(f"{path} is a folder, pipe or device; expected a file to write to")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name[:NAME_CHARACTERS]}.{uuid4().hex}.writing")
    try:
        with named_errors(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if keep and path.is_file():
                durable_rename(path, keep)
            durable_rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Context manager: errors of the system that name no file, as a full disk's, get this one."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def remove_temporary_files(folder: Path) -> None:
    """Delete what `atomic_write` left in a folder when it was killed; others must not write now."""
    for leftover in folder.glob("*.writing"):
        leftover.unlink(missing_ok=True)


def durable_rename(path: Path, target: Path) -> None:
    """Rename within a folder, so that it outlasts a power cut."""
    path.replace(target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_json(path: Path, shared: Collection[str] = ()) -> Any:
    """Read JSON in UTF-8, -16 or -32, with a byte order mark or without; also gzipped.

    Equal keys, and integers, or lists of them, under `shared` keys are one object, and the text of
    large files is not held: a third of the memory. Raises OSError, and ValueError naming a file
    that is not JSON.
    """
    known = {}

    def share(entry: dict) -> dict:
        entry = {known.setdefault(key, key): value for key, value in entry.items()}
        for key in shared:
            value = entry.get(key)
            if type(value) is int:
                entry[key] = known.setdefault(value, value)
            elif type(value) is list and {*map(type, value)} == {int}:
                entry[key] = known.setdefault(tuple(value), value)
        return entry

    try:
        with named_errors(path), open_file(path, MAX_FILE_BYTES) as file:
            content, is_large = unzipped(file), os.stat(path).st_size > STREAMED_BYTES
            encoding = json.detect_encoding(content.read(4))
            content.seek(0)
            if shared and is_large:
                return JsonStream(io.TextIOWrapper(content, encoding), share).read()
            text = content.read(MAX_FILE_BYTES).decode(encoding)
        return json.loads(text, object_hook=share if shared else None)
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Context manager for content of `path`: what a wrong form of it raises, as ValueError.

    The message has the file's name, in one line.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        raise _damage(path, error) from None
    except (TypeError, ValueError) as error:
        raise error if str(path) in str(error) else _damage(path, error) from None


def _damage(path: Path, error: Exception) -> ValueError:
    problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return ValueError(f"{path} is damaged or of another form ({problem}): write it again")


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_text`. Raises ValueError for numbers that are not finite."""
    write_text(path, json.dumps(content, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 atomically, .gz: gzipped; names of files may hold what is none."""
    content = text.encode(errors="backslashreplace")
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def to_jsonable(value: object, digits: int | None = None) -> object:
    """A value as JSON has it: what is not finite is None, NumPy is Python; rounded to `digits`."""
    if isinstance(value, dict):
        return {str(key): to_jsonable(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item, digits) for item in value]
    if hasattr(value, "dtype"):  # a number of NumPy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return round(value, digits) if isinstance(value, float) and digits is not None else value
