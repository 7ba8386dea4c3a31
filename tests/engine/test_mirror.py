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


def states(folder):
    """Time and bytes of the files that are mirrored."""
    paths = (path for path in folder.iterdir() if path.suffix in mirror.SUFFIXES)
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}


def test_a_finished_training_is_mirrored_with_its_weights(devkit, tmp_path):
    options = {"evaluate": lambda model, iteration: {"mask_AP50": iteration}, "eval_every": 2}
    here, drive = tmp_path / "here", tmp_path / "drive"
    run(NoisyModel(), devkit, here, **options, iterations=4)
    shutil.copytree(here, drive)
    (drive / "best.pt").unlink()
    write_json(drive / "metrics.json", {"old": 1})
    write_json(here / "metrics.json", {"new": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = Session(mirror=drive)
        run(NoisyModel(), devkit, here, **options, iterations=4, session=session)
    here, drive = states(here), states(drive)
    del here["previous.pt"], drive["previous.pt"]
    assert here == drive


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_mirror_that_is_unmounted_is_noticed_and_compared_when_it_is_back(is_folder, tmp_path):
    folder, drive, away = tmp_path / "run", tmp_path / "drive", tmp_path / "away"
    folder.mkdir()
    with mirror.mirrored(folder, drive) as update:
        for k in range(5):
            for name in ("best.pt", "last.pt"):
                save_checkpoint(folder / name, {"k": k}, folder / "previous.pt")
            if k == 1:
                drive.rename(away)
                if is_folder:  # an empty mount point
                    drive.mkdir()
            update()
            wait()
            if k in (1, 2):
                assert not drive.exists() or not [*drive.iterdir()]
                with pytest.warns(UserWarning, match=r"drive.*mounted"):
                    update()
                wait()
            if k == 2:
                shutil.rmtree(drive, ignore_errors=True)
                away.rename(drive)
                with pytest.warns(UserWarning, match="mounted"):  # of the copy before
                    update()
                wait()
                assert load_checkpoint(drive / "best.pt") == {"k": 2}
            if k == 3:  # it is back as it was earlier
                save_checkpoint(drive / "best.pt", {"k": 0})
    assert [load_checkpoint(drive / name)["k"] for name in ("best.pt", "last.pt")] == [4, 4]


@pytest.mark.parametrize("linked", ["drive", "drive/runs", "run"])
def test_a_mirror_that_is_the_run_folder_by_a_link_is_refused(linked, devkit, tmp_path):
    folder, link = tmp_path / "results" / "runs" / "model", tmp_path / linked
    folder.mkdir(parents=True)
    link.parent.mkdir(exist_ok=True)
    targets = {"drive": "results", "drive/runs": "results/runs", "run": "results/runs/model"}
    link.symlink_to(tmp_path / targets[linked])
    session = Session(mirror=tmp_path / ("run" if linked == "run" else "drive/runs/model"))
    with pytest.raises(ValueError, match="mirror"):
        run(NoisyModel(), devkit, folder, session=session)
    assert not [*folder.iterdir()]


def test_another_training_where_the_mirror_was_is_left_alone(tmp_path):
    folder, drive, away = tmp_path / "run", tmp_path / "drive", tmp_path / "away"
    write_json(folder / "config.json", {"seed": 0})

    def replace_mirror():
        with mirror.mirrored(folder, drive) as update:
            update()
            wait()
            drive.rename(away)
            write_json(drive / "config.json", {"seed": 1})
            write_json(folder / "metrics.json", {})

    with pytest.warns(UserWarning, match="another training"):
        replace_mirror()
    assert {name: content for name, (_, content) in states(drive).items()} == {
        "config.json": b'{"seed": 1}'
    }
