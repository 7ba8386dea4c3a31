"""Two CPU processes (gloo), started by torchrun, against one with the same batch."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.helpers.without_sampling import CONFIG
from tests.helpers.without_sampling import main as train_here
from vocseg_lib.data import synthetic
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.run_folder import read_log, read_sessions
from vocseg_lib.engine.train import rank_batches
from vocseg_lib.utils import distributed

MODELS = pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A synthetic devkit with an odd number of images in val."""
    return synthetic.write(tmp_path_factory.mktemp("odd"), train=24, val=7, seed=3)


def start_torchrun(name, devkit, folder, sessions, *options):
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    command += ["-m", "tests.helpers.without_sampling", name, devkit, folder, sessions]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([str(part) for part in command], env=environment, **pipes)


def torchrun(name, devkit, folder, sessions="all"):
    options = ("--standalone", "--nproc_per_node", "2")
    with start_torchrun(name, devkit, folder, sessions, *options) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def one(odd, tmp_path_factory):
    """Run folders of both models, trained in one process."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("yolact", "mask_rcnn")}
    for name, folder in folders.items():
        train_here(name, odd, folder, "all")
    return folders


def assert_equal_logs(folder, other):
    logs = read_log(folder / "log.jsonl"), read_log(other / "log.jsonl")
    assert len(logs[0]) == CONFIG.iterations + 1
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            if key == "names" or isinstance(value, int):
                assert value == b[key]
            elif not key.endswith("seconds") and key != "peak_memory_gb":
                assert value == pytest.approx(b[key], rel=1e-5, abs=1e-6), (a["iteration"], key)


@MODELS
def test_two_processes_equal_one(name, odd, one, tmp_path):
    torchrun(name, odd, tmp_path)
    assert_equal_logs(one[name], tmp_path)
    models = [load_checkpoint(path / "last.pt")["model"] for path in (one[name], tmp_path)]
    for key, value in models[0].items():
        torch.testing.assert_close(value, models[1][key], rtol=1e-4, atol=1e-5)
    assert read_log(tmp_path / "log.jsonl")[-1]["names"] == VocDataset(odd, "val").names
    assert read_sessions(tmp_path / "run.json")[0]["processes"] == 2


@MODELS
def test_two_processes_resume_what_one_trained_and_back(name, odd, one, tmp_path):
    for k in range(2):
        train_here(name, odd, tmp_path, "once")
        assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 2 * k + 1
        torchrun(name, odd, tmp_path, "once")
    assert_equal_logs(one[name], tmp_path)


def test_two_machines_without_a_shared_disk(odd, one, tmp_path):
    """Only the first has a run folder; the second gets what it needs, also to resume."""
    for sessions in ("once", "all"):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        nodes = ["--nnodes", 2, "--nproc_per_node", 1, "--master_addr", "localhost"]
        processes = []
        for node in ("0", "1"):
            options = (*nodes, "--master_port", port, "--node_rank", node)
            folder = tmp_path / node
            processes.append(start_torchrun("yolact", odd, folder, sessions, *options))
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    assert not (tmp_path / "1").exists()
    assert_equal_logs(one["yolact"], tmp_path / "0")


def test_a_single_process_keeps_its_values(monkeypatch):
    value = torch.ones(2)
    assert distributed.all_reduce_mean(value) is value
    assert distributed.broadcast_tensor(value) is value
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.all_gather_object(3) == [3]
    assert distributed.broadcast_object(3) == 3
    assert distributed.interleave_shards([1, 2]) == [1, 2]
    assert rank_batches(1, 3, 4) == [range(4, 8), range(8, 12)]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert rank_batches(1, 3, 4) == [range(6, 8), range(10, 12)]
