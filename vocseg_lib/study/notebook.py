"""What each notebook does first: it checks the runtime, and says what will happen."""

import os
import platform
import sys
from html import escape
from pathlib import Path

import pandas as pd
import torch
import torchvision
from IPython.display import HTML, display

from vocseg_lib import __version__
from vocseg_lib.study.recipes import RECIPES, Recipe, get_recipe, recipe_changes
from vocseg_lib.study.results import EVALUATED
from vocseg_lib.utils.files import project_root

NO_GPU = (
    "a GPU is needed: Runtime > Change runtime type in Colab, Accelerator on Kaggle; "
    "PROFILE = 'quick' runs without"
)


def start_notebook(
    profile: str, results: str = "", drive: bool = False, copy: bool = False, predictions: str = ""
) -> str:
    """Show in one line what a notebook runs on and where its results go, and its recipe.

    Args:
        profile: see `get_recipe`.
        results: results folder; default: results/<recipe>.
        drive: mount Google Drive.
        copy: results are copied to the Drive, not written there.
        predictions: files that are analyzed instead of the recipe's trainings.

    Returns:
        The folder on Google Drive, or "" without `drive`.

    Raises:
        ValueError: for an unknown recipe, or `drive` outside of Colab.
    """
    recipe = get_recipe(profile)
    folder = _mounted(recipe) if drive else ""
    pd.set_option("display.max_colwidth", None)
    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)
    default = EVALUATED if predictions else f"results/{recipe.name}"
    written = Path(results or (not copy and folder) or default)
    if written.is_relative_to(project_root()):
        written = written.relative_to(project_root())
    copied = f", copied to {folder}" if folder and copy else ""
    # HTML, as a printed line would be broken within words.
    changed = "" if recipe == RECIPES[recipe.name] else ", without your changes"
    training = f"recipe {recipe.name}{changed}: {recipe.expected_time}"
    expected = f"no training, {predictions} instead" if predictions else training
    device = runtime(recipe.needs_gpu and not predictions)
    shown = escape(f"{device} · {expected} · results in {written}{copied}")
    changes, paper = recipe_changes(recipe, RECIPES["paper"]), escape(RECIPES["paper"].name)
    if len(changes) and not predictions:
        summary = f"The recipe in full: {len(changes)} fields differ from <code>{paper}</code>"
        shown += f"<details><summary>{summary}</summary>{changes.to_html()}</details>"
    display(HTML(shown))
    return folder


def demo_pictures() -> list[Path]:
    """Pictures that come with the library; their authors and licenses are in a README beside."""
    return sorted((Path(__file__).parent / "demo").glob("*.jpg"))


def runtime(needs_gpu: bool) -> str:
    """Device and versions; what to do where a GPU is needed and missing."""
    count = torch.cuda.device_count()
    if count:
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        device = f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
        device += " (GPUS = 2 in notebook 03 trains on both)" if count == 2 else ""
    else:
        device = f"no GPU, {os.cpu_count()} CPU cores"
        device += f": {NO_GPU}" if needs_gpu else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    versions += f", torchvision {torchvision.__version__}, vocseg_lib {__version__}"
    return f"{device} · {versions}"


def _mounted(recipe: Recipe) -> str:
    if "google.colab" not in sys.modules:
        raise ValueError("DRIVE is for Colab: leave it unticked elsewhere")
    from google.colab import drive  # comes with Colab alone

    drive.mount("/content/drive")
    return str(Path("/content/drive/MyDrive/vocseg") / recipe.name)
