"""Two CPU processes (gloo), started by torchrun, against one with the same batch.

As a script: a training in which nothing is sampled at random, so that its numbers do not depend on
how processes share a batch. Arguments: model, devkit, run folder and hours after which it stops; or
none, to wait for each other without end.
"""

import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from tests.helpers.trainings import QUICK, short_config
from vocseg_lib.data import synthetic
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.predict import predict, validation_loss
from vocseg_lib.engine.run_folder import read_log, read_sessions
from vocseg_lib.engine.train import Session, rank_batches, train
from vocseg_lib.study.run import build_model
from vocseg_lib.utils import distributed

MODELS = pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
ONCE, ALL = 1e-9, 1.0  # hours: of one iteration or of all
CONFIG = short_config(
    iterations=4, batch_size=4, learning_rate=1e-4, batch_norm="frozen", eval_every=4, workers=1
)


def train_here(name, devkit, folder, hours, accumulate=1):
    model = build_model(QUICK.with_changes(image_size=96, semantic_loss=True), name)
    if name == "mask_rcnn":  # all regions of an image
        for part in (model.rpn, model.roi_heads):
            part.fg_bg_sampler.batch_size_per_image = 10**6
    val, val_config = VocDataset(devkit, "val"), replace(CONFIG, batch_size=2, workers=0)

    def evaluate(model, iteration):
        predictions = predict(model, val, progress=False)
        names = [image["name"] for image in predictions["header"]["images"]]
        return {"mask_AP50": 1.0, "names": names, **validation_loss(model, val, val_config)}

    with distributed.process_group("cpu") as device:
        session = Session(device=device, max_hours=float(hours))
        # Of one size: others would be padded to the largest of a process's part of a batch.
        dataset = VocDataset(devkit, "train", v2.Resize((96, 128)))
        config = replace(CONFIG, accumulate=int(accumulate))
        train(model, dataset, folder, config, evaluate, session=session)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A synthetic devkit with an odd number of images in val."""
    return synthetic.write(tmp_path_factory.mktemp("odd"), train=24, val=7, seed=3)


def torchrun(name, devkit, folders, hours, accumulate=1):
    """Train in two processes: of one machine, or of a machine for each of two folders."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = ["--nnodes", len(folders), "--nproc_per_node", 2 // len(folders)]
    options += ["--master_addr", "localhost", "--master_port", port]
    processes = []
    for rank, folder in enumerate(folders):
        command = [sys.executable, "-m", "torch.distributed.run", *options, "--node_rank", rank]
        command += ["-m", "tests.engine.test_distributed", name, devkit, folder, hours]
        command.append(accumulate)
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen([*map(str, command)], env=environment, **pipes))
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def one(odd, tmp_path_factory):
    """Run folders of both models, trained in one process."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("yolact", "mask_rcnn")}
    for name, folder in folders.items():
        train_here(name, odd, folder, ALL)
    return folders


def assert_equal_logs(folder, other):
    logs = read_log(folder / "log.jsonl"), read_log(other / "log.jsonl")
    assert len(logs[0]) == CONFIG.iterations + 1
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            if key == "names" or isinstance(value, int):
                assert value == b[key]
            elif not key.endswith(("seconds", "_gb")):
                assert value == pytest.approx(b[key], rel=1e-5, abs=1e-6), (a["iteration"], key)


@pytest.mark.parametrize("name", ["yolact"])
def test_two_machines_without_a_shared_disk_equal_one_process(name, odd, one, tmp_path):
    """Only the first has a run folder; the second gets what it needs, also to resume."""
    first, second = tmp_path / "first", tmp_path / "second"
    for hours in (ONCE, ALL):
        torchrun(name, odd, (first, second), hours)
    assert not second.exists()
    assert_equal_logs(one[name], first)
    models = [load_checkpoint(path / "last.pt")["model"] for path in (one[name], first)]
    for key, value in models[0].items():
        torch.testing.assert_close(value, models[1][key], rtol=1e-4, atol=1e-5)
    assert read_log(first / "log.jsonl")[-1]["names"] == VocDataset(odd, "val").names
    sessions = read_sessions(first / "run.json")
    assert [(s["processes"], s["from_iteration"]) for s in sessions] == [(2, 0), (2, 1)]


@pytest.mark.parametrize("name", ["mask_rcnn"])
def test_two_processes_resume_what_one_trained_and_back(name, odd, one, tmp_path):
    for k in range(2):
        train_here(name, odd, tmp_path, ONCE)
        assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 2 * k + 1
        torchrun(name, odd, (tmp_path,), ONCE)
    assert_equal_logs(one[name], tmp_path)


@MODELS
def test_micro_batches_equal_their_batch(name, odd, one, tmp_path):
    train_here(name, odd, tmp_path / "one", ALL, accumulate=4)
    assert_equal_logs(one[name], tmp_path / "one")
    if name == "yolact":
        torchrun(name, odd, (tmp_path / "two",), ALL, accumulate=2)
        assert_equal_logs(one[name], tmp_path / "two")
    weights = [load_checkpoint(p / "last.pt")["model"] for p in (one[name], tmp_path / "one")]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-4, atol=1e-5)


def test_a_batch_is_shared_evenly(monkeypatch):
    assert [*rank_batches(1, 3, 4)] == [range(4, 8), range(8, 12)]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert [*rank_batches(1, 3, 4)] == [range(6, 8), range(10, 12)]


def wait_without_end():
    with distributed.process_group("cpu"):
        distributed.broadcast_object("all are here")
        print("ready\n", end="", flush=True)  # at once, as two processes write to one pipe
        if distributed.rank():
            distributed.broadcast_object(None)  # the first never does
        threading.Event().wait()


def test_processes_end_when_torchrun_is_killed():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "tests.engine.test_distributed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        try:
            assert [agent.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        finally:
            agent.kill()
        agent.communicate(timeout=60)  # until all that may write to its output have ended


def test_a_process_ends_whose_parent_was_killed_while_it_was_starting():
    child = "from vocseg_lib.utils.parent import PARENT; print('started', flush=True); "
    child += "from vocseg_lib.utils import distributed; distributed._end_with(PARENT)"
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]).wait()"
    command = [sys.executable, "-c", parent, child]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"started\n"
        process.kill()
        process.communicate(timeout=60)


if __name__ == "__main__":
    train_here(*sys.argv[1:]) if sys.argv[1:] else wait_without_end()
