"""`make smoke`: a few iterations of both models, in each precision, to see what a GPU makes of them."""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from vocseg_lib.files import write_json
from vocseg_lib.memory import peak_memory_gb
from vocseg_lib.models import MODELS
from vocseg_lib.provenance import surroundings
from vocseg_lib.runs import LOG, read_log
from vocseg_lib.study import Study
from vocseg_lib.trained import build_model, training_options
from vocseg_lib.training import train

MODES = {
    "fp32": {"mixed_precision": False, "compile": False},
    "mixed": {"mixed_precision": True, "compile": False},
    "mixed_compiled": {"mixed_precision": True, "compile": True},
}
WARM_UP = 1 / 3
"""Share of the iterations that are not timed: the first ones choose algorithms, or compile."""


def measure(study: Study, iterations: int, device: str, out: Path, modes: Sequence[str] = ()) -> pd.DataFrame:
    """Train each model in each of the `modes` (default: all), and write what it took to `out` after each run; the same as a table.

    For each: median `iterations_per_second`, `data_wait_share` (of an iteration, waiting for images), `peak_memory_gb`
    (tensors on a GPU; on a CPU the whole process so far), `losses` an iteration, and `loss` over the timed ones. A run that
    fails, for want of memory say, leaves its `error`.
    """
    facts = {"profile": study.recipe.name, "batch_size": study.recipe.batch_size, "iterations": iterations}
    rows = []
    for model_name in MODELS:
        for mode in modes or MODES:
            rows.append({"model": model_name, "mode": mode, **_measure_run(study, model_name, mode, iterations, device)})
            write_json(out, {**facts, **surroundings(device), "runs": rows})
    return pd.DataFrame(rows).drop(columns="losses", errors="ignore")


def _measure_run(study: Study, model_name: str, mode: str, iterations: int, device: str) -> dict:
    recipe = replace(study.recipe, **MODES[mode], iterations=iterations)
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(recipe, model_name)
        try:
            train(model, study.dataset("train", recipe.augmentation, True), folder, **training_options(recipe), device=device)
        except RuntimeError as error:
            return {"error": str(error).splitlines()[0]}
        steps = [entry for entry in read_log(Path(folder) / LOG) if "loss" in entry]
    timed = steps[int(WARM_UP * len(steps)) :]
    parts = [[entry[f"{part}_seconds"] for part in ("data", "forward", "backward")] for entry in timed]
    return {
        "iterations_per_second": 1 / statistics.median(map(sum, parts)),
        "data_wait_share": sum(part[0] for part in parts) / sum(map(sum, parts)),
        "peak_memory_gb": peak_memory_gb(device),
        "loss": statistics.mean(entry["loss"] for entry in timed),
        "losses": [entry["loss"] for entry in steps],
    }
