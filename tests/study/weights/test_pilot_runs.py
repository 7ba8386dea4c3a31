"""What is kept of a training: its predictions, how it was trained, and the weights."""

import json

import pytest

from tools.collect_results import _paper, _seeds
from tools.pilot_runs import keep_notes, keep_predictions, round_weights
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.study.export import export_weights
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import PREDICTIONS, open_files, open_results
from vocseg_lib.study.run import predict_run
from vocseg_lib.utils.files import read_json


def test_predictions_are_kept_with_how_they_were_trained(trained, tmp_path):
    expected = open_results(trained).evaluations
    for name, title in MODEL_TITLES.items():
        path = keep_predictions(trained.run_folder(name), tmp_path / "kept")
        assert path.name == f"{name}_seed0.json.gz"
        (evaluation,) = open_files([path], trained.devkit).evaluations.values()
        assert evaluation.summary == expected[title].summary
        content = read_json(path)
        assert not any("segmentation_uncropped" in d for d in content["detections"])
        notes = content["header"]["training"]
        assert len(notes["sessions"]) == 1
        assert [row["iteration"] for row in notes["evaluations"]] == [2, 4]
        assert notes["metrics"]["train_minutes"] > 0
        assert str(tmp_path) not in json.dumps(content["header"])
        path = keep_notes(trained.run_folder(name), tmp_path / "notes")
        assert path.name == f"{name}_{trained.recipe.train.augmentation}.json"
        alone = read_json(path)
        assert alone["evaluations"] == notes["evaluations"]
        assert f"--model {name}" in alone["command"]


def test_seeds_and_the_published_recipe_are_reported_from_kept_predictions(trained, tmp_path):
    for name in MODEL_TITLES:
        for checkpoint in PREDICTIONS:
            keep_predictions(trained.run_folder(name), tmp_path / "kept", checkpoint)
    seeds = _seeds(trained, tmp_path / "kept")
    assert [run["model"] for run in seeds["trainings"]] == [*MODEL_TITLES.values()]
    metrics = read_json(trained.run_folder("yolact") / "metrics.json")
    assert seeds["models"]["YOLACT"]["mask_AP"]["value"] == pytest.approx(metrics["mask_AP"])
    assert _seeds(trained, tmp_path / "none") is None
    for run in _paper(trained, tmp_path / "kept"):
        assert {"half", "best"} == {*run["change_to_last"]}
        ap = [run[checkpoint]["mask_AP"]["value"] for checkpoint in ("last", "half")]
        assert run["change_to_last"]["half"]["mask_AP"]["value"] == pytest.approx(ap[0] - ap[1])


def test_kept_weights_are_evaluated_as_they_are_stored(trained, tmp_path):
    run = trained.run_folder("yolact")
    round_weights(run, trained.results)
    path, card = export_weights(run, tmp_path / "w.safetensors")
    metrics, predictions = read_json(run / "metrics.json"), read_json(run / "predictions.json")
    again = predict_run(path, trained.devkit, device="cpu")
    for content in (predictions, again):
        summary = evaluate(trained.ground_truth, content["detections"]).summary
        assert {k: summary[k] for k in summary} == pytest.approx({k: metrics[k] for k in summary})
    assert f"| mask | {metrics['mask_AP']:.1f}" in card.read_text()
