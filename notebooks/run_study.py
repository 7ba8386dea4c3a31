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

NOTEBOOKS = Path(__file__).parent
ROOT = NOTEBOOKS.parent
RUNS = (
    ("01_voc_data", {}),
    ("02_two_models", {}),
    ("03_train", {"MODEL": "yolact"}),
    ("03_train", {"MODEL": "mask_rcnn"}),
    ("04_precision_recall", {}),
    ("05_failure_gallery", {}),
    ("06_ap_gap", {}),
)


def run_notebook(name: str, extra: dict[str, str], parameters: dict[str, str], results: Path) -> None:
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
        stderr_file=sys.stderr if sys.stderr.isatty() else None,  # the training's own bar, on a terminal
        progress_bar={"desc": f"{title:24}", "unit": "cell", "file": sys.stdout},
    )
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(nbformat.read(executed, as_version=4))
    (results / f"{title}.html").write_text(html)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quick", help="recipe: quick, laptop, t4, paper or official (default: %(default)s)")
    parser.add_argument("--data", default="", help="VOC devkit to use instead of the profile's own data")
    parser.add_argument("--results", default="", help="folder to write to (default: results/PROFILE)")
    parser.add_argument("--weights", default="", help="file of backbone weights to start from")
    parser.add_argument("--fresh", action="store_true", help="forget earlier trainings in that folder and train anew")
    arguments = parser.parse_args()
    results = Path(arguments.results or ROOT / "results" / arguments.profile).resolve()
    if arguments.fresh:
        for trained in ("runs", "by_heart", "ablation"):
            shutil.rmtree(results / trained, ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    parameters = {"PROFILE": arguments.profile, "RESULTS": str(results), "WEIGHTS": arguments.weights}
    parameters["DATA"] = str(Path(arguments.data).resolve()) if arguments.data else ""
    start = time.monotonic()
    for name, extra in RUNS:
        try:
            run_notebook(name, extra, parameters, results)
        except (papermill.PapermillExecutionError, DeadKernelError) as error:
            print(f"{name} failed: {str(error).strip()}", file=sys.stderr)
            print(f"the notebook up to there: {results / name}*.ipynb", file=sys.stderr)
            return 1
    print(f"\nTable 1 ({arguments.profile}, AP in percent)\n")
    print((results / "table1.md").read_text())
    print(f"\n{time.monotonic() - start:.0f} s. Pages: {results}/*.html\nPictures: {results / 'figures'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
