"""A study's data and paths, and how it is opened."""

import json

import pytest
from PIL import Image

from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import find_devkit, split_ids
from vocseg_lib.engine.train import TooManyBadSamples
from vocseg_lib.study.recipes import Recipe, get_recipe
from vocseg_lib.study.study import Study, open_study, reproduce
from vocseg_lib.study.train import run_config
from vocseg_lib.utils.files import write_json


@pytest.fixture
def damaged(damageable) -> Study:
    """A study with one unreadable image of three in val."""
    (damageable / "JPEGImages" / f"{split_ids(damageable, 'val')[1]}.jpg").write_bytes(b"torn")
    recipe = get_recipe("quick").with_changes(max_bad_fraction=0.5)
    return Study(recipe, damageable, damageable.parent / "results")


def test_data_and_paths(study, devkit, tmp_path):
    assert study.run_folder("yolact") == tmp_path / "runs" / "yolact"
    assert len(study.val) == len(study.ground_truth["images"]) == 6
    assert study.ground_truth["annotations"] == voc_to_coco(devkit, "val")["annotations"]
    assert [t["image_id"] for _, t in study.val] == [i["id"] for i in study.ground_truth["images"]]
    assert study.dataset("train").transform is None
    assert study.dataset("train", "light").transform is not None
    assert study.data_kind == "synthetic"
    assert "quick" in study.description


def test_the_kind_of_data(damageable, tmp_path):
    (damageable / synthetic.STAMP_NAME).unlink()
    study = Study(get_recipe("quick"), damageable, tmp_path)
    assert study.data_kind == "pilot"
    names = list(study.class_names)
    (damageable / "class_names.txt").write_text("\n".join(["ship", *names[1:]]))
    assert study.data_kind == "own"


def test_unreadable_images_of_val_are_left_out_up_to_a_limit(damaged):
    with pytest.warns(UserWarning, match="1 of 3"):
        assert len(damaged.val) == 2
    strict = Study(Recipe(name="strict"), damaged.devkit, damaged.results)
    with pytest.raises(TooManyBadSamples, match="1 of 3"):
        strict.ground_truth  # noqa: B018


def test_an_empty_val_is_refused(damaged):
    for name in split_ids(damaged.devkit, "val")[::2]:
        for folder in ("SegmentationClass", "SegmentationObject"):
            path = damaged.devkit / folder / f"{name}.png"
            with Image.open(path) as image:
                image.point(lambda value: 0).save(path)
    with (
        pytest.raises(ValueError, match=str(damaged.devkit)),
        pytest.warns(UserWarning, match="1 of 3"),
    ):
        damaged.ground_truth  # noqa: B018


def test_a_study_is_opened_on_a_devkit_or_coco_annotations(devkit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = open_study("t4", devkit, weights="imagenet", changes={"iterations": 3})
    assert study.devkit == devkit
    assert study.results.resolve() == tmp_path / "results" / "t4"
    assert (study.recipe.train.iterations, study.recipe.yolact.weights) == (3, "imagenet")
    for split in ("train", "val"):
        content = voc_to_coco(devkit, split)
        for image in content["images"]:
            image["file_name"] = str(devkit / "JPEGImages" / image["file_name"])
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    opened = [open_study("quick", tmp_path / "train.json", "own") for _ in range(2)]
    assert opened[0].devkit == opened[1].devkit
    assert len(split_ids(opened[0].devkit, "val")) == 6
    assert opened[0].results.resolve() == tmp_path / "own"


def test_reproduce_needs_the_config_and_the_data_of_the_run(study, devkit, damageable, tmp_path):
    run = study.run_folder("yolact")
    with pytest.raises(FileNotFoundError, match=str(run)):
        reproduce(run, devkit)
    write_json(run / "config.json", {})
    with pytest.raises(ValueError, match=str(run)):
        reproduce(run, devkit)
    config = run_config(study, "yolact")
    write_json(run / "config.json", config)
    again, model_name = reproduce(run, devkit, tmp_path / "again")
    assert model_name == "yolact"
    assert again.recipe.train == study.recipe.train
    assert again.recipe.yolact == study.recipe.yolact
    with pytest.raises(ValueError, match=str(find_devkit(damageable))):
        reproduce(run, damageable)
