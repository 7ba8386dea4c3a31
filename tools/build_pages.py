"""Static pages for a web site: python -m tools.build_pages.

Into pages/: docs/touch with what it needs (`make touch` first), each executed notebook as a page,
and a list of them.
"""

import re
import shutil
from pathlib import Path

import nbformat
from jinja2 import Template
from nbconvert import HTMLExporter

from tools.build_touch import BUILD
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.utils.files import write_text

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "pages"
TEMPLATE = Path(__file__).parent / "templates" / "index.html.jinja"


def title_of(notebook: nbformat.NotebookNode, stem: str) -> str:
    """The first heading, and the model that the file's name ends with."""
    models = [f" ({title})" for name, title in MODEL_TITLES.items() if stem.endswith(name)]
    return notebook.cells[0].source.splitlines()[0].lstrip("# ") + "".join(models)


def linked(html: str, stems: list[str]) -> str:
    """A page whose links to notebooks are to their pages, of a notebook's several to the first."""
    for link in set(re.findall(r'href="(\w+)\.ipynb', html)):
        page = next(stem for stem in stems if stem.startswith(link))
        html = html.replace(f'href="{link}.ipynb', f'href="{page}.html')
    return html


def main() -> None:
    if not BUILD.is_dir():
        raise SystemExit(f"{BUILD} is missing: run make touch first")
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(BUILD.parent, PAGES / "touch")
    notebooks, paths = [], sorted((ROOT / "results" / "executed").glob("*.ipynb"))
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        html, _ = HTMLExporter().from_notebook_node(notebook)
        write_text(PAGES / f"{path.stem}.html", linked(html, [p.stem for p in paths]))
        notebooks.append((f"{path.stem}.html", title_of(notebook, path.stem)))
    write_text(
        PAGES / "index.html",
        Template(TEMPLATE.read_text(), autoescape=True).render(notebooks=notebooks),
    )
    print(PAGES / "index.html")


if __name__ == "__main__":
    main()
