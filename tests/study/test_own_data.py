"""Other classes than VOC's, in VOC's layout or as COCO annotations, through the same study."""

import pytest

from tests.helpers.devkits import OTHER_CLASSES
from tests.helpers.trainings import QUICK
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import open_results
from vocseg_lib.study.run import load_run, predict_run
from vocseg_lib.study.study import open_study
from vocseg_lib.study.train import train_model


@pytest.mark.parametrize("layout", ["other_classes", "other_classes_coco"])
def test_other_classes_are_trained_and_evaluated(layout, request, devkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = request.getfixturevalue(layout)
    changes = {"iterations": 2, "batch_size": 2, "eval_every": 2, "lr_milestones": ()}
    study = open_study(QUICK, data, "results", changes=changes)
    assert study.class_names == OTHER_CLASSES
    for name in MODEL_TITLES:
        train_model(study, name)
        run = tmp_path / "results" / "runs" / name
        model, config, _ = load_run(run)
        assert config["class_names"] == list(OTHER_CLASSES)
        outputs = {
            parameter.shape[0]
            for key, parameter in model.named_parameters()
            if key.endswith(("head.classes.0.weight", "cls_score.weight"))
        }
        assert outputs in ({4}, {4 * 3})  # with background, for three priors per cell
        with pytest.raises(ValueError, match="woolly sheep"):
            predict_run(run, devkit)
    evaluations = open_results(study).evaluations
    assert len(VocDataset(study.devkit, "val")) == 6
    assert next(iter(evaluations.values())).category_index.keys() <= set(OTHER_CLASSES)


def test_a_missing_annotation_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_study(QUICK, tmp_path / "no.json")
