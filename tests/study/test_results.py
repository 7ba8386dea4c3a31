import json
import shutil
from dataclasses import replace
from unittest.mock import Mock

import pytest

from tests.helpers.coco import entry, ground_truth_of
from vocseg_lib.metrics import matching
from vocseg_lib.study.results import open_files, open_results
from vocseg_lib.utils.files import read_json, write_json

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


def test_ious_are_computed_once_for_all_score_thresholds(files, monkeypatch):
    compute = Mock(side_effect=matching.evaluate_images)
    monkeypatch.setattr(matching, "evaluate_images", compute)
    results = open_files(files[1:2], files[0])
    assert results.images is results.study is None
    assert results.bootstrap_weights(5).shape == (5, 3)
    assert results.mask_explainers() == results.logs() == {}
    for score, count in ((0.0, 2), (0.5, 1)):
        (analysis,) = results.analyses(score).values()
        assert len(analysis.at_threshold.detections) == count
    assert results.evaluations["first"].summary["mask_AP"] == pytest.approx(100)
    compute.assert_called_once()


def test_files_of_one_name_get_their_paths_as_titles(files, tmp_path):
    ground_truth, first, second = files
    (tmp_path / "more").mkdir()
    other = first.rename(tmp_path / "more" / second.name)
    assert list(open_files([second, other], ground_truth).predictions) == [str(second), str(other)]
    with pytest.raises(ValueError, match=second.name):  # given twice
        open_files([second, other.parent / ".." / second.name], ground_truth)
    with pytest.raises(FileNotFoundError, match="gone"):
        open_files(["gone.json"], ground_truth)
    with pytest.raises(ValueError, match="files"):
        open_files([], ground_truth)
    second.write_text(json.dumps([entry(9, 3, BOX, 0.9)]))
    with pytest.raises(ValueError, match=rf"{second.name}.*image_id 9"):  # of other images
        open_files([second], ground_truth)


def test_trainings_of_other_seeds_are_taken_together(trained, capsys):
    own = trained.run_folder("yolact")
    other = replace(trained, recipe=trained.recipe.with_changes(seed=3)).run_folder("yolact")
    assert other.name == "yolact_seed3"
    config = read_json(own / "config.json")
    changes = {"yolact_seed3": {"seed": 3}, "yolact_seed4": {"seed": 4, "momentum": 0.5}}
    for name, change in changes.items():
        shutil.copytree(own, own.with_name(name))
        changed = {**config, "train": {**config["train"], **change}}
        predictions = read_json(own / "predictions.json")
        predictions["header"]["config"] = changed
        write_json(own.with_name(name) / "config.json", changed)
        write_json(own.with_name(name) / "predictions.json", predictions)
    results = open_results(trained)
    assert {title: len(of) for title, of in results.trainings.items()} == {
        "YOLACT": 2,
        "Mask R-CNN": 1,
    }
    assert "yolact_seed4" in capsys.readouterr().err
    sampled = results.sampled(20)
    assert (sampled["YOLACT"].training_share.dropna() == 0).all()  # a copy differs in nothing
    assert not sampled["YOLACT"].training_share.isna().all()
    assert sampled["Mask R-CNN"].training_share.isna().all()
