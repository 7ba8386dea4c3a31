"""Train the models of a study and evaluate their best weights on val."""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from vocseg_lib.data.coco_validation import subset
from vocseg_lib.data.loader import evenly_spaced
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.mirror import mirrored
from vocseg_lib.engine.predict import predict, save_predictions, validation_loss
from vocseg_lib.engine.resume import RESTORED_KEYS
from vocseg_lib.engine.run_folder import (
    BEST,
    CONFIG,
    LAST,
    LOG,
    PREVIOUS,
    append_log,
    run_lock,
    truncate_log,
)
from vocseg_lib.engine.train import Session, train
from vocseg_lib.engine.train_state import stop_reason
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.study.initial_weights import check_start
from vocseg_lib.study.recipes import MODEL_TITLES, Recipe
from vocseg_lib.study.results import PREDICTIONS, Results, open_files, open_results
from vocseg_lib.study.run import build_model, cached_metrics, default_device, prediction_header
from vocseg_lib.study.study import Study, open_study
from vocseg_lib.utils import distributed
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import to_jsonable, write_json
from vocseg_lib.utils.weights import load_weights

OVERFIT = TrainConfig(
    iterations=120,
    optimizer="adamw",
    weight_decay=0.0,
    schedule="cosine",
    lr_milestones=(),
    warmup_iterations=10,
    max_grad_norm=20.0,
    augmentation="none",
    workers=0,
)
"""How `overfit` trains."""


def run_config(study: Study, model_name: str) -> dict[str, Any]:
    """What a training depends on, all of its `config.json`."""
    return {
        "model": model_name,
        "recipe": study.recipe.for_model(model_name),
        "class_names": list(study.class_names),
        "data_fingerprint": study.fingerprint,
        "train": study.recipe.train.to_dict(),
    }


def train_model(
    study: Study,
    model_name: str,
    *,
    skip_bad: bool = True,
    processes: int = 1,
    on_log: Callable[[Path], None] | None = None,
    session: Session | None = None,
) -> dict:
    """Train a model of a study or resume it, then write its predictions and metrics on val.

    Args:
        skip_bad: skip unreadable training samples instead of raising.
        processes: of this machine that share each batch, with a GPU each where there are GPUs.
        on_log: see `engine.train.train`, as for what is raised and returned.
        session: its `mirror` is a second results folder.
    """
    session = session or Session(device=default_device())
    if processes < 1:
        raise ValueError(f"processes must be an integer >= 1, got {processes}")
    if processes > 1 and not torch.distributed.is_torchelastic_launched():
        return launch_torchrun(study, model_name, processes, skip_bad, on_log, session)
    folder, config = study.run_folder(model_name), run_config(study, model_name)
    mirror = Path(session.mirror) / "runs" / folder.name if session.mirror else None
    metadata = {**session.metadata, "devkit": str(study.devkit.resolve())}
    session = replace(session, mirror=mirror, metadata=metadata)
    # Backbone weights only for a training that starts: a checkpoint has all weights.
    checkpoints = [p / name for p in (folder, mirror) if p for name in (LAST, PREVIOUS)]
    resumed = any(map(os.path.isfile, checkpoints))  # False, too, for a Drive that is not connected
    recipe = study.recipe.with_changes(init=None) if resumed else study.recipe
    if not resumed:
        check_start(recipe, model_name)
    model = build_model(recipe, model_name, study.class_names)
    dataset = study.dataset("train", recipe.train.augmentation, skip_bad)
    dataset.names = study.train_names
    evaluate_model = _evaluation(study, config, session)
    options = {"on_log": on_log, "session": session, "run_config": config}
    state = train(model, dataset, folder, recipe.train, evaluate_model, **options)
    if state["best"]:
        is_first = distributed.rank() == 0
        with (
            run_lock(folder) if is_first else nullcontext(),
            mirrored(folder, mirror if is_first else None, expected=[BEST, CONFIG, LAST]),
        ):
            _evaluate_best(study, model, state, config, session)
    return state


