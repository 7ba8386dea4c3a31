import dataclasses
import inspect
import re

import pytest

from vocseg_lib.recipes import PROFILES, Recipe, get_recipe


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
        "freeze_batch_norm": False,
        "semantic_loss": False,
        "augmentation": "ssd",
    }
    assert {name: getattr(paper, name) for name in study} == study


def test_profiles_are_frozen_and_say_command_time_and_score():
    assert set(PROFILES) == {"paper", "t4", "laptop", "quick"}
    for name, recipe in PROFILES.items():
        assert recipe.name == name
        assert "make study" in recipe.command
        assert recipe.expected_time
        assert recipe.expected_score
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.seed = 1
    with pytest.raises(ValueError, match="choose one of paper, t4, laptop, quick"):
        get_recipe("huge")


def test_every_field_has_its_comment():
    source = inspect.getsource(Recipe)
    for field in dataclasses.fields(Recipe):
        assert re.search(rf"^    {field.name}: .*  # \S", source, re.MULTILINE), field.name
