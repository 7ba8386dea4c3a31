"""A training killed at random moments and while it writes checkpoints ends as if it had not been.

Its processes are forked from a server that has imported everything, so that a restart is fast.
"""

import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.trainings import QUICK, NoisyModel, log_of, short_config
from vocseg_lib.data.transforms import AUGMENTATIONS
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine import train_state
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.predict import validation_loss
from vocseg_lib.engine.train import train
from vocseg_lib.study.run import build_model
from vocseg_lib.utils import device, files

CONFIG = short_config(
    iterations=16,
    optimizer="adamw",
    schedule="cosine",
    warmup_iterations=4,
    max_grad_norm=20.0,
    mixed_precision=True,
    eval_every=5,
)
MOMENTS = {
    "half written": (Path, "write_bytes"),
    "written": (os, "fsync"),
    "before renaming": (files, "durable_rename"),
    "after renaming": (files, "durable_rename"),
}
"""Of writing a checkpoint, each with the function to be killed in."""


def training(name: str, devkit: Path, folder: Path) -> None:
    """A training with all that has a state, in fp16 with a scaler if the model is "noisy"."""
    half = torch.float16 if name == "noisy" else None
    device.half_precision = train_state.half_precision = lambda device: half
    val = torch.utils.data.Subset(VocDataset(devkit, "val"), range(2))

    def evaluate(model, iteration):
        losses = validation_loss(model, val, CONFIG)
        torch.rand(1)
        return {"mask_AP50": -losses["val_loss"], **losses}

    dataset = VocDataset(devkit, "train", AUGMENTATIONS["light"]())
    model = NoisyModel() if name == "noisy" else build_model(QUICK, name)
    train(model, dataset, folder, CONFIG, evaluate, run_config={"model": name})


def killed_at(moment: str, call: int, *arguments) -> None:
    """A training that kills itself at a moment of writing its `call`th checkpoint, about."""
    owner, name = MOMENTS[moment]
    function, calls = getattr(owner, name), itertools.count(1)

    def call_and_die(*values):
        if moment == "after renaming":
            function(*values)
        if next(calls) == call:
            if moment == "half written":
                path, content = values
                function(path, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if moment != "after renaming":
            function(*values)

    setattr(owner, name, call_and_die)
    training(*arguments)


@pytest.mark.parametrize(("name", "kills"), [("noisy", 22), ("yolact", 3), ("mask_rcnn", 3)])
def test_killed_again_and_again_equals_uninterrupted(name, kills, devkit, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    chance, moments = random.Random(0), [(m, call) for m in MOMENTS for call in (1, 4)]
    whole, folder = tmp_path / "whole", tmp_path / "killed"

    def child(target, *arguments):
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def finished(folder):
        process = child(training, name, devkit, folder)
        process.join()
        assert process.exitcode == 0

    child(int).join()  # the server starts
    start = time.monotonic()
    finished(whole)
    duration = time.monotonic() - start
    done = 0
    while done < kills:
        if moments and done % 2:
            process = child(killed_at, *moments.pop(), name, devkit, folder)
        else:
            process = child(training, name, devkit, folder)
            process.join(chance.uniform(0.05, duration))
            process.kill()
        process.join()
        if process.exitcode == 0:  # it was done before it could be killed: start over
            assert log_of(folder) == log_of(whole)
            for path in folder.iterdir():
                path.unlink()
            continue
        assert process.exitcode == -signal.SIGKILL
        done += 1
        for file in ("last.pt", "previous.pt", "best.pt"):
            if (folder / file).is_file():
                load_checkpoint(folder / file)  # whole at any moment
    finished(folder)
    log = log_of(folder)
    assert [e["iteration"] for e in log if "lr" in e] == list(range(1, CONFIG.iterations + 1))
    assert log == log_of(whole)
    for file in ("last.pt", "best.pt"):
        contents = [load_checkpoint(path / file) | {"seconds": 0} for path in (whole, folder)]
        assert checksum(contents[0]) == checksum(contents[1]), file
    assert not list(folder.glob("*.unusable"))
