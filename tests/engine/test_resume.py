"""Damaged and foreign files, full disks, changed configs; mirrors to resume from."""

import errno
import json
import shutil

import pytest
import torch

from tests.helpers.trainings import NoisyModel, Stopped, log_of, run, weights
from vocseg_lib.engine import resume as resume_module
from vocseg_lib.engine import train_state
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.engine.resume import MIRROR_TRIES, ChangedConfig
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


def damage_checkpoint(path, damage):
    content = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":  # one bit of one weight
        start = content.index(load_checkpoint(path)["model"]["layer.weight"].numpy().tobytes())
        path.write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
    elif damage == "foreign":
        torch.save({"model": {}}, path)
    elif damage == "of another kind":
        save_checkpoint(path, {"config": {}, "model": {}, "iteration": 4, "mask_AP50": 1.0})
    else:
        path.write_bytes({"empty": b"", "text": b"not a checkpoint"}[damage])


@pytest.mark.parametrize(
    "damage", ["cut off", "flipped", "foreign", "of another kind", "empty", "text"]
)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(damage, whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    damage_checkpoint(tmp_path / "last.pt", damage)
    with pytest.warns(UserWarning, match=r"last\.pt.*unusable"):
        _, state = run(NoisyModel(), devkit, tmp_path)
    assert state["iteration"] == 6
    assert read_sessions(tmp_path / "run.json")[-1]["from_iteration"] == 2
    assert_equal(tmp_path, whole)
    assert (tmp_path / "last.pt.unusable").is_file()


def test_without_any_usable_checkpoint_nothing_is_overwritten(devkit, tmp_path):
    to_four(devkit, tmp_path)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"last\.pt.*previous\.pt"):
            run(NoisyModel(), devkit, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("last.pt", "previous.pt")] == [b"torn"] * 2


def test_a_full_disk_loses_nothing(whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    (tmp_path / "last.pt.writing").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        run(NoisyModel(), devkit, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "last.pt")
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 4
    assert not list(tmp_path.glob("*.writing"))
    run(NoisyModel(), devkit, tmp_path)
    assert_equal(tmp_path, whole)


@pytest.mark.parametrize("what", ["train", "run_config"])
def test_another_config_is_refused_naming_the_fields(what, devkit, tmp_path):
    options = {"learning_rate": 1e-3, "run_config": {"recipe": {"name": "a", "sizes": [1, 2]}}}
    to_four(devkit, tmp_path, **options)
    if what == "train":
        options["learning_rate"], field = 2e-3, "train.learning_rate: 0.001 there, 0.002 now"
    else:
        options["run_config"] = {"recipe": {"name": "b", "sizes": [1, 2]}}
        field = "recipe.name: 'a' there, 'b' now"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ChangedConfig, match=field) as caught:
        run(NoisyModel(), devkit, tmp_path, **options)
    assert "sizes" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    for content in ("", "[]"):  # the checkpoints have it, too
        (tmp_path / "config.json").write_text(content)
        with (
            pytest.warns(UserWarning, match=r"config\.json"),
            pytest.raises(ChangedConfig, match=field),
        ):
            run(NoisyModel(), devkit, tmp_path, **options)


