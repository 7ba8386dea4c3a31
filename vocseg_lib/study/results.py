"""Predictions of one or more models and their ground truth: a study's own, or any files."""

import re
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from vocseg_lib.data.coco import read_coco, read_predictions
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import find_devkit, fingerprint
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.run_folder import CONFIG, LOG, read_log
from vocseg_lib.failures.analysis import Analysis, analyze
from vocseg_lib.failures.config import Thresholds
from vocseg_lib.metrics.bootstrap import (
    RESAMPLES,
    Sampled,
    bootstrap_weights,
    intervals_table,
    sample,
)
from vocseg_lib.metrics.coco_eval import HEADLINE, Evaluation, evaluate
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE
from vocseg_lib.study.recipes import MODEL_TITLES, read_config
from vocseg_lib.study.run import mask_explainer
from vocseg_lib.study.study import Study
from vocseg_lib.utils.files import project_root, resolve_path

EVALUATED = "results/evaluated"  # results folder of prediction files from elsewhere
PREDICTIONS = {"best": "predictions.json"}
PREDICTIONS |= {name: f"predictions_{name}.json" for name in ("half", "last")}
"""A run's prediction files on val: of the best weights, half way, and of the last weights."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Predictions of models on the images of one validated ground truth."""

    ground_truth: dict
    predictions: dict[str, dict]  # prediction file by title of its model
    folder: Path  # where tables and figures go
    repetitions: dict[str, list[dict]] = field(default_factory=dict)  # of other seeds, by title
    images: Path | None = None  # devkit with the images
    description: str = ""  # model and data in words
    study: Study | None = None  # of the study's own runs

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """COCO's evaluation of each model, by title."""
        return {
            title: evaluate(self.ground_truth, predictions["detections"])
            for title, predictions in self.predictions.items()
        }

    @cached_property
    def trainings(self) -> dict[str, list[Evaluation]]:
        """The evaluation of each training of each model, by title."""
        others = {
            title: [evaluate(self.ground_truth, p["detections"]) for p in files]
            for title, files in self.repetitions.items()
        }
        return {title: [e, *others.get(title, [])] for title, e in self.evaluations.items()}

    def sampled(
        self,
        resamples: int = RESAMPLES,
        score_threshold: float = SEMANTIC_SCORE,
        only: Collection[str] = (),
    ) -> dict[str, Sampled]:
        """Metrics of each model with what chance does to them: see `metrics.bootstrap.sample`."""
        weights = self.bootstrap_weights(resamples)
        return {
            title: sample(trainings, weights, only, score_threshold)
            for title, trainings in self.trainings.items()
        }

    def analyses(
        self, score_threshold: float = 0.0, thresholds: Thresholds | None = None
    ) -> dict[str, Analysis]:
        """The failures of each model, by title, from the IoUs of `evaluations`."""
        return {
            title: analyze(evaluation, score_threshold, thresholds)
            for title, evaluation in self.evaluations.items()
        }

    def bootstrap_weights(self, resamples: int = RESAMPLES) -> np.ndarray:
        """Weights of the images for paired bootstraps: see `metrics.bootstrap`."""
        return bootstrap_weights(len(self.ground_truth["images"]), resamples)

    @property
    def run_folders(self) -> dict[str, Path]:
        """Of the study's models, by title; none for prediction files from elsewhere."""
        names = MODEL_TITLES.items() if self.study else ()
        return {title: self.study.run_folder(name) for name, title in names}

    def mask_explainers(self) -> dict[str, Callable]:
        """`run.mask_explainer` of each of the study's models, by title."""
        val = self.study and self.study.dataset("val", masks=False)
        return {title: mask_explainer(folder, val) for title, folder in self.run_folders.items()}

    def logs(self) -> dict[str, list[dict]]:
        """The logs of the study's trainings, by title."""
        return {title: read_log(folder / LOG) for title, folder in self.run_folders.items()}


def open_ground_truth(data: str | Path, split: str = "val") -> dict:
    """Validated COCO ground truth of a split of a VOC devkit, or of a COCO JSON file.

    Raises ValueError if it has no object.
    """
    path = resolve_path(data)
    if path.suffix != ".json" and not path.is_file():
        ground_truth, path = voc_to_coco(path, split), f"{split} of {path}"
    else:
        ground_truth, report = read_coco(path)
        print(*report.lines, sep="\n", end="\n" * bool(report.lines), file=sys.stderr)
    if not any(not annotation["iscrowd"] for annotation in ground_truth["annotations"]):
        found = "crowds alone" if ground_truth["annotations"] else "no object"
        raise ValueError(f"{path} has {found}: nothing can be evaluated")
    return ground_truth


