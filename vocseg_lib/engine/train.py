"""The training loop: any model under the contract, any data set; it resumes by itself."""

import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from vocseg_lib.data.loader import SeededSamples, load_batches
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.mirror import mirrored
from vocseg_lib.engine.resume import CONFIG, LOG, preserve_newer_mirror, resume
from vocseg_lib.engine.run_folder import append_session, run_lock, truncate_log
from vocseg_lib.engine.train_state import TrainState
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import keep_freed_memory, peak_memory_gb
from vocseg_lib.utils.environment import environment_info
from vocseg_lib.utils.files import write_json

FORECAST_AFTER = 20
"""Iterations of a session after which time left and peak memory are reported."""


class NonFiniteLoss(RuntimeError):
    """Too many consecutive losses or gradients were not finite; the message names the images."""


class TooManyBadSamples(RuntimeError):
    """More samples cannot be read than is allowed; the message names the files."""


class WorkerDied(RuntimeError):
    """A process that loads images was killed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """One call of `train`: what may differ when a training is resumed, and what may not."""

    device: str | torch.device = "cpu"
    max_hours: float | None = None  # after which it stops with a checkpoint
    mirror: Path | None = None  # second folder that gets everything the run folder gets
    run_config: dict[str, Any] = field(default_factory=dict)  # recorded; equal when resumed
    metadata: dict[str, Any] = field(default_factory=dict)  # recorded in run.json


def train(
    model: nn.Module,
    dataset: Dataset,
    run_folder: str | Path,
    config: TrainConfig,
    evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
    on_log: Callable[[Path], None] | None = None,
    session: Session | None = None,
) -> dict:
    """Train a model, or resume the training that `run_folder` holds; bit-exact on the CPU.

    The folder gets `config.json`, `run.json` (versions, device and metadata of each session),
    `log.jsonl` (a line per iteration and per evaluation), `last.pt`, `previous.pt`, `best.pt`, and
    in `skipped_updates/` batches whose loss or gradient was not finite.

    Args:
        model: under torchvision's detection contract; losses are already weighted.
        evaluate: `evaluate(model, iteration)` in eval mode, every `eval_every` iterations and at
            the end; `best.pt` has the weights of the highest `mask_AP50`.
        on_log: `on_log(log)` whenever there is something new in the log.

    Returns:
        `iteration`; `seconds` of loading and updates; `best` (metrics and iteration);
        `evals_since_best`; `bad_samples` (how often each came up); `overflows` and
        `skipped_updates` (skipped in fp16, and otherwise); `stopped`: None, "patience" or
        "max_hours".

    Raises:
        NonFiniteLoss, TooManyBadSamples, WorkerDied: see there.
        ChangedConfig: if the folder holds a training with another config.
        RunningElsewhere: if another process trains in it.
        OSError: if a file cannot be written.
    """
    session = session or Session()
    deadline = time.monotonic() + 3600 * (
        math.inf if session.max_hours is None else session.max_hours
    )
    folder, is_first = Path(run_folder), distributed.rank() == 0
    mirror = Path(session.mirror) if session.mirror and is_first else None
    _check(folder, mirror, config)
    model.to(session.device)
    if config.freeze_batch_norm:
        for layer in batch_norm_layers(model):
            layer.requires_grad_(False)
    torch.manual_seed(config.seed)
    run_config = {**session.run_config, "train": config.to_dict()}
    state = TrainState(
        model=model,
        config=config,
        run_config=run_config,
        folder=folder,
        device=torch.device(session.device),
    )
    with run_lock(folder) if is_first else nullcontext():
        checkpoint = resume(folder, mirror, run_config) if is_first else None
        state.restore(distributed.broadcast_object(checkpoint))
        start = state.progress["iteration"]
        if is_first:
            write_json(folder / CONFIG, run_config)
        if not state.is_over():
            if is_first:
                _begin(folder, state, session)
            preserve = partial(preserve_newer_mirror, iteration=start)
            with (
                keep_freed_memory(),
                mirrored(folder, mirror, before=preserve) as update_mirror,
                _explain_dead_workers(),
            ):
                reports = (update_mirror, partial(_show, on_log if is_first else None, folder))
                _iterate(state, dataset, evaluate, reports, deadline)
        elif evaluate and not state.progress["best"]:  # the best weights were lost
            state.evaluate(evaluate)
            state.save()
    return {**state.progress, "stopped": state.stop_reason()}


def _check(folder: Path, mirror: Path | None, config: TrainConfig) -> None:
    if mirror and Path(os.path.abspath(mirror)).is_relative_to(os.path.abspath(folder)):
        raise ValueError(f"the mirror {mirror} lies in {folder}: choose another folder")
    if config.batch_size % distributed.world_size():
        raise ValueError(
            f"batch_size ({config.batch_size}) must be divisible by the number of processes "
            f"({distributed.world_size()})"
        )


def _begin(folder: Path, state: TrainState, session: Session) -> None:
    """Bring the log to the checkpoint, and record the session."""
    start = state.progress["iteration"]
    truncate_log(folder / LOG, start)
    info = {"from_iteration": start, "processes": distributed.world_size()}
    info |= environment_info(session.device)
    append_session(folder / "run.json", {**info, **session.metadata})


def _iterate(
    state: TrainState,
    dataset: Dataset,
    evaluate: Callable | None,
    reports: tuple[Callable[[], None], ...],
    deadline: float,
) -> None:
    """All iterations that are left, up to the deadline; `reports` are called after checkpoints."""
    config, progress, is_first = state.config, state.progress, distributed.rank() == 0
    start = progress["iteration"]
    indices = rank_batches(start, config.iterations, config.batch_size)
    batches = load_batches(SeededSamples(dataset, config.seed), indices, config.workers)
    bar = tqdm(
        batches,
        "train",
        config.iterations,
        initial=start,
        unit="it",
        mininterval=1,
        disable=not is_first,
    )
    lap, durations = _stopwatch(), []
    for images, targets in bar:
        seconds = {"data_seconds": lap()}
        lr = state.set_learning_rate()
        set_train_mode(state.model, config.freeze_batch_norm)
        entry, out_of_time = state.step(images, targets, time.monotonic() > deadline, seconds, lap)
        progress["iteration"] += 1
        durations.append(sum(seconds.values()))
        progress["seconds"] += durations[-1]
        if progress["iteration"] == start + FORECAST_AFTER:
            entry |= _forecast(state, durations)
            bar.write(
                "{hours_left:.2g} h left without evaluations, peak {peak_memory_gb:.1f} GB".format(
                    **entry
                )
            ) if is_first else None
        state.log({"iteration": progress["iteration"], "lr": lr, **entry, **seconds})
        bar.set_postfix_str(_postfix(entry, seconds, state.device), refresh=False)
        _check_progress(state, entry, len(dataset))
        evaluated = evaluate and state.is_due(config.eval_every)
        if evaluated:
            bar.set_description("evaluate on val")
            state.evaluate(evaluate)
            bar.set_description("train", refresh=False)
        state.out_of_time = out_of_time
        over = state.is_over() or out_of_time
        # While updates are skipped, the weights may be what is wrong: keep those before.
        good = not progress["consecutive_skips"]
        if over or (good and (evaluated or state.is_due(config.checkpoint_every))):
            state.save()
            for report in reports:
                report()
        if over:
            break
        lap()
    if progress["bad_samples"] and is_first:
        names = sorted(progress["bad_samples"])
        print(f"skipped {len(names)} bad samples:", *names, sep="\n  ")


def _check_progress(state: TrainState, entry: dict, samples: int) -> None:
    """Raises NonFiniteLoss and TooManyBadSamples."""
    config, progress = state.config, state.progress
    if progress["consecutive_skips"] >= config.max_skipped_updates:
        raise NonFiniteLoss(
            f"{config.max_skipped_updates} consecutive updates were skipped, the last because of "
            f"{entry['skipped_update']} on images {', '.join(entry['images'])}; see "
            f"{state.folder / 'skipped_updates'}. Try a lower learning_rate or max_grad_norm"
        )
    if len(bad := progress["bad_samples"]) > config.max_bad_fraction * samples:
        raise TooManyBadSamples(
            f"{len(bad)} of {samples} samples cannot be read, max_bad_fraction is "
            f"{config.max_bad_fraction:.0%}. They are:\n  " + "\n  ".join(sorted(bad))
        )


def rank_batches(start: int, stop: int, batch_size: int) -> list[range]:
    """Sample indices of this process in iterations `start` to `stop`: an even part of each batch."""
    size = batch_size // distributed.world_size()
    offset = distributed.rank() * size
    first = range(start * batch_size + offset, stop * batch_size, batch_size)
    return [range(i, i + size) for i in first]


def _stopwatch() -> Callable[[], float]:
    """A function that returns the seconds since its last call."""
    last = time.perf_counter()

    def lap() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return last - before

    return lap


def _forecast(state: TrainState, durations: list[float]) -> dict[str, float]:
    """Hours left by the median iteration, without evaluations, and peak memory so far."""
    left = state.config.iterations - state.progress["iteration"]
    hours = statistics.median(durations) * left / 3600
    return {"hours_left": hours, "peak_memory_gb": peak_memory_gb(state.device)}


def _postfix(entry: dict, seconds: dict[str, float], device: torch.device) -> str:
    """Losses, times and memory, to stand in the progress bar."""
    losses = [f"{k} {v:.2f}" for k, v in entry.items() if isinstance(v, float)]
    terms = [entry["skipped_update"]] if "skipped_update" in entry else losses
    times = [f"{k.removesuffix('_seconds')} {1000 * v:.0f}" for k, v in seconds.items()]
    return f"{', '.join(terms)} | {', '.join(times)} ms | peak {peak_memory_gb(device):.1f} GB"


def _show(on_log: Callable[[Path], None] | None, folder: Path) -> None:
    try:
        if on_log:
            on_log(folder / LOG)
    except Exception as error:  # whatever fails in a plot is not a reason to end a training
        warnings.warn(f"the live plot failed ({error!r}); training continues", stacklevel=2)


@contextmanager
def _explain_dead_workers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise WorkerDied(
            f"a process that loads images died, most often for lack of memory ({error}); run "
            "again with fewer workers to continue from the last checkpoint"
        ) from error
