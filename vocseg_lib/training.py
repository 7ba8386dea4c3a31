"""The training loop: any model under the contract, any data set; resumes by itself, bit for bit on the CPU."""

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vocseg_lib.files import read_json, replacing, write_json
from vocseg_lib.precision import autocast, half_precision
from vocseg_lib.transforms import model_input

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's names for two of malloc's settings (malloc.h)."""
WARMUP_START = 0.1
"""Share of the learning rate at the first iteration of a warm-up (official YOLACT)."""


class NonFiniteLoss(RuntimeError):
    """A loss or its gradient became infinite or not a number; the message names the images."""


class ChangedSettings(ValueError):
    """The run folder holds a training with other settings; the message names them."""


class Draws(Dataset):
    """A data set as one long row of shuffled, augmented draws; draw k is a function of the seed and k alone.

    That is why a resumed training sees what an uninterrupted one would have, with any number of workers.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: int) -> tuple:
        epoch, position = divmod(draw, len(self.dataset))
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(hash((self.seed, epoch))))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, epoch, position)))
            return self.dataset[int(order[position])]


def learning_rate_factor(
    iteration: int, iterations: int, schedule: str, lr_drops: tuple[int, ...], warmup_iterations: int
) -> float:
    """What to multiply the learning rate with at an iteration (from 0). Raises ValueError for an unknown schedule."""
    if schedule == "step":
        factor = 0.1 ** sum(iteration >= drop for drop in lr_drops)
    elif schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
    else:
        raise ValueError(f'no schedule {schedule!r}; choose "step" or "cosine"')
    if iteration < warmup_iterations:
        factor *= WARMUP_START + (1 - WARMUP_START) * iteration / warmup_iterations
    return factor


def build_optimizer(
    model: nn.Module, name: str, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """ "sgd" or "adamw" over the parameters that learn. Raises ValueError for another name."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, learning_rate, momentum=momentum, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)
    raise ValueError(f'no optimizer {name!r}; choose "sgd" or "adamw"')


def train(
    model: nn.Module,
    dataset: Dataset,
    run_folder: str | Path,
    *,
    iterations: int,
    batch_size: int,
    optimizer: str = "sgd",
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "step",
    lr_drops: tuple[int, ...] = (),
    warmup_iterations: int = 0,
    clip_norm: float | None = None,
    mixed_precision: bool = False,
    score: Callable[[nn.Module], dict[str, float]] | None = None,
    score_every: int = 1_000,
    checkpoint_every: int = 250,
    workers: int = 0,
    seed: int = 0,
    settings: dict | None = None,
    device: str | torch.device = "cpu",
) -> dict:
    """Train, or continue the training that `run_folder` holds; returns `{"iteration", "seconds", "best", "skipped"}`
    (seconds of loading and updates, without scoring and checkpoints).

    `score(model)` is called in eval mode every `score_every` iterations and at the end; the weights with the highest
    `mask_AP50` are kept in `best.pt`. `settings` goes to `recipe.json`. The folder also gets `log.jsonl` (a line an
    iteration, a line a score) and `last.pt`. Bad samples that the data set passes over are counted and logged.
    `mixed_precision` computes in the device's half precision (see `precision`); in fp16 the loss is scaled, and updates
    whose gradient overflows are left out.
    Raises NonFiniteLoss, and ChangedSettings when the folder holds a training with other settings.
    """
    run_folder = Path(run_folder)
    _hold_to_settings(run_folder, settings or {})
    model.to(device)
    step_taker = build_optimizer(model, optimizer, learning_rate, momentum, weight_decay)
    fp16 = mixed_precision and half_precision(device) is torch.float16
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=fp16)
    torch.manual_seed(seed)
    state = {"iteration": 0, "seconds": 0.0, "best": None, "skipped": {}}
    last = run_folder / "last.pt"
    if last.is_file():
        state = _load_checkpoint(last, model, step_taker, scaler, device)
    log_path = run_folder / "log.jsonl"
    _cut_log(log_path, state["iteration"])

    batches = _batches(dataset, state["iteration"], iterations, batch_size, workers, seed)
    bar = tqdm(
        batches,
        total=iterations,
        initial=state["iteration"],
        desc="train",
        unit="it",
        mininterval=1.0,
        disable=state["iteration"] == iterations,
    )
    with log_path.open("a") as log, memory_kept():
        start = time.perf_counter()
        for images, targets in bar:
            model.train()
            factor = learning_rate_factor(state["iteration"], iterations, schedule, lr_drops, warmup_iterations)
            for group in step_taker.param_groups:
                group["lr"] = learning_rate * factor
            entry = _step(model, step_taker, scaler, images, targets, clip_norm, mixed_precision, device)
            state["iteration"] += 1
            state["seconds"] += time.perf_counter() - start
            for name in (skipped for target in targets for skipped in target["skipped"]):
                state["skipped"][name] = state["skipped"].get(name, 0) + 1
                entry.setdefault("skipped", []).append(name)
            _append(log, {"iteration": state["iteration"], "lr": learning_rate * factor, **entry})
            bar.set_postfix({k: f"{v:.2f}" for k, v in entry.items() if k != "skipped"}, refresh=False)

            done = state["iteration"] == iterations
            if score and (done or state["iteration"] % score_every == 0):
                bar.set_description("score on val")
                _append(log, {"iteration": state["iteration"], **_score(model, score, state, run_folder)})
                bar.set_description("train", refresh=False)
            if done or state["iteration"] % checkpoint_every == 0:
                _save_checkpoint(last, model, step_taker, scaler, state)
            start = time.perf_counter()
    if state["skipped"]:
        print(f"passed over {len(state['skipped'])} bad samples:", *sorted(state["skipped"]), sep="\n  ")
    return state


@contextmanager
def memory_kept() -> Iterator[None]:
    """Let the C library keep freed memory for the next iteration: on the CPU, fetching it anew is part of a step's time.

    For glibc, which hands large blocks back at once; elsewhere it does nothing. Afterwards it hands back again.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, 65_536)
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)


