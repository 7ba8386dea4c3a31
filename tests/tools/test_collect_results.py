"""Reports hold what the results hold, and the pages what the report holds."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError
from PIL import Image

from tools.collect_results import COMPARED, LARGEST_FIGURE, LINEAGE, REPORT, _beside, _rows, shrink
from tools.fill_pages import between_marks, bounded, fill, write_lineage_page, write_pages

ROOT = Path(__file__).parents[2]
PILOT = ROOT / "results" / "pilot" / REPORT


def test_figures_with_intervals_as_text():
    figure = {"value": 12.34, "low": 10.0, "high": 15.26}
    assert (
        fill("{{ figure | bounded }}, {{ figure | signed }}", {"figure": figure})
        == "12.3 [10.0, 15.3], +12.3 [+10.0, +15.3]"
    )
    assert bounded({"value": -1.0, "low": None, "high": None}) == "-1.0"
    with pytest.raises(UndefinedError):
        fill("{{ figures.value }}", {"figure": figure})


def test_what_stands_between_marks_is_replaced():
    for old in ("", "old\n"):
        text = f"a\n<!-- pilot -->\n{old}<!-- /pilot -->\nb\n"
        assert (
            between_marks(text, "pilot", "new\n") == "a\n<!-- pilot -->\nnew\n<!-- /pilot -->\nb\n"
        )
    with pytest.raises(ValueError, match="no marks <!-- other -->"):
        between_marks(text, "other", "new")


def test_figures_are_made_small_enough(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (250, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    shrink(tmp_path / "large.png", tmp_path / "small.png", 40_000)
    assert (tmp_path / "small.png").stat().st_size <= 40_000
    with Image.open(tmp_path / "small.png") as image:
        assert image.width / image.height == pytest.approx(1.6, rel=0.02)


@pytest.mark.parametrize(
    ("minutes", "iterations"), [(20.0, None), (26.0, 25), (30.0, 30), (99.0, 50)]
)
def test_a_peer_stands_beside_what_we_had_in_its_time(tmp_path, minutes, iterations):
    figures = {name: {"value": 1.0, "low": 0.5, "high": 2.0} for name in COMPARED}
    trained = [
        {"model": model, "iterations": i, "minutes": float(i), **figures}
        for model, i in (("A", 25), ("B", 28), ("A", 30))
    ]
    rows = [
        {"kind": "mask", "metric": metric, "class": "all", **figures["mask_AP"]}
        for metric in ("AP", "AP50")
    ]
    (tmp_path / "peer.json").write_text(json.dumps({"table": rows}))
    half = {"iterations": 50, "minutes": 50.0, **figures}
    beside = _beside(
        {"model": "A", "minutes": minutes, "file": "peer.json"},
        {"A": {"half": half}},
        trained,
        tmp_path,
    )
    assert (beside["ours"] and beside["ours"]["iterations"]) == iterations
    assert beside["mask_AP50"] == figures["mask_AP50"]


def test_a_table_by_its_keys():
    table = pd.DataFrame(
        {"size": ["all", "small", "all"], "type": ["a", "a", "b"], "cost": [1, 2, 3]}
    )
    assert _rows(table, "type", "size") == {
        "a": {"all": {"cost": 1}, "small": {"cost": 2}},
        "b": {"all": {"cost": 3}},
    }


@pytest.fixture
def committed() -> dict:
    """The pilot's report."""
    if not PILOT.is_file():
        pytest.skip("there is no report of a pilot")
    return json.loads(PILOT.read_text())


def test_the_pages_say_what_the_report_says(committed, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in (
        "README.md",
        "tools/templates/findings.md.jinja",
        "tools/templates/front_page.md.jinja",
    ):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for page in write_pages(committed, tmp_path):
        assert page.read_text() == (ROOT / page.relative_to(tmp_path)).read_text(), page.name


def test_a_pilot_is_called_one(committed):
    assert committed["data"]["kind"] == "pilot"
    assert "**pilot**" in fill(
        (ROOT / "tools" / "templates" / "front_page.md.jinja").read_text(), committed
    )


def test_what_is_claimed_of_the_trainings_holds(committed):
    assert {
        title: model["recipe"]["backbone"] for title, model in committed["models"].items()
    } == dict.fromkeys(committed["models"], "mobilenet_v2")
    recipes = [
        {k: v for k, v in m["recipe"].items() if k not in ("model", "iterations")}
        for m in committed["models"].values()
    ]
    assert recipes[0] == recipes[1]
    for peer in committed["peers"]:
        assert peer["ours"]["minutes"] <= peer["minutes"]
        for figure in ("mask_AP", "mask_AP50"):
            assert peer["ours"][figure]["value"] > peer[figure]["value"]
    assert committed["metrics"]["YOLACT"]["mask_AP50"]["value"] > 10
    assert committed["metrics"]["Mask R-CNN"]["mask_AP50"]["value"] > 15


def test_pictures_of_the_pages_are_there_and_small():
    pages = (ROOT / "README.md", ROOT / "docs" / "findings.md")
    for page in (path for path in pages if path.is_file()):
        for picture in re.findall(
            r'!\[[^\]]*\]\(([^)h][^)]*)\)|<img src="([^"]+)"', page.read_text()
        ):
            path = page.parent / next(filter(None, picture))
            assert path.is_file(), path
            assert path.stat().st_size <= LARGEST_FIGURE


def test_the_lineages_page_holds_what_its_file_holds(tmp_path):
    file = ROOT / "results" / "lineage" / LINEAGE
    if not file.is_file():
        pytest.skip("there is no pilot of the lineage")
    lineage = json.loads(file.read_text())
    assert "not VOC 2012's" in lineage["about"]
    (tmp_path / "docs").mkdir()
    for name in ("lineage.md", "lineage_pilot.md.jinja"):
        (tmp_path / "docs" / name).write_text((ROOT / "docs" / name).read_text())
    (page,) = write_lineage_page(lineage, tmp_path)
    assert page.read_text() == (ROOT / "docs" / "lineage.md").read_text()
