"""The state of a training between two iterations, and the update from one to the next."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vocseg_lib.data.loader import preserve_rng_state, to_device
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.optim import build_optimizer, lr_factor
from vocseg_lib.engine.resume import COUNTS
from vocseg_lib.engine.run_folder import BEST, LAST, LOG, PREVIOUS, append_log, set_aside
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import autocast, half_precision, peak_memory_gb
from vocseg_lib.utils.files import to_jsonable


@dataclass(kw_only=True)
class TrainState:
    """Model, optimizer, scaler and progress of a training, and its run folder."""

    model: nn.Module
    config: TrainConfig
    run_config: dict[str, Any]  # all of `config.json`
    folder: Path
    device: torch.device
    deadline: float = math.inf  # time.monotonic() after which no iteration starts
    out_of_time: bool = False

    def __post_init__(self) -> None:
        if self.config.freeze_batch_norm:
            for layer in batch_norm_layers(self.model):
                layer.requires_grad_(False)
        self.optimizer = build_optimizer(self.model, self.config)
        fp16 = self.config.mixed_precision and half_precision(self.device) is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        self.progress = dict.fromkeys(COUNTS, 0) | {"seconds": 0.0, "best": None, "bad_samples": {}}
        self.is_first, self.parallel = distributed.rank() == 0, self.model
        if distributed.world_size() > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.model, devices)
        self.buffers = list(self.model.buffers())
        self.buffers_before = [buffer.clone() for buffer in self.buffers]

    def is_due(self, every: int) -> bool:
        """True at each multiple of `every` iterations and at the end."""
        iteration = self.progress["iteration"]
        return iteration % every == 0 or iteration == self.config.iterations

    def is_over(self) -> bool:
        """True if all iterations are done, or patience or time has run out."""
        return self.out_of_time or stop_reason(self.config, self.progress) != "max_hours"

    def restore(self, checkpoint: dict) -> None:
        """Continue from a checkpoint and the metrics of `best.pt`."""
        for name, part in self.parts.items():
            if checkpoint[name]:  # the scaler's is empty if from a device without fp16
                part.load_state_dict(checkpoint[name])
        random_state = checkpoint["random"]
        torch.set_rng_state(random_state["cpu"])
        if self.device.type == "cuda" and random_state["cuda"] is not None:
            torch.cuda.set_rng_state(random_state["cuda"], self.device)
        self.progress |= {key: value for key, value in checkpoint.items() if key in self.progress}
        if self.is_first and self.progress["best"]:
            self.progress["best"] = self._usable_best()
        self.progress["best"] = distributed.broadcast_object(self.progress["best"])

    def _usable_best(self) -> dict | None:
        """The metrics of the weights in `best.pt`, with a warning if they are not the best ones."""
        best, path = self.progress["best"], self.folder / BEST
        try:
            usable = load_checkpoint(path, ("config", "model", "iteration", "mask_AP50"))
            del usable["model"]
            if usable.pop("config") != self.run_config:
                raise ValueError(f"{path} is of another training")
            if usable["iteration"] >= best["iteration"]:  # newer if killed between the two files
                return best
            reason = f"{path} is of iteration {usable['iteration']}, not {best['iteration']}"
        except FileNotFoundError as error:
            usable, reason = None, error
        except (TypeError, ValueError) as error:  # a TypeError: what it holds is no number
            usable, reason = None, f"{error}; it is kept as {set_aside(path)}"
        message = f"the best weights are lost ({reason}); the best from now on are kept"
        warnings.warn(message, stacklevel=4)
        return usable

    def save(self) -> None:
        """Write `last.pt`; the one before it becomes `previous.pt`."""
        if not self.is_first:
            return
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        random_state = {"cpu": torch.get_rng_state(), "cuda": cuda}
        content = {"config": self.run_config, **parts, "random": random_state, **self.progress}
        save_checkpoint(self.folder / LAST, content, keep=self.folder / PREVIOUS)

    def step(self, images: tuple, targets: tuple) -> dict:
        """One iteration; its update is skipped if a loss or gradient is not finite.

        Returns what to log: losses, gradient norm before clipping, times, and what went wrong.
        """
        config, optimizer, scaler = self.config, self.optimizer, self.scaler
        lr = config.learning_rate * lr_factor(config, self.progress["iteration"])
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
        bad = [name for target in targets for name in target["bad_samples"]]
        entry, times, any_bad = self._add_gradients(images, targets, len(bad))
        # The update; after an overflow, the scaler skips it and lowers its scale.
        start, problem = time.perf_counter(), None if math.isfinite(entry["loss"]) else "loss"
        if not problem:
            scaler.unscale_(optimizer)
            limit = config.max_grad_norm or math.inf
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
            if not math.isfinite(norm):
                problem = "overflow" if scaler.get_scale() > 1 else "gradient"
            if scaler.is_enabled() or not problem:
                scaler.step(optimizer)
                scaler.update()
        # Log, and count what went wrong.
        if problem:
            entry = self._skip(problem, entry, targets)
        else:
            entry["gradient_norm"], self.progress["consecutive_skips"] = norm, 0
        if any_bad:
            entry["bad_samples"] = [*chain(*distributed.all_gather_object(bad))]
            counts = Counter(self.progress["bad_samples"]) + Counter(entry["bad_samples"])
            self.progress["bad_samples"] = dict(counts)
        self.progress["iteration"] += 1
        times["backward_seconds"] += time.perf_counter() - start
        return {"iteration": self.progress["iteration"], "lr": lr, **entry, **times}

    def _add_gradients(
        self, images: tuple, targets: tuple, bad: int
    ) -> tuple[dict[str, float], dict[str, float], bool]:
        """The gradients of a batch: its losses, times, whether any process has bad samples.

        If a loss is not finite, there is no backward pass.
        """
        set_train_mode(self.model, self.config.freeze_batch_norm)
        self.optimizer.zero_grad()
        if self.buffers:
            torch._foreach_copy_(self.buffers_before, self.buffers)
        start, size = time.perf_counter(), len(images) // self.config.accumulate
        parts = [slice(k, k + size) for k in range(0, len(images), size)]
        batches = [(images[part], targets[part]) for part in parts]
        sharing = self._share(batches)
        losses_of_all, times, any_bad = Counter(), Counter(), False
        for k, batch in enumerate(batches, 1):
            is_last = k == len(batches) or self.parallel is self.model
            with nullcontext() if is_last else self.parallel.no_sync():
                with autocast(self.device, self.config.mixed_precision), sharing():
                    losses = self.parallel(*to_device(*batch, self.device))
                loss = sum(losses.values()) / len(batches)
                # One reduction for everything that the processes have to agree on.
                means = torch.stack([loss, *losses.values()]).detach().float()
                means[1:] /= len(batches)
                flags = [bad, self.is_first and time.monotonic() > self.deadline]
                means = distributed.all_reduce_mean(torch.cat([means, means.new_tensor(flags)]))
                *means, any_bad, out_of_time = means.tolist()
                losses_of_all.update(dict(zip(("loss", *losses), means, strict=True)))
                self.out_of_time = out_of_time > 0
                middle = time.perf_counter()
                if math.isfinite(losses_of_all["loss"]):
                    self.scaler.scale(loss).backward()
            end = time.perf_counter()
            times.update({"forward_seconds": middle - start, "backward_seconds": end - middle})
            start = end
        return dict(losses_of_all), dict(times), bool(any_bad)

    def _share(self, batches: list[tuple]) -> Callable[[], AbstractContextManager]:
        """Context manager in which micro-batches divide by the positives of all of them.

        They run once without gradients to know these, on the same random numbers.
        """
        if len(batches) == 1:
            return nullcontext
        shared = distributed.MicroBatches(len(batches))
        with torch.no_grad(), preserve_rng_state(self.device), shared.sharing():
            for batch in batches:
                with autocast(self.device, self.config.mixed_precision):
                    self.model(*to_device(*batch, self.device))
        shared.average()
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.buffers_before)
        return shared.sharing

    def _skip(self, problem: str, losses: dict[str, float], targets: tuple) -> dict:
        """Count a batch without an update, and name its images; batch norm forgets it."""
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.buffers_before)
        # A scaler may need some overflows; at its lowest scale there are none.
        self.progress["overflows" if problem == "overflow" else "skipped_updates"] += 1
        self.progress["consecutive_skips"] += problem != "overflow"
        names = distributed.all_gather_object([str(target["name"]) for target in targets])
        terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        entry = {"skipped_update": f"{problem}: {terms}", "images": [*chain(*names)]}
        return entry if problem == "loss" else entry | losses

    def evaluate(self, evaluate: Callable[[nn.Module, int], dict[str, float]]) -> None:
        """Evaluate the model, log the metrics, and keep the weights if they are the best so far."""
        for buffer in self.model.buffers():
            distributed.broadcast_tensor_(buffer)
        self.model.eval()
        iteration = self.progress["iteration"]
        metrics = distributed.broadcast_object(to_jsonable(evaluate(self.model, iteration)))
        if self.is_first:
            entry = {"iteration": iteration, "seconds": self.progress["seconds"]}
            entry |= {"peak_memory_gb": peak_memory_gb(self.device), **metrics}
            append_log(self.folder / LOG, entry)
        self.progress["evals_since_best"] += 1
        best = self.progress["best"]
        if best is None or _quality(metrics) > _quality(best):
            best = {"iteration": iteration, **metrics}
            self.progress |= {"best": best, "evals_since_best": 0}
            if self.is_first:
                content = {"config": self.run_config, "model": self.model.state_dict()}
                save_checkpoint(self.folder / BEST, {**content, **best})


def stop_reason(config: TrainConfig, progress: dict) -> str | None:
    """Why a training ended: None if it is done, else "patience" or "max_hours"."""
    if progress["iteration"] >= config.iterations:
        return None
    patience = config.patience or math.inf
    return "patience" if progress["evals_since_best"] >= patience else "max_hours"


def _quality(metrics: dict[str, Any]) -> tuple[float, float]:
    """Larger for better weights: mask AP50 and, while that is equal or unknown, less loss.

    Those on the images set aside for it, if any were; else on val.
    """
    names = ("selection_AP50", "selection_loss")
    names = names if names[0] in metrics else ("mask_AP50", "val_loss")
    ap, loss = metrics[names[0]], metrics.get(names[1], 0.0)
    return -1.0 if ap is None or math.isnan(ap) else ap, -math.inf if loss is None else -loss
