"""`make gpu-check`: a few iterations of both models, in each precision, to see what a GPU makes of them."""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from vocseg_lib.engine.run_folder import LOG, read_log
from vocseg_lib.engine.train import train
from vocseg_lib.models import MODELS
from vocseg_lib.study.open import open_study
from vocseg_lib.study.recipes import RECIPE_FIELDS, RECIPES
from vocseg_lib.study.run import build_model, default_device, training_options
from vocseg_lib.study.study import Study
from vocseg_lib.utils.config import parse_assignments
from vocseg_lib.utils.device import peak_memory_gb
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import write_json

MODES = {
    "fp32": {"mixed_precision": False, "compile": False},
    "mixed": {"mixed_precision": True, "compile": False},
    "mixed_compiled": {"mixed_precision": True, "compile": True},
}
WARM_UP = 1 / 3
"""Share of the iterations that are not timed: the first ones choose algorithms, or compile."""


def measure(
    study: Study, iterations: int, device: str, out: Path, modes: Sequence[str] = ()
) -> pd.DataFrame:
    """Train each model in each of the `modes` (default: all), and write what it took to `out` after each run; the same as a table.

    For each: median `iterations_per_second`, `data_wait_share` (of an iteration, waiting for images), `peak_memory_gb`
    (tensors on a GPU; on a CPU the whole process so far), `losses` an iteration, and `loss` over the timed ones. A run that
    fails, for want of memory say, leaves its `error`.
    """
    facts = {
        "profile": study.recipe.name,
        "batch_size": study.recipe.batch_size,
        "iterations": iterations,
    }
    rows = []
    for model_name in MODELS:
        for mode in modes or MODES:
            rows.append(
                {
                    "model": model_name,
                    "mode": mode,
                    **_measure_run(study, model_name, mode, iterations, device),
                }
            )
            write_json(out, {**facts, **environment_info(device), "runs": rows})
    return pd.DataFrame(rows).drop(columns="losses", errors="ignore")


def _measure_run(study: Study, model_name: str, mode: str, iterations: int, device: str) -> dict:
    recipe = replace(study.recipe, **MODES[mode], iterations=iterations)
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(recipe, model_name)
        try:
            train(
                model,
                study.dataset("train", recipe.augmentation, True),
                folder,
                **training_options(recipe),
                device=device,
            )
        except RuntimeError as error:
            return {"error": str(error).splitlines()[0]}
        steps = [entry for entry in read_log(Path(folder) / LOG) if "loss" in entry]
    timed = steps[int(WARM_UP * len(steps)) :]
    parts = [
        [entry[f"{part}_seconds"] for part in ("data", "forward", "backward")] for entry in timed
    ]
    return {
        "iterations_per_second": 1 / statistics.median(map(sum, parts)),
        "data_wait_share": sum(part[0] for part in parts) / sum(map(sum, parts)),
        "peak_memory_gb": peak_memory_gb(device),
        "loss": statistics.mean(entry["loss"] for entry in timed),
        "losses": [entry["loss"] for entry in steps],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--profile", choices=RECIPES, default="paper", help="recipe (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="change the recipe, as in batch_size=16",
    )
    parser.add_argument(
        "--data", default="", metavar="DEVKIT", help="VOC devkit (default: the profile's)"
    )
    parser.add_argument(
        "--iterations", type=int, default=60, help="updates a run (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default="results/gpu_check.json",
        metavar="FILE",
        help="JSON (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default=default_device(), help="cpu or cuda (default here: %(default)s)"
    )
    options = parser.parse_args()
    study = open_study(
        options.profile, options.data, changes=parse_assignments(options.set, RECIPE_FIELDS)
    )
    print(measure(study, options.iterations, options.device, options.out).to_string(index=False))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
