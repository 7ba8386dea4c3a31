"""Stored predictions are held against the data and training that they are of."""

import json
import shutil
from dataclasses import replace

import pytest

from tests.helpers.cli import vocseg
from tests.helpers.trainings import QUICK
from vocseg_lib.data.voc import split_ids, write_splits
from vocseg_lib.study import lineage_table
from vocseg_lib.study.lineage import prediction_path
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import checkpoint_ap, open_results
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import train_model
from vocseg_lib.utils.files import write_json

QUICKLY = {"iterations": 2, "batch_size": 2, "eval_every": 1, "image_size": 64, "short_side": 64}


@pytest.fixture
def old_study(case):
    """A study with perfect predictions by both models on val: i7, i8, i9; and its readers."""
    folder = case("notebooks_judge_old_predictions_on_a_new_val")
    write_splits(folder / "data", [f"i{k}" for k in range(5)], ["i7", "i8", "i9"])
    recipe = QUICK.with_changes(**QUICKLY)
    study = Study(recipe=recipe, devkit=folder / "data", results=folder / "results")
    keys = ("image_id", "category_id", "bbox", "segmentation")
    perfect = [{"score": 0.9} | {k: a[k] for k in keys} for a in study.ground_truth["annotations"]]
    for model_name in MODEL_TITLES:
        train_model(study, model_name)
        path = study.run_folder(model_name) / "predictions.json"
        write_json(path, json.loads(path.read_text()) | {"detections": perfect})
    lineage_file = prediction_path(study, "a row")
    lineage_file.parent.mkdir(parents=True)
    shutil.copy(path, lineage_file)
    return study


READERS = {
    "open_results": open_results,
    "checkpoint_ap": lambda study: checkpoint_ap(study, study.run_folder("yolact")),
    "lineage": lambda study: lineage_table.evaluate_predictions(study, "a row"),
}
NEW_VALS = {
    "grown before": ["i5", "i6", "i7", "i8", "i9"],
    "grown after": ["i7", "i8", "i9", "i6"],
    "shrunk": ["i7", "i8"],
    "in another order": ["i9", "i8", "i7"],
}


def test_old_predictions_are_not_evaluated_on_a_new_val(old_study):
    for evaluation in open_results(old_study).evaluations.values():
        assert evaluation.summary["mask_AP"] == pytest.approx(100)
    assert READERS["lineage"](old_study).summary["mask_AP"] == pytest.approx(100)
    assert set(READERS["checkpoint_ap"](old_study)["checkpoint"]) == {"best", "half", "last"}
    path, data = old_study.run_folder("yolact") / "predictions.json", old_study.devkit
    for name, val in NEW_VALS.items():
        write_splits(data, split_ids(data, "train"), val)
        for read in READERS.values():
            with pytest.raises(ValueError, match=r"predictions.*\.json"):
                read(replace(old_study))
        done = vocseg("evaluate", "--predictions", path, "--data", data, "--resamples", 0)
        assert done.exit_code == (0 if name == "grown after" else 2), name
        assert len(done.stderr.splitlines()) == 1
    write_splits(data, ["i5", "i6"], ["i7", "i8", "i9"])  # the same val of other data
    for read in READERS.values():
        with pytest.raises(ValueError, match=r"predictions.*\.json"):
            read(replace(old_study))


def test_predictions_of_another_training_are_not_evaluated(old_study):
    run = old_study.run_folder("yolact")
    best = run / "predictions.json"
    content = json.loads(best.read_text())
    content["header"]["config"]["train"]["seed"] = 7
    before = best.read_text()
    for name, read in (("", open_results), ("_half", READERS["checkpoint_ap"])):
        write_json(run / f"predictions{name}.json", content)
        with pytest.raises(ValueError, match=rf"predictions{name}\.json"):
            read(old_study)
        best.write_text(before)
    write_json(
        best, json.loads(before) | {"header": json.loads(before)["header"] | {"iteration": 99}}
    )
    train_model(old_study, "yolact")
    assert json.loads(best.read_text())["header"]["iteration"] <= 2  # predicted again
