"""Fill the pages of docs/ and the README from a committed report."""

import argparse
import re
import sys
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from vocseg_lib.utils.files import read_json

TEMPLATES = Path(__file__).parent / "templates"
CHANGE = {"value": "", "low": "_low", "high": "_high"}
"""Of a row of the ablation: its difference to the model with both tricks."""


def fill(template: str, report: dict) -> str:
    """A Jinja template with a report's figures. Raises jinja2's UndefinedError for one that the report does not have."""
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bounded": bounded, "signed": lambda figure: bounded(figure, "+")}
    environment.globals["within"] = within
    environment.filters["change"] = lambda row: {
        key: row["difference" + end] for key, end in CHANGE.items()
    }
    return environment.from_string(template).render(report)


def within(model: dict, minutes: float) -> dict:
    """The last score of a model in a report that was taken within so many minutes of training."""
    return [score for score in model["scores"] if score["minutes"] <= minutes][-1]


def bounded(figure: dict, sign: str = "") -> str:
    """A figure with its interval, as "12.3 [10.1, 14.9]"."""
    low, high = (
        f"{figure[end]:{sign}.1f}" if figure[end] is not None else "" for end in ("low", "high")
    )
    return f"{figure['value']:{sign}.1f}" + (f" [{low}, {high}]" if low else "")


def between_marks(text: str, name: str, content: str) -> str:
    """A text with new content between its marks `<!-- name -->` and `<!-- /name -->`. Raises ValueError without them."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"there are no marks <!-- {name} --> and <!-- /{name} --> in the text")
    return marks.sub(lambda found: found[1] + content.strip("\n") + "\n" + found[2], text)


def write_pages(report: dict, root: Path) -> list[Path]:
    """Fill the findings and the README's part of a checkout; the files."""
    findings, readme = root / "docs" / "findings.md", root / "README.md"
    findings.write_text(fill((TEMPLATES / "findings.md.jinja").read_text(), report))
    part = fill((TEMPLATES / "front_page.md.jinja").read_text(), report)
    readme.write_text(between_marks(readme.read_text(), "pilot", part))
    return [findings, readme]


def write_lineage_page(lineage: dict, root: Path) -> list[Path]:
    """Fill the lineage's part of a checkout from notebook 07's `lineage.json`; the files."""
    page = root / "docs" / "lineage.md"
    part = fill((TEMPLATES / "lineage_pilot.md.jinja").read_text(), lineage)
    page.write_text(between_marks(page.read_text(), "lineage", part))
    return [page]


def main() -> int:
    """Fill the pages from a results folder's report, or its lineage's where there is no report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, help="results folder with a report.json, or a lineage.json alone"
    )
    folder, root = parser.parse_args().results, Path(__file__).parents[1]
    if (folder / "report.json").is_file():
        print(*write_pages(read_json(folder / "report.json"), root), sep="\n")
    else:
        print(*write_lineage_page(read_json(folder / "lineage.json"), root), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
