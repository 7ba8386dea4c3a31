import json
import re
import shutil
from pathlib import Path

import pytest

from tools.selection import flattery, markdown
from vocseg_lib.study.recipes import get_recipe

ROOT = Path(__file__).parents[2]


def write_run(folder, share):
    recipe = get_recipe("quick").with_changes(selection_share=share)
    config = {"model": "yolact", "recipe": recipe.for_model("yolact")}
    config["train"] = recipe.train.to_dict()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    rows = [(1, 10, 20, 3), (2, 40, 30, 2), (3, 35, 30, 1), (4, 30, 25, 0)]
    names = "iteration mask_AP50 selection_AP50 selection_loss".split()
    more = {"val_images": 8, "selection_images": 4, "seconds": 1.0}
    lines = [json.dumps(dict(zip(names, row, strict=True)) | more) for row in rows]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")


def test_flattery_by_hand(tmp_path):
    write_run(tmp_path / "run", 0.1)
    row = flattery(tmp_path / "run")
    assert row["chosen_at"] == {"val": 2, "train": 3}  # of equal ones, less loss
    assert row["flattered_by"] == 5
    assert "| YOLACT | 540 | 40.0 (iteration 2) | 35.0 (iteration 3) | 5.0 |" in markdown([row])
    shutil.rmtree(tmp_path / "run")
    write_run(tmp_path / "run", 0.0)
    with pytest.raises(ValueError, match="run"):
        flattery(tmp_path / "run")


def test_the_page_has_the_committed_table():
    page = (ROOT / "docs" / "evaluating.md").read_text()
    shown = re.search(r"<!-- selection -->\n(.*)\n<!-- /selection -->", page, re.DOTALL)
    rows = json.loads((ROOT / "results" / "pilot" / "selection.json").read_text())
    assert shown[1] == markdown(rows)