def open_files(
    files: Sequence[str | Path | Sequence[str | Path]],
    data: str | Path,
    results: str | Path = "",
    split: str = "val",
) -> Results:
    """Prediction files from anywhere and their ground truth, a VOC devkit or COCO JSON.

    `files`: per model one file, or those of several trainings (seeds) of it.

    Raises:
        ValueError: a file is invalid, given twice, or not of the ground truth's images.
        FileNotFoundError: a file is missing.
    """
    if isinstance(files, str) or not files:
        raise ValueError(f"files must be a list of one or more prediction files, got {files!r}")
    ground_truth = open_ground_truth(data, split)
    groups = [[of] if isinstance(of, str | Path) else [*of] for of in files]
    groups = [[resolve_path(file) for file in group] for group in groups]
    paths = [path for group in groups for path in group]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"{', '.join(missing)} is missing: prediction files are expected")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"the same file is given twice: {', '.join(map(str, paths))}")
    stems = [Path(path.name.removesuffix(".gz")).stem for path, *_ in groups]
    predictions, repetitions = {}, {}
    for stem, (path, *others) in zip(stems, groups, strict=True):
        title = stem if stems.count(stem) == 1 else str(path)
        title += f" and {len(others)} more" if others else ""
        predictions[title] = read_predictions(path, ground_truth)
        repetitions[title] = [read_predictions(other, ground_truth) for other in others]
    images = resolve_path(data)
    if images.is_dir():
        read = (p for t, first in predictions.items() for p in (first, *repetitions[t]))
        _check_data(dict(zip(paths, read, strict=True)), find_devkit(images), split)
    return Results(
        ground_truth=ground_truth,
        predictions=predictions,
        repetitions=repetitions,
        folder=project_root() / (results or EVALUATED),
        images=images if images.is_dir() else None,
        description=f"{', '.join(predictions)} on {len(ground_truth['images'])} images",
    )


def _check_data(predictions: dict[Path, dict], devkit: Path, split: str) -> None:
    """Raise ValueError if a split has changed since a run's predictions on it."""
    parts = ((path, content["header"].get("data")) for path, content in predictions.items())
    predicted = {path: data.get("fingerprint") for path, data in parts if isinstance(data, dict)}
    current = fingerprint(devkit, [split]) if any(predicted.values()) else None
    for path, recorded in predicted.items():
        if recorded not in (None, current):
            problem = f"the list, files or classes of {split} of {devkit} have changed since"
            way = "predict again, or export-coco and evaluate against its file"
            raise ValueError(f"{path} holds predictions of other data: {problem}; {way}")


def open_results(study: Study) -> Results:
    """The predictions of a study's best weights on val.

    Raises:
        FileNotFoundError: a model is not trained yet.
        ValueError: predictions are invalid, or not of this devkit's val.
    """
    predictions, repetitions = {}, {}
    for name, title in MODEL_TITLES.items():
        folder = study.run_folder(name)
        if not (path := folder / PREDICTIONS["best"]).is_file():
            raise FileNotFoundError(f"{path} is missing: run 03_train with MODEL={name!r} first")
        predictions[title] = run_predictions(study, folder)
        others = [run_predictions(study, other) for other in other_seeds(study, name)]
        repetitions[title] = others
    return Results(
        ground_truth=study.ground_truth,
        predictions=predictions,
        repetitions=repetitions,
        folder=study.results,
        images=study.devkit,
        description=study.description,
        study=study,
    )


def other_seeds(study: Study, model_name: str) -> list[Path]:
    """Run folders of a model beside the study's, finished and different in nothing but the seed."""
    own, folders = study.run_folder(model_name), []
    expected = _without_seed(read_config(own / CONFIG))
    for folder in sorted(own.parent.glob(f"{model_name}*")):
        is_run = folder != own and re.fullmatch(rf"{model_name}(_seed\d+)?", folder.name)
        if not is_run or not (folder / PREDICTIONS["best"]).is_file():
            continue
        if _without_seed(read_config(folder / CONFIG)) == expected:
            folders.append(folder)
        else:
            print(f"{folder} is left out: it differs in more than the seed", file=sys.stderr)
    return folders


def _without_seed(config: dict) -> dict:
    train = replace(TrainConfig.from_dict(config["train"]), seed=TrainConfig.seed)
    return {**config, "train": train}


def run_predictions(study: Study, run_folder: Path, checkpoint: str = "best") -> dict:
    """The prediction file of a checkpoint (see `PREDICTIONS`) of a run on the study's val.

    Raises FileNotFoundError; ValueError if it is of other data or of another training.
    """
    config = read_config(run_folder / CONFIG)
    return study.read_predictions(run_folder / PREDICTIONS[checkpoint], config)


def checkpoint_ap(study: Study, run_folder: Path) -> pd.DataFrame:
    """AP, AP50 and AP75 with intervals at each checkpoint of a run, on the study's val.

    Columns: checkpoint, kind, metric, class, value, low, high (percent).
    """
    parts, weights = [], bootstrap_weights(len(study.ground_truth["images"]))
    for checkpoint, name in PREDICTIONS.items():
        if not (run_folder / name).is_file():
            continue
        predictions = run_predictions(study, run_folder, checkpoint)
        evaluation = evaluate(study.ground_truth, predictions["detections"])
        table = intervals_table(sample([evaluation], weights, only=HEADLINE))
        table = table[table["metric"].isin(HEADLINE) & (table["class"] == "all")]
        parts.append(table.drop(columns="training_share").assign(checkpoint=checkpoint))
    return pd.concat(parts, ignore_index=True)
