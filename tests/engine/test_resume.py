"""Damaged and foreign files, full disks, changed configs; mirrors to resume from."""

import errno
import os
import resource
import shutil

import pytest
import torch

from tests.helpers.trainings import NoisyModel, Stopped, log_of, run, weights
from vocseg_lib.engine import resume as resume_module
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.engine.resume import MIRROR_TRIES, ChangedConfig, check_config
from vocseg_lib.engine.run_folder import read_sessions
from vocseg_lib.engine.train import Session


@pytest.fixture(scope="module")
def whole(devkit, tmp_path_factory):
    """A training of 6 iterations without a disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    run(NoisyModel(), devkit, folder)
    return folder


def to_four(devkit, folder, **options):
    """A training that was stopped after iteration 4: there are checkpoints of 4 and 2."""
    with pytest.raises(Stopped):
        run(NoisyModel(), devkit, folder, stop_after=4, **options)
    saved = [load_checkpoint(folder / name)["iteration"] for name in ("last.pt", "previous.pt")]
    assert saved == [4, 2]


def assert_equal(folder, whole):
    assert log_of(folder) == log_of(whole)
    assert weights(folder) == weights(whole)
    assert (folder / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def in_itself():
    values = []
    values.append(values)
    return values


def repeated(times=60):
    values = []
    for _ in range(times):
        values = [values, values]
    return values


def damage_checkpoint(path, damage):
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "changed":
        content = torch.load(path, weights_only=True)
        content["model"]["layer.weight"][0] += 1e-7
        torch.save(content, path)
    elif damage == "foreign":
        torch.save({"model": {}}, path)
    elif damage in ("in itself", "repeated"):
        content = torch.load(path, weights_only=True)
        content["best"] = in_itself() if damage == "in itself" else repeated()
        torch.save(content, path)
    elif damage == "of another kind":
        save_checkpoint(path, {"config": {}, "model": {}, "iteration": 4, "mask_AP50": 1.0})
    else:
        path.write_text(damage)


@pytest.mark.parametrize(
    "damage",
    [
        "cut off",
        "changed",
        "foreign",
        "of another kind",
        "in itself",
        "repeated",
        "",
        "no checkpoint",
    ],
)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(damage, whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    damage_checkpoint(tmp_path / "last.pt", damage)
    (tmp_path / "config.json").write_text("{")  # a checkpoint has it, too
    with pytest.warns(UserWarning, match=r"last\.pt.*unusable"):
        _, state = run(NoisyModel(), devkit, tmp_path)
    assert state["iteration"] == 6
    assert read_sessions(tmp_path / "run.json")[-1]["from_iteration"] == 2
    assert_equal(tmp_path, whole)
    assert (tmp_path / "last.pt.unusable").is_file()


def test_a_checkpoint_cut_at_any_length_is_replaced_by_the_one_before(devkit, tmp_path):
    to_four(devkit, tmp_path)
    path, aside = tmp_path / "last.pt", tmp_path / "last.pt.unusable"
    whole = path.read_bytes()
    config = load_checkpoint(path)["config"]
    for length in range(0, len(whole), len(whole) // 150):
        path.write_bytes(whole[:length])
        with pytest.warns(UserWarning, match=r"last\.pt"):
            assert resume_module.newest_checkpoint(tmp_path, config)["iteration"] == 2
        assert aside.read_bytes() == whole[:length]
        aside.unlink()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("iteration", -5), ("iteration", 10**9), ("seconds", "1"), ("bad_samples", [1])),
        *(("best", "x"), ("best", {}), ("best", {"iteration": 2, "mask_AP50": "x"}), ("config", 1)),
    ],
)
def test_a_checkpoint_with_odd_progress_is_replaced_by_the_one_before(key, value, devkit, tmp_path):
    to_four(devkit, tmp_path)
    config = load_checkpoint(tmp_path / "last.pt")["config"]
    content = load_checkpoint(tmp_path / "last.pt") | {key: value}
    save_checkpoint(tmp_path / "last.pt", content)
    with pytest.warns(UserWarning, match=r"last\.pt"):
        assert resume_module.newest_checkpoint(tmp_path, config)["iteration"] == 2


def test_a_log_that_is_a_pipe_is_refused(devkit, tmp_path):
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match=r"log\.jsonl"):
        run(NoisyModel(), devkit, tmp_path)


def test_without_any_usable_checkpoint_nothing_is_overwritten(devkit, tmp_path):
    to_four(devkit, tmp_path)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_text("torn")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"last\.pt.*previous\.pt"):
            run(NoisyModel(), devkit, tmp_path)
    assert [(tmp_path / name).read_text() for name in ("last.pt", "previous.pt")] == ["torn"] * 2


def test_a_full_disk_loses_nothing(whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # as on a full disk, for files of more bytes than the log's and the config's
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
        with pytest.raises(OSError) as caught:  # noqa: PT011
            run(NoisyModel(), devkit, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "last.pt"))
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 4
    assert not list(tmp_path.glob("*.writing"))
    run(NoisyModel(), devkit, tmp_path)
    assert_equal(tmp_path, whole)


@pytest.mark.parametrize("what", ["train", "run_config"])
def test_another_config_is_refused_naming_the_fields(what, devkit, tmp_path):
    options = {"learning_rate": 1e-3, "run_config": {"recipe": {"name": "a", "sizes": [1, 2]}}}
    options |= {"evaluate": lambda model, iteration: {"mask_AP50": 1.0}, "eval_every": 2}
    to_four(devkit, tmp_path, **options)
    if what == "train":
        options["learning_rate"], field = 2e-3, "train.learning_rate: 0.001 there, 0.002 now"
    else:
        options["run_config"] = {"recipe": {"name": "b", "sizes": [1, 2]}}
        field = "recipe.name: 'a' there, 'b' now"
    for names in (("last.pt", "previous.pt"), ()):  # the second time, `config.json` alone has it
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ChangedConfig, match=field) as caught:
            run(NoisyModel(), devkit, tmp_path, **options)
        assert "sizes" not in str(caught.value)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        for name in names:
            (tmp_path / name).unlink()
    (tmp_path / "config.json").unlink()  # weights without any config: there is nothing to compare
    check_config(tmp_path, {"train": {}})
    (tmp_path / "best.pt").unlink()  # now nothing would be lost
    assert run(NoisyModel(), devkit, tmp_path, **options)[1]["iteration"] == 6


def fail_reads(monkeypatch, folder, times):
    """Let the first reads of checkpoints of a folder fail, without pauses."""
    errors, load = [OSError(errno.EIO, "Input/output error")] * times, resume_module.load_checkpoint

    def failing(path, required):
        if path.is_relative_to(folder) and errors:
            raise errors.pop()
        return load(path, required)

    monkeypatch.setattr(resume_module, "load_checkpoint", failing)
    monkeypatch.setattr(resume_module, "MIRROR_PAUSE_SECONDS", 0.0)


def test_a_training_resumes_from_its_mirror(whole, devkit, tmp_path, monkeypatch):
    here, drive = tmp_path / "here", tmp_path / "drive" / "run"
    session = Session(mirror=drive)
    to_four(devkit, here, session=session)
    shutil.rmtree(here)
    fail_reads(monkeypatch, drive, MIRROR_TRIES - 1)
    run(NoisyModel(), devkit, here, session=session)
    assert_equal(here, whole)
    assert_equal(drive, whole)
    assert read_sessions(here / "run.json")[-1]["from_iteration"] == 4
    for name in ("last.pt", "previous.pt"):  # unusable here, but not there
        (here / name).write_text("torn")
    with pytest.warns(UserWarning, match="drive"):
        run(NoisyModel(), devkit, here, session=session)
    assert weights(here) == weights(whole)
    with pytest.raises(ChangedConfig, match=r"drive(?s:.*)train\.seed"):
        run(NoisyModel(), devkit, tmp_path / "new", session=session, seed=1)
    with pytest.raises(ValueError, match="mirror"):
        run(NoisyModel(), devkit, here, session=Session(mirror=here / "a" / ".."))


@pytest.mark.parametrize("what", ["damaged", "read errors", "away at the start"])
def test_what_a_mirror_has_of_a_training_not_resumed_is_kept(
    what, whole, devkit, tmp_path, monkeypatch
):
    here, drive, away = tmp_path / "here", tmp_path / "drive", tmp_path / "away"
    session = Session(mirror=drive)
    to_four(devkit, here, session=session)
    before, options = weights(drive), {}
    shutil.rmtree(here)
    fail_reads(monkeypatch, drive, MIRROR_TRIES if what == "read errors" else 0)
    if what == "damaged":
        for name in ("config.json", "last.pt", "previous.pt"):
            (drive / name).write_text("{")
    elif what == "away at the start":
        drive.rename(away)
        options = {"evaluate": lambda *_: away.rename(drive) and {"mask_AP50": 1.0}}
        options["eval_every"] = 2
    with pytest.warns(UserWarning, match="kept"), pytest.raises(Stopped):
        run(NoisyModel(), devkit, here, session=session, stop_after=2, **options)
    assert load_checkpoint(drive / "last.pt")["iteration"] == 2
    (kept,) = (drive / "kept").iterdir()
    assert {"config.json", "last.pt", "log.jsonl"} <= {path.name for path in kept.iterdir()}
    if what != "damaged":  # it can be resumed
        assert weights(kept) == before
        for path in kept.iterdir():
            path.replace(drive / path.name)
        shutil.rmtree(here)
        run(NoisyModel(), devkit, here, session=session)
        assert_equal(here, whole)
        assert not (here / "kept").exists()
