"""The training loop: any model under the contract, any data set; resumes by itself, bit for bit on the CPU."""

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from vocseg_lib.data.loader import SeededSamples, load_batches, preserve_rng_state
from vocseg_lib.engine.batch_norm import (
    MODES,
    batch_norm_layers,
    precise_statistics,
    set_train_mode,
)
from vocseg_lib.engine.mirror import mirrored
from vocseg_lib.engine.optim import build_optimizer, lr_factor
from vocseg_lib.engine.resume import LOG, preserve_newer_mirror, resume, write_config
from vocseg_lib.engine.run_folder import append_session, run_lock, truncate_log
from vocseg_lib.engine.train_state import TrainingState
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import keep_freed_memory, peak_memory_gb
from vocseg_lib.utils.environment import environment_info

PRECISE_IMAGES = 200
"""Training images over which "precise" batch norm takes its statistics."""


class NonFiniteLoss(RuntimeError):
    """Losses or their gradients went on being infinite or not a number; the message names the images."""


class TooManyBadSamples(RuntimeError):
    """More of the data cannot be read than is allowed; the message names the files."""


class WorkerDied(RuntimeError):
    """A process that loads images was killed; the message says what to do."""


def train(
    model: nn.Module,
    dataset: Dataset,
    run_folder: str | Path,
    *,
    iterations: int,
    batch_size: int,
    optimizer: str = "sgd",
    learning_rate: float = 1e-3,
    backbone_lr_mult: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "step",
    lr_milestones: tuple[int, ...] = (),
    warmup_iterations: int = 0,
    max_grad_norm: float | None = None,
    mixed_precision: bool = False,
    batch_norm: str = "unfrozen",
    score: Callable[[nn.Module, int], dict[str, float]] | None = None,
    eval_every: int = 1_000,
    patience: int | None = None,
    checkpoint_every: int = 250,
    max_hours: float | None = None,
    mirror: str | Path | None = None,
    accept_changes: bool = False,
    max_bad_fraction: float = 0.05,
    max_skipped_updates: int = 10,
    watch: Callable[[Path], None] | None = None,
    workers: int = 0,
    seed: int = 0,
    settings: dict | None = None,
    notes: dict | None = None,
    device: str | torch.device = "cpu",
) -> dict:
    """Train, or continue the training that `run_folder` holds; returns what is known of it (see below).

    `batch_size` is that of all processes together. The backbone's body learns with `backbone_lr_mult` of the learning rate.
    `batch_norm`: "unfrozen", "frozen", or "precise": unfrozen, with
    statistics taken anew over training images whenever the model is judged.
    `score(model, iteration)` is called in eval mode every `eval_every` iterations and at the end; the weights with the highest
    `mask_AP50` are kept in `best.pt`, and training ends after `patience` scores without a higher one.
    `max_hours` of this call end it with a checkpoint. `mirror` is a second folder that gets all that the run folder gets.
    Bad samples that the data set passes over are counted and logged, up to a `max_bad_fraction` of the data set. A batch whose loss
    or gradient is not finite is left out and kept in `left_out/`; so are, without being kept, updates whose gradient
    overflows in fp16. `watch(log)` is called with the path of the log whenever there is something new to show.

    The folder gets `recipe.json` (`settings`), `run.json` (`notes`, and versions and device of each call), `log.jsonl` (a
    line an iteration, a line a score), `last.pt`, `previous.pt` and `best.pt`.

    Returns `iteration`; `seconds` of loading and updates, without scoring and checkpoints; `best` (its scores and
    iteration); `evals_since_best`; `skipped` (bad samples and how often they came up); `overflows` and `left_out` (updates
    left out in fp16, and for other reasons); `stopped`: None, "patience" or "max_hours".

    Raises NonFiniteLoss after `max_skipped_updates` updates left out in a row, TooManyBadSamples, WorkerDied, ChangedSettings when
    the folder holds a training with other settings, RunningElsewhere when another process trains in it, and OSError when a file
    cannot be written.
    """
    begun = time.monotonic()
    run_folder, first = Path(run_folder), distributed.rank() == 0
    mirror = Path(mirror) if mirror and first else None
    if mirror and Path(os.path.abspath(mirror)).is_relative_to(os.path.abspath(run_folder)):
        raise ValueError(f"the mirror lies in {run_folder} itself: choose another folder")
    counts = {
        "iterations": iterations,
        "batch_size": batch_size,
        "eval_every": eval_every,
        "checkpoint_every": checkpoint_every,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}: it has to be at least 1")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm is {max_grad_norm}: it has to be above 0, or None")
    if batch_norm not in MODES:
        raise ValueError(f"no batch norm {batch_norm!r}; choose one of {', '.join(MODES)}")
    if batch_size % distributed.world_size():
        raise ValueError(
            f"{distributed.world_size()} processes cannot share a batch of {batch_size} images alike"
        )
    lr_factor(
        0, iterations, schedule, lr_milestones, warmup_iterations
    )  # an unknown schedule is named before all else
    model.to(device)
    if batch_norm == "frozen":
        for norm in batch_norm_layers(model):
            norm.requires_grad_(False)
    torch.manual_seed(seed)
    run = TrainingState(
        model,
        build_optimizer(model, optimizer, learning_rate, momentum, weight_decay, backbone_lr_mult),
        run_folder,
        json.loads(json.dumps(settings or {})),
        torch.device(device),
        mixed_precision,
        max_grad_norm,
    )
    with run_lock(run_folder) if first else nullcontext():
        run.restore(
            distributed.broadcast_object(
                resume(run_folder, mirror, run.settings, accept_changes) if first else None
            )
        )
        if first:
            write_config(run_folder, run.settings, run.state["iteration"])
    state, draws = run.state, SeededSamples(dataset, seed)

    def is_over() -> bool:
        return state["iteration"] >= iterations or bool(
            patience and state["evals_since_best"] >= patience
        )

    def show() -> None:
        try:
            watch(run_folder / LOG)
        except (
            Exception
        ) as error:  # whatever goes wrong in a picture, it is no reason to end a training
            warnings.warn(f"the training cannot be shown: {error!r}. It goes on", stacklevel=2)

    def judge() -> None:
        few = load_batches(
            draws, rank_batches(0, math.ceil(PRECISE_IMAGES / batch_size), batch_size), workers
        )
        with (
            preserve_rng_state(device),
            precise_statistics(model, few, run.losses)
            if batch_norm == "precise"
            else nullcontext(),
        ):
            run.judge(score)

    if is_over():
        if score and not state["best"]:  # the best weights were lost
            judge()
            run.save()
        return {**state, "stopped": "patience" if state["iteration"] < iterations else None}
    batches = load_batches(draws, rank_batches(state["iteration"], iterations, batch_size), workers)
    bar = tqdm(
        batches,
        "train",
        iterations,
        initial=state["iteration"],
        unit="it",
        mininterval=1,
        disable=not first,
    )
    with (
        run_lock(run_folder) if first else nullcontext(),
        keep_freed_memory(),
        mirrored(
            run_folder, mirror, before=partial(preserve_newer_mirror, iteration=state["iteration"])
        ) as update_mirror,
        _workers_watched(),
    ):
        if first:
            truncate_log(run_folder / LOG, state["iteration"])
            call = {
                "from_iteration": state["iteration"],
                "seed": seed,
                "processes": distributed.world_size(),
            }
            append_session(
                run_folder / "run.json", {**call, **environment_info(device), **(notes or {})}
            )
        lap = _stopwatch()
        for images, targets in bar:
            seconds = {"data_seconds": lap()}
            factor = lr_factor(
                state["iteration"], iterations, schedule, lr_milestones, warmup_iterations
            )
            for group in run.optimizer.param_groups:
                group["lr"] = learning_rate * factor * group["share"]
            set_train_mode(model, frozen=batch_norm == "frozen")
            out_of_time = max_hours is not None and time.monotonic() - begun > 3600 * max_hours
            entry, out_of_time = run.step(images, targets, out_of_time, seconds, lap)
            state["iteration"] += 1
            state["seconds"] += sum(seconds.values())
            run.log(
                {"iteration": state["iteration"], "lr": learning_rate * factor, **entry, **seconds}
            )
            bar.set_postfix_str(_now(entry, seconds, device), refresh=False)
            if state["consecutive_skips"] >= max_skipped_updates:
                raise NonFiniteLoss(
                    f"{max_skipped_updates} updates in a row had to be left out, the last one because of {entry['left_out']} on images "
                    f"{', '.join(entry['images'])}; see {run_folder / 'left_out'}. Try a lower learning rate or max_grad_norm"
                )
            if len(state["skipped"]) > max_bad_fraction * len(dataset):
                raise TooManyBadSamples(
                    f"{len(state['skipped'])} of {len(dataset)} samples cannot be read; allowed is a share of {max_bad_fraction:.0%} "
                    "(max_bad_fraction). They are:\n  " + "\n  ".join(sorted(state["skipped"]))
                )
            judged = score and (
                state["iteration"] == iterations or state["iteration"] % eval_every == 0
            )
            if judged:
                bar.set_description("judge on val")
                judge()
                bar.set_description("train", refresh=False)
            over = is_over() or out_of_time
            if over or (
                not state["consecutive_skips"]
                and (judged or state["iteration"] % checkpoint_every == 0)
            ):
                run.save()  # while updates are left out, the weights may be what is wrong: keep those before
                update_mirror()
                if watch and first:
                    show()
            if over and state["iteration"] < iterations:
                break
            lap()
    if state["skipped"] and first:
        print(
            f"passed over {len(state['skipped'])} bad samples:",
            *sorted(state["skipped"]),
            sep="\n  ",
        )
    ended = state["iteration"] == iterations
    return {**state, "stopped": None if ended else "patience" if is_over() else "max_hours"}


def rank_batches(start: int, stop: int, batch_size: int) -> list[range]:
    """The draws of this process in iterations `start` to `stop`: an equal share of each batch."""
    size = batch_size // distributed.world_size()
    offset = distributed.rank() * size
    return [
        range(i * batch_size + offset, i * batch_size + offset + size) for i in range(start, stop)
    ]


def _stopwatch() -> Callable[[], float]:
    """A function that gives the seconds since it was last called."""
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    return lap


def _now(entry: dict, seconds: dict[str, float], device: str | torch.device) -> str:
    """What the progress bar says beside the time left."""
    terms = (
        [entry["left_out"]]
        if "left_out" in entry
        else [f"{k} {v:.2f}" for k, v in entry.items() if isinstance(v, float)]
    )
    parts = [
        f"{name.removesuffix('_seconds')} {1000 * value:.0f}" for name, value in seconds.items()
    ]
    return f"{', '.join(terms)} | {', '.join(parts)} ms | peak {peak_memory_gb(device):.1f} GB"


@contextmanager
def _workers_watched() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise WorkerDied(
            f"a process that loads images died, most often for want of memory ({error}); run again, with fewer workers, to go on "
            "from the last checkpoint"
        ) from error
