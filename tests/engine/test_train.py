import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tests.helpers.models import small
from tests.helpers.trainings import QUICK, ignoring_time, run
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.loader import SeededSamples
from vocseg_lib.data.transforms import light_augmentation
from vocseg_lib.data.voc import BadSample, VocDataset, split_ids
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.optim import lr_factor
from vocseg_lib.engine.resume import ChangedConfig
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.engine.train import NonFiniteLoss, TooManyBadSamples, WorkerDied, train
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.results import checkpoint_ap
from vocseg_lib.study.run import load_run
from vocseg_lib.study.study import Study


def test_schedules_by_hand():
    step = [lr_factor(i, 10, "step", (4, 8), 0) for i in (0, 3, 4, 7, 8)]
    assert step == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = [lr_factor(i, 10, "cosine", (), 0) for i in (0, 5, 10)]
    assert cosine == pytest.approx([1, 0.5, 0])
    warm = [lr_factor(i, 10, "step", (), 4) for i in (0, 2, 4)]
    assert warm == pytest.approx([0.1, 0.55, 1])
    with pytest.raises(ValueError, match="schedule"):
        lr_factor(0, 10, "linear", (), 0)


def test_draws_are_a_function_of_seed_and_number_and_cover_each_epoch():
    class Echo(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return index, torch.rand(()).item()

    draws = SeededSamples(Echo(), seed=3)
    state = torch.get_rng_state()
    row = [draws[k] for k in range(15)]
    assert torch.equal(torch.get_rng_state(), state)
    assert row == [draws[k] for k in range(15)]
    for epoch in range(3):
        assert sorted(index for index, _ in row[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert len({value for _, value in row}) == 15
    assert [index for index, _ in row[:5]] != [index for index, _ in row[5:10]]
    assert row != [SeededSamples(Echo(), seed=4)[k] for k in range(15)]


def test_a_finished_training_does_nothing(devkit, tmp_path):
    run("yolact", devkit, tmp_path)
    stamp = (tmp_path / "last.pt").stat().st_mtime_ns
    _, state = run("yolact", devkit, tmp_path)
    assert state["iteration"] == 6
    assert (tmp_path / "last.pt").stat().st_mtime_ns == stamp


def test_workers_change_nothing(devkit, tmp_path):
    run("yolact", devkit, tmp_path / "none", iterations=3)
    run("yolact", devkit, tmp_path / "two", iterations=3, workers=2)
    none, two = (ignoring_time(read_log(tmp_path / name / "log.jsonl")) for name in ("none", "two"))
    assert none == two


class Explodes(nn.Module):
    """Loss is not a number at the calls `at`, from 1; batch norm's statistics then, too."""

    def __init__(self, *at):
        super().__init__()
        self.weight, self.at, self.calls = nn.Parameter(torch.ones(())), at, 0
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images, targets):
        self.calls += 1
        bad = self.calls in self.at
        self.norm(
            torch.full((2, 1, 1, 1), float("nan") if bad else 1.0)
            * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
        )
        return {"class": self.weight * (float("nan") if bad else 1.0)}


def test_a_batch_without_a_finite_loss_is_left_out_named_and_kept(devkit, tmp_path):
    dataset = VocDataset(devkit, "train")
    model = Explodes(3, 5)
    state = train(model, dataset, tmp_path, iterations=6, batch_size=2, checkpoint_every=1)
    assert (state["left_out"], state["overflows"], state["iteration"]) == (2, 0, 6)
    assert torch.isfinite(model.weight)
    assert torch.isfinite(model.norm.running_mean).all()
    assert model.norm.num_batches_tracked == 4
    left_out = [entry for entry in read_log(tmp_path / "log.jsonl") if "left_out" in entry]
    assert [entry["iteration"] for entry in left_out] == [3, 5]
    kept = load_checkpoint(tmp_path / "left_out" / "000003.pt")
    assert kept["images"][0].dtype == torch.uint8
    assert [target["name"] for target in kept["targets"]] == left_out[0]["images"]
    assert all(
        target["image_id"] == dataset.names.index(target["name"]) + 1 for target in kept["targets"]
    )


def test_many_in_a_row_stop_the_training_and_leave_a_good_checkpoint(devkit, tmp_path):
    dataset = VocDataset(devkit, "train")
    with pytest.raises(NonFiniteLoss, match="3 updates in a row") as caught:
        train(
            Explodes(2, 4, 5, 6),
            dataset,
            tmp_path,
            iterations=9,
            batch_size=2,
            checkpoint_every=1,
            max_skipped_updates=3,
        )
    assert sum(name in str(caught.value) for name in dataset.names) == 2
    last = load_checkpoint(tmp_path / "last.pt")
    assert (
        last["iteration"] == 3
    )  # none is written while updates are left out: the weights may be what is wrong
    assert last["consecutive_skips"] == 0
    assert torch.isfinite(last["model"]["weight"])


def test_a_picture_that_fails_ends_no_training(devkit, tmp_path):
    def watch(log):
        raise RuntimeError("no display")

    with pytest.warns(UserWarning, match="the training cannot be shown: RuntimeError"):
        state = train(
            Explodes(),
            VocDataset(devkit, "train"),
            tmp_path,
            iterations=2,
            batch_size=2,
            watch=watch,
        )
    assert state["iteration"] == 2


def test_fp16_gradients_are_clipped_in_their_own_scale(devkit, tmp_path, monkeypatch):
    """The norm that is clipped and logged is that of the gradients, not of what the scaler made of them."""
    norms = {}
    for name, dtype in (("half", torch.float16), ("full", torch.float32)):
        for module in ("utils.device", "engine.train_state"):
            monkeypatch.setattr(
                f"vocseg_lib.{module}.half_precision", lambda device, dtype=dtype: dtype
            )
        options = {
            "mixed_precision": name == "half",
            "iterations": 12,
            "learning_rate": 1e-12,
            "max_grad_norm": 1.0,
        }
        run("yolact", devkit, tmp_path / name, **options)
        norms[name] = [
            entry.get("gradient_norm") for entry in read_log(tmp_path / name / "log.jsonl")
        ]
    pairs = [
        pair for pair in zip(norms["half"], norms["full"], strict=True) if pair[0]
    ]  # the others overflowed
    assert len(pairs) > 2
    for half, full in pairs:
        assert half == pytest.approx(full, rel=0.05)


class ExplodesBackwards(Explodes):
    def forward(self, images, targets):
        self.calls += 1
        zero = self.weight - self.weight.detach()
        return {
            "class": zero.sqrt() if self.calls in self.at else zero
        }  # the root's slope is infinite at 0


def test_a_gradient_that_is_not_finite_spoils_nothing(devkit, tmp_path):
    dataset = VocDataset(devkit, "train")
    model = ExplodesBackwards(4)
    state = train(model, dataset, tmp_path, iterations=6, batch_size=2)
    assert state["left_out"] == 1
    assert torch.isfinite(model.weight)
    (entry,) = (entry for entry in read_log(tmp_path / "log.jsonl") if "left_out" in entry)
    assert "gradient" in entry["left_out"]


class Killed(torch.utils.data.Dataset):
    """A data set whose worker is killed, as the system does when memory runs out."""

    def __init__(self, dataset):
        self.dataset, self.parent = dataset, os.getpid()

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.dataset[index]


def test_a_worker_that_dies_says_what_to_do(devkit, tmp_path):
    with pytest.raises(WorkerDied, match="fewer workers"):
        train(
            Explodes(),
            Killed(VocDataset(devkit, "train")),
            tmp_path,
            iterations=2,
            batch_size=2,
            workers=1,
        )


def test_bad_samples_are_passed_over_counted_and_listed(damageable, tmp_path, capsys):
    bad = split_ids(damageable, "train")[4]
    (damageable / "JPEGImages" / f"{bad}.jpg").write_bytes(b"torn")
    strict = VocDataset(damageable, "train")
    options = {"iterations": 14, "batch_size": 2, "learning_rate": 0.0, "max_bad_fraction": 0.1}
    with pytest.raises(BadSample, match=bad):
        train(Explodes(), strict, tmp_path / "strict", **options)
    with pytest.raises(BadSample, match=bad):
        train(Explodes(), strict, tmp_path / "strict in a worker", workers=1, **options)
    state = train(
        Explodes(), VocDataset(damageable, "train", skip_bad=True), tmp_path / "skip", **options
    )
    ((name, count),) = state["skipped"].items()
    assert bad in name
    assert count == 2  # 28 draws of 14 images
    assert bad in capsys.readouterr().out
    assert sum("skipped" in entry for entry in read_log(tmp_path / "skip" / "log.jsonl")) == 2
    with pytest.raises(
        TooManyBadSamples,
        match=f"1 of 14 samples cannot be read; allowed is a share of 5%(?s:.*){bad}",
    ) as caught:
        train(
            Explodes(),
            VocDataset(damageable, "train", skip_bad=True),
            tmp_path / "few",
            **{**options, "max_bad_fraction": 0.05},
        )
    assert "max_bad_fraction" in str(caught.value)


def test_a_bad_sample_is_the_same_one_wherever_the_data_lie(damageable, tmp_path):
    bad = split_ids(damageable, "train")[4]
    (damageable / "JPEGImages" / f"{bad}.jpg").write_bytes(b"torn")
    options = {"batch_size": 2, "learning_rate": 0.0, "max_bad_fraction": 0.1}
    train(
        Explodes(),
        VocDataset(damageable, "train", skip_bad=True),
        tmp_path / "run",
        iterations=14,
        **options,
    )
    moved = Path(shutil.move(damageable, tmp_path / "moved"))
    state = train(
        Explodes(),
        VocDataset(moved, "train", skip_bad=True),
        tmp_path / "run",
        iterations=28,
        **options,
    )
    ((name, count),) = state["skipped"].items()
    assert name.startswith(f"JPEGImages/{bad}.jpg: ")
    assert count == 4


@pytest.mark.parametrize("damage", ["image cut off", "map missing", "map of another size"])
def test_a_bad_image_of_val_is_left_out_of_judging_and_named(damage, damageable, tmp_path):
    names = split_ids(damageable, "val")
    image, object_map = (
        damageable / "JPEGImages" / f"{names[1]}.jpg",
        damageable / "SegmentationObject" / f"{names[1]}.png",
    )
    if damage == "image cut off":
        image.write_bytes(image.read_bytes()[:500])
    elif damage == "map missing":
        object_map.unlink()
    else:
        Image.open(object_map).resize((7, 5)).save(object_map)
    recipe = replace(QUICK, iterations=2, eval_every=2, batch_size=2, max_bad_fraction=0.4)
    with pytest.warns(
        UserWarning, match=f"1 of 3 images of val cannot be read and are left out: .*{names[1]}"
    ):
        Study(recipe, damageable, tmp_path).train("yolact")
    images = json.loads((tmp_path / "runs" / "yolact" / "predictions.json").read_text())["header"][
        "images"
    ]
    assert [(image["id"], image["name"]) for image in images] == [(1, names[0]), (3, names[2])]
    with pytest.raises(
        TooManyBadSamples, match="1 of 3 images of val cannot be read; allowed is a share of 5%"
    ):
        Study(replace(recipe, max_bad_fraction=0.05), damageable, tmp_path / "strict").train(
            "yolact"
        )


def test_best_weights_are_those_of_the_best_score(devkit, tmp_path):
    scores = iter([10.0, 30.0, 20.0])
    seen = []

    def score(model, iteration):
        assert not model.training
        seen.append(model.weight.item())
        torch.rand(3)  # must not disturb the training's random numbers
        return {"mask_AP50": next(scores)}

    options = {
        "iterations": 6,
        "batch_size": 1,
        "score": score,
        "eval_every": 2,
        "learning_rate": 0.1,
    }
    state = train(Explodes(), VocDataset(devkit, "train"), tmp_path, **options)
    assert state["best"] == {"iteration": 4, "mask_AP50": 30.0}
    assert load_checkpoint(tmp_path / "best.pt")["model"]["weight"].item() == seen[1]
    assert seen[0] > seen[1] > seen[2]


def test_numbers_that_count_something_are_checked(devkit, tmp_path):
    for wrong in (
        {"batch_size": 0},
        {"iterations": 0},
        {"eval_every": 0},
        {"checkpoint_every": -1},
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            train(
                Explodes(),
                VocDataset(devkit, "train"),
                tmp_path,
                **{"iterations": 1, "batch_size": 1, **wrong},
            )
    with pytest.raises(ValueError, match="max_grad_norm is -1"):
        train(
            Explodes(),
            VocDataset(devkit, "train"),
            tmp_path,
            iterations=1,
            batch_size=1,
            max_grad_norm=-1,
        )


class Plain(nn.Module):
    """A model without buffers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images, targets):
        return {"class": self.weight**2}


def test_any_model_under_the_contract_can_be_trained(devkit, tmp_path):
    for mode in ("unfrozen", "frozen", "precise"):
        model = Plain()
        options = {
            "batch_size": 2,
            "learning_rate": 0.1,
            "batch_norm": mode,
            "score": lambda model, iteration: {"mask_AP50": 1.0},
        }
        train(model, VocDataset(devkit, "train"), tmp_path / mode, iterations=3, **options)
        assert 0 < model.weight.item() < 1


def test_patience_ends_a_training_and_a_finished_one_stays_so(devkit, tmp_path):
    scores = iter([10.0, 30.0, 20.0, 25.0])
    options = {"batch_size": 1, "eval_every": 2, "patience": 2, "checkpoint_every": 100}
    dataset = VocDataset(devkit, "train")
    state = train(
        Explodes(),
        dataset,
        tmp_path,
        iterations=20,
        score=lambda model, iteration: {"mask_AP50": next(scores)},
        **options,
    )
    assert (state["iteration"], state["stopped"], state["best"]["iteration"]) == (8, "patience", 4)
    again = train(
        Explodes(),
        dataset,
        tmp_path,
        iterations=20,
        score=lambda model, iteration: {"mask_AP50": next(scores)},
        **options,
    )
    assert again == state


def test_max_hours_leaves_a_run_that_goes_on(devkit, tmp_path):
    run("yolact", devkit, tmp_path / "whole")
    calls = 0
    while True:
        _, state = run("yolact", devkit, tmp_path / "parts", max_hours=1e-9)
        calls += 1
        assert state["iteration"] == calls
        assert load_checkpoint(tmp_path / "parts" / "last.pt")["iteration"] == calls
        if state["stopped"] is None:
            break
        assert state["stopped"] == "max_hours"
    assert calls == 6
    logs = [ignoring_time(read_log(tmp_path / name / "log.jsonl")) for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    record = json.loads((tmp_path / "parts" / "run.json").read_text())["calls"]
    assert [call["from_iteration"] for call in record] == list(range(6))
    assert {
        "started",
        "seed",
        "processes",
        "python",
        "torch",
        "torchvision",
        "commit",
        "device",
        "device_name",
    } <= record[0].keys()


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_four_images_are_learned_by_heart(name, some_devkit, tmp_path):
    folder = some_devkit
    recipe = replace(get_recipe("quick"), image_size=192, short_side=144)
    study = Study(recipe, folder, tmp_path)
    truth = voc_to_coco(folder, "val")
    crowded = sorted(
        truth["images"],
        key=lambda i: abs(sum(a["image_id"] == i["id"] for a in truth["annotations"]) - 2),
    )
    chosen = [i["file_name"][:-4] for i in crowded[:4]]
    from vocseg_lib.engine.predict import predict
    from vocseg_lib.metrics.coco_eval import evaluate

    model = study.overfit(name, chosen, steps=220 if name == "yolact" else 120)
    dataset = study.dataset("val")
    dataset.names = chosen
    kept = {image["id"]: k for k, image in enumerate(crowded[:4], 1)}
    truth["annotations"] = [
        {**a, "image_id": kept[a["image_id"]]}
        for a in truth["annotations"]
        if a["image_id"] in kept
    ]
    truth["images"] = [{**image, "id": kept[image["id"]]} for image in crowded[:4]]
    summary = evaluate(truth, predict(model, dataset)["detections"]).summary
    assert summary["mask_AP50"] > 90, summary


def test_the_run_folder_is_all_that_is_needed(devkit, tmp_path):
    study = Study(replace(QUICK, iterations=4, eval_every=2, batch_size=2), devkit, tmp_path)
    study.train("yolact")
    folder = study.run_folder("yolact")
    (folder / "predictions.json").unlink()
    study.train("yolact")  # nothing to train, but to judge
    files = {
        "recipe.json",
        "run.json",
        "log.jsonl",
        "last.pt",
        "previous.pt",
        "best.pt",
        "predictions.json",
        "metrics.json",
    }
    assert {p.name for p in folder.iterdir()} == files | {
        "predictions_half.json",
        "predictions_last.json",
    }
    iterations = [
        study.predictions("yolact", name)["header"]["iteration"] for name in ("half", "last")
    ]
    assert iterations == [2, 4]
    assert set(checkpoint_ap(folder, study.ground_truth)["checkpoint"]) == {"best", "half", "last"}
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    model, settings, best = load_run(moved, "cpu")
    assert settings["iterations"] == 4
    assert best["iteration"] == json.loads((moved / "metrics.json").read_text())["iterations"]
    assert not model.training
    with pytest.raises(FileNotFoundError, match="not the folder of a training"):
        load_run(tmp_path)


def test_a_finished_training_of_another_length_is_taken(devkit, tmp_path, capsys):
    recipe = replace(QUICK, iterations=4, eval_every=2, batch_size=2)
    longer = Study(recipe, devkit, tmp_path).train("yolact")
    shorter = Study(replace(recipe, iterations=2), devkit, tmp_path)
    assert shorter.train("yolact") == longer
    assert (
        "holds a finished training of 4 iterations, which is taken; accept changes for one of 2"
        in capsys.readouterr().out
    )
    with pytest.raises(ChangedConfig, match="seed"):
        Study(replace(recipe, iterations=2, seed=1), devkit, tmp_path).train("yolact")
    unfinished = Study(replace(recipe, iterations=20), devkit, tmp_path / "other")
    unfinished.train("yolact", max_hours=1e-9)
    with pytest.raises(ChangedConfig, match="iterations: 20 there, 4 now"):
        Study(recipe, devkit, tmp_path / "other").train("yolact")


def test_predictions_are_those_of_the_weights_and_settings_at_hand(devkit, tmp_path):
    def judged(recipe, accept=False):
        study = Study(recipe, devkit, tmp_path)
        study.train("yolact", accept_changes=accept)
        metrics = json.loads((folder / "metrics.json").read_text())
        return study.predictions("yolact")["header"], metrics["judged"]

    folder, recipe = (
        tmp_path / "runs" / "yolact",
        replace(QUICK, iterations=2, eval_every=2, batch_size=2),
    )
    first = judged(recipe)
    assert judged(recipe) == first
    for file in ("metrics.json", "predictions.json"):
        (folder / file).write_text("{")
        assert judged(recipe) == first
    header, _ = judged(replace(recipe, nms="standard"), accept=True)
    assert header["recipe"]["nms"] == "standard"
    for path in folder.glob("*.pt"):
        path.unlink()
    header, again = judged(replace(recipe, seed=7), accept=True)
    assert header["recipe"]["seed"] == 7
    assert again != first[1]


def test_while_ap_is_equal_the_lower_loss_on_val_is_the_better_score(devkit, tmp_path):
    losses = iter([3.0, 2.0, 2.5])
    options = {"iterations": 3, "batch_size": 1, "eval_every": 1, "learning_rate": 0.1}
    score = lambda model, iteration: {"mask_AP50": 0.0, "val_loss": next(losses)}  # noqa: E731
    state = train(Explodes(), VocDataset(devkit, "train"), tmp_path, score=score, **options)
    assert state["best"] == {"iteration": 2, "mask_AP50": 0.0, "val_loss": 2.0}
    assert state["evals_since_best"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_resumes(dtype, devkit, tmp_path, monkeypatch):
    monkeypatch.setattr("vocseg_lib.utils.device.half_precision", lambda device: dtype)
    monkeypatch.setattr("vocseg_lib.engine.train_state.half_precision", lambda device: dtype)
    options = {
        "batch_size": 2,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "max_grad_norm": 20.0,
        "mixed_precision": True,
    }
    dataset = VocDataset(devkit, "train", light_augmentation())
    train(small("yolact"), dataset, tmp_path / "a", iterations=6, checkpoint_every=3, **options)
    for stop in (3, 6):
        train(
            small("yolact"), dataset, tmp_path / "b", iterations=stop, checkpoint_every=3, **options
        )
    whole, parts = (read_log(tmp_path / folder / "log.jsonl") for folder in "ab")
    assert [entry["loss"] for entry in whole] == [entry["loss"] for entry in parts]
    scaler = load_checkpoint(tmp_path / "a" / "last.pt")["scaler"]
    assert bool(scaler) is (dtype is torch.float16)


def test_an_overflowing_fp16_gradient_is_left_out(devkit, tmp_path, monkeypatch):
    """The scale starts at 65,536: more than fp16 takes here; the first updates are skipped, and training goes on."""
    monkeypatch.setattr("vocseg_lib.utils.device.half_precision", lambda device: torch.float16)
    monkeypatch.setattr(
        "vocseg_lib.engine.train_state.half_precision", lambda device: torch.float16
    )
    dataset = VocDataset(devkit, "train")
    options = {"iterations": 3, "batch_size": 2, "learning_rate": 1e-4, "mixed_precision": True}
    state = train(small("yolact"), dataset, tmp_path, **options)
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint["overflows"] == state["overflows"] > 0
    assert state["left_out"] == 0
    assert checkpoint["scaler"]["scale"] <= 65_536
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())
