"""What a training will take, from arithmetic: floating point operations and stored activations of a few images, counted."""

import statistics
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vocseg_lib.data.loader import collate, preserve_rng_state, to_device
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.utils import distributed
from vocseg_lib.utils.device import autocast, autocast_to, half_precision, total_memory_gb

STEP_OVER_FORWARD = 3
"""Operations of an update over those of its forward pass: backward takes the gradients of inputs and of weights."""
STATES = {"sgd": 1, "adamw": 2}
"""Numbers an optimizer keeps for each weight."""
EFFICIENCY = 0.5
"""Share of one large convolution's speed that a whole update reaches (on a CPU 0.4 for Mask R-CNN, 0.8 for YOLACT)."""
GPUS = {
    "t4": {
        "name": "Tesla T4",
        "memory_gb": 15.8,
        "flops": {torch.float16: 25e12, torch.float32: 4e12},
    }
}
"""Cards that can be reckoned with without having them. A T4's speeds are what large convolutions were reported to reach, well
below the 65 and 8 T/s of its data sheet."""
BASE_GB = {"cpu": 0.9, "cuda": 1.0}
"""What Python and PyTorch, or CUDA and cuDNN, take before there is a model."""
OVERHEAD = {"cpu": 2.0, "cuda": 1.25}
"""Memory of activations, their gradients and gaps over that of the activations (measured on a CPU, assumed for CUDA)."""


class SkippedConvolutions(TorchDispatchMode):
    """Within, convolutions give zeros at once: for counting what they would take, which depends on shapes alone."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is not torch.ops.aten.convolution.default:
            return function(*args, **(kwargs or {}))
        shape = function(*(arg.to("meta") if isinstance(arg, Tensor) else arg for arg in args))
        return torch.zeros_like(shape, device=args[0].device)


def extremes(batch: Sequence) -> list:
    """The widest and the tallest sample of a batch: a model that pads a batch pads these two as much as all of it."""
    by_shape = sorted(batch, key=lambda sample: sample[0].shape[-2] / sample[0].shape[-1])
    return [by_shape[0], by_shape[-1]] if len(by_shape) > 1 else by_shape


def count(
    model: nn.Module,
    samples: Sequence,
    frozen: bool,
    half: torch.dtype | None,
    device: str | torch.device,
) -> Tensor:
    """Floating point operations, and bytes that the backward pass needs, in the forward pass of an update: an image's share.

    `half` is the format of mixed precision.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    stored = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = storage  # held, so that its address is not used again
        return tensor

    was_training = model.training
    before = [buffer.clone() for buffer in model.buffers()]
    set_train_mode(model, frozen)
    counter = FlopCounterMode(display=False)
    with (
        distributed.single_process(),
        preserve_rng_state(device),
        SkippedConvolutions(),
        counter,
        saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast_to(device, half),
    ):
        model(*to_device(*collate(samples), device))
    for buffer, old in zip(model.buffers(), before, strict=True):
        buffer.copy_(old)
    model.train(was_training)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found = counter.get_total_flops(), sum(storage.nbytes() for storage in stored.values())
    return torch.tensor(found, dtype=torch.float64) / len(samples)


def convolution_speed(
    device: str | torch.device, half: torch.dtype | None, seconds: float = 0.3
) -> float:
    """Floating point operations a second of a large convolution, in the precision of the training."""
    device = torch.device(device)
    x = torch.rand(2, 256, 69, 69, device=device).contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(256, 256, 3, padding=1, device=device).to(memory_format=torch.channels_last)

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    repeats, start = 0, 0.0
    with torch.inference_mode(), autocast_to(device, half):
        layer(x)
        synchronise()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(1 if device.type == "cpu" else 20):
                layer(x)
                repeats += 1
            synchronise()
    elapsed = time.perf_counter() - start
    return 2 * x.numel() * layer.weight[0].numel() * repeats / elapsed


