import json

import numpy as np
import pytest

from vocseg_lib.plots.pictures import list_files
from vocseg_lib.study.open import open_study
from vocseg_lib.study.results import evaluate_files
from vocseg_lib.utils.files import project_root, resolve_path, to_jsonable


def test_a_notebook_in_a_checkout_shares_data_and_results_with_the_command_line(
    tmp_path, monkeypatch, devkit
):
    """Jupyter starts kernels in the notebook's folder, make study in the checkout."""
    for folder in ("notebooks", "vocseg_lib", "elsewhere/notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    for folder, place in (
        (".", tmp_path),
        ("notebooks", tmp_path),
        ("elsewhere/notebooks", tmp_path / "elsewhere/notebooks"),
    ):
        monkeypatch.chdir(tmp_path / folder)
        assert project_root().resolve() == place.resolve()
        assert (
            open_study("quick", devkit).results.resolve() == (place / "results" / "quick").resolve()
        )


def test_what_a_notebook_in_a_checkout_names_may_lie_in_the_checkout(tmp_path, monkeypatch, devkit):
    """A path is looked for where the kernel starts first; results go to the checkout."""
    for folder in ("notebooks", "vocseg_lib", "pictures"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pictures" / "cat.jpg").touch()
    (tmp_path / "mine").symlink_to(devkit)
    (tmp_path / "found.json").write_text("[]")
    monkeypatch.chdir(tmp_path / "notebooks")
    study = open_study("quick", "mine", "results/mine")
    assert (study.devkit.resolve(), study.results.resolve()) == (
        devkit.resolve(),
        tmp_path / "results" / "mine",
    )
    assert list_files(["pictures"])[0].samefile(tmp_path / "pictures" / "cat.jpg")
    results, judged = evaluate_files(["found.json"], "mine", "results/judged")
    assert (results.resolve(), list(judged)) == (tmp_path / "results" / "judged", ["found"])
    (tmp_path / "notebooks" / "found.json").write_text("[]")
    assert resolve_path("found.json").samefile("found.json")
    with pytest.raises(FileNotFoundError, match=r"^nowhere is not there"):
        list_files(["nowhere"])


def test_json_gets_what_it_has():
    value = {1: np.float64(1.23456), "b": [np.nan, np.int64(3), "text", (True,)]}
    assert json.loads(json.dumps(to_jsonable(value), allow_nan=False)) == {
        "1": 1.23456,
        "b": [None, 3, "text", [True]],
    }
    assert to_jsonable(value, digits=2)["1"] == 1.23
