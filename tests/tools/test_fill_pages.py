import html
import json
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tests.helpers.payloads import NAMES
from tools import fill_pages
from tools.collect_results import MAX_FIGURE_BYTES
from tools.fill_pages import ENVIRONMENT, between_marks, bounded, whole_training, write_pages

ROOT = Path(__file__).parents[2]


def test_values_with_intervals_as_text_between_marks():
    value = {"value": 12.34, "low": 10.0, "high": 15.26}
    template = ENVIRONMENT.from_string("{{ x | bounded }}, {{ x | signed }}")
    assert template.render(x=value) == "12.3 [10.0, 15.3], +12.3 [+10.0, +15.3]"
    assert bounded({"value": -1.0, "low": None, "high": None}) == "-1.0"
    with pytest.raises(UndefinedError):
        ENVIRONMENT.from_string("{{ y.value }}").render(x=value)
    start = (
        "a run of 1500 iterations by recipe `t4` in 107 minutes, which started from a run of 600"
    )
    start += " iterations by recipe `quick` in 13 minutes, which started from random weights"
    model = {"start": start, "iterations": 40, "minutes": 30}
    assert whole_training(model) == "600 + 1,500 + 40 iterations, 2.5 hours"
    page = "a\n<!-- pilot -->\n{}<!-- /pilot -->\nb\n"
    for old in ("", "old\n"):
        assert between_marks(page.format(old), "pilot", "new\n") == page.format("new\n")
    with pytest.raises(ValueError, match="other"):
        between_marks(page, "other", "new")


PAGES = ("README.md", "docs/findings.md", "docs/lineage.md", "docs/pilot.md")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the pages, which are filled there."""
    (tmp_path / "docs").mkdir()
    for name in PAGES:
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(fill_pages.write_pages, "__defaults__", (tmp_path,))
    return tmp_path


@pytest.mark.parametrize("results", ["pilot", "lineage"])
def test_pages_equal_what_the_templates_make(results, checkout):
    pages = write_pages(ROOT / "results" / results)
    assert pages
    for page in pages:
        assert page.read_text() == (ROOT / page.relative_to(checkout)).read_text()


USED = {"pilot": "data models metrics failures gap", "lineage": "description rows pooling"}
CUT = (b"", b"\x00\xff\x89PNG", b"{", b"[]", b"null", b"{}", b"[" * 100_000)


@pytest.mark.parametrize("results", USED)
def test_damaged_results_leave_the_pages_as_they_are(results, checkout, capsys):
    (source,) = (ROOT / "results" / results).glob("[rl]*.json")
    text = source.read_text()
    whole = json.loads(text)
    contents = [*CUT, text[: len(text) // 2].encode()]
    contents += [re.sub(r"\d+\.\d+", number, text).encode() for number in ("NaN", "1e999", '"1"')]
    for key in USED[results].split():
        contents += [json.dumps({**whole, key: wrong}).encode() for wrong in ([], None)]
    before = [(checkout / page).read_bytes() for page in PAGES]
    for content in contents:
        (path := checkout / source.name).write_bytes(content)
        with pytest.raises(SystemExit) as exit_info:
            fill_pages.main([str(checkout)])
        assert exit_info.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(path) in line
        assert [(checkout / page).read_bytes() for page in PAGES] == before
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"report\.json and no lineage\.json"):
        write_pages(checkout)
    path.write_text(text)
    (checkout / "README.md").write_text("no marks")
    (checkout / "docs" / "lineage.md").write_text("no marks")
    with pytest.raises(ValueError, match=r"README\.md|lineage\.md"):
        write_pages(checkout)
    assert (checkout / PAGES[1]).read_bytes() == before[1]


def test_names_in_results_stay_text(checkout):
    report = json.loads((ROOT / "results" / "pilot" / "report.json").read_text())
    report["models"]["YOLACT"]["device"]["device_name"] = "".join(NAMES[:-1])
    (checkout / "report.json").write_text(json.dumps(report))
    page = write_pages(checkout)[-1].read_text()
    (line,) = (line for line in page.splitlines() if "7 * 7" in line)
    assert not [sign for sign in ("<", "|", "`", "$", "](") if sign in line]
    assert html.unescape(line).count("<script>") == 2


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md", "docs/lineage.md"])
def test_figures_of_pages_are_there_and_small(page):
    figure = r'(?:!\[[^\]]*\]\(|<img src=")([^)"h][^)"]*)'
    figures = re.findall(figure, (ROOT / page).read_text())
    sizes = {name: ((ROOT / page).parent / name).stat().st_size for name in figures}
    for name, size in sizes.items():
        assert 0 < size <= MAX_FIGURE_BYTES * (3 if name.endswith(".gif") else 1)  # it moves
