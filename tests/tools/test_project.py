import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.bench import markdown

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED = (ROOT / "constraints-colab.txt").read_text().split("# The rest")[0]
COLAB = dict(re.findall(r"^([\w.-]+)==(\S+)$", SHIPPED, re.MULTILINE))


def lines(name):
    return re.findall("^[^#\n].*", (ROOT / name).read_text(), re.MULTILINE)


def test_requirements_are_the_dependencies_and_jupyter_and_pinned():
    assert set(lines("requirements.txt")) == {*PROJECT["dependencies"], "jupyter"}
    text = (ROOT / "environment.yml").read_text()
    assert "-c constraints.txt\n      - -r requirements.txt\n" in text
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines("constraints.txt"))
    for line in lines("requirements.txt") + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name]), line
    assert (pins["torch"], pins["torchvision"]) == ("2.11.0", "0.26.0")


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


def test_colab_has_what_is_required():
    names = set("torch torchvision numpy pandas matplotlib ipywidgets ipython".split())
    assert names <= COLAB.keys()
    for requirement in map(Requirement, PROJECT["dependencies"]):
        if requirement.name in COLAB:
            assert requirement.specifier.contains(COLAB[requirement.name]), requirement


def dry_run(*requirements: object) -> set[str]:
    """Packages that pip would install; without an index, a missing one is an error."""
    options = "--dry-run --quiet --no-index --no-build-isolation --report -".split()
    command = [sys.executable, "-m", "pip", "install", *options, *map(str, requirements)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return {item["metadata"]["name"] for item in json.loads(process.stdout)["install"]}


def test_installing_the_library_installs_nothing_else():
    """Also with Colab's versions in place: make test CONSTRAINTS=constraints-colab.txt."""
    assert dry_run(ROOT) == {"vocseg_lib"}
    with pytest.raises(AssertionError, match="torch"):
        dry_run("torch>1000")
