"""The public names, and the README's six lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vocseg_lib
from tests.helpers.trainings import QUICK
from vocseg_lib import plots
from vocseg_lib.study.recipes import RECIPES

README = Path(__file__).parents[1] / "README.md"
HEAVY = {"torch", "torchvision", "numpy", "pandas", "matplotlib", "pycocotools", "ipywidgets"}


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import vocseg_lib, vocseg_lib.models, vocseg_lib.plots", set()),
        ("import vocseg_lib; vocseg_lib.get_recipe('t4')", set()),
        ("from vocseg_lib import YolactConfig, MaskRCNNConfig, TrainConfig, Recipe", set()),
        ("from vocseg_lib import Yolact, VocDataset, evaluate", HEAVY - {"matplotlib"}),
    ],
)
def test_import_loads_nothing_heavy(code, loaded):
    code += f"\nimport sys; print(*sys.modules.keys() & {HEAVY})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= loaded


def test_every_public_name_is_there():
    assert 15 <= len(vocseg_lib.__all__) <= 25
    for package in (vocseg_lib, plots):
        for name in package.__all__:
            assert getattr(getattr(package, name), "__name__", "FILTERS") == name
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = package.no_such_name


def test_the_six_lines_lead_from_a_data_set_to_a_gallery(devkit, tmp_path, monkeypatch):
    marks = r"<!-- six lines -->\n```python\n(.*?)```\n<!-- /six lines -->"
    (block,) = re.findall(marks, README.read_text(), re.DOTALL)
    assert len([line for line in block.splitlines() if line and "import" not in line]) == 6
    tiny = QUICK.with_changes(iterations=2, batch_size=2, eval_every=2)
    monkeypatch.setitem(RECIPES, "laptop", tiny)
    monkeypatch.chdir(tmp_path)
    Path("path/to").mkdir(parents=True)
    os.symlink(devkit, "path/to/VOCdevkit")
    exec(block, {})
    assert (tmp_path / "gallery.html").stat().st_size > 10_000
    assert len(list(tmp_path.glob("results/*/runs/*/predictions.json"))) == 2
