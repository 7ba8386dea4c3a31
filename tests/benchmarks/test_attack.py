import multiprocessing
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import attack, attack_cases
from benchmarks.attack_files import JSON_VALUES, change_bytes, change_json
from benchmarks.attack_kinds import Loss
from benchmarks.attack_seeds import make_world
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.utils.files import read_json


def test_a_tiny_attack_and_its_table(tmp_path):
    out = tmp_path / "attack.json"
    options = ["--files", "20", "--kills", "1", "--seed", "1", "--out", str(out)]
    command = [sys.executable, str(attack.__file__), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    content = read_json(out)
    *rows, total = content["table"]
    kinds = [*attack_cases.KINDS, *(f"kill: {name}" for name in attack.WRITERS)]
    assert [row["kind"] for row in rows] == kinds, done.stderr
    assert all(row["attacked"] >= 1 for row in rows)
    assert sum(row["attacked"] for row in rows) == total["attacked"]
    assert total["refused"] > total["read"] / 2 > 0
    assert content["failures"] == []
    assert done.returncode == sum(total[outcome] for outcome in attack_cases.FAILURES) == 0
    assert len(out.with_suffix(".md").read_text().splitlines()) == len(kinds) + 3
    assert {"commit", "python", "torch"} <= content.keys()


def test_the_default_attack_is_large():
    cases = attack.list_cases(attack.FILES)
    damaged = [kind for kind, _ in cases if attack_cases.KINDS[kind].weight]
    assert len(damaged) >= 3_000 <= len({*cases})
    assert [kind for kind, _ in cases].count("hostile archive") >= 20
    assert attack.KILLS >= 100


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "read"),
        (ValueError("/data/set/a.json is not JSON"), "refused"),
        (ValueError("/data/set is not a devkit"), "refused"),
        (BadFile("/data/set/a.json", "undecodable", "damaged"), "refused"),
        (FileNotFoundError(2, "No such file", "/data/set/a.json"), "refused"),
        (ValueError("expected 3 values"), "unnamed"),
        (ValueError("a.json: " + 2_000 * "x"), "unnamed"),
        (ValueError("a.json:" + 20 * "\n"), "unnamed"),
        (KeyError("a.json"), "traceback"),
        (RecursionError("a.json"), "traceback"),
        (Loss("a.json is gone"), "loss"),
    ],
)
def test_outcomes(error, outcome):
    folder = Path("/data/set")
    assert attack_cases.classify(error, folder / "a.json", folder)[0] == outcome


def serve_badly(connection, world, seed):
    connection.send("ready")
    while request := connection.recv():
        if request[0] == "crash":
            os.abort()
        while request[0] == "hang":
            pass
        connection.send(("read", request[0]))


def test_a_worker_survives_hangs_and_crashes(tmp_path, monkeypatch):
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    monkeypatch.setattr(attack_cases, "HANG_SECONDS", 1.0)
    worker = attack_cases.Worker(tmp_path / "world", 0, serve_badly)
    kinds = ["good", "crash", "good", "hang", "good"]
    outcomes = [worker.run(kind, 0)[0] for kind in kinds]
    worker.close()
    assert outcomes == ["read", "crash", "read", "hang", "read"]
    assert not list(tmp_path.iterdir())


def test_whole_files_are_read(tmp_path):
    make_world(tmp_path / "world")
    for kind in [name for name, kind in attack_cases.KINDS.items() if kind.weight]:
        outcome, why = attack_cases.run_case(tmp_path / "world", kind, -1, 5, tmp_path / kind)
        assert outcome == "read", (kind, why)


def test_damage_depends_on_the_seed_alone():
    data = b'{"a": [1, 2.5, {"b": "text"}], "c": null}'
    for change in (lambda c: change_json(c, data), lambda c: change_bytes(c, data, [b"other"])):
        damaged = [change(random.Random(index % 40)) for index in range(80)]
        assert damaged[:40] == damaged[40:]
        assert len({*damaged}) > 20
    assert max(map(len, JSON_VALUES)) > 100_000
