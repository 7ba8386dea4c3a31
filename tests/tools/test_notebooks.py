import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import run_notebooks
from tools.run_notebooks import RUNS, main, run_all, select_runs, set_parameters
from vocseg_lib import plots

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
COLAB = "https://colab.research.google.com/github/" + REPOSITORY.removeprefix("https://github.com/")
KAGGLE = "https://kaggle.com/kernels/welcome?src="
NAMES = "voc_data two_models train precision_recall failure_gallery ap_gap lineage".split()


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    """The notebook, the sources of its code cells, and its path."""
    nb = nbformat.read(request.param, as_version=4)
    return nb, [cell.source for cell in nb.cells if cell.cell_type == "code"], request.param


def test_the_seven_and_their_badges_are_there():
    assert [p.stem for p in NOTEBOOKS] == [f"{i:02}_{name}" for i, name in enumerate(NAMES, 1)]
    readme = (ROOT / "README.md").read_text()
    assert all(f"({COLAB}/blob/main/notebooks/{path.name})" in readme for path in NOTEBOOKS)
    assert set(re.findall(r"https://github\.com/[\w-]+/vocseg\b", readme)) <= {REPOSITORY}
    pages = re.sub(r"github\.com/(\w+)/", r"\1.github.io/", REPOSITORY)
    assert set(re.findall(r"https://\w+\.github\.io/[^)]*", readme)) == {f"{pages}/touch/"}


def test_skeleton(notebook):
    nb, code, path = notebook
    nbformat.validate(nb)
    first, learned, last = (nb.cells[i].source for i in (0, -2, -1))
    assert first.startswith(f"# {path.stem[:2]} · ")
    assert f"({COLAB}/blob/main/notebooks/{path.name})" in first
    assert f"({KAGGLE}{REPOSITORY}/blob/main/notebooks/{path.name})" in first
    assert first.count("**The question:**") == 1
    assert all(word in first for word in ("*Needs*", "*Takes*", "*You will see*"))
    assert learned.startswith("## What we learned\n")
    assert last.startswith("## Three questions\n")
    folded = re.findall(r"^<details><summary>.+\?</summary>\n\n.+\n\n</details>$", last, re.M)
    assert len(folded) == last.count("<details>") == 3
    following = [p.name for p in NOTEBOOKS if p.name > path.name]
    assert not following or f"({following[0]})" in last
    colab = {"gpuType": "T4"}.items()
    assert nb.metadata.accelerator == "GPU"
    assert colab <= nb.metadata.colab.items()
    # The lesson in the open, beside the library's twin.
    assert re.search(r"^ *assert ", "\n".join(code), re.MULTILINE)
    if path in NOTEBOOKS[3:6]:  # they analyze, and open their input by one call
        opened = "open_or_train(PROFILE, DATA, RESULTS or DRIVE_FOLDER, INIT, PREDICTIONS)"
        assert "\n".join(code).count(opened) == 1
        assert "open_study" not in "\n".join(code)


def test_one_folded_setup_cell_comes_first(notebook):
    nb, code, path = notebook
    setup = nb.cells[1]
    assert [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])] == [setup]
    assert setup.metadata.cellView == "form"
    assert setup.metadata.jupyter.source_hidden
    title, profile, *others = setup.source.splitlines()
    assert title == '# @title Setup { display-mode: "form" }'
    recipes = '["t4", "coco", "finetune", "paper", "laptop", "quick"] {allow-input: true}'
    assert profile == f'PROFILE = "t4"  # @param {recipes}'
    assert any(line.startswith("MODEL = ") for line in others) == (path.stem == "03_train")
    described = set(re.findall(r"`([A-Z]+)`", nb.cells[0].source))
    assert set(re.findall(r"^([A-Z]+) = .*# @param", setup.source, re.MULTILINE)) <= described
    # No --upgrade, nothing beside the library.
    install = "try:\n    import vocseg_lib\nexcept ImportError:\n    %pip install -q git+"
    assert f"\n{install}{REPOSITORY}\nfrom vocseg_lib" in setup.source
    assert "".join(code).count("start_notebook(") == 1
    assert nb.cells[2].cell_type == "markdown"
    assert nb.cells[3].cell_type == "code"


