"""A model that starts from one of other classes is ahead of one that starts from nothing."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.devkits import write_other_classes
from vocseg_lib.data import synthetic
from vocseg_lib.study.recipes import PARTS, RECIPES, get_recipe
from vocseg_lib.study.study import open_study
from vocseg_lib.study.train import train_model
from vocseg_lib.utils.files import read_json

ROOT = Path(__file__).parents[3]
FIRST = ("bus", "person", "sheep", "bottle")
SECOND = ("tvmonitor", "sheep", "aeroplane", "bus", "pottedplant", "person")
"""Classes of the first and of the second data; three are in both, at other labels."""
ITERATIONS, FEWER = 150, 30
"""Of the first training, and of those on the second data."""
AHEAD = 5.0
"""At least so many points of mask AP50; 13 to 34, by seeds and kinds of processors."""


def one_large_object(rng, size, edge_case):
    """Instead of a crowded scene: so that a fifth of a short training can be enough."""
    width, height = size
    name = list(synthetic.SHAPES)[rng.integers(len(synthetic.SHAPES))]
    w, h = 0.7 * width, 0.8 * height
    corner = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return [(name, (*corner, w, h), bool(rng.integers(2)))]


@pytest.fixture
def devkits(tmp_path, monkeypatch):
    """Of four classes, and of six."""
    monkeypatch.setattr(synthetic, "_layout", one_large_object)
    numbers = {"train": 120, "val": 30}
    first = write_other_classes(tmp_path / "a", FIRST, FIRST, seed=5, **numbers)
    return first, write_other_classes(tmp_path / "b", SECOND, SECOND, seed=6, **numbers)


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_three_shared_classes_help(devkits, tmp_path, name):
    def mask_ap50(folder, devkit, iterations, init):
        changes = {"iterations": iterations, "eval_every": iterations, "semantic_loss": True}
        changes |= {"image_size": 96, "short_side": 72, "channels": 32, "batch_size": 8}
        changes |= {"warmup_iterations": 5, "eval_images": 20, "checkpoint_every": iterations}
        recipe = get_recipe("quick").with_changes(**changes)
        study = open_study(recipe, devkit, tmp_path / folder, init)
        train_model(study, name)
        return read_json(study.run_folder(name) / "metrics.json")["mask_AP50"]

    first, second = devkits
    mask_ap50("first", first, ITERATIONS, "none")
    tuned = mask_ap50("tuned", second, FEWER, tmp_path / "first")
    scratch = mask_ap50("scratch", second, FEWER, "none")
    assert tuned - scratch >= AHEAD


def test_the_page_has_the_recipes_values():
    text = (ROOT / "docs" / "finetune.md").read_text()
    section = text.partition("## The recipe")[2].partition("\nFewer images")[0]
    recipe, named = RECIPES["finetune"], re.findall(r"`(\w+)=([^`]+)`", section)
    assert len(named) >= 14
    for field, value in named:
        parts = [getattr(recipe, part) for part in PARTS]
        values = [getattr(part, field) for part in parts if hasattr(part, field)]
        assert ast.literal_eval(value) in values, field
