"""The training loop: any model under the contract, any data set; it resumes by itself."""

import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.types import Device
from torch.utils.data import Dataset
from tqdm import tqdm

from vocseg_lib.data.loader import SeededSamples, load_batches
from vocseg_lib.engine import run_folder as files
from vocseg_lib.engine.checks import check_batch_norm, check_objects
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.mirror import check_mirror, mirrored
from vocseg_lib.engine.resume import preserve_newer_mirror, resume
from vocseg_lib.engine.train_state import TrainState, stop_reason
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


class OutOfMemory(RuntimeError):
    """A batch does not fit into memory; the message says what to set."""


class WorkerDied(RuntimeError):
    """A process that loads images was killed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Options of one call of `train`; they may differ when the training is resumed."""

    device: Device = "cpu"
    max_hours: float | None = None  # after which it stops with a checkpoint
    mirror: str | Path | None = None  # second folder that gets everything the run folder gets
    metadata: dict[str, Any] = field(default_factory=dict)  # recorded in run.json

    def __post_init__(self) -> None:
        if self.max_hours is not None and not self.max_hours > 0:
            raise ValueError(f"max_hours must be above 0, got {self.max_hours}")


def train(
    model: nn.Module,
    dataset: Dataset,
    run_folder: str | Path,
    config: TrainConfig,
    evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
    on_log: Callable[[Path], None] | None = None,
    session: Session | None = None,
    run_config: dict[str, Any] | None = None,
) -> dict:
    """Train a model, or resume the training that `run_folder` holds; bit-exact on the CPU.

    The folder gets `config.json`, `run.json` (sessions), `log.jsonl` (a line per iteration and per
    evaluation), `last.pt`, `previous.pt` and `best.pt`.

    Args:
        model: under torchvision's detection contract; losses are already weighted.
        evaluate: `evaluate(model, iteration)` in eval mode, every `eval_every` iterations and at
            the end; `best.pt` has the weights of the highest `selection_AP50`, else `mask_AP50`.
        on_log: `on_log(log)` after each checkpoint, with the path of the log.
        run_config: what else the training depends on, such as the model's config; as JSON.

    Returns:
        `iteration`; `seconds` of loading and updates; `best` (metrics and iteration);
        `evals_since_best`; `bad_samples` (how often each came up); `overflows` and
        `skipped_updates` (skipped in fp16, and otherwise); `stopped`: see `stop_reason`.

    Raises NonFiniteLoss, OutOfMemory, TooManyBadSamples, WorkerDied, RunningElsewhere;
    ChangedConfig if the folder holds a training with another `config` or `run_config`.
    """
    session, folder, is_first = session or Session(), Path(run_folder), distributed.rank() == 0
    mirror = Path(session.mirror) if session.mirror and is_first else None
    if mirror:
        check_mirror(mirror, folder)
    if not len(dataset):
        raise ValueError("the data set is empty: nothing to train on")
    config.check_processes(distributed.world_size())
    check_batch_norm(model, config, session.device)
    is_new = not any(os.path.isfile(f / files.LAST) for f in (folder, mirror) if f)
    if is_first and is_new and config.iterations:
        check_objects(dataset, model)
    torch.manual_seed(config.seed)
    state = TrainState(
        model=model.to(session.device),
        config=config,
        run_config={**(run_config or {}), "train": config.to_dict()},
        folder=folder,
        device=torch.device(session.device),
        deadline=time.monotonic() + 3600 * (session.max_hours or math.inf),
    )
    with files.run_lock(folder) if is_first else nullcontext():
        _resume(state, mirror, session)
        prepare = partial(preserve_newer_mirror, iteration=state.progress["iteration"])
        with mirrored(folder, mirror, prepare) as update_mirror:
            if not state.is_over():
                _iterate(state, dataset, evaluate, on_log, update_mirror)
            elif evaluate and not state.progress["best"]:  # lost, or of no iteration at all
                state.evaluate(evaluate)
                state.save()
    return {**state.progress, "stopped": stop_reason(config, state.progress)}


def _resume(state: TrainState, mirror: Path | None, session: Session) -> None:
    """Restore what run folder or mirror have, and record the session if something is left."""
    folder = state.folder
    if mirror:
        check_mirror(mirror, folder)  # by the folder itself, which there is now
    checkpoint = resume(folder, mirror, state.run_config) if state.is_first else None
    if checkpoint := distributed.broadcast_object(checkpoint):
        try:
            state.restore(checkpoint)
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            problem = f"the checkpoint in {folder} is not of this training: {error}"
            raise ValueError(f"{problem}. Delete {folder} to train again") from error
    if not state.is_first:
        return
    write_json(folder / files.CONFIG, state.run_config)
    if not state.is_over() or not checkpoint:
        start = state.progress["iteration"]
        files.truncate_log(folder / files.LOG, start)
        info = {"from_iteration": start, "processes": distributed.world_size()}
        info |= {**environment_info(session.device), **session.metadata}
        files.append_session(folder / files.SESSIONS, info)


