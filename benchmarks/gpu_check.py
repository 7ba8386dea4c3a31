"""`make gpu-check`: forward, train, resume and predict with both models on a GPU, and time them.

Rows are written as they come; what is in the file already is not measured again.
"""

import argparse
import copy
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from benchmarks.cases import HEIGHT, WIDTH, relative_error
from vocseg_lib.data.coco_validation import subset
from vocseg_lib.engine.predict import Pipeline, eval_mode, predict
from vocseg_lib.engine.run_folder import LAST, LOG, PREVIOUS, SESSIONS, read_log, read_sessions
from vocseg_lib.engine.train import Session, train
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.models.config import MODELS
from vocseg_lib.models.speedups import speed_up
from vocseg_lib.study.recipes import RECIPE_FIELDS, RECIPES, parse_assignments
from vocseg_lib.study.run import build_model, default_device
from vocseg_lib.study.study import Study, open_study
from vocseg_lib.study.train import run_config
from vocseg_lib.utils.device import autocast, half_precision, peak_memory_gb
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import read_json, to_jsonable, write_json

MODES = {"fp32": None, "fp16": (7, 5), "bf16": (8, 0)}
"""Precisions, and the compute capability of GPUs of which each is the half precision."""
COMPILED = "compiled"  # in the GPU's own half precision
WARM_UP = 1 / 3
"""Fraction of the iterations that is not timed: the first ones choose algorithms, or compile."""
REPEATED = 3
"""Iterations after resuming whose losses are compared: a GPU's sums vary, and that grows."""
PREDICTED_IMAGES = 64
"""Of val, at most."""
SYNCHRONIZED = "called a synchronizing CUDA operation"
Row = dict[str, float | int | str | list | None]


def check(
    study: Study, iterations: int, device: str, out: Path, minutes: float = 2
) -> pd.DataFrame:
    """All rows, which are also written to `out`; a check that fails has its `error`.

    Raises ValueError if it cannot run so, or `out` is a file of something else.

    - `forward`: relative error of the outputs, in fp32, to the plain model's on a CPU; of the
      plain model and of the sped-up one.
    - `train`: by mode, median `iterations_per_second`; `data_wait_fraction`, waiting for images;
      `peak_memory_gb` (1e9 bytes; tensors on a GPU, else the whole process so far); mean `loss` of
      the timed iterations; `resumed_from`, an iteration, and `resumed_loss_change`, the largest of
      the first ones that are repeated, relative; `losses` of all iterations (file alone).
    - `predict`: images per second of prediction, of the network alone in such batches, and of the
      evaluation; `synchronizations` of a batch between network and copy.
    - `minutes`: a training of so many minutes: its iterations, and the mean loss of the last ones.
    """
    if iterations < 2 or not 0 <= minutes < math.inf:
        expected = "iterations of 2 or more, and minutes of 0 or more"
        raise ValueError(f"expected {expected}, got {iterations} and {minutes}")
    recipe = study.recipe
    info = {"recipe": recipe.name, "batch_size": recipe.train.batch_size, "minutes": minutes}
    info |= {"iterations": iterations, "models": [run_config(study, name) for name in MODELS]}
    info = to_jsonable(info | environment_info(device))
    rows = [row for row in _earlier(out, info) if "error" not in row]
    done = {(row["check"], row["model"], row.get("mode")) for row in rows}
    for name, model_name, mode, run in tqdm([*_checks(study, iterations, device, minutes)]):
        if (name, model_name, mode) in done:
            continue
        row = {"check": name, "model": model_name} | ({"mode": mode} if mode else {})
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        try:
            row |= run()
        except RuntimeError as error:
            row["error"] = str(error).splitlines()[0]
        rows.append(row)
        write_json(out, to_jsonable({**info, "runs": rows}))
    return pd.DataFrame(rows).drop(columns="losses", errors="ignore")


