"""Run the notebooks, headless: python -m tools.run_notebooks (make study).

In order; all of them with `quick` two at a time, the trainings first. Writes executed notebooks,
HTML, figures and Table 1 to a results folder.
"""

import argparse
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import chdir
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter

from vocseg_lib.study.recipes import NAMED_STARTS, get_recipe
from vocseg_lib.utils.files import resolve_path, write_text

ROOT = Path(__file__).parents[1]
RUNS = (
    ("01_voc_data", {}),
    ("02_two_models", {}),
    ("03_train", {"MODEL": "yolact"}),
    ("03_train", {"MODEL": "mask_rcnn"}),
    ("04_precision_recall", {}),
    ("05_failure_gallery", {}),
    ("06_ap_gap", {}),
    ("07_lineage", {}),
)
"""Notebooks and the parameters that only they get."""


def select_runs(numbers: str) -> list[tuple[str, dict[str, str]]]:
    """The runs of the notebooks with these numbers, as in "04,07"."""
    wanted, known = set(numbers.replace(",", " ").split()), {name[:2] for name, _ in RUNS}
    if unknown := sorted(wanted - known):
        raise argparse.ArgumentTypeError(f"no notebook {', '.join(unknown)} in {sorted(known)}")
    return [run for run in RUNS if run[0][:2] in (wanted or known)]


def parse_parameter(assignment: str) -> tuple[str, int]:
    """A notebook parameter from a text like "ITERATIONS=500"."""
    name, _, number = assignment.partition("=")
    if not number.isdigit():
        raise argparse.ArgumentTypeError(f"{assignment!r} must be NAME=N with an integer N >= 0")
    return name, int(number)


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for an unknown recipe or parameter, or a file or folder that is missing."""
    get_recipe(options.profile)
    init = "" if options.init in NAMED_STARTS else options.init
    for path in filter(None, (options.data, init)):
        if not resolve_path(path).exists():
            raise ValueError(f"{path} is missing: an existing file or folder is expected")
    if Path(options.results).is_file():
        raise ValueError(f"{options.results} is a file: --results needs a folder")
    known = set()
    for name, _ in options.only:
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        sources = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
        known |= {n for source in sources for n in re.findall(r"^(\w+) = \d", source, re.MULTILINE)}
    if unknown := sorted({name for name, _ in options.set} - known):
        raise ValueError(f"--set: {', '.join(unknown)} is not one of {', '.join(sorted(known))}")


def set_parameters(notebook: nbformat.NotebookNode, values: dict[str, object]) -> None:
    """Set the parameters that a notebook has in its setup cell, as the cell's form would.

    A number is set only where there is one: `IMAGES` is a count in 07 and a folder in 05.
    """
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in values.items():
                kind = r"\d" if type(value) is int else ""
                assignment = rf"^{name} = {kind}.*?(?=  # @param)"
                cell.source = re.sub(
                    assignment, lambda _, n=name, v=value: f"{n} = {v!r}", cell.source, flags=re.M
                )


def run_notebook(
    name: str, own: dict[str, str], parameters: dict, results: Path, line: int = 0
) -> None:
    """Execute one notebook with a progress bar over its cells (in that line); write it as HTML."""
    title = "_".join([name, *own.values()])
    executed = results / f"{title}.ipynb"
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    set_parameters(notebook, {**parameters, **own})
    bar = {"desc": f"{title:24}", "unit": "cell", "file": sys.stdout, "position": line}
    papermill.execute_notebook(
        notebook,
        executed,
        kernel_name="python3",
        coalesce_streams=True,  # a progress bar leaves one line, not hundreds
        stderr_file=sys.stderr if sys.stderr.isatty() else None,  # the training's own bar
        progress_bar=bar,
    )
    notebook = nbformat.read(executed, as_version=4)
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    write_text(results / f"{title}.html", html)


def run_all(runs: list[tuple], parameters: dict, results: Path, jobs: int) -> bool:
    """Run notebooks, as many at a time as `jobs`; False, after a message, if one failed.

    Several at a time: trainings first, then the others, which need nothing from one another.
    """
    groups = [runs]
    if jobs > 1:
        trainings = [run for run in runs if run[0].startswith("03")]
        # The last is the longest, so it is started first.
        groups = [trainings, [run for run in reversed(runs) if run not in trainings]]
    for group in groups:
        with chdir(ROOT), ThreadPoolExecutor(jobs) as pool:
            started = {
                pool.submit(run_notebook, *run, parameters, results, line % jobs): run[0]
                for line, run in enumerate(group)
            }
            for finished in as_completed(started):
                error = finished.exception()
                if isinstance(error, papermill.PapermillExecutionError | DeadKernelError):
                    pool.shutdown(wait=False, cancel_futures=True)
                    name = started[finished]
                    print(f"{name} failed: {str(error).strip()}", file=sys.stderr)
                    print(f"the notebook up to there: {results / name}*.ipynb", file=sys.stderr)
                    return False
                finished.result()
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--profile", default="quick", help="recipe (default: %(default)s)")
    add("--data", default="", help="VOC devkit or COCO JSON instead of the recipe's own data")
    add("--results", default="", help="folder to write to (default: results/PROFILE)")
    add("--init", default="", help="what the models start from; default: the recipe's")
    add("--only", type=select_runs, default="", help="numbers of notebooks, as in 04,07")
    add("--set", type=parse_parameter, nargs="+", default=[], metavar="NAME=N")
    add("--fresh", action="store_true", help="delete earlier trainings in that folder first")
    options = parser.parse_args(arguments)
    try:
        check_options(options)
    except ValueError as error:
        parser.error(str(error))
    results = Path(options.results or ROOT / "results" / get_recipe(options.profile).name).resolve()
    if options.fresh:
        for name in ("runs", "overfit", "ablation", "lineage"):
            shutil.rmtree(results / name, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    data = str(Path(options.data).resolve()) if options.data else ""
    parameters = {**dict(options.set), "PROFILE": options.profile, "DATA": data}
    parameters |= {"RESULTS": str(results), "INIT": options.init}
    # Small models are faster side by side than one after the other.
    side_by_side = options.only == list(RUNS) and get_recipe(options.profile).data == "mini_voc"
    cores = os.cpu_count() or 1
    jobs = min(2, cores) if side_by_side else 1
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores // jobs))
    start = time.monotonic()
    if not run_all(options.only, parameters, results, jobs):
        return 1
    if (table := results / "table1.md").is_file():
        print(f"\nTable 1 ({options.profile}, AP in percent)\n\n{table.read_text('utf-8')}")
    seconds = time.monotonic() - start
    print(f"\n{seconds:.0f} s. Pages: {results}/*.html\nFigures: {results / 'figures'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
