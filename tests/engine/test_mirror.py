import shutil
import threading
import time
import warnings

import pytest

from tests.helpers.trainings import NoisyModel, log_of, run, weights
from vocseg_lib.engine import mirror
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.engine.train import Session
from vocseg_lib.utils.files import read_json, write_json


def test_a_mirror_that_cannot_be_written_ends_no_training(devkit, tmp_path):
    run(NoisyModel(), devkit, tmp_path / "without")
    (tmp_path / "file").write_text("where the mirror should be")
    session = Session(mirror=tmp_path / "file" / "run")
    with pytest.warns(UserWarning, match="file"):
        run(NoisyModel(), devkit, tmp_path / "run", session=session)
    assert log_of(tmp_path / "run") == log_of(tmp_path / "without")
    assert weights(tmp_path / "run") == weights(tmp_path / "without")


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_mirror_that_comes_back_gets_everything(tmp_path, monkeypatch):
    folder, blocked, attempts = tmp_path / "run", tmp_path / "drive", []
    copy = mirror.copy_changed

    def counted(*arguments):
        try:
            copy(*arguments)
        finally:
            attempts.append(1)

    monkeypatch.setattr(mirror, "copy_changed", counted)
    write_json(folder / "run.json", [1])
    blocked.write_text("not yet")
    with mirror.mirrored(folder, blocked / "run") as update:
        update()
        until(lambda: attempts)
        with pytest.warns(UserWarning, match="drive"):
            until(lambda: update() or len(attempts) > 1)
        blocked.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            until(lambda: update() or (blocked / "run" / "run.json").is_file())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with mirror.mirrored(folder, blocked / "run") as update:
            update()


def test_a_slow_mirror_does_not_hold_up_the_training(tmp_path, monkeypatch):
    started, released, copy = [], threading.Event(), mirror.copy_changed

    def wait(*arguments):
        started.append(1)
        assert released.wait(20)
        copy(*arguments)

    monkeypatch.setattr(mirror, "copy_changed", wait)
    with mirror.mirrored(tmp_path / "run", tmp_path / "drive") as update:
        for k in range(5):
            write_json(tmp_path / "run" / "run.json", k)
            update()
        released.set()
    assert read_json(tmp_path / "drive" / "run.json") == 4
    assert len(started) <= 3  # what changed meanwhile is copied once


def test_a_mirror_keeps_two_checkpoints_and_copies_what_changed(tmp_path):
    folder, target, copied = tmp_path / "run", tmp_path / "drive", {}
    write_json(folder / "run.json", 1)
    stamps = []
    for k in range(2):
        save_checkpoint(folder / "last.pt", {"k": k})
        mirror.copy_changed(folder, target, copied)
        stamps.append((target / "run.json").stat().st_mtime_ns)
    assert [load_checkpoint(target / name)["k"] for name in ("last.pt", "previous.pt")] == [1, 0]
    assert stamps[0] == stamps[1]


def test_the_last_checkpoint_is_copied_last(tmp_path, monkeypatch):
    """So that a mirror can be resumed from at any moment."""
    for name in ("run.json", "best.pt", "last.pt", "log.jsonl"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("1")
    names, copy = [], shutil.copyfile

    def noted(source, target):
        names.append(source.name)
        copy(source, target)

    monkeypatch.setattr(mirror.shutil, "copyfile", noted)
    mirror.copy_changed(tmp_path / "run", tmp_path / "drive", {})
    assert len(names) == 4
    assert names[-1] == "last.pt"
