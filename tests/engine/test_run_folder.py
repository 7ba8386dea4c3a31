import json

import pytest

from tests.helpers.trainings import NoisyModel, run
from vocseg_lib.engine import run_folder


def test_one_process_at_a_time_trains_in_a_folder(devkit, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.1)
    for _ in range(2):
        with run_folder.run_lock(tmp_path), pytest.raises(run_folder.RunningElsewhere):
            run(NoisyModel(), devkit, tmp_path, iterations=1)
        assert [path.name for path in tmp_path.iterdir()] == ["running.lock"]
    run(NoisyModel(), devkit, tmp_path, iterations=1)


@pytest.mark.parametrize("content", ["{}", "[]", '{"sessions": 3}', "{"])
def test_damaged_sessions_name_their_file(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        run_folder.read_sessions(tmp_path / "run.json")


def test_damaged_lines_of_a_log_are_skipped(tmp_path):
    lines = [json.dumps({"iteration": i, "loss": i / 7}).encode() for i in range(1, 5)]
    path = tmp_path / "log.jsonl"
    damaged = [lines[0], lines[1][:9], b"\xff\x00", b"[3]", *lines[2:], lines[0][:7]]
    path.write_bytes(b"\n".join(damaged))
    with pytest.warns(UserWarning, match="3 damaged lines"):
        assert [entry["iteration"] for entry in run_folder.read_log(path)] == [1, 3, 4]
    with pytest.warns(UserWarning, match="3 damaged lines"):
        run_folder.truncate_log(path, 3)
    assert [entry["iteration"] for entry in run_folder.read_log(path)] == [1, 3]
