"""What there is to say of trained models and of prediction files from elsewhere: figures at each checkpoint, and costs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd
from torch import Tensor

from vocseg_lib.data.coco import check_images
from vocseg_lib.data.coco_convert import coco_ground_truth, read_coco
from vocseg_lib.engine.predict import load_predictions
from vocseg_lib.engine.profile import count_gflop, measure_speed
from vocseg_lib.engine.resume import LOG
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.failures.analysis import Analysis, analyze
from vocseg_lib.failures.mask_errors import Thresholds
from vocseg_lib.metrics.bootstrap import add_intervals, bootstrap, bootstrap_weights
from vocseg_lib.metrics.coco_eval import HEADLINE, Evaluation, evaluate
from vocseg_lib.study.run import load_run
from vocseg_lib.utils.files import project_root, read_json, resolve_path

Judged = TypeVar("Judged")
PREDICTIONS = {
    "best": "predictions.json",
    "half": "predictions_half.json",
    "last": "predictions_last.json",
}
"""Prediction files on all of val: of the best weights, of those half-way and of the last ones."""


def open_ground_truth(data: str | Path, split: str = "val") -> dict:
    """COCO ground truth: of a split of a VOC devkit, or from a COCO JSON file. Raises ValueError, naming the file."""
    path = resolve_path(data)
    if path.suffix != ".json" and not path.is_file():
        return coco_ground_truth(path, split)
    return read_coco(path)


def evaluate_files(
    files: Sequence[str | Path], data: str | Path, results: str | Path = "", split: str = "val"
) -> tuple[Path, dict[str, Evaluation]]:
    """Prediction files from elsewhere judged against a devkit or COCO ground truth: a folder for results, and by file name."""
    return project_root() / (results or "results/judged"), _of_each(files, data, split, evaluate)


def _of_each(
    files: Sequence[str | Path], data: str | Path, split: str, judge: Callable[[dict, list], Judged]
) -> dict[str, Judged]:
    """What `judge` makes of ground truth and detections, by file name; a ValueError names the file."""
    truth, judged, paths = (
        open_ground_truth(data, split),
        {},
        [resolve_path(str(file).strip()) for file in files],
    )
    stems = [path.stem for path in paths]
    for path in paths:
        predictions = load_predictions(path)
        try:
            check_images(truth, predictions["header"])
            found = judge(truth, predictions["detections"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        judged[path.stem if stems.count(path.stem) == 1 else str(path)] = found
    return judged


def analyze_files(
    files: Sequence[str | Path],
    data: str | Path,
    split: str = "val",
    score_threshold: float = 0.0,
    thresholds: Thresholds | None = None,
) -> dict[str, Analysis]:
    """What goes wrong in prediction files with masks, by file name; see `evaluate_files` and `failures.analyze`."""
    return _of_each(
        files, data, split, partial(analyze, score_threshold=score_threshold, thresholds=thresholds)
    )


def measure_costs(
    run_folder: Path, images: list[Tensor], device: str, mixed_precision: bool = False
) -> dict[str, float]:
    """What a trained model costs, by the keys of `table1.COSTS`; speed is measured now, on float [3, H, W] images in 0..1."""
    model, *_ = load_run(run_folder, device)
    speed = measure_speed(model, images, device, mixed_precision=mixed_precision)
    peaks = [
        entry["peak_memory_gb"] for entry in read_log(run_folder / LOG) if "peak_memory_gb" in entry
    ]
    return {
        "network_ms": 1000 * speed["network_seconds"],
        "postprocess_ms": 1000 * speed["postprocess_seconds"],
        "end_to_end_ms": 1000 * speed["seconds_per_image"],
        "fps": speed["fps"],
        "train_hours": read_json(run_folder / "metrics.json")["train_minutes"] / 60,
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "gflop": count_gflop(model, images[0], device),
        "train_peak_gb": max(peaks, default=float("nan")),
    }


def checkpoint_ap(run_folder: Path, ground_truth: dict) -> pd.DataFrame:
    """COCO's AP, AP50 and AP75 with their intervals at each checkpoint: checkpoint, kind, metric, class, value, low, high."""
    parts, weights = [], bootstrap_weights(len(ground_truth["images"]))
    for checkpoint, name in PREDICTIONS.items():
        if (run_folder / name).is_file():
            found = evaluate(ground_truth, load_predictions(run_folder / name)["detections"])
            headline = found.table[
                found.table["metric"].isin(HEADLINE) & (found.table["class"] == "all")
            ]
            parts.append(
                add_intervals(headline, bootstrap(found, weights, headline=True)).assign(
                    checkpoint=checkpoint
                )
            )
    return pd.concat(parts, ignore_index=True)
