"""Download VOC 2012: mirrors in turn, resumable, checked by MD5, unpacked safely."""

import re
import shutil
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from urllib.parse import urlsplit

from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from vocseg_lib.data.voc import find_devkit, is_devkit
from vocseg_lib.utils.files import file_lock
from vocseg_lib.utils.rle import shorten

TAR_NAME = "VOCtrainval_11-May-2012.tar"
MIRRORS = (  # of the official archive (pytorch/vision#9269), in this order
    f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{TAR_NAME}",
    f"https://d2l-data.s3-accelerate.amazonaws.com/{TAR_NAME}",
    f"https://dataset.bj.bcebos.com/voc/{TAR_NAME}",
)
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
MAX_ARCHIVE_BYTES, MAX_MEMBERS = (
    2_000_000_000,
    100_000,
)  # the archive has 1,999,639,040 and some 40,000
MIN_BYTES_PER_S = 10_000  # of a mirror, over `timeout_s`
MAX_SHOWN_ERROR, DIGITS = 300, 15  # characters of a mirror's error; of a number of bytes
CHUNK_BYTES = 1 << 18


class FetchError(RuntimeError):
    """No mirror delivered the archive, for the reasons listed, or it cannot be unpacked."""


def fetch(
    folder: str | Path, mirrors: Sequence[str] = MIRRORS, md5: str = MD5, timeout_s: float = 30.0
) -> Path:
    """VOC 2012's devkit in `folder`, downloaded (2.0 GB, resumable) and unpacked if missing.

    A mirror that sends too little within `timeout_s` is given up. Raises FetchError when every
    mirror fails, or for an archive that has more than plain files inside; OSError.
    """
    folder = Path(folder)
    target = folder / "VOCdevkit" / "VOC2012"
    if devkit := next(filter(is_devkit, (folder, target)), None):
        return devkit
    if target.exists():
        raise FetchError(f"{target} exists, but is not a whole devkit: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder, f"another process downloads to {folder}"):
        if not is_devkit(target):
            _fetch(folder, target, mirrors, md5, timeout_s)
    return target


def _fetch(folder: Path, target: Path, mirrors: Sequence[str], md5: str, timeout_s: float) -> None:
    """Download and unpack what is missing."""
    archive = folder / TAR_NAME
    for path in (archive, _beside(archive, "part"), _beside(archive, "whole")):
        if path.exists() and not path.is_file():
            raise FetchError(f"{path} exists, but is not a file: move it away")
    if not check_integrity(archive, md5):
        _download(mirrors, archive, md5, timeout_s)
    # Unpack into a folder beside and rename, so that a devkit that exists is complete.
    beside = folder / "VOCdevkit.unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        _unpack(archive, beside)
        unpacked = find_devkit(beside)
        target.parent.mkdir(exist_ok=True)
        unpacked.rename(target)
    except FileNotFoundError as error:
        raise FetchError(f"{archive} has no devkit inside: {error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    """Write the members of a tar, all of which have been checked. Raises FetchError."""
    try:
        with tarfile.open(archive, "r:") as tar:
            members = []
            for member in tar:
                members.append(member)
                if problem := _problem(member) or "one too many" * (len(members) > MAX_MEMBERS):
                    name = shorten(member.name)
                    raise FetchError(f"{archive} is not unpacked: {name} is {problem}")
            # Readers take any damaged header for the end.
            with archive.open("rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise FetchError(f"{archive} is damaged after {len(members)} members")
            tar.extractall(folder, tqdm(members, desc="unpack", unit="file"), filter="data")
    except FetchError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        problem = f"{error!s:.{MAX_SHOWN_ERROR}}"
        raise FetchError(f"{archive} cannot be unpacked into {folder}: {problem}") from error


def _problem(member: tarfile.TarInfo) -> str:
    """What is wrong with a member: more than a file or folder, or one that leads outside."""
    if not (member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.isdir()):
        return "not a plain file or folder"
    if member.sparse is not None or member.size < 0:
        return "a file with holes, or of a negative size"
    outside = member.name.startswith("/") or ".." in member.name.split("/")
    return "a path that leads outside" if outside or re.search(r"[\\:\0]", member.name) else ""


def _beside(archive: Path, ending: str) -> Path:
    return archive.with_name(f"{archive.name}.{ending}")


def _download(mirrors: Sequence[str], archive: Path, md5: str, timeout_s: float) -> None:
    part, urls, failures = _beside(archive, "part"), [*mirrors], []
    while urls:
        url, resumed = urls.pop(0), part.is_file()
        try:
            written = _download_from(url, archive, timeout_s)
        except (OSError, HTTPException, ValueError) as error:
            # 416: nothing left to send, so the file is complete, or another one; the MD5 decides.
            if not (resumed and getattr(error, "code", None) == 416):
                failures.append(
                    f"{url}: {repr(str(error)[:MAX_SHOWN_ERROR])[1:-1] or type(error).__name__}"
                )
                continue
            written = part
        if check_integrity(written, md5):
            written.replace(archive)
            part.unlink(missing_ok=True)
            return
        failures.append(f"{url}: MD5 differs from {md5}")
        written.unlink()
        if resumed and written == part:  # what was there may be damaged: again from the start
            urls.insert(0, url)
    failures.append(f"Call again to resume, or put the file there yourself: {archive}")
    raise FetchError("\n  ".join([f"could not download {archive.name}:", *failures]))


def _download_from(url: str, archive: Path, timeout_s: float) -> Path:
    """Complete `.part` or, where the server sends all of it, write `.whole`: the file written.

    Raises OSError when the server fails, FetchError when the disk does.
    """
    part = _beside(archive, "part")
    have = part.stat().st_size if part.is_file() else 0
    with closing(_receive(url, have, timeout_s)) as chunks:
        length, resumes = _check_headers(next(chunks), have)
        target, start = (part, have) if resumes or not have else (_beside(archive, "whole"), 0)
        try:
            size = _write(target, start, length, chunks, urlsplit(url).netloc)
            if length is not None and size < start + length:
                raise OSError(f"connection lost after {size} of {start + length} bytes")
        except BaseException:
            if target != part and target.exists():  # the longer one can be resumed
                target.replace(part) if target.stat().st_size > have else target.unlink()
            raise
    return target


def _write(target: Path, start: int, length: int | None, chunks: Iterator, title: str) -> int:
    """Append chunks to the first `start` bytes of a file, with a progress bar: its size."""
    bar, size = {"total": length and start + length, "initial": start, "desc": title}, start
    with _disk_errors(target):
        file = target.open("ab" if start else "wb", buffering=0)
    with file, tqdm(**bar, unit="B", unit_scale=True) as shown:
        for chunk in chunks:
            size += len(chunk)
            if size > MAX_ARCHIVE_BYTES:
                target.unlink()
                raise OSError(f"sends more than the {MAX_ARCHIVE_BYTES} bytes of the archive")
            shown.update(len(chunk))
            with _disk_errors(target):
                while chunk:
                    chunk = chunk[file.write(chunk) :]
    return size


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Context manager: what fails is not the mirror's fault."""
    try:
        yield
    except OSError as error:
        raise FetchError(f"{target} cannot be written: {error}") from error


def _check_headers(response: HTTPResponse, have: int) -> tuple[int | None, bool]:
    """Bytes that are to come, if known, and whether they continue those that are there.

    Raises OSError for headers of anything else than the archive.
    """
    headers, resumes = response.headers, getattr(response, "status", None) == 206
    if headers.get_content_type() == "text/html":
        raise OSError("answers with a web page instead of the archive")
    if (encoding := headers.get("Content-Encoding", "identity")) != "identity":
        raise OSError(f"answers in the encoding {encoding!r}")
    given = headers.get("Content-Length")
    if given is not None and not given.strip().isdecimal():
        raise OSError(f"answers with {given!r} bytes")
    length = None if given is None else int(given)
    if resumes and (total := headers.get("Content-Range", "").rpartition("/")[2]).isdecimal():
        length = int(total[:DIGITS]) - have  # it may send a part of the rest
    if resumes and not headers.get("Content-Range", f"bytes {have}-").startswith(f"bytes {have}-"):
        raise OSError(f"answers with {headers['Content-Range']!r}, asked for bytes from {have}")
    if (have if resumes else 0) + (length or 0) > MAX_ARCHIVE_BYTES:
        raise OSError(f"answers with {length} bytes, more than the archive has")
    return length, resumes


def _receive(url: str, have: int, timeout_s: float) -> Iterator:
    """The response to a request, then its body in chunks.

    A thread receives them, as a socket's timeout starts again with each byte. Raises TimeoutError
    when less than `MIN_BYTES_PER_S` came in any `timeout_s`.
    """
    received, stopped = Queue(maxsize=16), Event()

    def receive() -> None:
        try:
            headers = {"Range": f"bytes={have}-"} if have else {}
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                received.put(response)
                while not stopped.is_set():
                    received.put(chunk := response.read1(CHUNK_BYTES))
                    if not chunk:
                        break
        except Exception as error:  # raised below
            received.put(error)

    Thread(target=receive, daemon=True).start()
    try:
        end, enough = time.monotonic() + timeout_s, 0
        while True:
            try:
                item = received.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                item = None
            if isinstance(item, Exception):
                raise item
            if isinstance(item, bytes):
                if not item:
                    return
                enough += len(item)
            if time.monotonic() >= end:
                if enough < MIN_BYTES_PER_S * timeout_s:
                    raise TimeoutError(f"sent {enough} bytes in {timeout_s:g} seconds")
                end, enough = time.monotonic() + timeout_s, 0
            if item is not None:
                before = time.monotonic()
                yield item
                end += time.monotonic() - before  # writing does not count
    finally:  # the thread ends with what it waits for
        stopped.set()
        while not received.empty():
            received.get_nowait()
