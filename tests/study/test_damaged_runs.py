"""Damaged files of a run, and numbers without bounds: one line that names them, nothing begun."""

import json
from pathlib import Path

import pytest

from tests.helpers.cli import vocseg
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.run_folder import read_log, read_sessions
from vocseg_lib.engine.train import rank_batches
from vocseg_lib.plots.training import training_curves
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.study import Study, reproduce
from vocseg_lib.study.train import run_config

NESTED = "[" * 100_000
DIGITS = "9" * 5_000


@pytest.fixture
def config(devkit, tmp_path):
    return run_config(Study(recipe=get_recipe("quick"), devkit=devkit, results=tmp_path), "yolact")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "yolact2"},
        {"model": ["yolact"]},
        {"recipe": []},
        {"recipe": {"name": "quick", "yolact": 3}},
        {"recipe": {"name": "quick", "yolact": {"image_size": 10**400}}},
        {"train": None},
        {"train": {"iterations": 1e9}},
        {"train": {"seed": {}}},
        {"train": {"a" * 10**6: 1}},
        {"class_names": {}},
        {"class_names": [1]},
    ],
)
def test_damaged_configs_are_refused_before_anything_is_begun(
    change, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = json.dumps(config | change)
    (tmp_path / "config.json").write_text(text)
    refused("train", "--from", "config.json")


@pytest.mark.parametrize("text", ["", "{", NESTED, DIGITS, "[]", '{"model": "\\ud800"}', "\0" * 99])
def test_files_that_are_no_config(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(text)
    refused("train", "--from", "config.json")


def refused(*arguments):
    done = vocseg(*arguments)
    assert done.exit_code == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert "config.json" in line
    assert len(line) < 1_000
    assert [path.name for path in Path().iterdir()] == ["config.json"]


def test_other_weights_and_models_than_the_configs(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["recipe"]["yolact"]["init"] = "gone.pth"
    (tmp_path / "config.json").write_text(json.dumps(config))
    for options, word in ((("--model", "mask_rcnn"), "yolact"), ((), "gone.pth")):
        done = vocseg("train", "--from", "config.json", *options)
        assert (done.exit_code, word in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "sessions", ["[3]", '[{"devkit": 5}]', '[{"devkit": {}}]', '[{"devkit": "\\u0000"}]']
)
def test_damaged_sessions(sessions, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "run.json").write_text(f'{{"sessions": {sessions}}}')
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):
        reproduce(tmp_path)
    if sessions != "[3]":
        assert len(read_sessions(tmp_path / "run.json")) == 1


def test_a_log_with_any_json_in_it_is_read_and_shown(tmp_path):
    entry = {"iteration": 1, "lr": 0.1, "loss": 2.0, "box": 1.0}
    evaluation = {"iteration": 2, "seconds": 2.0, "mask_AP50": 3.0, "val_loss": 2.0}
    odd = [float("nan"), 10**400, "text", None, [1], {"a": 1}, True]
    entries = [e | {key: value} for e in (entry, evaluation) for key in e for value in odd]
    entries += [entry, entry, evaluation, evaluation, entry | {"iteration": 3}]
    lines = [*map(json.dumps, entries), NESTED, f'{{"iteration": {DIGITS}}}', "[]", "7", "\0"]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([*lines, json.dumps(entry)]))
    with pytest.warns(UserWarning, match=r"log\.jsonl"):
        log = read_log(path)
    assert {type(e["iteration"]) for e in log} == {int}
    axes = training_curves(log, "title")
    assert axes[0].lines[0].get_xdata().tolist() == [1, 3]


@pytest.mark.parametrize(
    "change",
    [
        *(f"iterations={10**9}", f"iterations={DIGITS}", "iterations=1e9", "image_size=100000"),
        *("learning_rate=1e39", "backbone_lr_mult=1e300", f"iterations={'1+' * 50_000}1"),
        *(f"iterations={'-' * 100_000}1", f"{'x' * 100_000}=1"),
    ],
)
def test_numbers_past_their_bounds(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = vocseg("train", "--model", "yolact", "--set", change)
    (line,) = done.stderr.splitlines()
    assert (done.exit_code, change.split("=")[0][:50] in line) == (2, True)
    assert len(line) < 2_100


def test_batches_of_the_longest_training_take_no_memory():
    config = TrainConfig(iterations=10**8 - 1)
    assert next(rank_batches(0, config.iterations, config.batch_size)) == range(2)
