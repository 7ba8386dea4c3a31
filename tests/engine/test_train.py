import json
import os
import signal
import statistics

import pytest
import torch
from torch import nn

from tests.helpers.trainings import Explodes, NoisyModel, log_of, run, short_config
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.data.voc import VocDataset, split_ids
from vocseg_lib.engine import train as train_module
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.engine.train import FORECAST_AFTER, Session, train
from vocseg_lib.utils import distributed


def ap_of(values):
    """An `evaluate` that returns these as mask AP50."""
    rest = iter(values)
    return lambda model, iteration: {"mask_AP50": next(rest)}


def test_workers_change_nothing(devkit, tmp_path):
    for workers in (0, 2):
        run(NoisyModel(), devkit, tmp_path / str(workers), iterations=3, workers=workers)
    assert log_of(tmp_path / "0") == log_of(tmp_path / "2")


def test_a_model_without_buffers(devkit, tmp_path):
    for mode in ("unfrozen", "frozen"):
        model = Explodes()
        model.norm = nn.Identity()
        run(model, devkit, tmp_path / mode, ap_of([1.0]), batch_norm=mode, iterations=3)
        assert model.weight.item() < 1


def test_time_left_and_peak_memory_are_reported_once(devkit, tmp_path, capsys):
    run(NoisyModel(), devkit, tmp_path, iterations=FORECAST_AFTER + 10)
    log = read_log(tmp_path / "log.jsonl")
    (entry,) = (entry for entry in log if "hours_left" in entry)
    assert entry["iteration"] == FORECAST_AFTER
    seconds = [sum(v for k, v in e.items() if k.endswith("_seconds")) for e in log]
    median = statistics.median(seconds[:FORECAST_AFTER])
    assert entry["hours_left"] == pytest.approx(10 * median / 3600)
    assert 0.05 < entry["peak_memory_gb"] < 100
    output = capsys.readouterr().out
    assert f"{entry['hours_left']:.2g} h" in output
    assert f"{entry['peak_memory_gb']:.1f} GB" in output


