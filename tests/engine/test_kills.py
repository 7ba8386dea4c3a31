"""Training is killed at random moments and inside the writing of checkpoints, and always ends as if it had not been.

The children are forked from a server that has imported everything, so that a kill costs no start of Python.
"""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.trainings import QUICK, ignoring_time
from vocseg_lib.data.transforms import light_augmentation
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine import train as train_module
from vocseg_lib.engine import train_state
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.predict import validation_loss
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.engine.train import train
from vocseg_lib.study.run import build_model
from vocseg_lib.utils import device, files

ITERATIONS = 24


def training(name: str, devkit: Path, folder: Path) -> dict:
    """A training with all that has a state: fp16 with a scaler, augmentation, momentum, schedule, precise batch norm, scores."""
    torch.set_num_threads(2)
    train_module.PRECISE_IMAGES = 6
    half = name == "yolact"
    if half:
        device.half_precision = train_state.half_precision = lambda device: torch.float16
    val = torch.utils.data.Subset(VocDataset(devkit, "val"), range(2))

    def score(model, iteration):
        losses = validation_loss(model, val, 2)
        torch.rand(1)
        return {"mask_AP50": -losses["val_loss"], **losses}

    return train(
        build_model(QUICK, name),
        VocDataset(devkit, "train", light_augmentation()),
        folder,
        iterations=ITERATIONS,
        batch_size=2,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        warmup_iterations=4,
        max_grad_norm=20.0,
        mixed_precision=half,
        batch_norm="precise" if half else "unfrozen",
        score=score,
        eval_every=7,
        checkpoint_every=2,
        settings={"model": name},
    )


def killed_at(place: str, call: int, *arguments) -> None:
    """A training that kills itself: at the given call of one of the places where a checkpoint is written."""
    calls = 0

    def die_at_last() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    if place == "half written":
        write = Path.write_bytes

        def write_half(path, content):
            write(path, content[: len(content) // 2])
            die_at_last()
            write(path, content)

        Path.write_bytes = write_half
    elif place == "written":
        fsync = files.os.fsync

        def fsync_and_die(descriptor):
            die_at_last()
            fsync(descriptor)

        files.os.fsync = fsync_and_die
    else:
        move = files.durable_rename

        def move_and_die(path, target):
            if place == "before renaming":
                die_at_last()
            move(path, target)
            if place == "after renaming":
                die_at_last()

        files.durable_rename = move_and_die
    training(*arguments)


@pytest.mark.parametrize(("name", "kills"), [("yolact", 22), ("mask_rcnn", 4)])
def test_killed_again_and_again_equals_uninterrupted(name, kills, devkit, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_kills"])
    chance = random.Random(0)

    def child(target, *arguments):
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    whole, folder = tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    process = child(training, name, devkit, whole)
    process.join()
    assert process.exitcode == 0
    duration = (
        time.monotonic() - begun
    )  # with Python's start: moments are drawn from the start to well into the training
    done, left = (
        0,
        [
            (place, call)
            for place in ("half written", "written", "before renaming", "after renaming")
            for call in (1, 3)
        ],
    )
    while done < kills:
        if left and done % 2:
            process = child(killed_at, *left.pop(), name, devkit, folder)
        else:
            process = child(training, name, devkit, folder)
            time.sleep(chance.uniform(0.05, min(duration, 4.0)))
            process.kill()
        process.join()
        if process.exitcode == 0:  # it was done before it could be killed: start it over
            assert ignoring_time(read_log(whole / "log.jsonl")) == ignoring_time(
                read_log(folder / "log.jsonl")
            )
            for file in folder.iterdir():
                file.unlink()
            continue
        assert process.exitcode == -signal.SIGKILL
        done += 1
        for path in (folder / "last.pt", folder / "previous.pt", folder / "best.pt"):
            if path.is_file():
                load_checkpoint(path)  # whole at any moment
    process = child(training, name, devkit, folder)
    process.join()
    assert process.exitcode == 0
    logs = [ignoring_time(read_log(f / "log.jsonl")) for f in (whole, folder)]
    assert [e["iteration"] for e in logs[0] if "lr" in e] == list(range(1, ITERATIONS + 1))
    assert logs[0] == logs[1]
    for file in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(f / file) for f in (whole, folder))
        for content in (ours, theirs):
            content.pop("seconds", None)
            content.pop("best", None)
        assert checksum(ours) == checksum(theirs), file
    assert not list(folder.glob("*.unusable"))
