import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from vocseg_lib.utils import files, json_values
from vocseg_lib.utils.files import atomic_write, project_root, resolve_path, to_jsonable, write_json


def test_a_notebook_in_a_checkout_shares_the_project_root(tmp_path, monkeypatch):
    """Jupyter starts kernels in the notebook's folder, make study in the checkout."""
    for folder in ("notebooks", "vocseg_lib", "elsewhere/notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    roots = {".": ".", "elsewhere/notebooks": "elsewhere/notebooks", "notebooks": "."}
    for folder, root in roots.items():
        monkeypatch.chdir(tmp_path / folder)
        assert project_root().resolve() == (tmp_path / root).resolve()
    # A path from here comes before one from the root.
    (tmp_path / "a.json").write_text("root")
    assert resolve_path("a.json").read_text() == "root"
    Path("a.json").write_text("here")
    assert resolve_path("a.json").read_text() == "here"
    assert resolve_path("missing") == Path("missing")


def test_json_has_no_nan_and_pythons_numbers():
    value = {1: np.float64(1.23456), "b": [np.nan, np.int64(3), "text", (True,)]}
    assert to_jsonable(value) == {"1": 1.23456, "b": [None, 3, "text", [True]]}
    json.dumps(to_jsonable(value), allow_nan=False)
    assert to_jsonable(value, digits=2)["1"] == 1.23


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))

    def write_to_full_disk():
        with atomic_write(tmp_path / "a.json") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("2")

    with pytest.raises(OSError, match=r"a\.json") as caught:
        write_to_full_disk()
    assert caught.value.errno == errno.ENOSPC
    assert [path.read_text() for path in tmp_path.iterdir()] == ["1"]


def test_files_are_on_the_disk_before_they_are_renamed(tmp_path, monkeypatch):
    done, replace = [], Path.replace

    def fsync(descriptor):
        done.append("file" if stat.S_ISREG(os.fstat(descriptor).st_mode) else "folder")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append("renamed"), replace(a, b))[1])
    write_json(tmp_path / "a.json", 1)
    assert done == ["file", "renamed", "folder"]


VALUES = ['text " \\ ] } , é', -1.5e3, 12345, None, True, [], {}, [[1, 2], {"a": "]"}]]
VALUES.append({"size": [3, 4]})
WHOLE = [VALUES, {"header": {"a": VALUES}, "detections": VALUES, "more": []}, [], {}, 7, "text"]


@pytest.mark.parametrize("content", WHOLE)
@pytest.mark.parametrize("chunk", [1, 3, 1_000])
def test_streamed_json_equals_the_whole(content, chunk, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    monkeypatch.setattr(files, "STREAMED_BYTES", 0)
    monkeypatch.setattr(json_values, "CHUNK_CHARACTERS", chunk)
    for indent in (None, 1):
        text = json.dumps(content, indent=indent)
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            path.write_text(text, encoding=encoding)
            assert files.read_json(path, ["size"]) == content
        cuts = range(1, len(text)) if isinstance(content, list | dict) else ()
        for damaged in [*(text[:k] for k in cuts), "", f"{text} 1", text.replace(",", ",,", 1)]:
            path.write_text(damaged)
            try:
                expected = json.loads(damaged)
            except ValueError:
                with pytest.raises(ValueError, match=r"a\.json is not JSON"):
                    files.read_json(path, ["size"])
            else:
                assert files.read_json(path, ["size"]) == expected


@pytest.mark.parametrize("streamed_bytes", [0, 1 << 26])
def test_gzipped_json_is_read(streamed_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "STREAMED_BYTES", streamed_bytes)
    path = tmp_path / "a.json.gz"
    write_json(path, WHOLE)
    whole = path.read_bytes()
    assert files.read_json(path, ["size"]) == files.read_json(path) == WHOLE
    write_json(path, WHOLE)
    assert path.read_bytes() == whole  # no time in it
    for damaged in (whole[:2], whole[:20], whole[:-9], whole[:30] + b"xyz" + whole[33:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.json\.gz is not JSON"):
            files.read_json(path, ["size"])
