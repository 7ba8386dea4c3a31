"""A study's own runs and prediction files are opened by the same call."""

import pytest

from tests.helpers.trainings import QUICK
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.train import open_or_train
from vocseg_lib.utils.files import write_json


def test_runs_and_their_prediction_files_give_the_same_results(devkit, tmp_path):
    recipe = QUICK.with_changes(batch_size=2, iterations=2, eval_every=2, checkpoint_every=2)
    results = open_or_train(recipe, devkit, tmp_path / "study")
    assert list(results.predictions) == list(MODEL_TITLES.values())
    assert (results.folder, results.images) == (tmp_path / "study", devkit)
    assert [entry["iteration"] for entry in results.logs()["YOLACT"] if "loss" in entry] == [1, 2]

    runs = [results.study.run_folder(name) / "predictions.json" for name in MODEL_TITLES]
    for name, run in zip(MODEL_TITLES, runs, strict=True):
        (tmp_path / f"{name}.json").write_bytes(run.read_bytes())
    files = [str(tmp_path / f"{name}.json") for name in MODEL_TITLES]
    opened = open_or_train("quick", devkit, tmp_path / "files", predictions=",".join(files))
    assert type(opened) is type(results)
    assert list(opened.predictions) == list(MODEL_TITLES)
    assert (opened.folder.is_dir(), opened.study, opened.logs()) == (True, None, {})
    for first, second in zip(
        results.evaluations.values(), opened.evaluations.values(), strict=True
    ):
        assert first.summary == second.summary

    other = read_predictions(runs[0])
    other["header"]["images"][0]["name"] = "another"
    write_json(tmp_path / "other.json", other)
    with pytest.raises(ValueError, match=r"other\.json"):
        open_or_train("quick", devkit, tmp_path, predictions=str(tmp_path / "other.json"))
