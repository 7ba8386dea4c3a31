"""Fill the pages of docs/ and the README from results: python -m tools.fill_pages."""

import argparse
import re
import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vocseg_lib.utils.files import read_json

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
CHANGE = {"value": "", "low": "_low", "high": "_high"}


def bounded(value: dict, sign: str = "") -> str:
    """A value with its interval, as "12.3 [10.1, 14.9]"."""
    text = f"{value['value']:{sign}.1f}"
    if value["low"] is None or value["high"] is None:
        return text
    return f"{text} [{value['low']:{sign}.1f}, {value['high']:{sign}.1f}]"


ENVIRONMENT.filters |= {
    "bounded": bounded,
    "signed": lambda value: bounded(value, "+"),
    "change": lambda row: {k: row[f"difference{end}"] for k, end in CHANGE.items()},
}


def between_marks(text: str, name: str, content: str) -> str:
    """A text with new content between its marks `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: if it has no such marks.
    """
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"the text has no marks <!-- {name} --> and <!-- /{name} -->")
    return marks.sub(lambda match: match[1] + content.strip("\n") + "\n" + match[2], text)


def write_pages(results: Path, root: Path = ROOT) -> list[Path]:
    """Fill a checkout's pages from a results folder's report, or else its lineage; their paths."""

    def fill(template: str, page: str, marks: str = "") -> Path:
        content = ENVIRONMENT.get_template(template).render(report)
        path = root / page
        path.write_text(between_marks(path.read_text(), marks, content) if marks else content)
        return path

    if (results / "report.json").is_file():
        report = read_json(results / "report.json")
        return [
            fill("findings.md.jinja", "docs/findings.md"),
            fill("front_page.md.jinja", "README.md", "pilot"),
        ]
    report = read_json(results / "lineage.json")
    return [fill("lineage_pilot.md.jinja", "docs/lineage.md", "lineage")]


def main() -> int:
    """Print the paths of the pages filled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder with report.json or lineage.json")
    print(*write_pages(parser.parse_args().results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
