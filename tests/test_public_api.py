"""The public names, and the README's six lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vocseg_lib
from tests.helpers.trainings import QUICK
from vocseg_lib.study.recipes import RECIPES

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "numpy", "pandas", "matplotlib", "pycocotools", "ipywidgets")


def loaded_after(code: str) -> set[str]:
    """Which of HEAVY a fresh Python has loaded after `code`."""
    code += f"\nimport sys; print(*sys.modules.keys() & {set(HEAVY)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy():
    assert loaded_after("import vocseg_lib, vocseg_lib.models, vocseg_lib.plots") == set()
    assert loaded_after("import vocseg_lib; vocseg_lib.get_recipe('t4')") == set()
    configs = "YolactConfig, MaskRCNNConfig, TrainConfig, Recipe"
    assert loaded_after(f"from vocseg_lib import {configs}") == set()
    assert "matplotlib" not in loaded_after("from vocseg_lib import Yolact, VocDataset, evaluate")


def test_every_public_name_is_there():
    assert 15 <= len(vocseg_lib.__all__) <= 25
    for name in vocseg_lib.__all__:
        assert getattr(vocseg_lib, name).__name__ == name
    with pytest.raises(AttributeError, match="Yolo"):
        vocseg_lib.Yolo  # noqa: B018


def test_the_six_lines_lead_from_a_data_set_to_a_gallery(devkit, tmp_path, monkeypatch):
    block = re.search(
        r"<!-- six lines -->\n```python\n(.*?)```\n<!-- /six lines -->",
        (ROOT / "README.md").read_text(),
        re.DOTALL,
    )[1]
    lines = [line for line in block.splitlines() if line and "import" not in line]
    assert len(lines) == 6
    tiny = QUICK.with_changes(iterations=2, batch_size=2, eval_every=2)
    monkeypatch.setitem(RECIPES, "laptop", tiny)
    monkeypatch.chdir(tmp_path)
    Path("path/to").mkdir(parents=True)
    os.symlink(devkit, "path/to/VOCdevkit")
    exec(block, {})
    assert (tmp_path / "gallery.html").stat().st_size > 10_000
    assert len(list(tmp_path.glob("results/*/runs/*/predictions.json"))) == 2
