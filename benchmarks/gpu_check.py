"""`make gpu-check`: train, resume and predict with both models in each precision, on a GPU."""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import Subset

from vocseg_lib.engine.predict import predict
from vocseg_lib.engine.run_folder import LAST, LOG, PREVIOUS, SESSIONS, read_log, read_sessions
from vocseg_lib.engine.train import Session, train
from vocseg_lib.models.config import MODELS
from vocseg_lib.study.recipes import RECIPE_FIELDS, RECIPES, parse_assignments
from vocseg_lib.study.run import build_model, default_device
from vocseg_lib.study.study import Study, open_study
from vocseg_lib.study.train import run_config
from vocseg_lib.utils.device import peak_memory_gb
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import write_json

MODES = {
    "fp32": {"mixed_precision": False, "compile": False},
    "mixed": {"mixed_precision": True, "compile": False},
    "mixed_compiled": {"mixed_precision": True, "compile": True},
}
WARM_UP = 1 / 3
"""Fraction of the iterations that is not timed: the first ones choose algorithms, or compile."""
REPEATED = 3
"""Iterations after resuming whose losses are compared: a GPU's sums vary, and that grows."""
PREDICTED_IMAGES = 4
"""Of val, by the model of the resumed training."""


def check(
    study: Study, iterations: int, device: str, out: Path, modes: Sequence[str] = tuple(MODES)
) -> pd.DataFrame:
    """Train, resume and predict with each model in each mode; a row per run, also written to `out`.

    Columns: median `iterations_per_second`; `data_wait_fraction`, waiting for images;
    `peak_memory_gb` (1e9 bytes; tensors on a GPU, else the whole process so far); mean `loss` of
    the timed iterations; `resumed_from`, an iteration; `resumed_loss_change`, the largest of the
    first ones that are repeated, relative; `detections` on a few images of val. The file
    has the `losses` of all iterations, too. A run that fails, as for lack of memory, has its
    `error`.
    """
    info = {"recipe": study.recipe.name, "batch_size": study.recipe.train.batch_size}
    info |= {"iterations": iterations, **environment_info(device)}
    counts = {"iterations": iterations, "checkpoint_every": max(1, iterations // 2)}
    rows = []
    for model_name in MODELS:
        for mode in modes:
            recipe = study.recipe.with_changes(**counts, **MODES[mode])
            row = {"model": model_name, "mode": mode}
            try:
                row |= _run(replace(study, recipe=recipe), model_name, device)
            except RuntimeError as error:
                row["error"] = str(error).splitlines()[0]
            rows.append(row)
            write_json(out, {**info, "runs": rows})
    return pd.DataFrame(rows).drop(columns="losses", errors="ignore")


def _run(study: Study, model_name: str, device: str) -> dict:
    config = study.recipe.train
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    dataset = study.dataset("train", config.augmentation, skip_bad=True)
    options = {"session": Session(device=device), "run_config": run_config(study, model_name)}
    with tempfile.TemporaryDirectory() as temporary:
        folder, logs = Path(temporary), []
        for _ in range(2):
            model = build_model(study.recipe, model_name, study.class_names)
            train(model, dataset, folder, config, **options)
            logs.append(read_log(folder / LOG))
            if len(logs) == 1:
                (folder / PREVIOUS).replace(folder / LAST)  # as if killed before the last one
        start = read_sessions(folder / SESSIONS)[-1]["from_iteration"]
    val = study.dataset("val")
    images = Subset(val, range(min(PREDICTED_IMAGES, len(val))))
    predictions = predict(model, images, device=device, mixed_precision=config.mixed_precision)
    # Times of the first session, losses of both; a skipped update has none.
    first, second = ([entry.get("loss") for entry in log] for log in logs)
    pairs = [*zip(first[start:], second[start:], strict=True)][:REPEATED]
    changes = [abs(b / a - 1) for a, b in pairs if a and b]
    timed = logs[0][int(WARM_UP * len(first)) :]
    parts = [[entry[f"{p}_seconds"] for p in ("data", "forward", "backward")] for entry in timed]
    return {
        "iterations_per_second": 1 / statistics.median(map(sum, parts)),
        "data_wait_fraction": sum(part[0] for part in parts) / sum(map(sum, parts)),
        "peak_memory_gb": peak_memory_gb(device),
        "loss": statistics.mean(entry["loss"] for entry in timed if "loss" in entry),
        "resumed_from": start,
        "resumed_loss_change": max(changes, default=None),
        "detections": len(predictions["detections"]),
        "losses": first,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--profile", choices=RECIPES, default="paper", help="recipe")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change the recipe")
    add("--data", default="", metavar="DEVKIT", help="VOC devkit instead of the recipe's data")
    add("--iterations", type=int, default=60, help="updates per run, at least 2")
    add("--out", type=Path, default=Path("results/gpu_check.json"), metavar="FILE", help="JSON")
    add("--device", default=default_device(), help="cpu or cuda")
    options = parser.parse_args()
    changes = parse_assignments(options.set, RECIPE_FIELDS)
    study = open_study(options.profile, options.data, changes=changes)
    print(check(study, options.iterations, options.device, options.out).to_string(index=False))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
