"""Stored predictions are held against the data and training that they are of."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.helpers.cli import vocseg
from tests.helpers.trainings import QUICK, SHORT
from vocseg_lib.data.classes import VOID, save_map
from vocseg_lib.data.voc import split_ids, write_splits
from vocseg_lib.study import lineage_table
from vocseg_lib.study.lineage import prediction_path
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import checkpoint_ap, open_files, open_results
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
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), name
    write_splits(data, ["i5", "i6"], ["i7", "i8", "i9"])  # the same val of other data
    for read in READERS.values():
        with pytest.raises(ValueError, match=r"predictions.*\.json"):
            read(replace(old_study))


def repaint(data):
    path = data / "SegmentationClass/i7.png"
    values = np.array(Image.open(path))
    save_map(path, np.where((values > 0) & (values < VOID), 3 - values, values))


CHANGES = {  # of val with the same list
    "class names": lambda data: (data / "class_names.txt").write_text("dog\ncat\n"),
    "a map": repaint,
    "a picture": lambda data: shutil.copy(data / "JPEGImages/i8.jpg", data / "JPEGImages/i9.jpg"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_predictions_of_a_val_that_has_changed_are_not_evaluated(old_study, change):
    path, data = old_study.run_folder("yolact") / "predictions.json", old_study.devkit
    ground_truth = data.parent / "gt.json"
    write_json(ground_truth, old_study.ground_truth)
    CHANGES[change](data)
    files = ("--predictions", path, "--data")
    for command in ("evaluate", "failures", "describe"):
        done = vocseg(command, *files, data)
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert str(path) in done.stderr
    assert " 100.0" in vocseg("evaluate", *files, ground_truth, "--resamples", 0).stdout


def test_predictions_of_pictures_are_of_their_content(old_study, tmp_path):
    pictures, out = old_study.devkit / "JPEGImages", tmp_path / "p.json"
    val = [pictures / f"i{k}.jpg" for k in (7, 8, 9)]
    run = old_study.run_folder("yolact")
    assert vocseg("predict", run, "--image", *val, "--out", out).exit_code == 0
    command = ("evaluate", "--predictions", out, "--data", old_study.devkit, "--resamples", 0)
    assert vocseg(*command).exit_code == 0
    val[0].rename(tmp_path / "i7.jpg")
    shutil.copy(val[1], val[0])
    done = vocseg(*command)
    assert (done.exit_code, "i7.jpg" in done.stderr) == (2, True)


def test_files_of_a_training_are_not_replaced_by_outputs(old_study):
    path, data = old_study.run_folder("yolact") / "predictions.json", old_study.devkit
    other, before = old_study.run_folder("mask_rcnn"), path.read_bytes()
    done = vocseg("predict", other, "--image", data / "JPEGImages/i7.jpg", "--out", path)
    assert (done.exit_code, path.read_bytes()) == (2, before)
    out = path.with_name("metrics.json")
    files = ("--predictions", path, "--data", data, "--resamples", 0, "--out")
    assert vocseg("evaluate", *files, out).exit_code == 2
    assert vocseg("evaluate", *files, path.with_name("ours.json")).exit_code == 0


def test_files_that_no_training_wrote_are_not_replaced(old_study, tmp_path):
    folder = tmp_path / "res" / "runs" / "yolact"
    folder.mkdir(parents=True)
    (folder / "best.pt").write_bytes(b"mine")
    command = ("train", "--model", "yolact", "--data", old_study.devkit, "--set", *SHORT)
    done = vocseg(*command, "--results", tmp_path / "res")
    assert (done.exit_code, "best.pt" in done.stderr) == (2, True)
    assert {path.name for path in folder.iterdir()} == {"best.pt", "running.lock"}


def test_a_runs_classes_are_held_by_name(old_study):
    path, ground_truth = old_study.run_folder("yolact") / "predictions.json", old_study.ground_truth
    names = {c["id"]: c["name"] for c in ground_truth["categories"]}
    shifted = [{"id": 9 - k, "name": name} for k, name in names.items()]
    annotations = [a | {"category_id": 9 - a["category_id"]} for a in ground_truth["annotations"]]
    shuffled = {"images": ground_truth["images"][::-1], "annotations": annotations}
    data = path.parent / "gt.json"
    write_json(data, {**shuffled, "categories": shifted})
    (evaluation,) = open_files([path], data).evaluations.values()
    assert evaluation.summary["mask_AP"] == pytest.approx(100)
    write_json(data, {**shuffled, "categories": [c | {"name": f"{c['id']} cows"} for c in shifted]})
    with pytest.raises(ValueError, match="category"):
        open_files([path], data)


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
