"""The state of a training between two iterations, and the update from one to the next."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vocseg_lib.data.loader import to_device
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.optim import build_optimizer, lr_factor
from vocseg_lib.engine.run_folder import BEST, LAST, LOG, PREVIOUS, append_log
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import autocast, half_precision, peak_memory_gb

BEST_KEYS = ("config", "model", "iteration", "mask_AP50")
"""What `best.pt` must hold."""


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
        counts = ("iteration", "evals_since_best", "overflows", "skipped_updates")
        self.progress = dict.fromkeys((*counts, "consecutive_skips"), 0)
        self.progress |= {"seconds": 0.0, "best": None, "bad_samples": {}}
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
        """The metrics of the weights in `best.pt`; None, with a warning, if they are lost."""
        best, path = self.progress["best"], self.folder / BEST
        try:
            content = load_checkpoint(path, BEST_KEYS)
            if content.pop("config") != self.run_config:
                raise ValueError(f"{path} is of another training")
        except (FileNotFoundError, ValueError) as error:
            message = f"the best weights are lost ({error}); the best from now on are kept"
            warnings.warn(message, stacklevel=4)
            return None
        if content["iteration"] >= best["iteration"]:  # newer if killed between the two files
            return best
        message = f"{path} has the weights of iteration {content['iteration']}: the best ones, of "
        warnings.warn(f"{message}{best['iteration']}, are lost", stacklevel=4)
        del content["model"]
        return content

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

        Returns:
            What to log: losses, gradient norm before clipping, times, and what went wrong.
        """
        start = time.perf_counter()
        lr = self.config.learning_rate * lr_factor(self.config, self.progress["iteration"])
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
        set_train_mode(self.model, self.config.freeze_batch_norm)
        _copy(self.buffers, self.buffers_before)
        with autocast(self.device, self.config.mixed_precision):
            losses = self.parallel(*to_device(images, targets, self.device))
        total = sum(losses.values())
        # One reduction for everything that the processes have to agree on.
        bad = [name for target in targets for name in target["bad_samples"]]
        reduced = torch.stack([total, *losses.values()]).detach().float()
        flags = [len(bad), self.is_first and time.monotonic() > self.deadline]
        reduced = torch.cat([reduced, reduced.new_tensor(flags)])
        *values, any_bad, out_of_time = distributed.all_reduce_mean(reduced).tolist()
        self.out_of_time = out_of_time > 0
        forward_end = time.perf_counter()
        # Update, or skip the update.
        entry = dict(zip(("loss", *losses), values, strict=True))
        problem, norm = self._update(total) if math.isfinite(entry["loss"]) else ("loss", math.nan)
        if problem:
            entry = self._skip(problem, entry, targets)
        else:
            entry["gradient_norm"] = norm
            self.progress["consecutive_skips"] = 0
        if any_bad:
            entry["bad_samples"] = [*chain(*distributed.all_gather_object(bad))]
            counts = Counter(self.progress["bad_samples"]) + Counter(entry["bad_samples"])
            self.progress["bad_samples"] = dict(counts)
        self.progress["iteration"] += 1
        times = {"forward_seconds": forward_end - start}
        times["backward_seconds"] = time.perf_counter() - forward_end
        return {"iteration": self.progress["iteration"], "lr": lr, **entry, **times}

    def _update(self, loss: Tensor) -> tuple[str | None, float]:
        """Backward pass and update; the problem ("gradient", "overflow"), and the gradient norm."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        limit = self.config.max_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
        scale = self.scaler.get_scale()
        if self.scaler.is_enabled() or math.isfinite(norm):
            self.scaler.step(self.optimizer)  # skips an overflow, and scales the next loss less
            self.scaler.update()
        if math.isfinite(norm):
            return None, norm
        return "gradient" if scale <= 1 else "overflow", norm

    def _skip(self, problem: str, losses: dict[str, float], targets: tuple) -> dict:
        """Count a batch without an update, and name its images; batch norm forgets it."""
        _copy(self.buffers_before, self.buffers)
        names = distributed.all_gather_object([str(target["name"]) for target in targets])
        terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        if problem == "overflow":  # a scaler may need some; at its lowest scale there are none
            self.progress["overflows"] += 1
        else:
            self.progress["skipped_updates"] += 1
            self.progress["consecutive_skips"] += 1
        entry = {"skipped_update": f"{problem}: {terms}", "images": [*chain(*names)]}
        return entry | losses if math.isfinite(losses["loss"]) else entry

    def evaluate(self, evaluate: Callable[[nn.Module, int], dict[str, float]]) -> None:
        """Evaluate the model, log the metrics, and keep the weights if they are the best so far."""
        for buffer in self.model.buffers():
            distributed.broadcast_tensor_(buffer)
        self.model.eval()
        iteration = self.progress["iteration"]
        metrics = distributed.broadcast_object(evaluate(self.model, iteration))
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


def _quality(metrics: dict[str, float]) -> tuple[float, float]:
    """Larger for better weights: mask AP50 and, while that is equal, less loss on val."""
    return metrics["mask_AP50"], -metrics.get("val_loss", 0.0)


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy tensors into others, in one call."""
    if sources:
        torch._foreach_copy_(targets, sources)
