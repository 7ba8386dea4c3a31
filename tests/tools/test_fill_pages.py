"""The committed pages are what their templates make of the committed results."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tools.collect_results import MAX_FIGURE_BYTES
from tools.fill_pages import ENVIRONMENT, between_marks, bounded, write_pages

ROOT = Path(__file__).parents[2]


def test_values_with_intervals_as_text():
    value = {"value": 12.34, "low": 10.0, "high": 15.26}
    template = ENVIRONMENT.from_string("{{ x | bounded }}, {{ x | signed }}")
    assert template.render(x=value) == "12.3 [10.0, 15.3], +12.3 [+10.0, +15.3]"
    assert bounded({"value": -1.0, "low": None, "high": None}) == "-1.0"
    with pytest.raises(UndefinedError):
        ENVIRONMENT.from_string("{{ y.value }}").render(x=value)


@pytest.mark.parametrize("old", ["", "old\n"])
def test_text_between_marks_is_replaced(old):
    text = f"a\n<!-- pilot -->\n{old}<!-- /pilot -->\nb\n"
    filled = "a\n<!-- pilot -->\nnew\n<!-- /pilot -->\nb\n"
    assert between_marks(text, "pilot", "new\n") == filled
    with pytest.raises(ValueError, match="other"):
        between_marks(text, "other", "new")


@pytest.mark.parametrize("results", ["pilot", "lineage"])
def test_pages_equal_what_the_templates_make(results, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/lineage.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    pages = write_pages(ROOT / "results" / results, tmp_path)
    assert pages
    for page in pages:
        assert page.read_text() == (ROOT / page.relative_to(tmp_path)).read_text(), page.name


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md", "docs/lineage.md"])
def test_figures_of_pages_are_there_and_small(page):
    figures = re.findall(
        r'!\[[^\]]*\]\(([^)h][^)]*)\)|<img src="([^"]+)"', (ROOT / page).read_text()
    )
    assert figures
    for names in figures:
        path = (ROOT / page).parent / next(filter(None, names))
        assert path.is_file(), path
        assert path.stat().st_size <= MAX_FIGURE_BYTES
