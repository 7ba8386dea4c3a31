import sys
from types import ModuleType

import pytest
import torch

from vocseg_lib.study import notebook
from vocseg_lib.study.notebook import runtime, start_notebook
from vocseg_lib.study.recipes import RECIPES
from vocseg_lib.utils.files import project_root


@pytest.fixture
def shown(monkeypatch):
    """The pieces of HTML that are displayed."""
    shown = []
    monkeypatch.setattr(notebook, "display", lambda html: shown.append(html.data))
    return shown


def test_one_line_says_what_will_happen(shown):
    assert start_notebook("quick", str(project_root() / "results" / "a<b")) == ""
    line, recipe = shown.pop().split("<details>")
    parts = ("GPU", "Python 3.", torch.__version__, "recipe quick", "results in results/a&lt;b")
    assert all(part in line for part in parts)
    assert "train.iterations" in recipe
    start_notebook("paper")
    assert "<details>" not in shown[0]  # nothing differs
    assert "results in results/paper" in shown[0]
    start_notebook("laptop iterations=10")
    assert "recipe laptop, without your changes: " in shown[1]
    start_notebook("t4", predictions="a.json")
    assert "no training, a.json instead · results in results/evaluated" in shown[2]
    with pytest.raises(ValueError, match="unknown"):
        start_notebook("unknown")


def test_a_missing_gpu_matters_to_recipes_that_need_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    needed = {name: notebook.NO_GPU in runtime(r.needs_gpu) for name, r in RECIPES.items()}
    assert needed == {name: name not in ("laptop", "quick") for name in RECIPES}


def test_drive_is_mounted_in_colab_alone(shown, monkeypatch):
    with pytest.raises(ValueError, match="Colab"):
        start_notebook("quick", drive=True)
    mounted, colab = [], ModuleType("google.colab")
    colab.drive = ModuleType("drive")
    colab.drive.mount = mounted.append
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    folder = start_notebook("quick", drive=True)
    assert mounted == ["/content/drive"]
    assert folder == "/content/drive/MyDrive/vocseg/quick"
    assert f"results in {folder}" in shown[-1]
    start_notebook("quick", "here", drive=True)
    assert "results in here" in shown[-1]
    start_notebook("quick", drive=True, copy=True)
    assert f"results in results/quick, copied to {folder}" in shown[-1]
