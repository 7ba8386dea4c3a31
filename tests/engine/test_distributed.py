"""Two CPU processes (gloo), started by torchrun, against one process with the same batch."""

import json
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from tests.helpers.trainings import QUICK
from vocseg_lib.data import synthetic
from vocseg_lib.data.voc import VocDataset, split_ids
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.engine.train import rank_batches, train
from vocseg_lib.study.study import Study
from vocseg_lib.utils.distributed import (
    all_gather_object,
    all_reduce_mean,
    broadcast_object,
    interleave_shards,
    rank,
    single_process,
    world_size,
)
from vocseg_lib.utils.files import read_json, write_json

RECIPE = replace(
    QUICK,
    image_size=96,
    short_side=64,
    batch_size=4,
    iterations=4,
    learning_rate=1e-4,
    warmup_iterations=0,
    batch_norm="frozen",
    eval_every=2,
    eval_images=5,
    checkpoint_every=2,
    semantic_loss=True,
    workers=1,
)


def torchrun(folder, devkit, recipe, model, *options, results="two"):
    write_json(folder / "recipe.json", {"model": model, **asdict(recipe)})
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "vocseg_lib",
        "train",
    ]
    command += [
        "--from",
        folder / "recipe.json",
        "--data",
        devkit,
        "--results",
        folder / results,
        *options,
    ]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def test_alone_everything_is_what_it_was():
    value = torch.ones(2)
    assert all_reduce_mean(value) is value
    assert (
        world_size(),
        rank(),
        all_gather_object(3),
        broadcast_object(3),
        interleave_shards([1, 2]),
    ) == (1, 0, [3], 3, [1, 2])
    with single_process():
        assert world_size() == 1
    assert rank_batches(1, 3, 4) == [range(4, 8), range(8, 12)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A drawn devkit with an odd number of images in val, sizes mixed."""
    return synthetic.write(tmp_path_factory.mktemp("odd"), train=24, val=7, seed=3)


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_two_processes_equal_one_with_the_doubled_batch(model, odd, tmp_path):
    study = Study(replace(RECIPE, augmentation="none"), odd, tmp_path / "one")
    study.train(model, device="cpu")
    done = torchrun(tmp_path, odd, study.recipe, model, "--device", "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (read_log(tmp_path / name / "runs" / model / "log.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) > 4
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if (
                isinstance(value, float)
                and not name.endswith("seconds")
                and name != "peak_memory_gb"
            ):
                assert value == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), (
                    ours["iteration"],
                    name,
                )
    ours, theirs = (
        load_checkpoint(tmp_path / name / "runs" / model / "last.pt") for name in ("one", "two")
    )
    for key, weight in ours["model"].items():
        torch.testing.assert_close(weight, theirs["model"][key], rtol=1e-4, atol=1e-5)
    assert torch.equal(ours["random"]["cpu"], theirs["random"]["cpu"])
    first, second = (
        read_json(tmp_path / name / "runs" / model / "predictions.json") for name in ("one", "two")
    )
    assert first["header"]["images"] == second["header"]["images"]  # each image once, in order
    assert len(second["header"]["images"]) == 7
    assert len(first["detections"]) == pytest.approx(len(second["detections"]), abs=2)
    assert read_json(tmp_path / "two" / "runs" / model / "run.json")["calls"][0]["processes"] == 2


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_two_processes_take_over_from_one_and_back(model, odd, tmp_path):
    recipe = replace(RECIPE, augmentation="none", eval_every=4)
    Study(recipe, odd, tmp_path / "one").train(model, device="cpu")
    parts = tmp_path / "parts"
    for k in range(2):
        Study(recipe, odd, parts).train(model, device="cpu", max_hours=1e-9)
        assert load_checkpoint(parts / "runs" / model / "last.pt")["iteration"] == 2 * k + 1
        options = ("--device", "cpu", "--max-hours", "0.000000001")
        done = torchrun(tmp_path, odd, recipe, model, *options, results="parts")
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        read_log(tmp_path / name / "runs" / model / "log.jsonl") for name in ("one", "parts")
    )
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_two_machines_that_share_no_disk(odd, tmp_path):
    """Only the first has the run folder; the second is told what it needs, also to go on."""
    recipe = replace(RECIPE, augmentation="none", eval_every=4)
    write_json(tmp_path / "recipe.json", {"model": "yolact", **asdict(recipe)})
    for max_hours in ("0.000000001", "1"):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        machines = []
        for node in ("0", "1"):
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes",
                "2",
                "--node_rank",
                node,
                "--nproc_per_node",
                "1",
            ]
            command += [
                "--master_addr",
                "localhost",
                "--master_port",
                port,
                "-m",
                "vocseg_lib",
                "train",
                "--device",
                "cpu",
            ]
            command += [
                "--from",
                tmp_path / "recipe.json",
                "--data",
                odd,
                "--results",
                tmp_path / node,
            ]
            command += ["--max-hours", max_hours]
            machines.append(
                subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
            )
        for machine in machines:
            _, said = machine.communicate(timeout=120)
            assert machine.returncode == 0, said[-3000:]
    assert not (tmp_path / "1").exists()
    Study(recipe, odd, tmp_path / "one").train("yolact", device="cpu")
    logs = (read_log(tmp_path / name / "runs" / "yolact" / "log.jsonl") for name in ("one", "0"))
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_study_starts_the_processes_itself_and_bad_samples_of_both_are_named(
    damageable, tmp_path, capfd
):
    names = split_ids(damageable, "train")
    for bad in names[:3]:
        (damageable / "JPEGImages" / f"{bad}.jpg").write_bytes(b"torn")
    recipe = replace(RECIPE, max_bad_fraction=0.5, iterations=4, mixed_precision=False)
    state = Study(recipe, damageable, tmp_path).train("yolact", device="cpu", processes=2)
    assert state["iteration"] == 4
    assert len(state["skipped"]) >= 3
    assert state["best"]["iteration"] in (2, 4)
    metrics = json.loads((tmp_path / "runs" / "yolact" / "metrics.json").read_text())
    assert len(metrics["skipped"]) == len(state["skipped"])
    assert "train" in capfd.readouterr().err
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4"):
        Study(recipe, damageable, tmp_path / "three").train("yolact", device="cpu", processes=3)
    with pytest.raises(ValueError, match="there are 0 GPUs here, not 2"):
        Study(recipe, damageable, tmp_path / "gpus").train("yolact", device="cuda", processes=2)


def test_an_odd_batch_is_refused(devkit, tmp_path, monkeypatch):
    monkeypatch.setattr("vocseg_lib.utils.distributed.world_size", lambda: 2)
    monkeypatch.setattr("vocseg_lib.utils.distributed.rank", lambda: 0)
    with pytest.raises(ValueError, match="2 processes cannot share a batch of 3"):
        train(
            torch.nn.Linear(1, 1), VocDataset(devkit, "train"), tmp_path, iterations=1, batch_size=3
        )


SHARED_DRAWS = """
import torch
from vocseg_lib import distributed
from vocseg_lib.losses import drawn_positives
from vocseg_lib.models.mask_rcnn import SharedSampler

with distributed.joined("cpu"):
    torch.manual_seed(0)
    positive = torch.rand(4, 500) > torch.tensor([0.3, 0.9, 0.1, 0.5])[:, None]
    labels = list((torch.rand(4, 500) * 3).long() - 1)
    size = 4 // distributed.world_size()
    part = slice(distributed.rank() * size, (distributed.rank() + 1) * size)
    drawn = [(row.tolist(), scale) for row, scale in drawn_positives(positive[part], 100)]
    sampled = [[mask.tolist() for mask in masks] for masks in SharedSampler(64, 0.25)(labels[part])]
    rows = [row for rows in distributed.everyones(list(zip(drawn, *sampled))) for row in rows]
    if distributed.rank() == 0:
        print("rows:", rows, torch.rand(1).item())
"""


def test_random_draws_do_not_depend_on_how_a_batch_is_shared(tmp_path):
    """More positives than masks to train, and Mask R-CNN's regions."""
    script = tmp_path / "draws.py"
    script.write_text(SHARED_DRAWS)
    alone_said, two_said = (
        subprocess.run(
            [sys.executable, *command, script], capture_output=True, text=True, check=True
        ).stdout
        for command in (
            [],
            ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        )
    )
    assert "rows:" in alone_said
    assert alone_said.split("rows:")[1] == two_said.split("rows:")[1]
