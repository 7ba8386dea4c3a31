import json

import numpy as np
import pytest

from tests.helpers.coco import entry, ground_truth_of
from vocseg_lib.metrics import coco_eval
from vocseg_lib.study.results import checkpoint_ap, open_files, open_ground_truth

BOX = (0, 0, 10, 10)


@pytest.fixture
def files(tmp_path):
    """A ground truth and two prediction files."""
    contents = {
        "gt": ground_truth_of(entry(1, 3, BOX), entry(2, 3, BOX)),
        "first": [entry(1, 3, BOX, 0.9), entry(2, 3, BOX, 0.3)],
        "second": [entry(1, 3, (0, 0, 10, 8), 0.9)],
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return [tmp_path / f"{name}.json" for name in contents]


def test_files_from_elsewhere(files, tmp_path):
    ground_truth, *predictions = files
    results = open_files(predictions, ground_truth, tmp_path / "out")
    assert list(results.evaluations) == ["first", "second"]
    assert (results.folder, results.images, results.study) == (tmp_path / "out", None, None)
    assert results.evaluations["first"].summary["mask_AP"] == pytest.approx(100)
    assert results.bootstrap_weights(5).shape == (5, 3)
    assert results.mask_explainers() == results.logs() == {}


def test_ious_are_computed_once_for_all_score_thresholds(files, monkeypatch):
    calls = []
    compute = coco_eval.evaluate_images
    monkeypatch.setattr(coco_eval, "evaluate_images", lambda *a: calls.append(a) or compute(*a))
    results = open_files(files[1:2], files[0])
    for score, count in ((0.0, 2), (0.5, 1)):
        (analysis,) = results.analyses(score).values()
        assert len(analysis.at_threshold.detections) == count
    assert results.evaluations["first"].matches("mask").num_gt.sum() == 2
    assert len(calls) == 1


def test_files_of_one_name_get_their_paths_as_titles(files, tmp_path):
    (tmp_path / "more").mkdir()
    other = files[1].rename(tmp_path / "more" / "second.json")
    results = open_files([files[2], other], files[0])
    assert list(results.predictions) == [str(files[2]), str(other)]
    with pytest.raises(ValueError, match=r"second\.json"):
        open_files([files[2], files[2]], files[0])


def test_predictions_of_other_images_are_refused(files):
    files[1].write_text(json.dumps([entry(9, 3, BOX, 0.9)]))
    with pytest.raises(ValueError, match=r"first\.json.*image_id 9"):
        open_files(files[1:], files[0])


def test_ground_truth_of_a_devkit(devkit):
    ground_truth = open_ground_truth(devkit)
    assert len(ground_truth["images"]) > 0
    assert all(a["id"] > 0 for a in ground_truth["annotations"])


def test_ap_of_a_runs_checkpoints(files, tmp_path):
    files[1].rename(tmp_path / "predictions.json")
    table = checkpoint_ap(tmp_path, open_ground_truth(files[0]))
    assert set(table["checkpoint"]) == {"best"}
    assert np.allclose(table["value"], 100)
    assert (table["low"] <= table["value"]).all()
