from dataclasses import replace

import pytest
from PIL import Image

from tests.helpers.devkits import OTHER_CLASSES
from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import find_devkit, split_ids
from vocseg_lib.engine.train import TooManyBadSamples
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import open_results
from vocseg_lib.study.run import load_run, predict_run
from vocseg_lib.study.study import Study, open_study, reproduce
from vocseg_lib.study.train import run_config, train_model
from vocseg_lib.utils.files import write_json


def test_data_its_kind_and_paths(study, devkit, damageable, tmp_path):
    assert study.run_folder("yolact") == tmp_path / "runs" / "yolact"
    assert study.ground_truth["annotations"] == voc_to_coco(devkit, "val")["annotations"]
    assert [t["image_id"] for _, t in study.val] == [i["id"] for i in study.ground_truth["images"]]
    assert study.dataset("train").transform is None
    assert study.dataset("train", "light").transform is not None
    assert "quick" in study.description
    study = replace(study, devkit=damageable)
    assert study.data_kind == "synthetic"
    (damageable / synthetic.STAMP_NAME).unlink()
    assert study.data_kind == "pilot"
    (damageable / "class_names.txt").write_text("\n".join(["ship", *study.class_names[1:]]))
    assert study.data_kind == "own"


def test_unreadable_images_of_val_are_left_out_up_to_a_limit(study, damageable):
    (damageable / "JPEGImages" / f"{split_ids(damageable, 'val')[1]}.jpg").write_bytes(b"torn")
    lenient = study.recipe.with_changes(max_bad_fraction=0.5)
    with pytest.warns(UserWarning, match="1 of 3"):
        assert len(Study(recipe=lenient, devkit=damageable, results=study.results).val) == 2
    with pytest.raises(TooManyBadSamples, match="1 of 3"):
        _ = Study(recipe=study.recipe, devkit=damageable, results=study.results).ground_truth


def test_an_empty_val_is_refused(study, damageable):
    for path in damageable.glob("Segmentation*/*.png"):
        with Image.open(path) as image:
            image.point(lambda value: 0).save(path)
    with pytest.raises(ValueError, match=str(damageable)):
        _ = replace(study, devkit=damageable).ground_truth


def test_a_study_is_opened_on_a_devkit_or_coco_annotations(
    devkit, other_classes_coco, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    study = open_study("t4", devkit, init="imagenet", changes={"iterations": 3})
    assert study.devkit == devkit
    assert study.results.resolve() == tmp_path / "results" / "t4"
    assert (study.recipe.train.iterations, study.recipe.yolact.init) == (3, "imagenet")
    with pytest.raises(FileNotFoundError):
        open_study("t4", tmp_path / "no.json")
    opened = [open_study("quick", other_classes_coco, "own") for _ in range(2)]
    assert opened[0].devkit == opened[1].devkit
    assert len(split_ids(opened[0].devkit, "val")) == 6
    assert opened[0].results.resolve() == tmp_path / "own"


def test_reproduce_needs_the_config_and_the_data_of_the_run(study, devkit, damageable, tmp_path):
    run, config = study.run_folder("yolact"), run_config(study, "yolact")
    with pytest.raises(FileNotFoundError, match=str(run)):
        reproduce(run, devkit)
    write_json(run / "config.json", {})
    with pytest.raises(ValueError, match=str(run)):
        reproduce(run, devkit)
    write_json(run / "config.json", config)
    again, _ = reproduce(run, devkit, tmp_path / "again")
    assert (again.recipe.train, again.recipe.yolact) == (study.recipe.train, study.recipe.yolact)
    with pytest.raises(ValueError, match=str(find_devkit(damageable))):
        reproduce(run, damageable)


@pytest.mark.parametrize("layout", ["other_classes", "other_classes_coco"])
def test_other_classes_are_trained_and_evaluated(layout, study, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = open_study(study.recipe, request.getfixturevalue(layout), "own")
    assert own.class_names == OTHER_CLASSES
    for name in MODEL_TITLES:
        train_model(own, name)
        model, config, _ = load_run(own.run_folder(name))
        assert config["class_names"] == list(OTHER_CLASSES)
        heads = ("head.classes.0.weight", "cls_score.weight")
        outputs = {len(p) for key, p in model.named_parameters() if key.endswith(heads)}
        assert outputs in ({4}, {4 * 3})  # with background, for three priors per cell
        with pytest.raises(ValueError, match="woolly sheep"):
            predict_run(own.run_folder(name), study.devkit)
    evaluation = open_results(own).evaluations["YOLACT"]
    assert len(own.val) == 6
    assert evaluation.category_index.keys() <= set(OTHER_CLASSES)
