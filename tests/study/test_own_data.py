"""Other classes than VOC's, in VOC's layout or as COCO annotations, through the same study."""

import pytest

from tests.helpers.devkits import OTHER_CLASSES
from tests.helpers.trainings import QUICK
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import open_results
from vocseg_lib.study.run import load_run, predict_run
from vocseg_lib.study.study import open_study
from vocseg_lib.study.train import train_model


@pytest.mark.parametrize("layout", ["other_classes", "other_classes_coco"])
def test_other_classes_are_trained_and_evaluated(layout, request, devkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {"iterations": 2, "batch_size": 2, "eval_every": 2, "lr_milestones": ()}
    study = open_study(QUICK, request.getfixturevalue(layout), "results", changes=changes)
    assert study.class_names == OTHER_CLASSES
    for name in MODEL_TITLES:
        train_model(study, name)
        model, config, _ = load_run(study.run_folder(name))
        assert config["class_names"] == list(OTHER_CLASSES)
        heads = ("head.classes.0.weight", "cls_score.weight")
        outputs = {len(p) for key, p in model.named_parameters() if key.endswith(heads)}
        assert outputs in ({4}, {4 * 3})  # with background, for three priors per cell
        with pytest.raises(ValueError, match="woolly sheep"):
            predict_run(study.run_folder(name), devkit)
    evaluation = open_results(study).evaluations["YOLACT"]
    assert len(study.val) == 6
    assert evaluation.category_index.keys() <= set(OTHER_CLASSES)


def test_a_missing_annotation_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_study(QUICK, tmp_path / "no.json")
