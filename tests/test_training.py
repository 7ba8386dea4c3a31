import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_models import small
from torch import nn

from vocseg_lib import voc
from vocseg_lib.recipes import get_recipe
from vocseg_lib.study import Study, build_model
from vocseg_lib.training import ChangedSettings, Draws, NonFiniteLoss, learning_rate_factor, read_log, train
from vocseg_lib.transforms import light_augmentation

QUICK = replace(get_recipe("quick"), image_size=64, short_side=64, channels=16, rois_per_image=16, proposals=32)


def run(model_name, devkit, folder, iterations=6, **options):
    dataset = voc.VocDataset(devkit, "train", light_augmentation())
    model = build_model(QUICK, model_name)
    options = {"batch_size": 2, "learning_rate": 1e-3, "checkpoint_every": 2, **options}
    return model, train(model, dataset, folder, iterations=iterations, **options)


def test_schedules_by_hand():
    step = [learning_rate_factor(i, 10, "step", (4, 8), 0) for i in (0, 3, 4, 7, 8)]
    assert step == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = [learning_rate_factor(i, 10, "cosine", (), 0) for i in (0, 5, 10)]
    assert cosine == pytest.approx([1, 0.5, 0])
    warm = [learning_rate_factor(i, 10, "step", (), 4) for i in (0, 2, 4)]
    assert warm == pytest.approx([0.1, 0.55, 1])
    with pytest.raises(ValueError, match="schedule"):
        learning_rate_factor(0, 10, "linear", (), 0)


