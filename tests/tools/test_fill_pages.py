import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tools.collect_results import MAX_FIGURE_BYTES
from tools.fill_pages import ENVIRONMENT, between_marks, bounded, write_pages

ROOT = Path(__file__).parents[2]


def test_values_with_intervals_as_text_between_marks():
    value = {"value": 12.34, "low": 10.0, "high": 15.26}
    template = ENVIRONMENT.from_string("{{ x | bounded }}, {{ x | signed }}")
    assert template.render(x=value) == "12.3 [10.0, 15.3], +12.3 [+10.0, +15.3]"
    assert bounded({"value": -1.0, "low": None, "high": None}) == "-1.0"
    with pytest.raises(UndefinedError):
        ENVIRONMENT.from_string("{{ y.value }}").render(x=value)
    page = "a\n<!-- pilot -->\n{}<!-- /pilot -->\nb\n"
    for old in ("", "old\n"):
        assert between_marks(page.format(old), "pilot", "new\n") == page.format("new\n")
    with pytest.raises(ValueError, match="other"):
        between_marks(page, "other", "new")


@pytest.mark.parametrize("results", ["pilot", "lineage"])
def test_pages_equal_what_the_templates_make(results, tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/lineage.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    pages = write_pages(ROOT / "results" / results, tmp_path)
    assert pages
    for page in pages:
        assert page.read_text() == (ROOT / page.relative_to(tmp_path)).read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md", "docs/lineage.md"])
def test_figures_of_pages_are_there_and_small(page):
    figure = r'(?:!\[[^\]]*\]\(|<img src=")([^)"h][^)"]*)'
    figures = re.findall(figure, (ROOT / page).read_text())
    sizes = [((ROOT / page).parent / name).stat().st_size for name in figures]
    assert 0 < max(sizes) <= MAX_FIGURE_BYTES
