"""What a training consists of between two iterations, and the one step that takes it from one to the next."""

import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vocseg_lib.data.loader import to_device
from vocseg_lib.engine.checkpoint import load_checkpoint, save_checkpoint
from vocseg_lib.engine.mirror import LAST, PREVIOUS
from vocseg_lib.engine.resume import BEST, LOG, ChangedConfig, accepted_configs, config_changes
from vocseg_lib.engine.run_folder import append_log
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import autocast, half_precision, peak_memory_gb

NEEDED_OF_BEST = ("settings", "model", "iteration", "mask_AP50")
"""What there is in `best.pt`."""
LEFT_OUT_KEPT = 10
"""Batches at most that a run folder keeps of those that gave no finite loss."""


@dataclass
class TrainingState:
    """The state of one training and its run folder."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    folder: Path
    settings: dict
    device: torch.device
    mixed_precision: bool
    max_grad_norm: float | None

    def __post_init__(self):
        fp16 = self.mixed_precision and half_precision(self.device) is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        self.state = {
            "iteration": 0,
            "seconds": 0.0,
            "best": None,
            "evals_since_best": 0,
            "skipped": {},
        }
        self.state |= {"overflows": 0, "left_out": 0, "consecutive_skips": 0}
        self.first = distributed.rank() == 0
        self.parallel = self.model
        if distributed.world_size() > 1:
            self.parallel = DistributedDataParallel(
                self.model, [self.device] if self.device.type == "cuda" else None
            )
        self.buffers = list(self.model.buffers())
        self.buffers_before = [buffer.clone() for buffer in self.buffers]

    def restore(self, checkpoint: dict | None) -> None:
        """Take over a checkpoint, and what is in `best.pt`; where that cannot be used, the next score will be the best."""
        if checkpoint is None:
            return
        changed = config_changes(checkpoint.pop("settings"), self.settings)
        self._restore_weights(checkpoint.pop("model"), checkpoint.pop("optimizer"), changed)
        if scaler := checkpoint.pop("scaler"):  # empty when it came from a device without fp16
            self.scaler.load_state_dict(scaler)
        random_state = checkpoint.pop("random")
        torch.set_rng_state(random_state["cpu"])
        if self.device.type == "cuda" and random_state["cuda"] is not None:
            torch.cuda.set_rng_state(random_state["cuda"], self.device)
        self.state.update(checkpoint)
        if changed:
            self.state["consecutive_skips"] = 0
        if self.first and self.state["best"]:
            try:
                best = load_checkpoint(self.folder / BEST, NEEDED_OF_BEST)
                if best["settings"] not in accepted_configs(
                    self.folder, self.settings, accept_changes=True
                ):
                    raise ValueError(f"{self.folder / BEST} is of another training")
                if (
                    best["iteration"] < self.state["best"]["iteration"]
                ):  # a mirror that was cut off between two files
                    warnings.warn(
                        f"{BEST} is not yet that of iteration {self.state['best']['iteration']}",
                        stacklevel=3,
                    )
                    self.state["best"] = {
                        key: value
                        for key, value in best.items()
                        if key not in ("settings", "model")
                    }
            except (FileNotFoundError, ValueError) as error:
                warnings.warn(
                    f"the best weights are lost ({error}); the best from now on are kept",
                    stacklevel=3,
                )
                self.state["best"] = None
        self.state["best"] = distributed.broadcast_object(self.state["best"])

    def _restore_weights(self, model: dict, optimizer: dict, changed: dict[str, tuple]) -> None:
        """Take over weights, and the optimizer's state where it fits; its settings stay those of this training."""
        try:
            self.model.load_state_dict(model)
        except RuntimeError as error:
            raise ChangedConfig(
                f"the weights in {self.folder} do not fit the changed settings ({', '.join(changed)}); choose another folder, or "
                "delete this one to train anew"
            ) from error
        own = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        theirs = optimizer["param_groups"]
        sizes = (
            [len(group["params"]) for group in groups]
            for groups in (self.optimizer.param_groups, theirs)
        )
        if "optimizer" in changed or not operator.eq(*sizes):
            warnings.warn(
                f"the optimizer starts without memory: it changed with {', '.join(changed)}",
                stacklevel=4,
            )
            return
        self.optimizer.load_state_dict(optimizer)
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)

    def save(self) -> None:
        """Write `last.pt`; the one before it becomes `previous.pt`."""
        if not self.first:
            return
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        content = {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }
        save_checkpoint(self.folder / LAST, {**content, **self.state}, keep=self.folder / PREVIOUS)

    def log(self, entry: dict) -> None:
        """Add a line to the log."""
        if self.first:
            append_log(self.folder / LOG, entry)

    def losses(self, batch: tuple[tuple, tuple]) -> dict[str, Tensor]:
        """The model's losses on a batch, on this process alone."""
        with autocast(self.device, self.mixed_precision):
            return self.model(*to_device(*batch, self.device))

    def step(
        self,
        images: tuple,
        targets: tuple,
        out_of_time: bool,
        seconds: dict[str, float],
        lap: Callable[[], float],
    ) -> tuple[dict, bool]:
        """One update, or none when a loss or gradient is not finite: what to log, and whether the first process is out of time."""
        copy_all(self.buffers, self.buffers_before)
        with autocast(self.device, self.mixed_precision):
            losses = self.parallel(*to_device(images, targets, self.device))
        total = sum(losses.values())
        skipped = [name for target in targets for name in target["skipped"]]
        told = torch.stack([total, *losses.values()]).detach().float()
        told = distributed.all_reduce_mean(
            torch.cat([told, told.new_tensor([len(skipped), out_of_time and self.first])])
        )
        *values, any_skipped, out_of_time = told.tolist()
        seconds["forward_seconds"] = lap()
        entry = dict(zip(("loss", *losses), values, strict=True))
        fault, norm = None if math.isfinite(entry["loss"]) else "loss", math.nan
        if not fault:
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(total).backward()
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(
                self.model.parameters(),
                math.inf if self.max_grad_norm is None else self.max_grad_norm,
            ).item()
            scale = self.scaler.get_scale()
            if self.scaler.is_enabled() or math.isfinite(norm):
                self.scaler.step(
                    self.optimizer
                )  # in fp16 an overflow is left out, and the next loss scaled less
                self.scaler.update()
            if not math.isfinite(norm):
                fault = "gradient" if scale <= 1 else "overflow"
        entry = (
            self._leave_out(fault, entry, images, targets)
            if fault
            else {**entry, "gradient_norm": norm}
        )
        if any_skipped:
            entry["skipped"] = [
                name for names in distributed.all_gather_object(skipped) for name in names
            ]
            for name in entry["skipped"]:
                self.state["skipped"][name] = self.state["skipped"].get(name, 0) + 1
        if (
            fault != "overflow"
        ):  # of which a scaler may need some; at its lowest scale they are no overflows any more
            self.state["consecutive_skips"] = self.state["consecutive_skips"] + 1 if fault else 0
        seconds["backward_seconds"] = lap()
        return entry, out_of_time > 0

    def _leave_out(
        self, fault: str, terms: dict[str, float], images: tuple, targets: tuple
    ) -> dict:
        """Count and name a batch that gave no update, and keep it unless fp16 merely overflowed; batch norm forgets it."""
        copy_all(self.buffers_before, self.buffers)
        names = [
            str(name)
            for part in distributed.all_gather_object([target["name"] for target in targets])
            for name in part
        ]
        self.state["overflows" if fault == "overflow" else "left_out"] += 1
        what = (
            f"a {fault} that is not finite"
            if fault != "overflow"
            else "a gradient that overflows fp16"
        )
        entry = {
            "left_out": f"{what} ({', '.join(f'{name} {value:.4g}' for name, value in terms.items())})",
            "images": names,
        }
        if math.isfinite(terms["loss"]):
            entry |= terms
        if fault != "overflow" and self.state["left_out"] <= LEFT_OUT_KEPT:
            batch = [
                pair
                for part in distributed.all_gather_object((images, targets))
                for pair in zip(*part, strict=True)
            ]
            if self.first:
                path = self.folder / "left_out" / f"{self.state['iteration'] + 1:06}.pt"
                kept = {
                    "images": [plain(image) for image, _ in batch],
                    "targets": [plain(target) for _, target in batch],
                }
                save_checkpoint(path, {**kept, "left_out": entry["left_out"]})
        return entry

    def judge(self, score: Callable[[nn.Module, int], dict[str, float]]) -> None:
        """Score the model, log the result, and keep the model when it is the best so far."""
        for buffer in self.model.buffers():
            buffer.copy_(distributed.broadcast_tensor(buffer))
        self.model.eval()
        iteration = self.state["iteration"]
        result = distributed.broadcast_object(score(self.model, iteration))
        facts = {
            "iteration": iteration,
            "seconds": self.state["seconds"],
            "peak_memory_gb": peak_memory_gb(self.device),
        }
        self.log({**facts, **result})
        self.state["evals_since_best"] += 1
        if self.state["best"] is None or _rank(result) > _rank(self.state["best"]):
            self.state |= {"best": {"iteration": iteration, **result}, "evals_since_best": 0}
            if self.first:
                content = {
                    "settings": self.settings,
                    "model": self.model.state_dict(),
                    **self.state["best"],
                }
                save_checkpoint(self.folder / BEST, content)


def _rank(scores: dict[str, float]) -> tuple[float, float]:
    """What makes one result better than another: mask AP50 and, while that is equal (as at the start: 0), the loss on val."""
    return scores["mask_AP50"], -scores.get("val_loss", 0.0)


def copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy tensors into others, in one go."""
    if sources:
        torch._foreach_copy_(targets, sources)


def plain(value: object) -> object:
    """Tensors of a sample without torchvision's types, so that they can be loaded by anyone."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value