def _earlier(out: Path, info: dict) -> list[Row]:
    """The rows of a file that this call began, on the same device and commit."""
    content = read_json(out) if out.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{out} is not of this check: choose another file")
    return content["runs"] if content.items() >= info.items() else []


def _checks(
    study: Study, iterations: int, device: str, minutes: float
) -> Iterator[tuple[str, str, str | None, Callable[[], Row]]]:
    """Name, model and mode of each check, and what runs it; the cheap ones first."""
    for model_name in MODELS:
        yield "forward", model_name, None, partial(_forward, study, model_name, device)
    modes = [*MODES, COMPILED] if torch.device(device).type == "cuda" else ["fp32", "bf16"]
    for model_name in MODELS:
        for mode in modes:
            changes = {"mixed_precision": mode != "fp32", "compile": mode == COMPILED}
            changes |= {"iterations": iterations, "checkpoint_every": max(1, iterations // 2)}
            changed = replace(study, recipe=study.recipe.with_changes(**changes))
            run = partial(_train, changed, model_name, device, MODES.get(mode))
            yield "train", model_name, mode, run
    for model_name in MODELS:
        yield "predict", model_name, None, partial(_predict, study, model_name, device)
    for model_name in MODELS if minutes else ():
        yield "minutes", model_name, None, partial(_minutes, study, model_name, device, minutes)


def _forward(study: Study, model_name: str, device: str) -> Row:
    config = replace(study.recipe.model_config(model_name), init=None)
    plain = resolve_name(config.model)(config).eval()
    models = {"plain": plain, "sped_up": speed_up(copy.deepcopy(plain))}
    images = [torch.rand(3, HEIGHT, WIDTH), torch.rand(3, WIDTH, HEIGHT)]
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        expected, row = _outputs(plain, images), {}
        for name, model in models.items():
            found = _outputs(model.to(device), [image.to(device) for image in images])
            pairs = zip(found, expected, strict=True)
            row[f"error_{name}"] = max(relative_error(a.cpu(), b) for a, b in pairs)
    return row


def _outputs(model: nn.Module, images: list[Tensor]) -> list[Tensor]:
    """Outputs of a model before boxes are chosen, which small differences decide otherwise."""
    if not hasattr(model, "rpn"):
        out = model.network(images)
        return [out[k] for k in ("class_logits", "box_offsets", "coefficients", "prototypes")]
    batch, _ = model.transform(images)
    features = [*model.backbone(batch.tensors).values()]
    return [*features, *(tensor for part in model.rpn.head(features) for tensor in part)]


def _half_precision(capability: tuple[int, int] | None) -> AbstractContextManager:
    """Context manager: the half precision of GPUs of a compute capability."""
    if not (capability and torch.cuda.is_available()):
        return nullcontext()
    return patch("torch.cuda.get_device_capability", lambda *_: capability)


def _train(study: Study, model_name: str, device: str, capability: tuple[int, int] | None) -> Row:
    config = study.recipe.train
    dataset = study.dataset("train", config.augmentation, skip_bad=True)
    options = {"session": Session(device=device), "run_config": run_config(study, model_name)}
    with tempfile.TemporaryDirectory() as temporary, _half_precision(capability):
        half = half_precision(device) if config.mixed_precision else None
        folder, logs = Path(temporary), []
        for _ in range(2):
            model = build_model(study.recipe, model_name, study.class_names)
            train(model, dataset, folder, config, **options)
            logs.append(read_log(folder / LOG))
            if len(logs) == 1:
                (folder / PREVIOUS).replace(folder / LAST)  # as if killed before the last one
        start = read_sessions(folder / SESSIONS)[-1]["from_iteration"]
    # Times of the first session, losses of both; a skipped update has none.
    first, second = ([entry.get("loss") for entry in log] for log in logs)
    pairs = [*zip(first[start:], second[start:], strict=True)][:REPEATED]
    changes = [abs(b / a - 1) for a, b in pairs if a and b]
    timed = logs[0][int(WARM_UP * len(first)) :]
    parts = [[entry[f"{p}_seconds"] for p in ("data", "forward", "backward")] for entry in timed]
    return {
        "half_precision": str(half).removeprefix("torch."),
        "iterations_per_second": 1 / statistics.median(map(sum, parts)),
        "data_wait_fraction": sum(part[0] for part in parts) / sum(map(sum, parts)),
        "peak_memory_gb": peak_memory_gb(device),
        "loss": statistics.mean(entry["loss"] for entry in timed if "loss" in entry),
        "resumed_from": start,
        "resumed_loss_change": max(changes, default=None),
        "losses": first,
    }


def _predict(study: Study, model_name: str, device: str) -> Row:
    model = build_model(study.recipe, model_name, study.class_names)
    mixed, batch = study.recipe.train.mixed_precision, Pipeline.of_device(device).batch_size
    count = min(len(study.val_pictures), PREDICTED_IMAGES)
    images, first = (Subset(study.val_pictures, range(n)) for n in (count, min(count, batch)))
    predict(model, first, None, device, mixed)  # to warm up
    start = time.perf_counter()
    predictions = predict(model, images, None, device, mixed)
    predicted = time.perf_counter()
    ids = {image["id"] for image in predictions["header"]["images"]}
    evaluate(subset(study.ground_truth, ids), predictions["detections"])
    evaluated = time.perf_counter()
    network, synchronizations = _network(model, device, mixed, batch)
    return {
        "images_per_second": count / (predicted - start),
        "network_images_per_second": network,
        "evaluated_images_per_second": count / (evaluated - predicted),
        "detections": len(predictions["detections"]),
        "synchronizations": synchronizations,
    }


def _network(model: nn.Module, device: str, mixed: bool, size: int) -> tuple[float, int | None]:
    """Images per second of a network alone; synchronizations of a batch on the way to the copy."""
    images, seconds = [torch.rand(3, HEIGHT, WIDTH, device=device)] * size, []
    on_gpu, waits = torch.device(device).type == "cuda", None
    with torch.inference_mode(), eval_mode(model, device):
        for _ in range(6):
            start = time.perf_counter()
            with autocast(device, mixed, predicting=True):
                out = model.network(images)
            if on_gpu:
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
        if on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.detect(out)
            torch.cuda.set_sync_debug_mode("default")
            waits = sum(SYNCHRONIZED in str(warning.message) for warning in caught)
    return size / statistics.median(seconds[2:]), waits


def _minutes(study: Study, model_name: str, device: str, minutes: float) -> Row:
    config = study.recipe.train
    dataset = study.dataset("train", config.augmentation, skip_bad=True)
    model = build_model(study.recipe, model_name, study.class_names)
    with tempfile.TemporaryDirectory() as temporary:
        session = Session(device=device, max_hours=minutes / 60)
        state = train(model, dataset, temporary, config, session=session)
        log = read_log(Path(temporary) / LOG)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    row = {"iterations": state["iteration"], "seconds": state["seconds"]}
    row |= {"peak_memory_gb": peak_memory_gb(device), "loss": statistics.mean(losses[-20:])}
    return row | {"skipped_updates": state["skipped_updates"] + state["overflows"]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--profile", choices=RECIPES, default="paper", help="recipe")
    add("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change the recipe")
    add("--data", default="", metavar="DEVKIT", help="VOC devkit instead of the recipe's data")
    add("--iterations", type=int, default=30, help="updates of each `train`, at least 2")
    add("--minutes", type=float, default=2, help="of training of each model; 0: none")
    add("--out", type=Path, default=Path("results/gpu_check.json"), metavar="FILE", help="JSON")
    add("--device", default=default_device(), help="cpu or cuda")
    options = parser.parse_args()
    try:
        torch.zeros(1, device=options.device)
        changes = parse_assignments(options.set, RECIPE_FIELDS)
        study = open_study(options.profile, options.data, changes=changes)
        table = check(study, options.iterations, options.device, options.out, options.minutes)
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    print(table.to_string(index=False, na_rep=""))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
