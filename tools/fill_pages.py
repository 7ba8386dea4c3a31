"""Fill the pages of docs/ and the README from results: python -m tools.fill_pages."""

import argparse
import json
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, Undefined

from vocseg_lib.utils.files import naming_damage, read_json, write_text

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
CHANGE = {"value": "", "low": "_low", "high": "_high"}
ESCAPED = {ord(sign): f"&#{ord(sign)};" for sign in "&<>|`$"} | {ord(end): " " for end in "\r\n"}
STUDY_PAGES = {
    "docs/findings.md": ("findings", ""),
    "README.md": ("front_page", "pilot"),
    "docs/pilot.md": ("pilot", ""),
}
LINEAGE_PAGES = {"docs/lineage.md": ("lineage_pilot", "lineage")}
"""Template and marks of each page."""


def as_markdown(value: object) -> object:
    """A text that Markdown shows as it is, or a number. Raises TypeError for other values."""
    if isinstance(value, str):
        return value.translate(ESCAPED).replace("](", "]&#40;")
    if isinstance(value, bool) or not isinstance(value, int | float | Undefined):
        raise TypeError(f"{str(value)[:40]} is not a text or a number")
    return value


def bounded(value: dict, sign: str = "") -> str:
    """A value with its interval, as "12.3 [10.1, 14.9]"."""
    text = f"{value['value']:{sign}.1f}"
    if value["low"] is None or value["high"] is None:
        return text
    return f"{text} [{value['low']:{sign}.1f}, {value['high']:{sign}.1f}]"


def whole_training(model: dict) -> str:
    """Iterations and hours of a training and of those that it continues, the first one first."""
    parts = re.findall(r"run of (\d+) iterations by recipe `\w+` in (\d+) minutes", model["start"])
    iterations = [*(int(n) for n, _ in reversed(parts)), model["iterations"]]
    hours = (model["minutes"] + sum(int(minutes) for _, minutes in parts)) / 60
    return f"{' + '.join(f'{n:,}' for n in iterations)} iterations, {hours:.1f} hours"


ENVIRONMENT.finalize = as_markdown
ENVIRONMENT.filters |= {
    "bounded": bounded,
    "signed": lambda value: bounded(value, "+"),
    "whole_training": whole_training,
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
    """Fill a checkout's pages from a results folder's report, or else its lineage; their paths.

    Raises OSError and ValueError, with the name of the file, before a page is written.
    """
    paths = [results / "report.json", results / "lineage.json"]
    path = next((path for path in paths if path.is_file()), None)
    if not path:
        ways = "run make study and tools.collect_results first"
        raise FileNotFoundError(f"{results} has no report.json and no lineage.json: {ways}")
    is_study = path == paths[0]
    report, texts = read_json(path), {}
    for page, (template, marks) in (STUDY_PAGES if is_study else LINEAGE_PAGES).items():
        with naming_damage(path):
            text = _fill(template, report)
        with naming_damage(target := root / page):
            texts[target] = between_marks(target.read_text("utf-8"), marks, text) if marks else text
    for target, text in texts.items():
        write_text(target, text)
    return list(texts)


def _fill(template: str, report: dict) -> str:
    json.dumps(report, allow_nan=False)  # raises for what is not finite
    try:
        return ENVIRONMENT.get_template(f"{template}.md.jinja").render(report)
    except TemplateError as error:
        raise ValueError(str(error)) from None


def main(arguments: list[str] | None = None) -> None:
    """Print the paths of the pages filled; exit code 2 for results that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="folder with report.json or lineage.json")
    options = parser.parse_args(arguments)
    try:
        print(*write_pages(options.results), sep="\n")
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
