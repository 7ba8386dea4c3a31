"""Downloads from a local server; nothing here uses the network."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from tqdm import tqdm

from tests.helpers.server import ANSWERS, serve, urls
from vocseg_lib.data import download
from vocseg_lib.data.download import TAR_NAME, FetchError
from vocseg_lib.data.voc import DEVKIT_FOLDERS, find_devkit
from vocseg_lib.utils import http


def make_tar(extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in DEVKIT_FOLDERS:
            member = tarfile.TarInfo(f"VOCdevkit/VOC2012/{folder}/file")
            member.size = 30_000
            tar.addfile(member, io.BytesIO(b"x" * 30_000))
        for member in extra:
            tar.addfile(member, io.BytesIO(b"evil" * 10))
    return buffer.getvalue()


@pytest.fixture
def archive():
    return make_tar()


@pytest.fixture
def server(archive):
    with serve(archive) as server:
        yield server


def fetch(folder, server, *paths, timeout_s=5):
    md5 = hashlib.md5(server.archive).hexdigest()
    return download.fetch(folder, urls(server, *paths), md5, timeout_s)


def test_mirrors_in_turn_until_one_is_right(tmp_path, server, archive):
    (tmp_path / "VOCdevkit.unpacking" / "VOCdevkit").mkdir(parents=True)  # was interrupted
    devkit = fetch(tmp_path, server, "missing", "wrong", "whole", "never")
    assert devkit == tmp_path / "VOCdevkit" / "VOC2012"
    assert (devkit / "JPEGImages" / "file").stat().st_size == 30_000
    assert [path for path, _ in server.requests] == ["/missing", "/wrong", "/whole"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["VOCdevkit", TAR_NAME])


def test_a_broken_download_is_resumed(tmp_path, server, archive):
    with pytest.raises(FetchError):
        fetch(tmp_path, server, "cut")
    part = tmp_path / (TAR_NAME + ".part")
    half = part.stat().st_size
    assert 0 < half < len(archive)
    fetch(tmp_path, server, "whole")
    assert server.requests[-1] == ("/whole", f"bytes={half}-")


@pytest.mark.parametrize("path", ["whole", "norange"])
@pytest.mark.parametrize("kind", ["good", "damaged", "too long"])
def test_a_part_that_cannot_be_resumed_is_replaced(tmp_path, server, archive, kind, path):
    parts = {"good": archive[:1000], "damaged": b"damage" * 100, "too long": archive + b"more"}
    (tmp_path / (TAR_NAME + ".part")).write_bytes(parts[kind])
    fetch(tmp_path, server, path)
    ranges = [wanted for _, wanted in server.requests]
    again = path == "whole" and kind != "good"
    assert ranges == [f"bytes={len(parts[kind])}-"] + [None] * again
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["VOCdevkit", TAR_NAME])


def test_a_part_of_what_is_missing_is_kept(tmp_path, server, archive):
    part = tmp_path / (TAR_NAME + ".part")
    part.write_bytes(archive[:100])
    with pytest.raises(FetchError):
        fetch(tmp_path, server, "less")
    assert part.read_bytes() == archive[:1_100]
    fetch(tmp_path, server, "whole")


@pytest.mark.parametrize("part", [b"", b"some bytes that are here"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_that_does_not_deliver_is_given_up(tmp_path, server, monkeypatch, answer, part):
    if part:
        (tmp_path / (TAR_NAME + ".part")).write_bytes(part)
    if answer == "too long":
        monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", len(server.archive))
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path, server, answer, timeout_s=0.2)
    _, failure, _ = str(caught.value).splitlines()
    assert urls(server, answer)[0] in failure
    assert failure.isprintable()
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left.get(TAR_NAME + ".part", b"").startswith(part[:10])
    if answer.startswith("slow"):  # the next one is asked
        fetch(tmp_path, server, answer, "norange", timeout_s=0.2)


def test_a_full_disk_ends_the_download(tmp_path, server):
    (tmp_path / (TAR_NAME + ".part")).symlink_to("/dev/full")
    with pytest.raises(FetchError, match=r"\.part"):
        fetch(tmp_path, server, "whole")
    assert server.requests == []  # no file; and where writing fails
    chunks = iter([b"some bytes"])
    with pytest.raises(FetchError, match="full"):
        http._write(Path("/dev/full"), 0, chunks, 100, tqdm(disable=True))


def test_an_archive_and_a_devkit_are_reused(tmp_path, server, archive):
    (tmp_path / TAR_NAME).write_bytes(archive)
    devkit = fetch(tmp_path, server, "whole")
    (devkit / "mark").touch()
    assert fetch(tmp_path, server, "whole") == devkit
    assert (devkit / "mark").exists()
    assert server.requests == []


LINKS = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
LINKS |= {"device": tarfile.CHRTYPE, "holes": tarfile.GNUTYPE_SPARSE}


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../..", "..\\outside", *LINKS])
def test_archives_that_lead_outside_are_refused(tmp_path, name):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = LINKS.get(name, tarfile.REGTYPE), "VOCdevkit"
    check_refused(tmp_path, make_tar([member]), repr(name))


def test_damaged_archives_are_refused(tmp_path, archive, monkeypatch):
    header = archive.index(b"VOCdevkit/VOC2012/SegmentationObject")
    damaged = archive[:header] + b"w" + archive[header + 1 :]
    ended = archive[:header] + bytes(10_240)
    for content in (
        damaged,
        ended,
        archive[: header + 700],
        archive[:header],
        b"",
        b"no tar" * 999,
    ):
        check_refused(tmp_path, content)
    check_refused(tmp_path, gzip.compress(archive))
    monkeypatch.setattr(download, "MAX_MEMBERS", 2)
    check_refused(tmp_path, archive)


def check_refused(tmp_path, content, name=""):
    """The error is one line with the archive's and the member's name; nothing was written."""
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TAR_NAME).write_bytes(content)
    with pytest.raises(FetchError) as caught:
        download.fetch(folder, [], hashlib.md5(content).hexdigest())
    assert str(folder / TAR_NAME) in str(caught.value)
    assert name in str(caught.value)
    assert str(caught.value).isprintable()
    (folder.parent / f".{folder.name}.lock").unlink()
    assert [*tmp_path.rglob("*")] == [folder.parent, folder, folder / TAR_NAME]


@pytest.mark.parametrize("paths", [("missing", "wrong"), ("page", "short")])
def test_the_error_lists_every_mirror(tmp_path, server, archive, paths):
    part = tmp_path / (TAR_NAME + ".part")
    part.write_bytes(archive[:1000])
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path, server, *paths)
    assert all(url in str(caught.value) for url in urls(server, *paths))
    if paths == ("page", "short"):  # answers that are not the archive leave the part alone
        assert part.read_bytes() == archive[:1000]


def test_another_year_is_not_voc2012_and_half_a_devkit_is_not_one(tmp_path, server, archive):
    for part in DEVKIT_FOLDERS:
        (tmp_path / "VOCdevkit" / "VOC2007" / part).mkdir(parents=True)
    assert fetch(tmp_path, server, "whole").name == "VOC2012"
    assert find_devkit(tmp_path).name == "VOC2012"
    (tmp_path / "half" / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(FetchError):
        fetch(tmp_path / "half", server, "whole")
