import dataclasses
import inspect
import re

import pytest

from vocseg_lib.study.recipes import (
    PROFILES,
    PROSE_FIELDS,
    Recipe,
    get_recipe,
    parse_changes,
    recipe_changes,
)


def test_paper_is_the_study():
    paper = get_recipe("paper")
    study = {
        "backbone": "resnet50",
        "weights": "imagenet",
        "image_size": 550,
        "batch_size": 2,
        "iterations": 12_000,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "batch_norm": "unfrozen",
        "crop_in_training": True,
        "crop_in_inference": True,
        "normalize_by_area": True,
        "mixed_precision": False,
        "semantic_loss": False,
        "augmentation": "ssd",
    }
    assert {name: getattr(paper, name) for name in study} == study


def test_profiles_are_frozen_and_say_command_time_and_score():
    assert set(PROFILES) == {"paper", "official", "t4", "laptop", "quick"}
    for name, recipe in PROFILES.items():
        assert recipe.name == name
        assert "make study" in recipe.command
        assert recipe.expected_time
        assert recipe.expected_score
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.seed = 1
    with pytest.raises(ValueError, match="choose one of paper, official, t4, laptop, quick"):
        get_recipe("huge")


def test_every_field_has_its_comment():
    source = inspect.getsource(Recipe)
    for field in dataclasses.fields(Recipe):
        assert re.search(rf"^    {field.name}: .*  # \S", source, re.MULTILINE), field.name


def test_official_is_yolacts_pascal_schedule():
    official = get_recipe("official")
    pascal = {
        "batch_size": 8,
        "iterations": 120_000,
        "lr_milestones": (60_000, 100_000),
        "learning_rate": 1e-3,
        "warmup_iterations": 500,
        "weight_decay": 5e-4,
        "semantic_loss": True,
        "batch_norm": "official",
    }
    assert {name: getattr(official, name) for name in pascal} == pascal


def test_differences_are_all_of_them_and_say_what_they_are():
    paper, official = get_recipe("paper"), get_recipe("official")
    table = recipe_changes(paper, official)
    assert table.loc["iterations"].tolist()[:2] == [12_000, 120_000]
    assert table["what it is"].str.len().min() > 5
    for field in dataclasses.fields(Recipe):
        differs = getattr(paper, field.name) != getattr(official, field.name)
        assert (field.name in table.index) is (
            differs and field.name not in ("name", *PROSE_FIELDS)
        )
    assert recipe_changes(paper, paper).empty


def test_changes_are_parsed_and_checked():
    texts = [
        "short_side=550",
        "learning_rate=1",
        "patience=None",
        "lr_milestones=(1, 2)",
        "mixed_precision=True",
        "weights=a/b.pth",
    ]
    wanted = {
        "short_side": 550,
        "learning_rate": 1,
        "patience": None,
        "lr_milestones": (1, 2),
        "mixed_precision": True,
    }
    assert parse_changes(texts) == {**wanted, "weights": "a/b.pth"}
    for wrong in (
        "short_side",
        "size=3",
        "short_side=large",
        "batch_size=2.5",
        "batch_size=None",
        "schedule=3",
        "compile=1",
    ):
        with pytest.raises(ValueError, match=wrong.split("=")[0]):
            parse_changes([wrong])


def test_numbers_that_count_something_are_checked():
    for wrong in ({"batch_size": 0}, {"iterations": -1}, {"workers": -1}, {"patience": 0}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name} is {value}: it has to be at least [01]"):
            dataclasses.replace(get_recipe("paper"), **wrong)


def test_t4_scales_its_learning_rate_with_its_batch():
    t4, official = get_recipe("t4"), get_recipe("official")
    assert t4.learning_rate / official.learning_rate == t4.batch_size / official.batch_size
    assert t4.mixed_precision
    assert t4.max_grad_norm
    assert t4.short_side == t4.image_size