def _evaluation(study: Study, config: dict, session: Session) -> Callable:
    """`evaluate(model, iteration)` of a training: AP and losses on `eval_images` images of val.

    With a part of train set aside, `selection_AP50` and `selection_loss` on that part, too. Writes
    a prediction file of all of val half way and at the end.
    """
    options, folder = study.recipe.train, study.run_folder(config["model"])
    device, mixed = session.device, options.mixed_precision
    indices = evenly_spaced(len(study.val), options.eval_images)
    image_ids = [image["id"] for image in study.ground_truth["images"]]
    with_objects = {a["image_id"] for a in study.ground_truth["annotations"]}
    if not with_objects & {image_ids[i] for i in indices}:  # AP of none would be NaN
        indices = [i for i, image_id in enumerate(image_ids) if image_id in with_objects]
        indices = [indices[k] for k in evenly_spaced(len(indices), options.eval_images)]
    ids, images = {image_ids[i] for i in indices}, Subset(study.val, indices)
    pictures = Subset(study.val_pictures, indices)
    ground_truth = subset(study.ground_truth, ids)
    checkpoints = {options.halfway: "half", options.iterations: "last"}
    uncropped = not options.iterations  # then these are the predictions of the best weights, too
    select = _selection(study, session) if options.selection_share else lambda model: {}

    def evaluate_model(model: nn.Module, iteration: int) -> dict[str, float]:
        checkpoint = checkpoints.get(iteration)
        dataset = study.val_pictures if checkpoint else pictures
        predictions = predict(
            model, dataset, None, device, mixed, progress=uncropped, uncropped=uncropped
        )
        if checkpoint and distributed.rank() == 0:
            predictions["header"] |= prediction_header(config, iteration, study.dataset("val"))
            save_predictions(folder / PREDICTIONS[checkpoint], predictions)
        detections = [d for d in predictions["detections"] if d["image_id"] in ids]
        metrics = evaluate(ground_truth, detections).summary
        metrics |= validation_loss(model, images, options, device)
        return {**metrics, "val_images": len(images), **select(model)}

    return evaluate_model


def _selection(study: Study, session: Session) -> Callable:
    """`select(model)`: what the best weights are chosen by, on the part of train set aside."""
    options, device = study.recipe.train, session.device
    ground_truth = study.selection_ground_truth
    indices = [image["id"] - 1 for image in ground_truth["images"]]
    images, pictures = (Subset(study.dataset("train", masks=m), indices) for m in (True, False))

    def select(model: nn.Module) -> dict[str, float]:
        predictions = predict(model, pictures, None, device, options.mixed_precision, False)
        ap50 = evaluate(ground_truth, predictions["detections"]).summary["mask_AP50"]
        loss = validation_loss(model, images, options, device)["val_loss"]
        return {"selection_AP50": ap50, "selection_loss": loss, "selection_images": len(indices)}

    return select


def _evaluate_best(
    study: Study, model: nn.Module, state: dict, config: dict, session: Session
) -> None:
    """Write a run's `predictions.json` and `metrics.json` from its best weights, if missing."""
    folder, is_first = study.run_folder(config["model"]), distributed.rank() == 0
    best = distributed.broadcast_object(load_checkpoint(folder / BEST) if is_first else None)
    key = checksum({"model": best["model"], "config": config})
    cached = cached_metrics(study, folder, key, config) if is_first else None
    cached = distributed.broadcast_object(cached)
    training = {"iterations": best["iteration"], "train_minutes": state["seconds"] / 60}
    training |= {name: state[name] for name in ("bad_samples", "overflows", "skipped_updates")}
    metrics = {**cached, **training}
    if not cached:
        load_weights(model, best["model"], folder / BEST)
        header = prediction_header(config, best["iteration"], study.dataset("val"))
        mixed = study.recipe.train.mixed_precision
        if study.recipe.train.iterations:
            predictions = predict(
                model, study.val_pictures, header, session.device, mixed, uncropped=True
            )
        else:  # they were predicted to evaluate them
            predictions = study.read_predictions(folder / PREDICTIONS["last"], config)
        summary = evaluate(study.ground_truth, predictions["detections"]).summary
        metrics = {**summary, **training, "checksum": key, **environment_info(session.device)}
        if is_first:
            save_predictions(folder / "predictions.json", predictions)
            truncate_log(folder / LOG, state["iteration"])  # and what a kill left of this line
            entry = {"iteration": state["iteration"], "best": best["iteration"]}
            append_log(folder / LOG, {**entry, "all_of_val": summary})
    if is_first and metrics != cached:
        write_json(folder / "metrics.json", to_jsonable(metrics))


