"""Names of files and classes are shown as they are: in figures, in the gallery, in notebooks."""

import io
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from tests.helpers.payloads import MARK, NAMES, TITLES, write_files
from vocseg_lib import plots
from vocseg_lib.plots.style import MAX_SHOWN_NAME, new_ax, short
from vocseg_lib.study import table1
from vocseg_lib.study.results import open_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Ground truth, folder of the pictures, prediction files."""
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def analyses(files):
    return open_files(files[2], files[0]).analyses(0.1)


@pytest.fixture
def gallery(analyses, files):
    return plots.Gallery(analyses, files[1])


def shown(figure):
    """The texts of a figure after it is drawn; none is math."""
    figure.savefig(io.BytesIO(), bbox_inches="tight")
    texts = [text for text in figure.findobj(plt.Text) if text.get_text()]
    assert not any("$" in text.get_text() and text.get_parse_math() for text in texts)
    assert max(len(line) for text in texts for line in text.get_text().split("\n")) <= 180
    return {text.get_text() for text in texts}


def test_tick_labels_legends_and_titles_show_names():
    log = [{"iteration": k, "mask_AP50": 1.0 * k, "seconds": k} for k in (1, 2)]
    counts = pd.DataFrame({"_x": 1, "$a$ $b$": 2}, index=list(NAMES))
    ap = {t: pd.DataFrame({"class": list(NAMES), "AP": 1.0, "instances": 3}) for t in TITLES}
    for ax, names in (
        (plots.class_counts(counts), [*counts, *(short(name, 24) for name in NAMES)]),
        (plots.per_class_ap(ap, "AP"), map(short, TITLES)),
        (plots.ap_against_time(dict.fromkeys(TITLES, log)), map(short, TITLES)),
    ):
        assert set(names) <= shown(ax.figure)
    ax = plots.add_title(new_ax(None), "$a$ $b$\x07", "a\ud800b " * 500)
    ax.set_xscale("log")
    title = ax.get_title(loc="left")
    assert title.startswith("$a$ $b$\ufffd\na\ufffdb")
    assert title.count("\n") == 6
    ax.figure.canvas.draw()
    assert any(text.get_parse_math() for text in ax.get_xticklabels())  # powers of ten
    assert {short("a" * 500), short("\u202ea\nb")} == {"a" * 20 + "…" + "a" * 19, "a b"}
    assert max(map(len, map(short, NAMES))) == MAX_SHOWN_NAME


def test_figures_of_predictions_and_the_gallery(analyses, gallery):
    tables = {title: analysis.table for title, analysis in analyses.items()}
    assert {short(title, 28) for title in TITLES} <= shown(plots.failure_dap(tables)[0].figure)
    for kind in ("localization failure", "missed in a crowd"):
        texts = shown(gallery.sheet(kind, count=4))
        assert {*(short(title, 32) for title in TITLES), "ground truth"} <= texts
    assert {short(f"missed {name}") for name in NAMES} & texts
    for _, case in gallery.select(type="localization failure")[::3].iterrows():
        assert len(shown(gallery.draw(case)) & shown(gallery.side_by_side(case))) > 0
    assert all(gallery.picture(image_id).ndim == 3 for image_id in gallery.images)


def test_crowding_of_models_with_a_minus_in_their_names():
    rows = [("n", b, "recall", m, 3, 1.0) for b in ("a", "b") for m in ("x - y", "z", "x - y - z")]
    columns = ["measure", "bin", "metric", "model", "objects", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(low=0.0, high=2.0)
    (ax,) = plots.crowding_bars(table)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x - y", "z"]
    assert "x - y - z, by" in ax.figure.get_suptitle()


def test_what_is_browsed_is_no_html(gallery):
    cases = gallery.select()
    cases["model"] = cases["model"].replace(TITLES[0], "all")  # as the entry for all models
    box = plots.browse(cases, plots.FILTERS, "only this model", lambda case: plt.figure())
    menus = [menu for row in box.children[:-2] for menu in row.children]
    assert {type(menu) for menu in menus} == {ipywidgets.Dropdown}
    assert set(NAMES) < set(menus[2].options)
    menus[0].index = 1 + sorted(set(cases["model"])).index("all")
    count = int((cases["model"] == "all").sum())
    assert 0 < count < len(cases)
    assert box.children[-2].children[-1].value == f"{count} of {len(cases)} cases"


def runs(browser, page):
    """Whether a page ran a script of a name, or has one to click on."""
    browser.get(page.as_uri())
    links = browser.find_elements("css selector", "[href^='javascript:']")
    return browser.title == MARK or bool(links)


def test_no_name_runs_in_the_gallery(gallery, tmp_path, browser):
    assert not runs(browser, plots.export_page(gallery, tmp_path / "page.html", 20)[0])
    options = browser.find_elements("css selector", "option")
    values = {option.get_property("value") for option in options}
    assert set(NAMES) | set(TITLES) < values
    assert browser.get_log("browser") == []


def test_no_name_runs_in_a_notebooks_html(files, tmp_path, browser):
    """Notebooks 04 to 06 in one kernel, without the figures of 04 and files of the others'."""
    ground_truth, pictures, predictions = files
    values = {"DATA": ground_truth, "RESULTS": tmp_path / "results", "IMAGES": pictures}
    lines = [f"{name} = {str(value)!r}" for name, value in values.items()]
    lines += [
        'PROFILE, INIT, DRIVE = "quick", "", False',
        f"PREDICTIONS = {','.join(map(str, predictions))!r}",
    ]
    sources = ["from vocseg_lib import plots\nplots.save_figure = print\n%matplotlib agg"]
    for path in sorted((ROOT / "notebooks").glob("0[456]_*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            is_setup = "parameters" in cell.metadata.get("tags", [])
            is_left_out = cell.cell_type != "code" or (path.name < "05" and "plots." in cell.source)
            sources += [] if is_left_out else ["\n".join(lines) if is_setup else cell.source]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook, kernel_name="python3", resources={"metadata": {"path": ROOT}}
    ).execute()
    page = tmp_path / "notebooks.html"
    page.write_text(HTMLExporter().from_notebook_node(notebook)[0])
    assert sum("text/html" in str(cell.get("outputs")) for cell in cells) > 5
    assert not runs(browser, page)
    # Table 1, and a table that is not escaped.
    rows = [("AP", name, table1.STUDY, 1.0, 0.0, 2.0, name) for name in NAMES]
    table = pd.DataFrame(rows, columns=table1.COLUMNS)
    page.write_text(table1.styled_table1(table).to_html())
    assert not runs(browser, page)
    page.write_text(table.style.to_html())
    assert runs(browser, page)