def _iterate(
    state: TrainState,
    dataset: Dataset,
    evaluate: Callable | None,
    on_log: Callable[[Path], None] | None,
    update_mirror: Callable[[], None],
) -> None:
    """All iterations that are left."""
    config, progress, log = state.config, state.progress, state.folder / files.LOG
    start, durations = progress["iteration"], []
    options = {"initial": start, "mininterval": 1, "disable": not state.is_first}
    bar = tqdm(desc="train", total=config.iterations, **options)
    with keep_freed_memory(), bar:
        for images, targets, data_seconds in _batches(dataset, config, start):
            entry = {**_step(state, images, targets), "data_seconds": data_seconds}
            # Report.
            durations.append(sum(v for k, v in entry.items() if k.endswith("_seconds")))
            progress["seconds"] += durations[-1]
            shown = {k: v for k, v in entry.items() if isinstance(v, float | str)}
            bar.set_postfix(shown, refresh=False)
            bar.update()
            if state.is_first:
                if len(durations) == FORECAST_AFTER:
                    left = config.iterations - progress["iteration"]
                    hours = statistics.median(durations) * left / 3600
                    peak = peak_memory_gb(state.device)
                    entry |= {"hours_left": hours, "peak_memory_gb": peak}
                    bar.write(f"{hours:.2g} h left without evaluations, peak {peak:.1f} GB")
                files.append_log(log, entry)
            _check_progress(state, entry, len(dataset))
            # Evaluate.
            evaluated = evaluate and state.is_due(config.eval_every)
            if evaluated:
                bar.set_description("evaluate on val")
                state.evaluate(evaluate)
                bar.set_description("train", refresh=False)
            # Save. While updates are skipped, the weights may be what is wrong: keep those before.
            good, over = not progress["consecutive_skips"], state.is_over()
            if over or (good and (evaluated or state.is_due(config.checkpoint_every))):
                state.save()
                update_mirror()
                if on_log and state.is_first:
                    _show(on_log, log)
            if over:
                break
    if progress["bad_samples"] and state.is_first:
        names = sorted(progress["bad_samples"])
        print(f"skipped {len(names)} bad samples:", *names, sep="\n  ")


def _step(state: TrainState, images: tuple, targets: tuple) -> dict:
    """`state.step`. Raises OutOfMemory."""
    try:
        return state.step(images, targets)
    except (MemoryError, RuntimeError) as error:
        is_meant = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (is_meant or "DefaultCPUAllocator" in str(error)):  # a CPU's has no class
            raise
        config, own = state.config, len(images)
        more = (k for k in range(config.accumulate + 1, own + 1) if own % k == 0)
        same = ", the same losses" * config.freeze_batch_norm
        ways = [f"accumulate={k} (parts of {own // k}{same})" for k in islice(more, 1)]
        ways += ["mixed_precision=True"] * (not config.mixed_precision)
        ways += [f"a batch_size below {config.batch_size}"] * (own > config.accumulate)
        ways += ["a smaller image_size or short_side"] * (own == config.accumulate)
        tried = f"images at once: {own // config.accumulate} (batch_size={config.batch_size}"
        problem = f"{tried}, accumulate={config.accumulate}) do not fit into memory"
        folder = " in a new run folder" * (state.progress["iteration"] > 0)
        raise OutOfMemory(f"{problem}: set {', '.join(ways)}{folder}") from error


def _batches(dataset: Dataset, config: TrainConfig, start: int) -> Iterator[tuple]:
    """This process's images and targets from iteration `start`, and the seconds they took."""
    indices = rank_batches(start, config.iterations, config.batch_size)
    batches = load_batches(SeededSamples(dataset, config.seed), indices, config.workers)
    try:
        waiting_since = time.perf_counter()
        for images, targets in batches:
            yield images, targets, time.perf_counter() - waiting_since
            waiting_since = time.perf_counter()
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        message = f"a process that loads images died, most often for lack of memory ({error})"
        advice = "run again with fewer workers to continue from the last checkpoint"
        raise WorkerDied(f"{message}; {advice}") from error


def rank_batches(start: int, stop: int, batch_size: int) -> Iterator[range]:
    """Samples of this process in iterations `start` to `stop`: an even part of each batch."""
    size = batch_size // distributed.world_size()
    offset = distributed.rank() * size
    first = range(start * batch_size + offset, stop * batch_size, batch_size)
    return (range(i, i + size) for i in first)


def _check_progress(state: TrainState, entry: dict, samples: int) -> None:
    """Raises NonFiniteLoss and TooManyBadSamples."""
    config, bad = state.config, state.progress["bad_samples"]
    if state.progress["consecutive_skips"] >= config.max_skipped_updates:
        raise NonFiniteLoss(
            f"{config.max_skipped_updates} consecutive updates were skipped, the last one "
            f"(not finite: {entry['skipped_update']}) on images {', '.join(entry['images'])}. Try "
            "a lower learning_rate or max_grad_norm"
        )
    if len(bad) > config.max_bad_fraction * samples:
        raise TooManyBadSamples(
            f"{len(bad)} of {samples} samples cannot be read, max_bad_fraction is "
            f"{config.max_bad_fraction:.0%}. They are:\n  " + "\n  ".join(sorted(bad))
        )


def _show(on_log: Callable[[Path], None], log: Path) -> None:
    try:
        on_log(log)
    except Exception as error:  # whatever fails in a plot is not a reason to end a training
        warnings.warn(f"the live plot failed ({error!r}); training continues", stacklevel=2)
