import shutil
import threading
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


def wait():
    """Until no copy is running."""
    for thread in threading.enumerate():
        if thread.name == "mirror":
            thread.join(20)


def test_a_mirror_that_comes_back_gets_everything(tmp_path):
    folder, blocked = tmp_path / "run", tmp_path / "drive"
    write_json(folder / "run.json", [1])
    blocked.write_text("not yet")
    with mirror.mirrored(folder, blocked / "run") as update:
        update()
        wait()
        with pytest.warns(UserWarning, match="drive"):
            update()
        wait()
        blocked.unlink()
        with pytest.warns(UserWarning, match="drive"):  # of the second
            update()
        wait()
        assert (blocked / "run" / "run.json").is_file()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
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


def test_what_changed_is_copied_and_the_last_checkpoint_last(tmp_path, monkeypatch):
    """So that a mirror can be resumed from at any moment; it keeps two checkpoints."""
    folder, target, copied = tmp_path / "run", tmp_path / "drive", {}
    names, copy = [], shutil.copyfile

    def noted(source, target):
        names.append(source.name)
        copy(source, target)

    monkeypatch.setattr(mirror.shutil, "copyfile", noted)
    for name in ("run.json", "log.jsonl"):
        write_json(folder / name, 1)
    for k in range(2):
        for name in ("best.pt", "last.pt"):
            save_checkpoint(folder / name, {"k": k}, folder / "previous.pt")
        mirror.copy_changed(folder, target, copied)
    assert sorted(names[:3]) == ["best.pt", "log.jsonl", "run.json"]
    assert names[3:] == ["last.pt", "best.pt", "last.pt"]
    assert [load_checkpoint(target / name)["k"] for name in ("last.pt", "previous.pt")] == [1, 0]
