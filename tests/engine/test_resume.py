"""The run folder: torn and foreign files, full disks, changed recipes, mirrors that fail."""

import errno
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from tests.helpers.models import small
from tests.helpers.trainings import ignoring_time, run
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine import mirror, train_state
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint, save_checkpoint
from vocseg_lib.engine.resume import MIRROR_TRIES, ChangedConfig
from vocseg_lib.engine.run_folder import RunningElsewhere, read_log, run_lock
from vocseg_lib.engine.train import train
from vocseg_lib.utils.files import write_json


def log_of(folder):
    return ignoring_time(read_log(folder / "log.jsonl"))


def weights(folder):
    return checksum(load_checkpoint(folder / "last.pt")["model"])


@pytest.fixture(scope="module")
def whole(devkit, tmp_path_factory):
    """A training of 6 iterations that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run("yolact", devkit, folder, settings={"seed": 0})
    return folder


def to_four(devkit, folder, **options):
    """Trained to iteration 4: checkpoints of 4 and 2 are there."""
    run("yolact", devkit, folder, iterations=4, settings={"seed": 0}, **options)
    assert [load_checkpoint(folder / name)["iteration"] for name in ("last.pt", "previous.pt")] == [
        4,
        2,
    ]


def test_a_checkpoint_has_its_checksum_and_recipe(whole, tmp_path):
    raw = torch.load(whole / "last.pt", weights_only=True)
    assert raw["settings"] == {"seed": 0}
    assert len(raw["checksum"]) == 64
    path = tmp_path / "last.pt"
    raw["model"]["head.box.0.bias"][0] += 1e-7
    torch.save(raw, path)
    with pytest.raises(ValueError, match=r"last\.pt is damaged: it does not have the checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "damage", ["cut off", "flipped", "empty", "text", "foreign", "of another training"]
)
def test_an_unusable_checkpoint_is_skipped_for_the_one_before(damage, whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    last = tmp_path / "last.pt"
    content = last.read_bytes()
    if damage == "cut off":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":  # one bit of one weight
        place = content.index(
            load_checkpoint(last)["model"]["head.box.0.weight"]
            .permute(0, 2, 3, 1)
            .numpy()
            .tobytes()
        )
        last.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "text":
        last.write_text("not a checkpoint")
    elif damage == "foreign":
        torch.save({"model": {}}, last)
    else:
        save_checkpoint(last, {**load_checkpoint(last), "settings": {"seed": 7}})
    with pytest.warns(UserWarning, match=r"last\.pt .*It is skipped"):
        _, state = run("yolact", devkit, tmp_path, settings={"seed": 0})
    assert state["iteration"] == 6
    assert json.loads((tmp_path / "run.json").read_text())["calls"][-1]["from_iteration"] == 2
    assert log_of(tmp_path) == log_of(whole)
    assert weights(tmp_path) == weights(whole)
    assert (tmp_path / "last.pt.unusable").is_file()


def test_without_any_usable_checkpoint_nothing_is_thrown_away(devkit, tmp_path):
    to_four(devkit, tmp_path)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(
            ValueError,
            match=r"last\.pt is damaged.*previous\.pt is damaged.*delete .* to train anew",
        ):
            run("yolact", devkit, tmp_path, settings={"seed": 0})
    (tmp_path / "recipe.json").write_text("{")
    with (
        pytest.warns(UserWarning, match=r"recipe\.json is not JSON"),
        pytest.raises(ValueError, match=r"last\.pt is damaged"),
    ):
        run("yolact", devkit, tmp_path, settings={"seed": 0})


def test_lost_best_weights_are_found_again(devkit, tmp_path):
    options = {
        "settings": {"seed": 0},
        "score": lambda model, iteration: {"mask_AP50": 1.0},
        "eval_every": 2,
    }
    run("yolact", devkit, tmp_path, **options)
    (tmp_path / "best.pt").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="best weights are lost"):
        _, state = run("yolact", devkit, tmp_path, **options)
    assert state["best"]["iteration"] == load_checkpoint(tmp_path / "best.pt")["iteration"] == 6


def test_a_full_disk_loses_nothing(whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    (tmp_path / "last.pt.writing").symlink_to("/dev/full")
    with pytest.raises(
        OSError,
        match=r"cannot write .*last\.pt: .*No space left on device.*make room, then run again",
    ):
        run("yolact", devkit, tmp_path, settings={"seed": 0})
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 4
    assert not list(tmp_path.glob("*.writing"))
    run("yolact", devkit, tmp_path, settings={"seed": 0})
    assert log_of(tmp_path) == log_of(whole)
    assert weights(tmp_path) == weights(whole)


def test_a_file_that_may_not_grow_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"x": torch.zeros(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot write"):
            save_checkpoint(path, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(load_checkpoint(path)["x"]) == 10
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_changed_recipe_is_named_and_needs_a_yes(devkit, tmp_path):
    run("yolact", devkit, tmp_path, iterations=4, settings={"learning_rate": 1, "seed": 0})
    with pytest.raises(ChangedConfig, match="learning_rate: 1 there, 2 now") as caught:
        run("yolact", devkit, tmp_path, settings={"learning_rate": 2, "seed": 0})
    assert "seed" not in str(caught.value)
    assert "accept_changes" in str(caught.value)
    changed = {"settings": {"learning_rate": 2, "seed": 0}}
    _, state = run("yolact", devkit, tmp_path, max_hours=1e-9, accept_changes=True, **changed)
    assert state["iteration"] == 5
    assert json.loads((tmp_path / "recipe.json").read_text()) == changed["settings"]
    (tmp_path / "last.pt").write_bytes(
        b"torn"
    )  # the one before it can be used with the new recipe, too
    with pytest.warns(UserWarning, match="skipped"):
        run("yolact", devkit, tmp_path, **changed)


def test_a_mirror_has_all_that_it_takes_to_go_on_elsewhere(whole, devkit, tmp_path):
    here, drive = tmp_path / "here", tmp_path / "drive" / "run"
    to_four(devkit, here, mirror=drive)
    shutil.rmtree(here)
    run("yolact", devkit, here, settings={"seed": 0}, mirror=drive)
    assert log_of(here) == log_of(whole) == log_of(drive)
    assert weights(here) == weights(whole) == weights(drive)
    assert json.loads((here / "run.json").read_text())["calls"][-1]["from_iteration"] == 4
    for name in ("last.pt", "previous.pt"):  # nothing here can be used, but there
        (here / name).write_bytes(b"torn")
    with pytest.warns(UserWarning, match=f"The one in {drive} is used"):
        run("yolact", devkit, here, settings={"seed": 0}, mirror=drive)
    assert weights(here) == weights(whole)
    with pytest.raises(ChangedConfig, match="drive"):
        run("yolact", devkit, tmp_path / "new", settings={"seed": 1}, mirror=drive)


def test_a_mirror_that_cannot_be_written_warns_and_stops_nothing(whole, devkit, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("where the mirror should be")
    with pytest.warns(UserWarning, match="cannot mirror to .*Training goes on; it is tried again"):
        run("yolact", devkit, tmp_path / "run", settings={"seed": 0}, mirror=blocked / "run")
    assert weights(tmp_path / "run") == weights(whole)


def test_a_read_only_mirror(whole, devkit, tmp_path):
    folder = tmp_path / "read only"
    folder.mkdir()
    folder.chmod(0o500)
    target = (
        folder / "run" if os.access(folder, os.W_OK) is False else "/proc/sys/run"
    )  # root may write anywhere but there
    with pytest.warns(UserWarning, match="cannot mirror to"):
        run("yolact", devkit, tmp_path / "run", settings={"seed": 0}, mirror=target)
    assert weights(tmp_path / "run") == weights(whole)


def test_a_run_folder_is_no_mirror_of_itself(devkit, tmp_path):
    with pytest.raises(ValueError, match="itself: choose another folder"):
        run("yolact", devkit, tmp_path, mirror=tmp_path / "." / "x" / "..")


def test_a_mirror_cut_off_before_its_best_weights_came(devkit, tmp_path):
    """Its last.pt knows of better weights than its best.pt holds: those are the best there are."""
    scores = iter([1.0, 3.0, 2.0, 2.5])
    options = {"eval_every": 2, "score": lambda model, iteration: {"mask_AP50": next(scores)}}
    run("yolact", devkit, tmp_path / "early", iterations=2, settings={"seed": 0}, **options)
    run(
        "yolact",
        devkit,
        tmp_path / "late",
        iterations=4,
        settings={"seed": 0},
        eval_every=4,
        score=options["score"],
    )
    (tmp_path / "early" / "best.pt").replace(tmp_path / "late" / "best.pt")
    with pytest.warns(UserWarning, match=r"best\.pt is not yet that of iteration 4"):
        _, state = run("yolact", devkit, tmp_path / "late", settings={"seed": 0}, **options)
    assert (
        state["best"]["iteration"]
        == load_checkpoint(tmp_path / "late" / "best.pt")["iteration"]
        == 6
    )


def test_a_folder_is_trained_in_by_one_process_at_a_time(devkit, tmp_path):
    script = "import pathlib, sys; from vocseg_lib.runs import held; sys.stdout.reconfigureline_buffering=True\n"
    script += f"with held(pathlib.Path({str(tmp_path)!r})): print('held'); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RunningElsewhere, match=rf"process {other.pid} is training in"):
        run("yolact", devkit, tmp_path, iterations=1)
    assert [path.name for path in tmp_path.iterdir()] == ["running"]
    other.kill()
    other.wait()
    with run_lock(tmp_path):
        assert (tmp_path / "running").is_file()
    assert not list(tmp_path.iterdir())


def test_a_mirror_that_comes_back_gets_everything(tmp_path):
    folder, blocked = tmp_path / "run", tmp_path / "drive"
    write_json(folder / "run.json", [1])
    blocked.write_text("not yet")
    copy = mirror.Mirror(folder, blocked / "run", retry_seconds=0.05)
    copy.update()
    until(lambda: copy._notes.qsize() > 1)  # it tries again by itself
    blocked.unlink()
    until((blocked / "run" / "run.json").is_file)
    with pytest.warns(UserWarning, match="cannot mirror"):
        copy.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.report()


def test_a_slow_mirror_does_not_hold_up_the_training(tmp_path, monkeypatch):
    started, slow = [], mirror.copy_changed

    def crawl(*arguments):
        started.append(time.monotonic())
        time.sleep(1.0)
        slow(*arguments)

    monkeypatch.setattr(mirror, "copy_changed", crawl)
    (tmp_path / "run").mkdir()
    with mirror.mirrored(tmp_path / "run", tmp_path / "drive") as update:
        begun = time.monotonic()
        for k in range(5):
            write_json(tmp_path / "run" / "run.json", k)
            update()
        assert time.monotonic() - begun < 0.5
    assert json.loads((tmp_path / "drive" / "run.json").read_text()) == 4
    assert len(started) <= 3  # what came meanwhile is copied once


def test_a_mirror_keeps_two_checkpoints_and_copies_only_what_changed(tmp_path):
    folder, target, copied = tmp_path / "run", tmp_path / "drive", {}
    write_json(folder / "run.json", 1)
    save_checkpoint(folder / "left_out" / "000001.pt", {"k": 7})
    for k in range(2):
        save_checkpoint(folder / "last.pt", {"k": k})
        mirror.copy_changed(folder, target, copied)
        stamp = stamp if k else (target / "run.json").stat().st_mtime_ns
    assert [load_checkpoint(target / name)["k"] for name in ("last.pt", "previous.pt")] == [1, 0]
    assert (target / "run.json").stat().st_mtime_ns == stamp
    assert load_checkpoint(target / "left_out" / "000001.pt") == {"k": 7}


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_disk_without_any_room_is_named(tmp_path):
    (tmp_path / "a.json.writing").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json'"):
        write_json(tmp_path / "a.json", 1)


def test_replacing_leaves_nothing_behind_when_it_fails(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a", float("nan"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["torn recipe", "read errors", "away at the start"])
def test_a_mirror_that_was_not_resumed_from_is_kept(what, whole, devkit, tmp_path, monkeypatch):
    here, drive = tmp_path / "here", tmp_path / "drive"
    to_four(devkit, here, mirror=drive)
    before = weights(drive)
    shutil.rmtree(here)
    monkeypatch.setattr("vocseg_lib.engine.run_folder.MIRROR_PAUSE_SECONDS", 0.0)
    if what == "torn recipe":
        for name in ("recipe.json", "last.pt", "previous.pt"):
            (drive / name).write_text("{")
        before = None
    elif what == "read errors":
        reads, real = [], torch.load

        def failing(file, *args, **options):
            if str(drive) in str(file.name) and len(reads) < MIRROR_TRIES:
                reads.append(file.name)
                raise OSError(errno.EIO, "Input/output error", file.name)
            return real(file, *args, **options)

        monkeypatch.setattr(torch, "load", failing)
    else:
        away = drive.rename(tmp_path / "away")
        back = train_state.TrainingState.save

        def save(state):
            if away.exists():
                away.rename(drive)
            back(state)

        monkeypatch.setattr(train_state.TrainingState, "save", save)
    with pytest.warns(UserWarning, match="kept in"):
        run("yolact", devkit, here, iterations=2, settings={"seed": 0}, mirror=drive)
    assert load_checkpoint(drive / "last.pt")["iteration"] == 2
    (kept,) = (drive / "kept").iterdir()
    assert {"recipe.json", "last.pt", "previous.pt", "log.jsonl"} <= {
        path.name for path in kept.iterdir()
    }
    if before:
        assert weights(kept) == before
        for path in kept.iterdir():  # as the warning says, it can be gone on from
            path.replace(drive / path.name)
        shutil.rmtree(here)
        run("yolact", devkit, here, settings={"seed": 0}, mirror=drive)
        assert weights(here) == weights(whole)
        assert not (here / "kept").exists()


def test_a_torn_recipe_is_taken_from_the_checkpoint(whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    for content in ("", "[]"):
        (tmp_path / "recipe.json").write_text(content)
        with pytest.warns(
            UserWarning, match=r"recipe\.json.*The settings in the checkpoints are used"
        ):
            with pytest.raises(ChangedConfig, match="seed: 0 there, 1 now"):
                run("yolact", devkit, tmp_path, settings={"seed": 1})
    with pytest.warns(UserWarning, match=r"recipe\.json"):
        run("yolact", devkit, tmp_path, settings={"seed": 0})
    assert weights(tmp_path) == weights(whole)
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"seed": 0}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"calls": [3]}'])
def test_a_damaged_record_of_calls_stops_nothing(content, whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    (tmp_path / "run.json").write_text(content)
    with pytest.warns(UserWarning, match=r"run\.json.*kept as run\.json\.unusable"):
        run("yolact", devkit, tmp_path, settings={"seed": 0})
    assert len(json.loads((tmp_path / "run.json").read_text())["calls"]) == 1
    assert weights(tmp_path) == weights(whole)


def test_damaged_lines_of_a_log_cost_no_others(whole, tmp_path):
    lines = (whole / "log.jsonl").read_bytes().splitlines()
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b"\n".join([lines[0], lines[1][:9], b"\xff\x00", b"[3]", *lines[2:], lines[0][:7]])
    )
    with pytest.warns(
        UserWarning, match="3 lines cannot be read and are left out, the first is line 2"
    ):
        entries = read_log(path)
    assert entries == [json.loads(line) for line in [lines[0], *lines[2:]]]


def test_a_foreign_best_is_not_used(devkit, tmp_path):
    options = {"eval_every": 2, "score": lambda model, iteration: {"mask_AP50": 1.0}}
    run("yolact", devkit, tmp_path / "other", iterations=4, settings={"seed": 9}, **options)
    for source in (tmp_path / "other" / "best.pt", tmp_path / "other" / "last.pt"):
        run("yolact", devkit, tmp_path / source.stem, iterations=4, settings={"seed": 0}, **options)
        shutil.copy(source, tmp_path / source.stem / "best.pt")
        with pytest.warns(
            UserWarning, match="best weights are lost.*(of another training|not that kind)"
        ):
            run("yolact", devkit, tmp_path / source.stem, settings={"seed": 0}, **options)
        assert load_checkpoint(tmp_path / source.stem / "best.pt")["settings"] == {"seed": 0}
    shutil.copy(tmp_path / "best" / "best.pt", tmp_path / "best" / "last.pt")
    with pytest.warns(
        UserWarning, match=r"last\.pt is not that kind of checkpoint: it has no optimizer"
    ):
        run("yolact", devkit, tmp_path / "best", iterations=6, settings={"seed": 0}, **options)


def test_accepted_changes_take_effect_and_are_remembered(devkit, tmp_path):
    def optimizer(folder):
        (group,) = load_checkpoint(folder / "last.pt")["optimizer"]["param_groups"]
        return group

    to_four(devkit, tmp_path, optimizer="sgd", weight_decay=0.1, momentum=0.5)
    changed = {"weight_decay": 0.3, "momentum": 0.7}
    run(
        "yolact",
        devkit,
        tmp_path,
        settings={"seed": 0, **changed},
        accept_changes=True,
        optimizer="sgd",
        **changed,
    )
    assert (optimizer(tmp_path)["weight_decay"], optimizer(tmp_path)["momentum"]) == (0.3, 0.7)
    assert earlier_recipes(tmp_path) == [{"until": 4, "settings": {"seed": 0}}]
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"seed": 0, **changed}
    other = {"optimizer": "adamw"}
    with pytest.warns(
        UserWarning,
        match="the optimizer starts without memory: it changed with momentum, optimizer, weight_decay",
    ):
        run(
            "yolact",
            devkit,
            tmp_path,
            iterations=7,
            settings={"seed": 0, **other},
            accept_changes=True,
            **other,
        )
    settings = {"seed": 0, "batch_norm": "frozen", **other}
    with pytest.warns(UserWarning, match="the optimizer starts without memory"):
        run(
            "yolact",
            devkit,
            tmp_path,
            iterations=8,
            settings=settings,
            accept_changes=True,
            batch_norm="frozen",
            **other,
        )
    assert [entry["until"] for entry in earlier_recipes(tmp_path)] == [4, 6, 7]
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 8


def test_weights_that_do_not_fit_changed_settings_leave_all_as_it_was(whole, devkit, tmp_path):
    to_four(devkit, tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = small("yolact", semantic=True)
    options = {
        "iterations": 6,
        "batch_size": 2,
        "settings": {"seed": 0, "semantic_loss": True},
        "accept_changes": True,
    }
    with pytest.raises(ChangedConfig, match=r"do not fit the changed settings \(semantic_loss\)"):
        train(model, VocDataset(devkit, "train"), tmp_path, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    with pytest.raises(ValueError, match="no schedule 'foo'"):
        run("yolact", devkit, tmp_path / "new", schedule="foo", settings={"seed": 0})
    assert not (tmp_path / "new").exists()


def test_a_mirror_within_the_run_folder_is_refused(devkit, tmp_path):
    for inside in (tmp_path, tmp_path / "a" / "b", tmp_path / "c" / ".."):
        with pytest.raises(ValueError, match="the mirror lies in"):
            run("yolact", devkit, tmp_path, mirror=inside)


def test_what_is_mirrored_can_be_gone_on_from_at_any_moment(tmp_path, monkeypatch):
    """The last checkpoint comes last: the others are no use without it, and it none without its best weights."""
    for name in ("run.json", "best.pt", "last.pt", "log.jsonl"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("1")
    copied, real = [], shutil.copyfileobj
    monkeypatch.setattr(
        mirror.shutil,
        "copyfileobj",
        lambda a, b, n: (copied.append(os.path.basename(a.name)), real(a, b, n)),
    )
    mirror.copy_changed(tmp_path / "run", tmp_path / "drive", {})
    assert len(copied) == 4
    assert copied[-1] == "last.pt"


def test_files_are_on_the_disk_before_they_take_a_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda number: done.append("file" if stat.S_ISREG(os.fstat(number).st_mode) else "folder"),
    )
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda path, target: (done.append("renamed"), replace(path, target))[1]
    )
    write_json(tmp_path / "a.json", 1)
    assert done == ["file", "renamed", "folder"]
