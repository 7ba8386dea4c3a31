"""Downloads from a local server; nothing here uses the network."""

import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from vocseg_lib.data import download
from vocseg_lib.data.download import TAR_NAME, FetchError
from vocseg_lib.data.voc import DEVKIT_FOLDERS, find_devkit


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


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves /whole (with ranges), /norange, /cut (half), /wrong, /page, /short; 404 /missing."""

    def do_GET(self):
        wanted, path, archive = self.headers.get("Range"), self.path, self.server.archive
        self.server.requests.append((path, wanted))
        bodies = {"/page": b"<html>moved</html>", "/short": b"short", "/wrong": b"w" * len(archive)}
        body, start, status = bodies.get(path, archive), 0, 200
        if wanted and path not in ("/norange", "/page", "/short"):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        if path == "/missing" or start >= max(len(body), 1):
            return self.send_error(404 if path == "/missing" else 416)
        body = body[start:]
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if path == "/page" else "application/x-tar")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if path == "/cut" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def archive():
    return make_tar()


@pytest.fixture
def server(archive):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.archive, server.requests = archive, []
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield server
        server.shutdown()


def urls(server, *paths):
    return [f"http://127.0.0.1:{server.server_port}/{path}" for path in paths]


def fetch(folder, server, *paths):
    md5 = hashlib.md5(server.archive).hexdigest()
    return download.fetch(folder, urls(server, *paths), md5, timeout_s=5)


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


@pytest.mark.parametrize("kind", ["good", "damaged", "too long"])
def test_a_part_that_cannot_be_resumed_is_replaced(tmp_path, server, archive, kind):
    parts = {"good": archive[:1000], "damaged": b"damage" * 100, "too long": archive + b"more"}
    (tmp_path / (TAR_NAME + ".part")).write_bytes(parts[kind])
    fetch(tmp_path, server, "norange" if kind == "good" else "whole")
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == [f"bytes={len(parts[kind])}-"] + [None] * (kind != "good")


def test_an_archive_and_a_devkit_are_reused(tmp_path, server, archive):
    (tmp_path / TAR_NAME).write_bytes(archive)
    devkit = fetch(tmp_path, server, "whole")
    (devkit / "mark").touch()
    assert fetch(tmp_path, server, "whole") == devkit
    assert (devkit / "mark").exists()
    assert server.requests == []


@pytest.mark.parametrize("name", ["VOCdevkit/link", "../../outside"])
def test_archives_that_lead_outside_are_refused(tmp_path, name):
    member = tarfile.TarInfo(name)
    member.size = 40
    if name.endswith("link"):
        member.type, member.linkname, member.size = tarfile.SYMTYPE, "../../../outside", 0
    evil = make_tar([member])
    folder = tmp_path / "deep" / "data"
    folder.mkdir(parents=True)
    (folder / TAR_NAME).write_bytes(evil)
    with pytest.raises(tarfile.FilterError):
        download.fetch(folder, [], hashlib.md5(evil).hexdigest())
    assert not (tmp_path / "outside").exists()
    assert not (folder / "VOCdevkit").exists()


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
