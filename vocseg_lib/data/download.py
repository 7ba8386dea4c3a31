"""Download VOC 2012: mirrors in turn, resumable, checked by MD5, unpacked safely."""

import hashlib
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from vocseg_lib.data.voc import PARTS, find_devkit

TAR_NAME = "VOCtrainval_11-May-2012.tar"
MIRRORS = (
    f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{TAR_NAME}",
    f"https://d2l-data.s3-accelerate.amazonaws.com/{TAR_NAME}",
    f"https://dataset.bj.bcebos.com/voc/{TAR_NAME}",
)
"""Hosts of the official archive (pytorch/vision#9269), tried in this order."""
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
CHUNK = 1 << 20
DEVKIT = "VOC2012"


class FetchError(RuntimeError):
    """No mirror gave the archive; the message lists what each said."""


def fetch(
    folder: str | Path, mirrors: Sequence[str] = MIRRORS, md5: str = MD5, timeout_s: float = 30.0
) -> Path:
    """VOC 2012's devkit below `folder`, downloaded (2.0 GB) and unpacked when it is not there yet.

    An existing devkit is used as it is; a whole archive is not downloaded twice; a partial one is continued.
    Raises FetchError when every mirror fails; calling again continues where it stopped.
    """
    folder = Path(folder)
    target = folder / "VOCdevkit" / DEVKIT
    for devkit in (folder, target):
        if all((devkit / part).is_dir() for part in PARTS):
            return devkit
    if target.exists():
        raise FetchError(f"{target} is there, but not whole; move it away and call again")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / TAR_NAME
    if not (archive.is_file() and _md5(archive) == md5):
        _download(mirrors, archive, md5, timeout_s)
    _unpack(archive, target)
    return target


def _download(mirrors: Sequence[str], archive: Path, md5: str, timeout_s: float) -> None:
    part = archive.with_name(archive.name + ".part")
    failures = []
    for url in mirrors:
        # A second try from the start, when the first one continued a partial file that turned out to be damaged.
        for continued in (part.is_file(), False):
            try:
                _download_from(url, part, timeout_s)
            except (OSError, HTTPException, ValueError) as error:
                failures.append(f"{url}: {error}")
                break
            if _md5(part) == md5:
                part.replace(archive)
                return
            failures.append(f"{url}: MD5 differs from {md5}")
            part.unlink()
            if not continued:
                break
    reasons = "\n  ".join(failures)
    raise FetchError(
        f"could not download {archive.name}:\n  {reasons}\nCall again to continue, or put the file there yourself: {archive}"
    )


def _download_from(url: str, part: Path, timeout_s: float) -> None:
    """Append to `part` until it is whole. Raises OSError when the connection breaks off."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if (
            error.code == 416 and have
        ):  # nothing is left to send: the file is whole, or not this file; the MD5 decides
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise OSError("answers with a web page instead of the archive")
        length = (
            int(response.headers["Content-Length"]) if response.headers["Content-Length"] else None
        )
        if response.status != 206:  # the server sends all of it
            if length is not None and length < have:
                raise OSError(f"offers {length} bytes, fewer than the {have} that are here already")
            have = 0
        expected = None if length is None else have + length
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                total=expected,
                initial=have,
                desc=f"fetch {url.split('/')[2]}",
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if expected is not None and part.stat().st_size < expected:
        raise OSError(f"connection broke off after {part.stat().st_size} of {expected} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _unpack(archive: Path, target: Path) -> None:
    """Unpack beside and rename, so that a devkit that is there is a whole one."""
    beside = target.parents[1] / "VOCdevkit.unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tqdm(tar, desc="unpack", unit="file"):
            tar.extract(member, beside, filter="data")  # refuses paths and links that lead outside
    target.parent.mkdir(exist_ok=True)
    find_devkit(beside).rename(target)
    shutil.rmtree(beside)