def _batches(dataset: Dataset, start: int, stop: int, batch_size: int, workers: int, seed: int) -> Iterator[tuple[tuple, tuple]]:
    return iter(
        DataLoader(
            Draws(dataset, seed),
            batch_size,
            sampler=range(start * batch_size, stop * batch_size),
            num_workers=workers,
            collate_fn=collate,
            generator=torch.Generator(),  # its own, so that starting to load does not move the global one
        )
    )


def collate(samples: list) -> tuple[tuple, tuple]:
    """A batch: the images of the samples and their targets, each a tuple, since sizes differ."""
    return tuple(zip(*samples, strict=True))


def to_device(images: tuple, targets: tuple, device: str | torch.device) -> tuple[list[Tensor], list[dict]]:
    """Images as plain float tensors in 0..1, targets as plain tensors, on the device."""
    floats = [model_input(image, device) for image in images]
    keys = ("boxes", "labels", "masks")
    moved = [{key: t[key].as_subclass(Tensor).to(device) for key in keys} for t in targets]
    return floats, moved


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    images: tuple,
    targets: tuple,
    clip_norm: float | None,
    mixed_precision: bool,
    device: str | torch.device,
) -> dict[str, float]:
    with autocast(device, mixed_precision):
        losses = model(*to_device(images, targets, device))
    total = sum(losses.values())
    entry = {"loss": total.item(), **{name: loss.item() for name, loss in losses.items()}}
    if not math.isfinite(entry["loss"]):
        raise _non_finite("loss", entry, targets)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(total).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf if clip_norm is None else clip_norm)
    # Stepping would spoil the weights, and the next checkpoint with them; a scaler leaves the step out and scales less.
    if not math.isfinite(norm.item()) and scaler.get_scale() <= 1:
        raise _non_finite("gradient", entry, targets)
    scaler.step(optimizer)
    scaler.update()
    return entry


def _non_finite(what: str, entry: dict[str, float], targets: tuple) -> NonFiniteLoss:
    names = ", ".join(target["name"] for target in targets)
    terms = ", ".join(f"{name} {value}" for name, value in entry.items())
    return NonFiniteLoss(f"the {what} is not finite ({terms}) on images {names}; try a lower learning rate or clip_norm")


def _score(model: nn.Module, score: Callable[[nn.Module], dict[str, float]], state: dict, run_folder: Path) -> dict[str, float]:
    """Score the model, keep it when it is the best so far; leaves the random state as it was."""
    model.eval()
    with torch.random.fork_rng():
        result = score(model)
    if state["best"] is None or result["mask_AP50"] > state["best"]["mask_AP50"]:
        state["best"] = {"iteration": state["iteration"], **result}
        with replacing(run_folder / "best.pt") as path:
            torch.save({"model": model.state_dict(), **state["best"]}, path)
    return result


def _hold_to_settings(run_folder: Path, settings: dict) -> None:
    path = run_folder / "recipe.json"
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        before = read_json(path)
        changed = [k for k in sorted(before.keys() | settings.keys()) if before.get(k) != settings.get(k)]
        if changed:
            lines = "\n".join(f"  {k}: {before.get(k)!r} there, {settings.get(k)!r} now" for k in changed)
            raise ChangedSettings(
                f"{run_folder} holds a training with other settings:\n{lines}\n"
                "Choose another folder, or delete this one to train anew."
            )
    write_json(path, settings)


def _save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, state: dict
) -> None:
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "random": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }
    with replacing(path) as beside:
        torch.save({**content, **state}, beside)


def load_checkpoint_file(path: Path, device: str | torch.device = "cpu") -> dict:
    """What a `last.pt` or `best.pt` holds. Raises ValueError naming the file when it is damaged."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path} is damaged ({error}); delete the run folder to train anew") from error


def _load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, device: str | torch.device
) -> dict:
    checkpoint = load_checkpoint_file(path, device)
    model.load_state_dict(checkpoint.pop("model"))
    optimizer.load_state_dict(checkpoint.pop("optimizer"))
    scaler.load_state_dict(checkpoint.pop("scaler"))
    random_state = checkpoint.pop("random")
    torch.set_rng_state(random_state["cpu"].cpu())
    if torch.cuda.is_available() and random_state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in random_state["cuda"]])
    return checkpoint


def _append(log, entry: dict) -> None:
    log.write(json.dumps(entry) + "\n")
    log.flush()


def read_log(path: str | Path) -> list[dict]:
    """The entries of a `log.jsonl`; a last line cut off by a kill is left out."""
    entries = []
    for line in Path(path).read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def _cut_log(path: Path, iteration: int) -> None:
    """Drop what a killed training logged after its last checkpoint: it will be logged again."""
    if path.is_file():
        kept = [entry for entry in read_log(path) if entry["iteration"] <= iteration]
        with replacing(path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