def overfit(
    study: Study,
    model_name: str,
    names: str | list[str],
    split: str = "val",
    steps: int = OVERFIT.iterations,
    device: str | None = None,
) -> nn.Module:
    """A model fitted to a few images, to look inside it or to see that it can learn; eval mode.

    AdamW, without augmentation, once, into `results`/overfit.
    """
    dataset = study.dataset(split)
    dataset.names = [names] if isinstance(names, str) else list(names)
    folder = study.results / "overfit" / f"{model_name}_{'_'.join(dataset.names)}"
    model = build_model(study.recipe, model_name, study.class_names)
    batch_size, seed = max(2, min(4, len(dataset))), study.recipe.train.seed
    batch_norm = study.recipe.train.batch_norm
    config = replace(
        OVERFIT, iterations=steps, batch_size=batch_size, seed=seed, batch_norm=batch_norm
    )
    session = Session(device=device or default_device())
    images = {**run_config(study, model_name), "names": dataset.names}
    train(model, dataset, folder, config, session=session, run_config=images)
    return model.eval()


def open_or_train(
    profile: str | Recipe,
    data: str | Path = "",
    results: str | Path = "",
    init: str | Path = "",
    predictions: str = "",
) -> Results:
    """Results of a study's two models, trained first if they are not yet, or of prediction files.

    Args:
        predictions: prediction files, separated by commas, to open instead (see `open_files`),
            those of several trainings of a model joined by +; `data` has their ground truth.
    """
    if predictions:
        if not data:
            raise ValueError("PREDICTIONS needs DATA: a VOC devkit, or COCO ground truth (JSON)")
        models = [[file.strip() for file in of.split("+")] for of in predictions.split(",")]
        opened = open_files(models, data, results)
    else:
        study = open_study(profile, data, results, init)
        for model_name in MODEL_TITLES:
            train_model(study, model_name)
        opened = open_results(study)
    opened.folder.mkdir(parents=True, exist_ok=True)
    return opened


def launch_torchrun(
    study: Study,
    model_name: str,
    processes: int,
    skip_bad: bool,
    on_log: Callable[[Path], None] | None,
    session: Session,
) -> dict:
    """Train in several processes of this machine, started by torchrun; returns what `train` does.

    Raises:
        ValueError: for more processes than GPUs, or a batch that they cannot share evenly.
        RuntimeError: when the training fails, with its last output.
    """
    if str(session.device).startswith("cuda") and torch.cuda.device_count() < processes:
        raise ValueError(f"processes is {processes}: there are {torch.cuda.device_count()} GPUs")
    study.recipe.train.check_processes(processes)
    folder = study.run_folder(model_name)
    flags = {"--device": session.device, "--max-hours": session.max_hours}
    flags |= {"--mirror": session.mirror, "--stop-on-bad": not skip_bad}
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / CONFIG
        recipe, train = study.recipe.for_model(model_name), study.recipe.train.to_dict()
        write_json(config, {"model": model_name, "recipe": recipe, "train": train})
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", processes, "-m", "vocseg_lib", "train"]
        command += ["--from", config, "--data", study.devkit, "--results", study.results]
        for flag, value in flags.items():
            if value:
                command += [flag] if value is True else [flag, value]
        log = folder / LOG
        distributed.run_subprocess(
            [str(part) for part in command],
            lambda: on_log(log) if on_log and log.is_file() else None,
        )
    state = load_checkpoint(folder / LAST)
    progress = {key: value for key, value in state.items() if key not in RESTORED_KEYS}
    return {**progress, "stopped": stop_reason(study.recipe.train, progress)}
