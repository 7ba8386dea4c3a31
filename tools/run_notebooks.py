"""Run the notebooks in order, headless, and leave HTML, executed notebooks, figures and Table 1 in a results folder."""

import argparse
import shutil
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
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


def run_notebook(
    name: str, extra: dict[str, str], parameters: dict[str, str], results: Path
) -> None:
    """Execute one notebook with a progress bar over its cells; write it and its HTML."""
    title = "_".join([name, *extra.values()])
    executed = results / f"{title}.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / f"{name}.ipynb",
        executed,
        {**parameters, **extra},
        cwd=ROOT,
        kernel_name="python3",
        coalesce_streams=True,  # a progress bar leaves one line, not hundreds
        stderr_file=sys.stderr
        if sys.stderr.isatty()
        else None,  # the training's own bar, on a terminal
        progress_bar={"desc": f"{title:24}", "unit": "cell", "file": sys.stdout},
    )
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(
        nbformat.read(executed, as_version=4)
    )
    (results / f"{title}.html").write_text(html)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--profile",
        default="quick",
        help="recipe: quick, laptop, t4, paper or official (default: %(default)s)",
    )
    parser.add_argument(
        "--data", default="", help="VOC devkit to use instead of the profile's own data"
    )
    parser.add_argument(
        "--results", default="", help="folder to write to (default: results/PROFILE)"
    )
    parser.add_argument("--weights", default="", help="file of backbone weights to start from")
    parser.add_argument(
        "--only", default="", help="numbers of the notebooks to run, as in 04,07 (default: all)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=N",
        help="other parameters, as in ITERATIONS=500 IMAGES=300",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="forget earlier trainings in that folder and train anew",
    )
    arguments = parser.parse_args()
    wanted = arguments.only.replace(",", " ").split()
    chosen = [run for run in RUNS if not wanted or run[0][:2] in wanted]
    if unknown := sorted(set(wanted) - {name[:2] for name, _ in RUNS}):
        parser.error(
            f"there is no notebook {', '.join(unknown)}; choose from {', '.join(sorted({name[:2] for name, _ in RUNS}))}"
        )
    changed = {}
    for assignment in arguments.set:
        name, _, number = assignment.partition("=")
        if not number.isdigit():
            parser.error(f"{assignment} sets no parameter to a whole number")
        changed[name] = int(number)
    results = Path(arguments.results or ROOT / "results" / arguments.profile).resolve()
    if arguments.fresh:
        for trained in ("runs", "overfit", "ablation", "lineage"):
            shutil.rmtree(results / trained, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    parameters = {
        "PROFILE": arguments.profile,
        "RESULTS": str(results),
        "WEIGHTS": arguments.weights,
        **changed,
    }
    parameters["DATA"] = str(Path(arguments.data).resolve()) if arguments.data else ""
    start = time.monotonic()
    for name, extra in chosen:
        try:
            run_notebook(name, extra, parameters, results)
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            print(f"{name} failed: {str(error).strip()}", file=sys.stderr)
            print(f"the notebook up to there: {results / name}*.ipynb", file=sys.stderr)
            return 1
    if (results / "table1.md").is_file():
        print(f"\nTable 1 ({arguments.profile}, AP in percent)\n")
        print((results / "table1.md").read_text())
    print(
        f"\n{time.monotonic() - start:.0f} s. Pages: {results}/*.html\nPictures: {results / 'figures'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
