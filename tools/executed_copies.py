"""Executed notebooks to read, small enough for GitHub: python -m tools.executed_copies.

Reads those of a results folder; the copies have small figures, no widgets and no paths.
"""

import argparse
import base64
import io
import re
from pathlib import Path

import nbformat
from PIL import Image

from tools.run_notebooks import RUNS, select_runs
from vocseg_lib.utils.files import read_json, write_text

MAX_BYTES = 1_450_000  # of a copy
MAX_WIDTH = 900  # pixels, about that of a notebook's column
FIGURES = ("image/png", "image/jpeg")
WIDGET = "application/vnd.jupyter.widget-view+json"
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.<])(?:/[\w.+-]+)+/([\w.+-]+)")
NOTE = "*An executed copy, to read: {what}. The badges above open the notebook itself.*"


def small_copy(notebook: nbformat.NotebookNode, what: str = "", max_bytes: int = MAX_BYTES) -> str:
    """The text of an executed notebook, its figures as large as `max_bytes` allow.

    `what` it shows is said below its badges. Raises ValueError if it is too large nevertheless.
    """
    if what:
        title, badges, text = notebook.cells[0].source.split("\n\n", 2)
        notebook.cells[0].source = "\n\n".join([title, badges, NOTE.format(what=what), text])
    metadata = notebook.metadata
    notebook.metadata = {k: v for k, v in metadata.items() if k not in ("papermill", "widgets")}
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k != "papermill"}
        if cell.cell_type == "code":
            cell.source = without_folders(cell.source)
            cell.outputs = [_readable(o) for o in cell.outputs if _is_readable(o)]
    figures = [o.data for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
    figures = [(data, data.pop("image/png")) for data in figures if "image/png" in data]
    for percent in (100, 85, 70, 55, 40):
        for data, png in figures:
            for kind in FIGURES:
                data.pop(kind, None)
            data.update(_shrunk(png, MAX_WIDTH * percent // 100))
        text = nbformat.writes(notebook) + "\n"
        if len(text.encode()) <= max_bytes:
            return text
    raise ValueError(f"{len(text.encode()):,} bytes are more than {max_bytes:,}")


def without_folders(text: str) -> str:
    """A text in which only the last part of each absolute path is left."""
    return ABSOLUTE_PATH.sub(r"\1", text)


def _is_readable(output: nbformat.NotebookNode) -> bool:
    return WIDGET not in output.get("data", {}) and output.get("name") != "stderr"


def _readable(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    for content in (output, output.get("data", {})):
        for key in content.keys() & {"text", "text/plain", "text/html"}:
            content[key] = without_folders(content[key])
    return output


def _shrunk(png: str, width: int) -> dict[str, str]:
    """A PNG (base64) of at most that many pixels across, with 256 colors, or a smaller JPEG."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    width = min(width, picture.width)
    picture = picture.resize((width, round(picture.height * width / picture.width)))
    files = {kind: io.BytesIO() for kind in FIGURES}
    picture.quantize(256).save(files["image/png"], format="PNG", optimize=True)
    picture.save(files["image/jpeg"], format="JPEG", quality=50, optimize=True)
    kind = min(files, key=lambda kind: files[kind].tell())
    return {kind: base64.b64encode(files[kind].getvalue()).decode()}


def main(arguments: list[str] | None = None) -> None:
    """Print the paths of the copies written; exit code 2 for a notebook that is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results folder of make study")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--only", type=select_runs, default=[*RUNS], help="numbers, as 02,04")
    parser.add_argument("--what", default="", help="what they show; default: as notebook 07 says")
    options = parser.parse_args(arguments)
    names = ["_".join([name, *own.values()]) for name, own in options.only]
    paths = [options.results / f"{name}.ipynb" for name in names]
    if missing := [str(path) for path in paths if not path.is_file()]:
        parser.exit(2, f"{parser.prog}: {', '.join(missing)} missing: run make study first\n")
    lineage = options.results / "lineage.json"  # of notebook 07, the last
    what = options.what or (read_json(lineage)["description"] if lineage.is_file() else "")
    for path in paths:
        copy = small_copy(nbformat.read(path, as_version=4), what)
        write_text(options.out / path.name, copy)
        print(options.out / path.name)


if __name__ == "__main__":
    main()
