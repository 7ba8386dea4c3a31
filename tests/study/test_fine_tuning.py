"""A model that starts from one of other classes is ahead of one that starts from nothing."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers.devkits import write_other_classes
from vocseg_lib.study.recipes import PARTS, RECIPES, get_recipe
from vocseg_lib.study.study import open_study
from vocseg_lib.study.train import train_model
from vocseg_lib.utils.files import read_json

ROOT = Path(__file__).parents[2]
FIRST = ("bus", "person", "sheep", "bottle")
SECOND = ("tvmonitor", "sheep", "aeroplane", "bus", "pottedplant", "person")
"""Classes of the first and of the second data; three are in both, at other labels."""
ITERATIONS = 600
AHEAD = {"yolact": 5.0, "mask_rcnn": 5.0}
"""At least so many points of mask AP50, after a tenth of the first training's iterations."""


@pytest.fixture(scope="session")
def devkits(tmp_path_factory):
    """Of four classes, and of six."""
    folder, numbers = tmp_path_factory.mktemp("two"), {"train": 200, "val": 40}
    first = write_other_classes(folder / "first", FIRST, FIRST, seed=5, **numbers)
    return first, write_other_classes(folder / "second", SECOND, SECOND, seed=6, **numbers)


@pytest.mark.parametrize("name", AHEAD)
def test_three_shared_classes_help(devkits, tmp_path, name):
    def mask_ap50(folder, devkit, iterations, init):
        changes = {"iterations": iterations, "eval_every": iterations, "semantic_loss": True}
        changes |= {"image_size": 128, "short_side": 96, "channels": 32, "batch_size": 4}
        changes |= {"warmup_iterations": 5, "eval_images": 20, "checkpoint_every": iterations}
        recipe = get_recipe("quick").with_changes(**changes)
        study = open_study(recipe, devkit, tmp_path / folder, init)
        train_model(study, name)
        return read_json(study.run_folder(name) / "metrics.json")["mask_AP50"]

    first, second = devkits
    mask_ap50("first", first, ITERATIONS, "none")
    short = ITERATIONS // 10
    tuned = mask_ap50("tuned", second, short, tmp_path / "first")
    assert tuned - mask_ap50("scratch", second, short, "none") >= AHEAD[name]


def test_the_page_has_the_recipes_values():
    text = (ROOT / "docs" / "finetune.md").read_text()
    section = text.partition("## The recipe")[2].partition("\nFewer images")[0]
    recipe, named = RECIPES["finetune"], re.findall(r"`(\w+)=([^`]+)`", section)
    assert len(named) >= 14
    for field, value in named:
        parts = [getattr(recipe, part) for part in PARTS]
        values = [getattr(part, field) for part in parts if hasattr(part, field)]
        assert ast.literal_eval(value) in values, field