def test_a_damaged_config_is_written_again(whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.warns(UserWarning, match=r"config\.json"):
        run(NoisyModel(), devkit, tmp_path)
    assert_equal(tmp_path, whole)
    assert (tmp_path / "config.json").read_bytes() == (whole / "config.json").read_bytes()


def evaluate_by_one(model, iteration):
    return {"mask_AP50": 1.0}


@pytest.mark.parametrize("damage", ["text", "of another kind", "of another training"])
def test_lost_best_weights_are_replaced(damage, devkit, tmp_path):
    options = {"evaluate": evaluate_by_one, "eval_every": 2}
    run(NoisyModel(), devkit, tmp_path / "run", **options)
    best = tmp_path / "run" / "best.pt"
    if damage == "of another training":
        run(NoisyModel(), devkit, tmp_path / "other", **options, seed=9)
        shutil.copy(tmp_path / "other" / "best.pt", best)
    elif damage == "of another kind":
        shutil.copy(tmp_path / "run" / "last.pt", best)
    else:
        best.write_text("torn")
    with pytest.warns(UserWarning, match=r"best\.pt"):
        _, state = run(NoisyModel(), devkit, tmp_path / "run", **options)
    content = load_checkpoint(best)
    assert state["best"]["iteration"] == content["iteration"] == 6
    assert content["config"] == json.loads((tmp_path / "run" / "config.json").read_text())


def test_a_mirror_cut_off_before_its_best_weights_came(devkit, tmp_path):
    """Its `last.pt` has the metrics of better weights than those in its `best.pt`."""

    def evaluate_rising(model, iteration):
        return {"mask_AP50": float(iteration) if iteration < 6 else 3.0}

    for folder, stop_after in (("early", 2), ("late", 4)):
        options = {"eval_every": 2, "stop_after": stop_after}
        with pytest.raises(Stopped):
            run(NoisyModel(), devkit, tmp_path / folder, evaluate_rising, **options)
    (tmp_path / "early" / "best.pt").replace(tmp_path / "late" / "best.pt")
    _, state = run(NoisyModel(), devkit, tmp_path / "late", evaluate_rising, eval_every=2)
    saved = load_checkpoint(tmp_path / "late" / "best.pt")["iteration"]
    assert state["best"]["iteration"] == saved == 6


def test_a_training_resumes_from_its_mirror(whole, devkit, tmp_path):
    here, drive = tmp_path / "here", tmp_path / "drive" / "run"
    session = Session(mirror=drive)
    to_four(devkit, here, session=session)
    shutil.rmtree(here)
    run(NoisyModel(), devkit, here, session=session)
    assert_equal(here, whole)
    assert_equal(drive, whole)
    assert read_sessions(here / "run.json")[-1]["from_iteration"] == 4
    for name in ("last.pt", "previous.pt"):  # unusable here, but not there
        (here / name).write_bytes(b"torn")
    with pytest.warns(UserWarning, match="drive"):
        run(NoisyModel(), devkit, here, session=session)
    assert weights(here) == weights(whole)
    with pytest.raises(ChangedConfig, match=r"drive(?s:.*)train\.seed"):
        run(NoisyModel(), devkit, tmp_path / "new", session=session, seed=1)


def test_a_mirror_inside_the_run_folder_is_refused(devkit, tmp_path):
    for inside in (tmp_path, tmp_path / "a" / "b", tmp_path / "c" / ".."):
        with pytest.raises(ValueError, match="mirror"):
            run(NoisyModel(), devkit, tmp_path, session=Session(mirror=inside))


@pytest.mark.parametrize("what", ["damaged", "read errors", "away at the start"])
def test_what_a_mirror_has_of_a_training_not_resumed_is_kept(
    what, whole, devkit, tmp_path, monkeypatch
):
    here, drive = tmp_path / "here", tmp_path / "drive"
    session = Session(mirror=drive)
    to_four(devkit, here, session=session)
    before = weights(drive)
    shutil.rmtree(here)
    monkeypatch.setattr(resume_module, "MIRROR_PAUSE_SECONDS", 0.0)
    if what == "damaged":
        for name in ("config.json", "last.pt", "previous.pt"):
            (drive / name).write_text("{")
    elif what == "read errors":
        reads, load = [], resume_module.load_checkpoint

        def failing(path, *required):
            if path.is_relative_to(drive) and len(reads) < MIRROR_TRIES:
                reads.append(path)
                raise OSError(errno.EIO, "Input/output error", str(path))
            return load(path, *required)

        monkeypatch.setattr(resume_module, "load_checkpoint", failing)
    else:
        away, save = drive.rename(tmp_path / "away"), train_state.TrainState.save

        def save_and_come_back(state):
            if away.exists():
                away.rename(drive)
            save(state)

        monkeypatch.setattr(train_state.TrainState, "save", save_and_come_back)
    with pytest.warns(UserWarning, match="kept"), pytest.raises(Stopped):
        run(NoisyModel(), devkit, here, session=session, stop_after=2)
    assert load_checkpoint(drive / "last.pt")["iteration"] == 2
    (kept,) = (drive / "kept").iterdir()
    names = {"config.json", "last.pt", "log.jsonl"}
    assert names <= {path.name for path in kept.iterdir()}
    if what == "damaged":
        return
    assert weights(kept) == before
    for path in kept.iterdir():  # it can be resumed
        path.replace(drive / path.name)
    shutil.rmtree(here)
    run(NoisyModel(), devkit, here, session=session)
    assert_equal(here, whole)
    assert not (here / "kept").exists()
