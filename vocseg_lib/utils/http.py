"""Download files: several addresses in turn, resumable, checked, with a progress bar."""

import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from urllib.parse import urlsplit

from tqdm import tqdm

MIN_BYTES_PER_S = 10_000  # of a server, over `timeout_s`
MAX_SHOWN_ERROR, DIGITS = 300, 15  # characters of a server's error; of a number of bytes
CHUNK_BYTES = 1 << 18


class FetchError(RuntimeError):
    """No server delivered the file, for the reasons listed, or it cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that is to be had from somewhere."""

    urls: Sequence[str]  # tried in this order
    problem: Callable[[Path], str]  # what is wrong with a file; "" if it is the right one
    max_bytes: int
    timeout_s: float = 30.0  # a server that sends less than `MIN_BYTES_PER_S` in it is given up


def download(source: Download, target: Path) -> None:
    """Download a file, or the rest of one. Raises FetchError, naming what each server answered."""
    part, urls, failures = beside(target, "part"), [*source.urls], []
    while urls:
        url, resumed = urls.pop(0), part.is_file()
        try:
            written = _download_from(url, target, source)
        except (OSError, HTTPException, ValueError) as error:
            # 416: nothing left to send, so the file is complete, or another one.
            if not (resumed and getattr(error, "code", None) == 416):
                failures.append(
                    f"{url}: {repr(str(error)[:MAX_SHOWN_ERROR])[1:-1] or type(error).__name__}"
                )
                continue
            written = part
        if not (problem := source.problem(written)):
            written.replace(target)
            part.unlink(missing_ok=True)
            return
        failures.append(f"{url}: {problem}")
        written.unlink()
        if resumed and written == part:  # what was there may be damaged: again from the start
            urls.insert(0, url)
    failures.append(f"Call again to resume, or put the file there yourself: {target}")
    raise FetchError("\n  ".join([f"could not download {target.name}:", *failures]))


def _download_from(url: str, file: Path, source: Download) -> Path:
    """Complete `.part` or, where the server sends all of it, write `.whole`: the file written.

    Raises OSError when the server fails, FetchError when the disk does.
    """
    part = beside(file, "part")
    have = part.stat().st_size if part.is_file() else 0
    with closing(_receive(url, have, source.timeout_s)) as chunks:
        length, resumes = _check_headers(next(chunks), have, source.max_bytes)
        target, start = (part, have) if resumes or not have else (beside(file, "whole"), 0)
        try:
            bar = tqdm(
                total=length and start + length,
                initial=start,
                desc=urlsplit(url).netloc,
                unit="B",
                unit_scale=True,
            )
            with bar:
                size = _write(target, start, chunks, source.max_bytes, bar)
            if length is not None and size < start + length:
                raise OSError(f"connection lost after {size} of {start + length} bytes")
        except BaseException:
            if target != part and target.exists():  # the longer one can be resumed
                target.replace(part) if target.stat().st_size > have else target.unlink()
            raise
    return target


def _write(target: Path, start: int, chunks: Iterator, max_bytes: int, bar: tqdm) -> int:
    """Append chunks to the first `start` bytes of a file: its size."""
    size = start
    with _disk_errors(target):
        file = target.open("ab" if start else "wb", buffering=0)
    with file:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                target.unlink()
                raise OSError(f"sends more than the {max_bytes} bytes of the file")
            bar.update(len(chunk))
            with _disk_errors(target):
                while chunk:
                    chunk = chunk[file.write(chunk) :]
    return size


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Context manager: what fails is not the server's fault."""
    try:
        yield
    except OSError as error:
        raise FetchError(f"{target} cannot be written: {error}") from error


def _check_headers(response: HTTPResponse, have: int, max_bytes: int) -> tuple[int | None, bool]:
    """Bytes that are to come, if known, and whether they continue those that are there.

    Raises OSError for headers of anything else than a file of at most `max_bytes`.
    """
    headers, resumes = response.headers, getattr(response, "status", None) == 206
    if headers.get_content_type() == "text/html":
        raise OSError("answers with a web page instead of the file")
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
    if (have if resumes else 0) + (length or 0) > max_bytes:
        raise OSError(f"answers with {length} bytes, more than the file has")
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


def beside(file: Path, ending: str) -> Path:
    """The file of that name and one more ending."""
    return file.with_name(f"{file.name}.{ending}")
