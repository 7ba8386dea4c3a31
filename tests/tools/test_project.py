"""The project's own files agree with each other."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from benchmarks.bench import markdown

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lines(name):
    return [
        line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")
    ]


def test_requirements_are_the_dependencies_and_jupyter():
    assert set(lines("requirements.txt")) == {*PROJECT["project"]["dependencies"], "jupyter"}


def test_every_requirement_is_pinned_and_meets_its_floor():
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines("constraints.txt"))
    wanted = lines("requirements.txt") + PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in wanted:
        name, _, floor = requirement.partition(">=")
        assert name in pins, name
        if floor:
            versions = [[int(n) for n in re.findall(r"\d+", v)] for v in (pins[name], floor)]
            assert versions[0] >= versions[1], name
    assert (pins["torch"], pins["torchvision"]) == ("2.11.0", "0.26.0")


def test_environment_points_at_requirements():
    text = (ROOT / "environment.yml").read_text()
    assert "-r requirements.txt" in text
    assert "-c constraints.txt" in text


def test_the_page_on_speed_shows_the_committed_bench():
    page = (ROOT / "docs" / "speed.md").read_text()
    shown = re.search(r"<!-- bench -->\n(.*)\n<!-- /bench -->", page, re.DOTALL)
    assert shown, "docs/speed.md has no table between its bench marks"
    try:  # as committed: a later bench run may have other numbers
        show, options = ["git", "show", "HEAD:results/bench.json"], {"cwd": ROOT, "text": True}
        committed = subprocess.run(show, capture_output=True, check=True, **options)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout to compare with")
    assert shown[1] == markdown(json.loads(committed.stdout))