def estimate(
    model: nn.Module,
    batches: Sequence[Sequence],
    *,
    iterations: int,
    batch_size: int,
    optimizer: str = "sgd",
    batch_norm: str = "unfrozen",
    mixed_precision: bool = False,
    scores: int = 0,
    eval_images: int = 0,
    processes: int = 1,
    device: str | torch.device = "cpu",
    gpu: str | None = None,
) -> dict[str, float | str]:
    """`memory_gb` and `hours` of a training, with what they are made of; right within a factor of two or so.

    A forward pass of the widest and the tallest image of each of the `batches` (of samples) is counted. Memory: weights,
    gradients and the optimizer's state in fp32, the activations of a batch, and CUDA's own. Time: three forward passes an
    image in training and one in each score, at a share of the speed that one large convolution reaches here; loading is not
    in it. `processes` share the work; memory is that of one. `gpu` reckons for a card of `GPUS` instead of for the device.
    """
    if gpu and gpu not in GPUS:
        raise ValueError(f"no figures for GPU {gpu!r}; there are some for {', '.join(GPUS)}")
    frozen = batch_norm == "frozen"
    model.to(device)
    half = (torch.float16 if gpu else half_precision(device)) if mixed_precision else None
    counts = torch.stack([count(model, extremes(batch), frozen, half, device) for batch in batches])
    flops, activation_bytes = counts[:, 0].mean().item(), counts[:, 1].max().item()
    still = (
        {id(p) for norm in batch_norm_layers(model) for p in norm.parameters()} if frozen else set()
    )
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in still)
    total = sum(p.numel() for p in model.parameters())
    state_bytes = 4 * (total + (1 + STATES[optimizer]) * learning) + (2 * total if half else 0)
    kind = "cuda" if gpu else torch.device(device).type
    if gpu:
        speed, memory = GPUS[gpu]["flops"][half or torch.float32], GPUS[gpu]["memory_gb"]
    else:
        speed, memory = convolution_speed(device, half), total_memory_gb(device)
    batch_size = batch_size / processes
    images = STEP_OVER_FORWARD * batch_size * iterations + scores * eval_images / processes
    return {
        "device": GPUS[gpu]["name"] if gpu else str(device),
        "tflop_per_iteration": STEP_OVER_FORWARD * batch_size * flops / 1e12,
        "tflop_per_second": EFFICIENCY * speed / 1e12,
        "hours": images * flops / (EFFICIENCY * speed) / 3600,
        "weights_gb": state_bytes / 1e9,
        "activations_gb": OVERHEAD[kind] * batch_size * activation_bytes / 1e9,
        "memory_gb": (state_bytes + OVERHEAD[kind] * batch_size * activation_bytes) / 1e9
        + BASE_GB[kind],
        "memory_there_gb": memory,
    }


def in_words(found: dict) -> str:
    """An estimate in a line, with a warning when it is more memory than there is."""
    if found["memory_gb"] > found["memory_there_gb"]:
        warnings.warn(
            "this may be more memory than there is: take a smaller batch_size", stacklevel=2
        )
    return (
        f"about {in_hours(found['hours'])} and {found['memory_gb']:.1f} of {found['memory_there_gb']:.1f} GB on {found['device']} "
        f"({found['tflop_per_iteration']:.2g} TFLOP an iteration at {found['tflop_per_second']:.2g} TFLOP/s; activations "
        f"{found['activations_gb']:.1f} GB, weights and their states {found['weights_gb']:.1f} GB; by arithmetic, to a factor of 2)"
    )


def in_hours(hours: float) -> str:
    """A duration, in hours or minutes."""
    return f"{hours:.2g} h" if hours >= 1 else f"{max(1, round(60 * hours))} min"


@torch.inference_mode()
def measure_speed(
    model: nn.Module,
    images: list[Tensor],
    device: str | torch.device = "cpu",
    warmup: int = 3,
    repeats: int = 15,
    mixed_precision: bool = False,
) -> dict:
    """Median seconds an image at batch 1, network and post-processing apart, with `fps` for both together.

    `images` are float [3, H, W] in 0..1, taken in turn. The device is synchronised before each reading of the clock.
    Where the network ends is the model's word: YOLACT's raw predictions; Mask R-CNN's boxes with their 28 x 28 masks (its
    NMS lies inside).
    """
    device = torch.device(device)
    was_training = model.training
    model.eval().to(device)
    images = [image.to(device) for image in images]
    network, postprocess = [], []
    for run in range(warmup + repeats):
        image = images[run % len(images)]
        start = _now(device)
        with autocast(device, mixed_precision):
            raw = model.network([image])
            middle = _now(device)
            model.postprocess(raw)
            end = _now(device)
        if run >= warmup:
            network.append(middle - start)
            postprocess.append(end - middle)
    model.train(was_training)
    total = statistics.median(n + p for n, p in zip(network, postprocess, strict=True))
    return {
        "network_seconds": statistics.median(network),
        "postprocess_seconds": statistics.median(postprocess),
        "seconds_per_image": total,
        "fps": 1 / total,
    }


@torch.inference_mode()
def count_gflop(model: nn.Module, image: Tensor, device: str | torch.device = "cpu") -> float:
    """Floating point operations (1e9; two for each multiply-add) of finding the objects of one image [3, H, W] in 0..1."""
    was_training = model.training
    model.eval().to(device)
    with FlopCounterMode(display=False) as counter:
        model([image.to(device)])
    model.train(was_training)
    return counter.get_total_flops() / 1e9


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