def test_parameters_are_set_as_by_the_form(notebook):
    nb, (setup, *_), path = notebook
    given = {"PROFILE": "laptop iterations=7", "DATA": 'C:\\new"s', "UNKNOWN": 1, "IMAGES": 7}
    set_parameters(nb, given)
    changed = nb.cells[1].source
    forms = [re.findall(r"  # @param.*", text) for text in (setup, changed)]
    assert forms[0] == forms[1]
    assert "UNKNOWN" not in changed
    exec("\n".join(line for line in changed.splitlines() if "# @param" in line), values := {})
    assert (values["PROFILE"], values["DATA"]) == (given["PROFILE"], given["DATA"])
    assert values.get("IMAGES", 7) == ("" if path.stem.startswith("05") else 7)


def test_cells_are_short_plain_explained_and_without_outputs(notebook):
    nb, code, _ = notebook
    assert len(nb.cells) >= 2 * len(code)
    for source in code:
        assert len(source.splitlines()) <= 15, source
        assert max(map(len, source.splitlines())) <= 100, source
        assert not re.search(r"^\s*class |if CI", source, re.MULTILINE), source
    for cell in nb.cells:
        assert (cell.get("outputs", []), cell.get("execution_count")) == ([], None)


def test_names_of_the_library_exist_and_figures_get_the_notebooks_number(notebook):
    _, code, path = notebook
    code = "\n".join(code)
    for line in re.findall(r"^from vocseg_lib.* import .*$", code, re.MULTILINE):
        exec(line, {})
    assert all(hasattr(plots, name) for name in re.findall(r"\bplots\.(\w+)", code))
    folder = r"(?:study\.results|results(?:\.folder)?)"
    names = re.findall(rf'plots\.save_figure\([^\n]*?, {folder}, f?"([^"]+)"', code)
    assert {name[:3] for name in names} == {path.stem[:2] + "_"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--only", "04,99"),
        ("--set", "IMAGES=few"),
        ("--set", "UNKNOWN=3"),
        ("--profile", "unknown"),
        ("--data", "no/devkit"),
        ("--init", "no.pth"),
        ("--results", __file__),
    ],
)
def test_wrong_arguments_are_reported_before_anything_is_written(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--results", str(tmp_path / "results"), *arguments])
    assert exit_info.value.code == 2
    assert (
        re.split("[,=]", arguments[1])[-1 if arguments[1][0].isdigit() else 0]
        in capsys.readouterr().err
    )
    assert not (tmp_path / "results").exists()


def test_runs_by_number():
    assert select_runs("") == list(RUNS)
    assert [own for _, own in select_runs("03")] == [{"MODEL": "yolact"}, {"MODEL": "mask_rcnn"}]
    assert [name[:2] for name, _ in select_runs("06 04")] == ["04", "06"]


def test_trainings_first_two_at_a_time_until_one_fails(tmp_path, monkeypatch, capsys):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    monkeypatch.setattr(run_notebooks, "ROOT", tmp_path)
    # Each training waits for the file of the other.
    meet = "import pathlib, time\npathlib.Path(f'{NAME}.txt').touch()\nend = time.time() + 60\n"
    meet += "while len(list(pathlib.Path().glob('*.txt'))) < 2:\n    assert time.time() < end"
    sources = {"01_is_not_run": "1", "03_one": meet, "03_fails": f"{meet}\n1 / 0"}
    for name, source in sources.items():
        cells = [new_code_cell(f'NAME = "{name}"\n{source}')]
        nbformat.write(new_notebook(cells=cells), notebooks / f"{name}.ipynb")
    assert not run_all([(name, {}) for name in sources], {}, tmp_path, 2)
    assert Path.cwd() != tmp_path
    executed = {path.stem for path in tmp_path.glob("*.ipynb")}
    assert executed == {"03_one", "03_fails"}
    assert {path.stem for path in tmp_path.glob("*.html")} == {"03_one"}
    error = capsys.readouterr().err
    assert "03_fails failed: " in error
    assert "ZeroDivisionError" in error