class KilledWorker(VocDataset):
    """A data set whose worker is killed, as the system does when memory runs out."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_explained(devkit, tmp_path):
    with pytest.raises(train_module.WorkerDied):
        train(Explodes(), KilledWorker(devkit, "train"), tmp_path, short_config(workers=1))


@pytest.mark.parametrize("problem", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate"])
def test_a_batch_that_does_not_fit_is_explained(devkit, tmp_path, problem):
    class TooLarge(Explodes):
        def __init__(self, fitting=2):
            super().__init__()
            self.fitting = fitting

        def forward(self, images, targets):
            if len(images) > self.fitting:
                kind = torch.OutOfMemoryError if "CUDA" in problem else RuntimeError
                raise kind(problem)
            return super().forward(images, targets)

    train_set = VocDataset(devkit, "train")
    with pytest.raises(train_module.OutOfMemory, match=r"batch_size=6.* accumulate=2 "):
        train(TooLarge(), train_set, tmp_path, short_config(batch_size=6))
    options = {"batch_size": 6, "batch_norm": "frozen"}
    with pytest.raises(train_module.OutOfMemory, match=r"once: 3 .* accumulate=3 "):
        train(TooLarge(), train_set, tmp_path / "2", short_config(accumulate=2, **options))
    with pytest.raises(train_module.OutOfMemory, match=r"once: 1 .* a smaller image_size") as told:
        train(TooLarge(0), train_set, tmp_path / "4", short_config(accumulate=6, **options))
    assert "batch_size below" not in str(told.value)
    state = train(TooLarge(), train_set, tmp_path / "3", short_config(accumulate=3, **options))
    assert state["iteration"] == short_config().iterations


@pytest.fixture
def one_bad(damageable):
    """A devkit of 14 training images, one of them damaged: (devkit, name)."""
    name = split_ids(damageable, "train")[4]
    (damageable / "JPEGImages" / f"{name}.jpg").write_bytes(b"torn")
    return damageable, name


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_raises(workers, one_bad, tmp_path):
    devkit, name = one_bad
    config = short_config(iterations=14, workers=workers)
    with pytest.raises(BadFile, match=name):
        train(Explodes(), VocDataset(devkit, "train"), tmp_path, config)


def test_bad_samples_are_skipped_counted_and_listed(one_bad, tmp_path, capsys):
    devkit, bad = one_bad
    config = short_config(iterations=14, max_bad_fraction=0.1)
    dataset = VocDataset(devkit, "train", skip_bad=True)
    state = train(Explodes(), dataset, tmp_path / "run", config)
    ((name, count),) = state["bad_samples"].items()
    assert name.startswith(f"JPEGImages/{bad}.jpg")  # wherever the data are
    assert count == 2  # 28 samples of 14 images
    assert name in capsys.readouterr().out
    assert sum("bad_samples" in entry for entry in read_log(tmp_path / "run" / "log.jsonl")) == 2
    config = short_config(iterations=14, max_bad_fraction=0.05)
    with pytest.raises(train_module.TooManyBadSamples) as caught:
        train(Explodes(), dataset, tmp_path / "few", config)
    assert name in str(caught.value)


@pytest.mark.parametrize("metrics", [[(10, 1), (30, 3), (20, 2)], [(0, 3), (0, 2), (0, 2.5)]])
def test_the_best_weights_have_the_highest_ap_and_then_the_least_loss(metrics, devkit, tmp_path):
    rest, seen = iter(metrics), []

    def evaluate(model, iteration):
        assert not model.training
        seen.append(model.weight.item())
        return dict(zip(("mask_AP50", "val_loss"), next(rest), strict=True))

    _, state = run(Explodes(), devkit, tmp_path, evaluate, eval_every=2, learning_rate=0.1)
    ap, loss = metrics[1]
    assert state["best"] == {"iteration": 4, "mask_AP50": ap, "val_loss": loss}
    assert state["evals_since_best"] == 1
    assert load_checkpoint(tmp_path / "best.pt")["model"]["weight"].item() == seen[1]
    assert seen[0] > seen[1] > seen[2]
    log = read_log(tmp_path / "log.jsonl")
    assert [0.05 < entry.get("peak_memory_gb", 0) < 100 for entry in log].count(True) == 3


def test_patience_ends_a_training_for_good(devkit, tmp_path):
    options = {"iterations": 20, "eval_every": 2, "patience": 2, "checkpoint_every": 100}
    evaluate = ap_of([float("nan"), 30.0, 20.0, 25.0])
    _, state = run(Explodes(), devkit, tmp_path, evaluate, **options)
    assert (state["iteration"], state["stopped"], state["best"]["iteration"]) == (8, "patience", 4)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    assert run(Explodes(), devkit, tmp_path, evaluate, **options)[1] == state
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")} == before


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_a_training_in_many_sessions_equals_one_in_one(name, devkit, tmp_path):
    run(name, devkit, tmp_path / "one")
    session = Session(max_hours=1e-9, metadata={"who": "me"})
    for iteration in range(1, 7):
        _, state = run(name, devkit, tmp_path / "many", session=session)
        assert state["iteration"] == iteration
        assert load_checkpoint(tmp_path / "many" / "last.pt")["iteration"] == iteration
        assert state["stopped"] == ("max_hours" if iteration < 6 else None)
    assert log_of(tmp_path / "one") == log_of(tmp_path / "many")
    sessions = json.loads((tmp_path / "many" / "run.json").read_text())["sessions"]
    assert [entry["from_iteration"] for entry in sessions] == list(range(6))
    versions = {"python", "torch", "torchvision", "commit", "device", "device_name"}
    assert {"started", "processes", "who", *versions} <= sessions[0].keys()


def test_a_failing_plot_ends_no_training(devkit, tmp_path):
    def on_log(log):
        assert log == tmp_path / "log.jsonl"
        raise RuntimeError("no display")

    dataset, config = VocDataset(devkit, "train"), short_config()
    with pytest.warns(UserWarning, match="no display"):
        assert train(Explodes(), dataset, tmp_path, config, on_log=on_log)["iteration"] == 6


def test_an_uneven_batch_is_refused(devkit, tmp_path, monkeypatch):
    for name, value in (("world_size", 2), ("rank", 0)):
        monkeypatch.setattr(distributed, name, lambda value=value: value)
    with pytest.raises(ValueError, match=r"batch_size \(3\)"):
        run(Explodes(), devkit, tmp_path, batch_size=3)