def test_draws_are_a_function_of_seed_and_number_and_cover_each_epoch():
    class Echo(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return index, torch.rand(()).item()

    draws = Draws(Echo(), seed=3)
    state = torch.get_rng_state()
    row = [draws[k] for k in range(15)]
    assert torch.equal(torch.get_rng_state(), state)
    assert row == [draws[k] for k in range(15)]
    for epoch in range(3):
        assert sorted(index for index, _ in row[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert len({value for _, value in row}) == 15
    assert [index for index, _ in row[:5]] != [index for index, _ in row[5:10]]
    assert row != [Draws(Echo(), seed=4)[k] for k in range(15)]


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from test_training import run
run({model!r}, {devkit!r}, {folder!r}, iterations=14, score=lambda m: dict(mask_AP50=1.0), score_every=5)
"""


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_killed_and_resumed_equals_uninterrupted(name, devkit, tmp_path):
    options = {"iterations": 14, "score": lambda m: {"mask_AP50": 1.0}, "score_every": 5}
    whole, _ = run(name, devkit, tmp_path / "whole", **options)
    folder = tmp_path / "killed"
    child = CHILD.format(tests=str(Path(__file__).parent), model=name, devkit=str(devkit), folder=str(folder))
    chance = random.Random(0)
    kills = 0
    while kills < 3:
        process = subprocess.Popen([sys.executable, "-c", child], stderr=subprocess.DEVNULL)
        log = folder / "log.jsonl"
        before = len(read_log(log)) if log.is_file() else 0
        wanted = before + chance.randint(1, 4)
        while process.poll() is None and not (log.is_file() and len(read_log(log)) >= wanted):
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    resumed, state = run(name, devkit, folder, **options)
    assert state["iteration"] == 14
    logs = [read_log(f / "log.jsonl") for f in (tmp_path / "whole", folder)]
    assert [e["iteration"] for e in logs[0] if "loss" in e] == list(range(1, 15))
    assert logs[0] == logs[1]
    for (key, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_finished_training_does_nothing(devkit, tmp_path):
    run("yolact", devkit, tmp_path)
    stamp = (tmp_path / "last.pt").stat().st_mtime_ns
    _, state = run("yolact", devkit, tmp_path)
    assert state["iteration"] == 6
    assert (tmp_path / "last.pt").stat().st_mtime_ns == stamp


def test_workers_change_nothing(devkit, tmp_path):
    run("yolact", devkit, tmp_path / "none", iterations=3)
    run("yolact", devkit, tmp_path / "two", iterations=3, workers=2)
    assert read_log(tmp_path / "none" / "log.jsonl") == read_log(tmp_path / "two" / "log.jsonl")


def test_other_settings_in_the_same_folder_are_refused(devkit, tmp_path):
    run("yolact", devkit, tmp_path, settings={"learning_rate": 1, "seed": 0})
    with pytest.raises(ChangedSettings, match="learning_rate: 1 there, 2 now"):
        run("yolact", devkit, tmp_path, settings={"learning_rate": 2, "seed": 0})


class Explodes(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.weight, self.at, self.calls = nn.Parameter(torch.ones(())), at, 0

    def forward(self, images, targets):
        self.calls += 1
        return {"class": self.weight * (float("nan") if self.calls == self.at else 1.0)}


def test_a_loss_that_is_not_finite_names_the_images_and_keeps_the_checkpoint(devkit, tmp_path):
    dataset = voc.VocDataset(devkit, "train")
    with pytest.raises(NonFiniteLoss) as caught:
        train(Explodes(at=4), dataset, tmp_path, iterations=9, batch_size=2, checkpoint_every=1)
    assert sum(name in str(caught.value) for name in dataset.names) == 2
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["iteration"] == 3
    assert torch.isfinite(last["model"]["weight"])


class ExplodesBackwards(Explodes):
    def forward(self, images, targets):
        self.calls += 1
        zero = self.weight - self.weight.detach()
        return {"class": zero.sqrt() if self.calls == self.at else zero}  # the root's slope is infinite at 0


def test_a_gradient_that_is_not_finite_spoils_nothing(devkit, tmp_path):
    dataset = voc.VocDataset(devkit, "train")
    with pytest.raises(NonFiniteLoss, match="gradient"):
        train(ExplodesBackwards(at=4), dataset, tmp_path, iterations=9, batch_size=2, checkpoint_every=1)
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["iteration"] == 3
    assert torch.isfinite(last["model"]["weight"])


def test_a_damaged_run_folder_says_so(devkit, tmp_path):
    run("yolact", devkit, tmp_path, iterations=2)
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.pt is damaged"):
        run("yolact", devkit, tmp_path, iterations=2)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json is not JSON"):
        run("yolact", devkit, tmp_path, iterations=2)


def test_bad_samples_are_passed_over_counted_and_listed(damageable, tmp_path, capsys):
    bad = voc.split_ids(damageable, "train")[4]
    (damageable / "JPEGImages" / f"{bad}.jpg").write_bytes(b"torn")
    strict = voc.VocDataset(damageable, "train")
    options = {"iterations": 14, "batch_size": 2, "learning_rate": 0.0}
    with pytest.raises(voc.BadSample, match=bad):
        train(Explodes(at=0), strict, tmp_path / "strict", **options)
    with pytest.raises(voc.BadSample, match=bad):
        train(Explodes(at=0), strict, tmp_path / "strict in a worker", workers=1, **options)
    state = train(Explodes(at=0), voc.VocDataset(damageable, "train", skip_bad=True), tmp_path / "skip", **options)
    ((name, count),) = state["skipped"].items()
    assert bad in name
    assert count == 2  # 28 draws of 14 images
    assert bad in capsys.readouterr().out
    assert sum("skipped" in entry for entry in read_log(tmp_path / "skip" / "log.jsonl")) == 2


def test_best_weights_are_those_of_the_best_score(devkit, tmp_path):
    scores = iter([10.0, 30.0, 20.0])
    seen = []

    def score(model):
        assert not model.training
        seen.append(model.weight.item())
        torch.rand(3)  # must not disturb the training's random numbers
        return {"mask_AP50": next(scores)}

    options = {"iterations": 6, "batch_size": 1, "score": score, "score_every": 2, "learning_rate": 0.1}
    state = train(Explodes(at=0), voc.VocDataset(devkit, "train"), tmp_path, **options)
    assert state["best"] == {"iteration": 4, "mask_AP50": 30.0}
    assert torch.load(tmp_path / "best.pt", weights_only=True)["model"]["weight"].item() == seen[1]
    assert seen[0] > seen[1] > seen[2]


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
@pytest.mark.parametrize("data", ["devkit", "real_devkit"])
def test_four_images_are_learned_by_heart(name, data, request, tmp_path):
    folder = request.getfixturevalue(data)
    recipe = replace(get_recipe("quick"), image_size=192, short_side=144)
    study = Study(recipe, folder, tmp_path)
    truth = voc.coco_ground_truth(folder, "val")
    crowded = sorted(truth["images"], key=lambda i: abs(sum(a["image_id"] == i["id"] for a in truth["annotations"]) - 2))
    chosen = [i["file_name"][:-4] for i in crowded[:4]]
    from vocseg_lib.metrics import evaluate
    from vocseg_lib.prediction import predict

    model = study.learn_by_heart(name, chosen, steps=220 if name == "yolact" else 120)
    dataset = study.dataset("val")
    dataset.names = chosen
    kept = {image["id"]: k for k, image in enumerate(crowded[:4], 1)}
    truth["annotations"] = [{**a, "image_id": kept[a["image_id"]]} for a in truth["annotations"] if a["image_id"] in kept]
    truth["images"] = [{**image, "id": kept[image["id"]]} for image in crowded[:4]]
    summary = evaluate(truth, predict(model, dataset)["detections"]).summary
    assert summary["mask_AP50"] > 90, summary


def test_the_run_folder_is_all_that_is_needed(devkit, tmp_path):
    from vocseg_lib.study import load_run

    study = Study(replace(QUICK, iterations=4, score_every=2, batch_size=2), devkit, tmp_path)
    study.train("yolact")
    folder = study.run_folder("yolact")
    (folder / "predictions.json").unlink()
    study.train("yolact")  # nothing to train, but to judge
    files = {"recipe.json", "log.jsonl", "last.pt", "best.pt", "predictions.json", "metrics.json"}
    assert {p.name for p in folder.iterdir()} == files
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    model, settings, best = load_run(moved, "cpu")
    assert settings["iterations"] == 4
    assert best["iteration"] == json.loads((moved / "metrics.json").read_text())["iterations"]
    assert not model.training
    with pytest.raises(FileNotFoundError, match="not the folder of a training"):
        load_run(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_resumes(dtype, devkit, tmp_path, monkeypatch):
    monkeypatch.setattr("vocseg_lib.precision.half_precision", lambda device: dtype)
    monkeypatch.setattr("vocseg_lib.training.half_precision", lambda device: dtype)
    options = {"batch_size": 2, "optimizer": "adamw", "learning_rate": 1e-3, "clip_norm": 20.0, "mixed_precision": True}
    dataset = voc.VocDataset(devkit, "train", light_augmentation())
    train(small("yolact"), dataset, tmp_path / "a", iterations=6, checkpoint_every=3, **options)
    for stop in (3, 6):
        train(small("yolact"), dataset, tmp_path / "b", iterations=stop, checkpoint_every=3, **options)
    whole, parts = (read_log(tmp_path / folder / "log.jsonl") for folder in "ab")
    assert [entry["loss"] for entry in whole] == [entry["loss"] for entry in parts]
    scaler = torch.load(tmp_path / "a" / "last.pt")["scaler"]
    assert bool(scaler) is (dtype is torch.float16)


def test_an_overflowing_fp16_gradient_is_left_out(devkit, tmp_path, monkeypatch):
    """The scale starts at 65,536: more than fp16 takes here; the first updates are skipped, and training goes on."""
    monkeypatch.setattr("vocseg_lib.precision.half_precision", lambda device: torch.float16)
    monkeypatch.setattr("vocseg_lib.training.half_precision", lambda device: torch.float16)
    dataset = voc.VocDataset(devkit, "train")
    train(small("yolact"), dataset, tmp_path, iterations=3, batch_size=2, optimizer="sgd", learning_rate=1e-4, mixed_precision=True)
    checkpoint = torch.load(tmp_path / "last.pt")
    assert checkpoint["scaler"]["scale"] <= 65_536
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())
