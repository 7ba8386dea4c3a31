import json
import subprocess
import sys

import pytest

from tests.helpers.trainings import NoisyModel, run
from vocseg_lib.engine import run_folder

HOLD = """
import pathlib, sys
from vocseg_lib.engine.run_folder import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_trains_in_a_folder(devkit, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.1)
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(run_folder.RunningElsewhere):
            run(NoisyModel(), devkit, tmp_path, iterations=1)
        assert [path.name for path in tmp_path.iterdir()] == ["running.lock"]
        other.kill()
    for _ in range(2):
        with run_folder.run_lock(tmp_path):
            pass


def test_damaged_lines_of_a_log_are_skipped(tmp_path):
    lines = [json.dumps({"iteration": i, "loss": i / 7}).encode() for i in range(1, 5)]
    path = tmp_path / "log.jsonl"
    damaged = [lines[0], lines[1][:9], b"\xff\x00", b"[3]", *lines[2:], lines[0][:7]]
    path.write_bytes(b"\n".join(damaged))
    with pytest.warns(UserWarning, match="3 lines"):
        assert [entry["iteration"] for entry in run_folder.read_log(path)] == [1, 3, 4]
    with pytest.warns(UserWarning, match="3 lines"):
        run_folder.truncate_log(path, 3)
    assert [entry["iteration"] for entry in run_folder.read_log(path)] == [1, 3]
