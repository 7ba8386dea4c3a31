import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from benchmarks.bench import markdown

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
URL = PROJECT["urls"]["Repository"]
# What is known of them stands before "# The rest" in their constraints.
PYTHONS = {"oldest": "3.11", "colab": "3.13", "kaggle": "3.12"}
# The torch and torchvision of Colab's older runtimes; of 2026.04, for one, no more is known.
OLDER_COLABS = {"2026.04": ("2.10.0", "0.25.0"), "2025.07": ("2.6.0", "0.21.0")}


def lines(name):
    return re.findall("^[^#\n].*", (ROOT / name).read_text(), re.MULTILINE)


def test_requirements_are_the_dependencies_and_jupyter_and_pinned():
    assert set(lines("requirements.txt")) == {*PROJECT["dependencies"], "jupyter"}
    text = (ROOT / "environment.yml").read_text()
    assert "-c constraints.txt\n      - -r requirements.txt\n" in text
    tested = dict(line.lower().replace("_", "-").split("==") for line in lines("constraints.txt"))
    for line in lines("requirements.txt") + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(tested[requirement.name]), line
    assert (tested["torch"], tested["torchvision"]) == ("2.11.0", "0.26.0")


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


def pins(name):
    """Known versions, and all, of a constraints file."""
    known, rest = (ROOT / f"constraints-{name}.txt").read_text().split("# The rest")
    found = [dict(re.findall(r"^([\w.-]+)==(\S+)$", part, re.MULTILINE)) for part in (known, rest)]
    assert not found[0].keys() & found[1].keys()
    return found[0], found[0] | found[1]


@pytest.mark.parametrize(("name", "python"), PYTHONS.items())
def test_platforms_have_what_is_required(name, python):
    known, _ = pins(name)
    shipped = {"torch", "torchvision", "numpy", "ipywidgets"}
    assert shipped <= known.keys()
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    optional = PROJECT["optional-dependencies"]["lineage"]
    for requirement in map(Requirement, PROJECT["dependencies"] + optional):
        version = known.get(requirement.name)
        assert version is None or requirement.specifier.contains(version), requirement
        if name == "oldest":  # the floor, and nothing newer
            (floor,) = requirement.specifier
            assert floor.operator == ">="
            assert f"{version}.".startswith(f"{floor.version}."), requirement


def make_platform(folder: Path, versions: dict[str, str]) -> Path:
    """The Python of an environment in which pip sees these versions, and setuptools works."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name, version in versions.items() - {("setuptools", versions["setuptools"])}:
        info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    source = Path(importlib.metadata.distribution("setuptools").locate_file(""))
    (own,) = source.glob("setuptools-*.dist-info")  # its commands
    for path in (source / "setuptools", source / "_distutils_hack", own):
        (packages / path.name).symlink_to(path)
    return folder / "bin" / "python"


def dry_run(python: Path | str, *arguments: object) -> set[str]:
    """Packages that `pip install` would install; one that is missing is an error."""
    options = "--dry-run --no-index --no-build-isolation --report -".split()
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", *options]
    command += map(str, arguments)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHONPATH"))}
    env["PIP_CONFIG_FILE"] = os.devnull  # may name folders of wheels
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert process.returncode == 0, process.stderr
    return {item["metadata"]["name"] for item in json.loads(process.stdout)["install"]}


def install_cell() -> list[object]:
    """What the notebooks give to `%pip install`, with this checkout for the repository."""
    found = set()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        source = nbformat.read(path, as_version=4).cells[1].source
        found |= set(re.findall(r"^ *%pip install (.+)$", source, re.MULTILINE))
    (arguments,) = found
    *flags, requirement = shlex.split(arguments)
    assert requirement == f"git+{URL}"
    return [*flags, ROOT]


@pytest.mark.parametrize("name", [*PYTHONS, *OLDER_COLABS])
def test_the_install_cell_leaves_a_platforms_packages_alone(name, tmp_path):
    """Versions that are not known of a platform are those tested with the others."""
    versions = pins(name if name in PYTHONS else "colab")[1]
    if name in OLDER_COLABS:
        versions |= dict(zip(("torch", "torchvision"), OLDER_COLABS[name], strict=True))
    assert dry_run(make_platform(tmp_path / "env", versions), *install_cell()) == {"vocseg_lib"}


def test_a_floor_above_a_platforms_version_is_caught(tmp_path):
    python = make_platform(tmp_path / "env", pins("oldest")[1] | {"torch": "2.5.1"})
    with pytest.raises(AssertionError, match="torch"):
        dry_run(python, *install_cell())


def test_installing_the_library_here_installs_nothing_else():
    """Also with a platform's versions in place: make test CONSTRAINTS=constraints-colab.txt."""
    assert dry_run(sys.executable, "--quiet", ROOT) == {"vocseg_lib"}


def test_citation_is_the_readmes_and_the_package_is_typed():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    preferred = citation["preferred-citation"]
    bibtex = (ROOT / "README.md").read_text().split("```bibtex\n")[1].split("```")[0]
    fields = dict(re.findall(r"^  (\w+) = \{+(.*?)\}+,?$", bibtex, re.MULTILINE))
    assert fields == {
        "title": preferred["title"],
        "author": preferred["authors"][0]["name"],
        "year": str(preferred["year"]),
        "url": preferred["url"],
    }
    assert {citation[key] == preferred[key] for key in ("title", "authors", "type")} == {True}
    assert preferred["url"] == citation["repository-code"] == URL
    assert (ROOT / "vocseg_lib" / "py.typed").read_bytes() == b""


def test_the_issue_form_asks_for_each_notebook_and_the_workflow_runs_each_platform():
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/notebook.yml").read_text())
    questions = {item["id"]: item for item in form["body"]}
    assert all(item["validations"] == {"required": True} for item in questions.values())
    assert {"notebook", "platform", "versions"} <= questions.keys()
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert names <= set(questions["notebook"]["attributes"]["options"])
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["check"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    runs = {job["constraints"]: job["python"] for job in matrix["include"]}
    assert runs == {f"constraints-{name}.txt": python for name, python in PYTHONS.items()}
