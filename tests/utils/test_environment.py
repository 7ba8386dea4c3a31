import json
import subprocess

from vocseg_lib import __version__
from vocseg_lib.utils import environment


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.check_output(command, cwd=folder, text=True).strip()


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path, monkeypatch):
    module = tmp_path / "vocseg_lib" / "utils" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("1")
    monkeypatch.setattr(environment, "__file__", str(module))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert environment.git_commit() == commit
    module.write_text("2")
    assert environment.git_commit() == f"{commit}-dirty"


def test_the_commit_that_pip_installed_from_a_repository(tmp_path, monkeypatch):
    module = tmp_path / "vocseg_lib" / "utils" / "environment.py"
    monkeypatch.setattr(environment, "__file__", str(module))
    installed = tmp_path / f"vocseg_lib-{__version__}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: vocseg_lib\nVersion: {__version__}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.git_commit() == __version__
    origin = {"url": "https://example.org/a", "vcs_info": {"vcs": "git", "commit_id": "a" * 40}}
    (installed / "direct_url.json").write_text(json.dumps(origin))
    assert environment.git_commit() == "a" * 40
