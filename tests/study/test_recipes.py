"""The recipes: the published numbers, what the others change, and changes by hand."""

import dataclasses
import inspect
import re

import pytest

from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.models.config import MaskRCNNConfig, ModelConfig, YolactConfig
from vocseg_lib.study.recipes import PARTS, RECIPES, Recipe, get_recipe, recipe_changes

CONFIGS = (TrainConfig, ModelConfig, YolactConfig, MaskRCNNConfig, Recipe)


def values(recipe):
    """Values of all fields of the parts; of those of both models, Mask R-CNN's."""
    return {k: v for part in PARTS for k, v in vars(getattr(recipe, part)).items()}


def test_paper_is_the_published_comparison():
    published = {"backbone": "resnet50", "weights": "imagenet", "image_size": 550, "batch_size": 2}
    published |= {"iterations": 12_000, "optimizer": "sgd", "learning_rate": 1e-3, "momentum": 0.9}
    published |= {"batch_norm": "unfrozen", "augmentation": "ssd"}
    published |= dict.fromkeys(("crop_in_training", "crop_in_inference", "normalize_by_area"), True)
    published |= dict.fromkeys(("mixed_precision", "semantic_loss"), False)
    assert published.items() <= values(get_recipe("paper")).items()
    defaults = Recipe(name="paper")
    assert recipe_changes(get_recipe("paper"), defaults).empty  # the defaults


def test_official_is_yolacts_pascal_schedule():
    pascal = {"batch_size": 8, "iterations": 120_000, "lr_milestones": (60_000, 100_000)}
    pascal |= {"learning_rate": 1e-3, "warmup_iterations": 500, "weight_decay": 5e-4}
    pascal |= {"semantic_loss": True, "batch_norm": "official"}
    assert pascal.items() <= values(get_recipe("official")).items()


def test_t4_scales_its_learning_rate_with_its_batch():
    t4, official = get_recipe("t4"), get_recipe("official")
    ratio = t4.train.learning_rate / official.train.learning_rate
    assert ratio == t4.train.batch_size / official.train.batch_size
    assert t4.train.mixed_precision
    assert t4.train.max_grad_norm
    assert t4.mask_rcnn.short_side == t4.yolact.image_size


def test_official_batch_norm_is_frozen_in_small_batches():
    assert TrainConfig(batch_norm="official", batch_size=5).freeze_batch_norm
    assert not TrainConfig(batch_norm="official", batch_size=6).freeze_batch_norm
    assert TrainConfig(batch_norm="frozen").freeze_batch_norm
    assert not TrainConfig().freeze_batch_norm


def test_recipes_are_frozen_and_found_by_name():
    assert list(RECIPES) == ["paper", "official", "t4", "laptop", "quick"]
    for name, recipe in RECIPES.items():
        assert (recipe.name, get_recipe(name)) == (name, recipe)
        assert recipe.expected_time
        assert recipe.expected_score
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.train.seed = 1
    with pytest.raises(ValueError, match="huge") as raised:
        get_recipe("huge")
    assert all(name in str(raised.value) for name in RECIPES)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_has_its_comment(config):
    source = inspect.getsource(config)
    for name in config.__annotations__:
        if name not in PARTS:
            assert re.search(rf"^    {name}: .*  # \S", source, re.MULTILINE), name


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
    assert recipe_changes(paper, paper).empty


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


def test_a_run_folders_config_gives_the_recipe_back():
    recipe = get_recipe("laptop").with_changes(seed=3)
    for model in ("yolact", "mask_rcnn"):
        config = {"recipe": recipe.for_model(model), "train": recipe.train.to_dict()}
        again = Recipe.of_run(config)
        assert (again.name, again.train) == ("laptop", recipe.train)
        assert again.model_config(model) == recipe.model_config(model)
