import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from vocseg_lib import __version__
from vocseg_lib.utils import environment


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """The module's file in another checkout."""
    module = tmp_path / "vocseg_lib" / "utils" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("1")
    monkeypatch.setattr(environment, "__file__", str(module))
    return module


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path, module):
    author = "-c user.name=a -c user.email=a@b"
    for command in ("init -q", "add .", f"{author} commit -qm one", "tag v1", "rev-parse HEAD"):
        commit = subprocess.check_output(["git", *command.split()], cwd=tmp_path, text=True).strip()
    assert environment.git_commit() == commit
    module.write_text("2")
    assert environment.git_commit() == f"{commit}-dirty"


def test_the_commit_that_pip_installed_from_a_repository(tmp_path, monkeypatch):
    installed = tmp_path / f"vocseg_lib-{__version__}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: vocseg_lib\nVersion: {__version__}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.git_commit() == __version__
    assert environment.repository_url() == ""
    origin = {"url": "https://example.org/a", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}}
    (installed / "direct_url.json").write_text(json.dumps(origin))
    assert environment.git_commit() == "a" * 40


def test_the_address_is_the_one_in_the_project():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert environment.repository_url() == project["urls"]["Repository"]
