import json
from unittest.mock import Mock

import pytest

from tests.helpers.coco import entry, ground_truth_of
from vocseg_lib.metrics import matching
from vocseg_lib.study.results import open_files

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
