"""Download VOC 2012: mirrors in turn, resumable, checked by MD5, unpacked safely."""

import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets.utils import check_integrity
from tqdm import tqdm

from vocseg_lib.data.voc import find_devkit, is_devkit
from vocseg_lib.utils.files import file_lock
from vocseg_lib.utils.http import MAX_SHOWN_ERROR, Download, FetchError, beside, download
from vocseg_lib.utils.json_values import shorten

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
    for path in (archive, beside(archive, "part"), beside(archive, "whole")):
        if path.exists() and not path.is_file():
            raise FetchError(f"{path} exists, but is not a file: move it away")
    if not check_integrity(archive, md5):
        source = Download(
            urls=mirrors,
            problem=lambda path: "" if check_integrity(path, md5) else f"MD5 differs from {md5}",
            max_bytes=MAX_ARCHIVE_BYTES,
            timeout_s=timeout_s,
        )
        download(source, archive)
    # Unpack into a folder beside and rename, so that a devkit that exists is complete.
    unpacking = folder / "VOCdevkit.unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)
    unpacking.mkdir()
    try:
        _unpack(archive, unpacking)
        unpacked = find_devkit(unpacking)
        target.parent.mkdir(exist_ok=True)
        unpacked.rename(target)
    except FileNotFoundError as error:
        raise FetchError(f"{archive} has no devkit inside: {error}") from None
    finally:
        shutil.rmtree(unpacking, ignore_errors=True)


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
