import inspect
import re

import pytest

from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.models.config import MaskRCNNConfig, ModelConfig, YolactConfig
from vocseg_lib.study.recipes import PARTS, RECIPES, Recipe, get_recipe, recipe_changes

CONFIGS = (TrainConfig, ModelConfig, YolactConfig, MaskRCNNConfig, Recipe)
PUBLISHED = {"backbone": "resnet50", "init": "imagenet", "image_size": 550, "batch_size": 2}
PUBLISHED |= {"iterations": 12_000, "optimizer": "sgd", "learning_rate": 1e-3, "momentum": 0.9}
PUBLISHED |= {"batch_norm": "unfrozen", "augmentation": "ssd"}
PUBLISHED |= dict.fromkeys(("crop_in_training", "crop_in_inference", "normalize_by_area"), True)
PUBLISHED |= dict.fromkeys(("mixed_precision", "semantic_loss"), False)
PASCAL = {"batch_size": 8, "iterations": 120_000, "lr_milestones": (60_000, 100_000)}
PASCAL |= {"learning_rate": 1e-3, "warmup_iterations": 500, "weight_decay": 5e-4}
PASCAL |= {"semantic_loss": True, "batch_norm": "official"}  # YOLACT's own schedule


@pytest.mark.parametrize(("name", "numbers"), [("paper", PUBLISHED), ("official", PASCAL)])
def test_published_numbers(name, numbers):
    parts = [vars(getattr(get_recipe(name), part)) for part in PARTS]
    assert all(any(part.get(k) == value for part in parts) for k, value in numbers.items())


def test_recipes_by_name_and_t4_scaled_with_its_batch():
    t4, official = get_recipe("t4"), get_recipe("official").train
    ratio = t4.train.learning_rate / official.learning_rate
    assert ratio == t4.train.batch_size / official.batch_size
    assert t4.mask_rcnn.short_side == t4.yolact.image_size
    assert list(RECIPES) == ["paper", "official", "t4", "coco", "finetune", "laptop", "quick"]
    for name, recipe in RECIPES.items():
        assert (recipe.name, get_recipe(name)) == (name, recipe)
        assert "" not in (recipe.expected_time, recipe.expected_score)
    with pytest.raises(ValueError, match="huge.*" + ".*".join(RECIPES)):
        get_recipe("huge")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_has_its_comment(config):
    commented = re.findall(r"^    (\w+): .*  # \S", inspect.getsource(config), re.MULTILINE)
    assert config.__annotations__.keys() - PARTS <= set(commented)


def test_changes_are_all_differences_with_their_meaning():
    paper, laptop = get_recipe("paper"), get_recipe("laptop")
    table = recipe_changes(laptop, paper)
    assert table.columns.tolist() == ["laptop", "paper", "meaning"]
    assert table.loc["train.iterations"].tolist()[:2] == [6_000, 12_000]
    assert table["meaning"].str.len().min() > 5
    for part in PARTS:
        first, second = (vars(getattr(recipe, part)) for recipe in (laptop, paper))
        for name, value in first.items():
            assert (f"{part}.{name}" in table.index) is (value != second[name])
    assert recipe_changes(paper, Recipe(name="paper")).empty  # the defaults


def test_a_change_reaches_every_part_that_has_the_field():
    changed = get_recipe("paper").with_changes(channels=64, iterations=5, nms="standard")
    assert (changed.yolact.channels, changed.mask_rcnn.channels) == (64, 64)
    assert (changed.train.iterations, changed.yolact.nms) == (5, "standard")
    assert changed.model_config("yolact") is changed.yolact
    assert changed.model_config("faster_rcnn") is changed.mask_rcnn
    with pytest.raises(ValueError, match="nonsense"):
        changed.model_config("nonsense")
    for name, value in (("size", 3), ("batch_size", 0), ("schedule", "foo"), ("compile", 1)):
        with pytest.raises(ValueError, match=name):
            changed.with_changes(**{name: value})
