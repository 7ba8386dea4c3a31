"""What every notebook has to look like. That they run is shown by `make study`."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest

from vocseg_lib import plots

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
COLAB = "https://colab.research.google.com/github/" + REPOSITORY.removeprefix("https://github.com/")
NAMES = "voc_data two_models train precision_recall failure_gallery ap_gap lineage".split()


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4), request.param


def cells(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_the_seven_are_there():
    assert [p.stem for p in NOTEBOOKS] == [f"{i:02}_{name}" for i, name in enumerate(NAMES, 1)]


def test_skeleton(notebook):
    nb, path = notebook
    nbformat.validate(nb)
    first, last = nb.cells[0].source, nb.cells[-1].source
    assert first.startswith(f"# {path.stem[:2]} · ")
    assert f"({COLAB}/blob/main/notebooks/{path.name})" in first
    assert first.count("**The question:**") == 1
    assert all(word in first for word in ("*Needs*", "*Takes*", "*You will see*"))
    assert "## What we learned" in last
    following = sorted(p.name for p in NOTEBOOKS if p.name > path.name)
    assert not following or f"({following[0]})" in last
    code = cells(nb, "code")
    assert code[0].startswith(
        "try:\n    import vocseg_lib\nexcept ImportError:\n    %pip install -q git+" + REPOSITORY
    )
    tagged = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert re.match(
        r'PROFILE = "t4"  # @param \["t4", "paper", "official", "laptop", "quick"\]',
        tagged[0].source,
    )
    assert ("MODEL = " in tagged[0].source) == (path.stem == "03_train")
    imports = next(source for source in code if "from vocseg_lib" in source)
    shown = imports.splitlines()[-1]
    assert shown == 'recipe_changes(get_recipe(PROFILE), get_recipe("paper"))'


def test_cells_are_short_plain_and_explained(notebook):
    nb, _ = notebook
    code, prose = cells(nb, "code"), cells(nb, "markdown")
    assert len(prose) >= len(code)
    for source in code:
        assert len(source.splitlines()) <= 15, source
        assert max(map(len, source.splitlines())) <= 100, source
        assert not re.search(r"^\s*class ", source, re.MULTILINE), source
        assert "if CI" not in source


def test_names_of_the_library_exist(notebook):
    for source in cells(notebook[0], "code"):
        for line in re.findall(r"^from vocseg_lib.* import .*$", source, re.MULTILINE):
            exec(line, {})
        assert all(hasattr(plots, name) for name in re.findall(r"\bplots\.(\w+)", source)), source


def test_no_outputs(notebook):
    nb, _ = notebook
    for cell in nb.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_every_figure_is_saved_under_its_notebooks_number(notebook):
    nb, path = notebook
    names = re.findall(
        r"plots\.save_figure\([^\n]*?, (?:study\.results|results(?:\.folder)?), f?\"([^\"]+)\"",
        "\n".join(cells(nb, "code")),
    )
    assert names
    assert all(name.startswith(path.stem[:2] + "_") for name in names)


def test_the_three_analysis_notebooks_open_their_input_by_one_call():
    for path in NOTEBOOKS[3:6]:
        code = "\n".join(cells(nbformat.read(path, as_version=4), "code"))
        assert code.count("open_or_train(PROFILE, DATA, RESULTS, WEIGHTS, PREDICTIONS)") == 1
        assert "open_study" not in code


def test_readme_has_the_badges_and_the_address():
    readme = (ROOT / "README.md").read_text()
    for path in NOTEBOOKS:
        assert f"({COLAB}/blob/main/notebooks/{path.name})" in readme
    addresses = set(re.findall(r"https://github\.com/[\w-]+/vocseg\b", readme))
    assert addresses <= {REPOSITORY}
