"""Download VOC 2012: mirrors in turn, resumable, checked by MD5, unpacked safely."""

import shutil
import tarfile
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from vocseg_lib.data.voc import find_devkit, is_devkit

TAR_NAME = "VOCtrainval_11-May-2012.tar"
MIRRORS = (  # of the official archive (pytorch/vision#9269), in this order
    f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{TAR_NAME}",
    f"https://d2l-data.s3-accelerate.amazonaws.com/{TAR_NAME}",
    f"https://dataset.bj.bcebos.com/voc/{TAR_NAME}",
)
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
CHUNK_BYTES = 1 << 20


class FetchError(RuntimeError):
    """No mirror delivered the archive; the message lists every failure."""


def fetch(
    folder: str | Path, mirrors: Sequence[str] = MIRRORS, md5: str = MD5, timeout_s: float = 30.0
) -> Path:
    """VOC 2012's devkit in `folder`, downloaded (2.0 GB, resumable) and unpacked if missing.

    Raises FetchError when every mirror fails.
    """
    folder = Path(folder)
    target = folder / "VOCdevkit" / "VOC2012"
    if devkit := next(filter(is_devkit, (folder, target)), None):
        return devkit
    if target.exists():
        raise FetchError(f"{target} exists, but is not a whole devkit: move it away")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / TAR_NAME
    if not check_integrity(archive, md5):
        _download(mirrors, archive, md5, timeout_s)
    # Unpack into a folder beside and rename, so that a devkit that exists is complete.
    beside = folder / "VOCdevkit.unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    with tarfile.open(archive) as tar:
        # The filter refuses paths and links that lead outside.
        tar.extractall(beside, tqdm(tar, desc="unpack", unit="file"), filter="data")
    target.parent.mkdir(exist_ok=True)
    find_devkit(beside).rename(target)
    shutil.rmtree(beside)
    return target


def _download(mirrors: Sequence[str], archive: Path, md5: str, timeout_s: float) -> None:
    part = archive.with_name(archive.name + ".part")
    urls, failures = [*mirrors], []
    while urls:
        url, resumed = urls.pop(0), part.is_file()
        try:
            _download_from(url, part, timeout_s)
        except (OSError, HTTPException, ValueError) as error:
            # 416: nothing left to send, so the file is complete, or another one; the MD5 decides.
            if not (resumed and getattr(error, "code", None) == 416):
                failures.append(f"{url}: {error}")
                continue
        if check_integrity(part, md5):
            part.replace(archive)
            return
        failures.append(f"{url}: MD5 differs from {md5}")
        part.unlink()
        if resumed:  # what was there may be damaged: again from the start
            urls.insert(0, url)
    failures.append(f"Call again to resume, or put the file there yourself: {archive}")
    raise FetchError("\n  ".join([f"could not download {archive.name}:", *failures]))


def _download_from(url: str, part: Path, timeout_s: float) -> None:
    """Append to `part` until it is complete. Raises OSError when the connection breaks."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        if response.headers.get_content_type() == "text/html":
            raise OSError("answers with a web page instead of the archive")
        length = int(response.headers["Content-Length"] or 0)
        if response.status != 206:  # the server sends all of it
            if 0 < length < have:
                raise OSError(f"offers {length} bytes, fewer than the {have} already downloaded")
            have = 0
        bar = {"total": have + length or None, "initial": have, "desc": urlsplit(url).netloc}
        with part.open("ab" if have else "wb") as file:
            with tqdm.wrapattr(file, "write", **bar) as counted:
                shutil.copyfileobj(response, counted, CHUNK_BYTES)
    if part.stat().st_size < have + length:
        raise OSError(f"connection lost after {part.stat().st_size} of {have + length} bytes")
