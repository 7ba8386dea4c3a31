import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tools.executed_copies import MAX_WIDTH, main, small_copy, without_folders
from tools.run_notebooks import RUNS

ROOT = Path(__file__).parents[2]
COPIES = sorted((ROOT / "results" / "executed").glob("*.ipynb"))


def as_png(width, height, values=256):
    noise = np.random.default_rng(0).choice(values, (height, width)).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, format="PNG")
    return base64.b64encode(png.getvalue()).decode()


def executed():
    """A notebook with all kinds of outputs."""
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "7"}, "text/plain": "W()"}
    outputs = [
        new_output(
            "stream", name="stdout", text="in /home/me/vocseg/results/own and results/quick"
        ),
        new_output("stream", name="stderr", text="train: 100%"),
        new_output("display_data", data=widget),
        new_output("display_data", data={"image/png": as_png(1200, 600), "text/plain": "<Figure>"}),
        new_output("display_data", data={"image/png": as_png(60, 50, (0, 255))}),  # smaller as PNG
        new_output("display_data", data={"text/html": "<b>/a/b/c.png</b> https://x.org/a/b"}),
    ]
    cell = new_code_cell('DATA = "/data/VOC"', outputs=outputs, execution_count=3)
    cell.metadata["papermill"] = {"duration": 1.0}
    metadata = {
        "widgets": {"state": {}},
        "papermill": {"input_path": "/x/y"},
        "language_info": {"name": "python"},
    }
    title = new_markdown_cell("# Title\n\nBadges\n\nThe question\n\nMore")
    return new_notebook(cells=[title, cell], metadata=metadata)


def test_a_copy_has_what_can_be_read():
    copy = nbformat.reads(small_copy(executed(), "a test"), as_version=4)
    nbformat.validate(copy)
    title, cell = copy.cells
    assert [part[:2] for part in title.source.split("\n\n")] == ["# ", "Ba", "*A", "Th", "Mo"]
    assert "a test" in title.source
    assert set(copy.metadata) == {"language_info"}
    assert "papermill" not in cell.metadata
    assert cell.source == 'DATA = "VOC"'
    text, figure, plain, html = cell.outputs
    assert text.text == "in own and results/quick"
    assert html.data["text/html"] == "<b>c.png</b> https://x.org/a/b"
    assert set(figure.data) == {"image/jpeg", "text/plain"}  # much smaller of a photo
    with Image.open(io.BytesIO(base64.b64decode(figure.data["image/jpeg"]))) as picture:
        assert picture.size == (MAX_WIDTH, MAX_WIDTH // 2)
    with Image.open(io.BytesIO(base64.b64decode(plain.data["image/png"]))) as picture:
        assert picture.size == (60, 50)
        assert picture.mode == "P"


def test_figures_shrink_until_the_copy_fits():
    full = len(small_copy(executed()))
    smaller = small_copy(executed(), max_bytes=full // 2)
    assert len(smaller) <= full // 2
    with pytest.raises(ValueError, match="more than 2,000"):
        small_copy(executed(), max_bytes=2_000)


@pytest.mark.parametrize("text", ["1/2 and/or", "a /b", "<b>x</b>", "https://x.org/a/b", "a/b/c"])
def test_what_is_no_absolute_path_stays(text):
    assert without_folders(text) == text


def test_copies_of_all_notebooks_or_none(tmp_path, capsys):
    names = ["_".join([name, *own.values()]) for name, own in RUNS]
    for name in names[:-1]:
        nbformat.write(executed(), tmp_path / f"{name}.ipynb")
    arguments = [str(tmp_path), "--out", str(tmp_path / "copies")]
    with pytest.raises(SystemExit):
        main(arguments)
    assert names[-1] in capsys.readouterr().err
    assert not (tmp_path / "copies").exists()
    nbformat.write(executed(), tmp_path / f"{names[-1]}.ipynb")
    (tmp_path / "lineage.json").write_text('{"description": "what it shows"}')
    main(arguments)
    assert "what it shows" in (tmp_path / "copies" / f"{names[0]}.ipynb").read_text()
    assert sorted(p.stem for p in (tmp_path / "copies").iterdir()) == sorted(names)


@pytest.mark.skipif(not COPIES, reason="no executed copies are committed")
def test_every_notebook_has_its_committed_copy():
    assert [p.stem for p in COPIES] == sorted("_".join([n, *own.values()]) for n, own in RUNS)
    readme = (ROOT / "README.md").read_text()
    assert all(f"(results/executed/{path.name})" in readme for path in COPIES)


@pytest.mark.parametrize("path", COPIES, ids=lambda p: p.stem)
def test_committed_copies_can_be_read_on_github(path):
    assert path.stat().st_size < 1_500_000
    copy = nbformat.read(path, as_version=4)
    nbformat.validate(copy)
    assert "widgets" not in copy.metadata
    assert "widget-view" not in path.read_text("utf-8")
    outputs = [output for cell in copy.cells for output in cell.get("outputs", [])]
    assert all(output.output_type != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    (original,) = (p for p in (ROOT / "notebooks").glob("*.ipynb") if path.stem.startswith(p.stem))
    # Headings and code, but not the parameters in the setup cell; else run make copies again.
    pairs = [*zip(nbformat.read(original, 4).cells, copy.cells, strict=True)]
    for cell, copied in (pairs[0], *pairs[2:]):
        kept = r"^#+ .*" if cell.cell_type == "markdown" else r".+"
        assert re.findall(kept, cell.source, re.M) == re.findall(kept, copied.source, re.M)
