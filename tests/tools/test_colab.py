"""Colab's versions: the library runs with them, and installing it there leaves them alone."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "constraints-colab.txt").read_text().split("# The rest")[0]
PINS = re.findall(r"^([\w.-]+)==(\S+)$", SHIPPED, re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]


def test_colab_has_what_is_required():
    versions = dict(PINS)
    assert set("torch torchvision numpy pandas matplotlib ipywidgets ipython".split()) <= set(
        versions
    )
    for requirement in REQUIREMENTS:
        if requirement.name in versions:
            assert requirement.specifier.contains(versions[requirement.name]), requirement


def dry_run(*requirements: object) -> set[str]:
    """Packages that pip would install; without an index, a missing one is an error."""
    options = ["--dry-run", "--quiet", "--no-index", "--no-build-isolation", "--report", "-"]
    process = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *map(str, requirements)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return {item["metadata"]["name"] for item in json.loads(process.stdout)["install"]}


def test_the_cell_that_gets_the_library_installs_nothing_else():
    """Also with Colab's versions in place: make test CONSTRAINTS=constraints-colab.txt."""
    cells = nbformat.read(ROOT / "notebooks" / "01_voc_data.ipynb", 4).cells
    cell = next(cell for cell in cells if cell.cell_type == "code")
    (arguments,) = re.findall(r"%pip install (.*)", cell.source)
    # No --upgrade, nothing beside the library.
    assert re.fullmatch(r"-q git\+https://github\.com/\S+", arguments)
    assert dry_run(ROOT) == {"vocseg_lib"}


def test_what_would_be_replaced_is_seen():
    with pytest.raises(AssertionError, match="torch"):
        dry_run("torch>1000")
