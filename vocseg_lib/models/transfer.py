"""Start a model from trained weights: what fits is kept, outputs per class by the class's name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vocseg_lib.data.classes import name_key
from vocseg_lib.models.config import ModelConfig
from vocseg_lib.models.contract import ClassLayer, InstanceModel
from vocseg_lib.utils.weights import load_weights

LISTED = 5  # tensors in a message


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights of a detector, by the parameter names of ours."""

    source: str  # the file, for messages
    model: str  # its name in `config.MODELS`
    state: Mapping[str, Tensor]
    outputs: int  # classes, with the background
    class_names: Sequence[str] | None  # label 1 first; None: unknown
    config: dict[str, Any]  # fields of the model's config that the weights were trained with
    names_by_count: bool = False  # class names are those of known data with as many
    assumed: Collection[str] = ()  # fields of `config` that the weights do not tell


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a model kept of trained weights."""

    source: str
    kept: Sequence[str]  # classes
    new: Sequence[str]
    unfit: dict[str, str]  # tensors of the model that stay as they were, and why
    unused: Sequence[str]  # tensors of the weights

    def __str__(self) -> str:
        parts = [f"{len(self.kept)} of {len(self.kept) + len(self.new)} classes kept"]
        parts += [f"new: {', '.join(self.new)}"] * bool(self.new)
        unfit = [f"{name} ({reason})" for name, reason in self.unfit.items()]
        for text, names in (("tensors did not fit", unfit), ("were not used", self.unused)):
            listed = ", ".join([*names[:LISTED], "..."][: len(names)])
            parts += [f"{len(names)} {text}: {listed}"] if names else []
        return f"started from {self.source}: {'; '.join(parts)}"


def check_network(config: ModelConfig, weights: Pretrained) -> None:
    """Raise ValueError for fields of a config that are not those of the weights."""
    known = {k: v for k, v in weights.config.items() if k not in weights.assumed}
    changed = {k: v for k, v in known.items() if getattr(config, k) != v}
    if changed:
        there = ", ".join(f"{name}={value}" for name, value in changed.items())
        here = ", ".join(f"{name}={getattr(config, name)}" for name in changed)
        raise ValueError(f"{weights.source} was trained with {there}; the model has {here}")


def load_body(body: nn.Module, weights: Pretrained) -> None:
    """Load a detector's backbone into one alone. Raises ValueError if it does not fit."""
    prefix = "body." if weights.model == "yolact" else "backbone.body."
    state = {k.removeprefix(prefix): v for k, v in weights.state.items() if k.startswith(prefix)}
    load_weights(body, state, weights.source)


@torch.no_grad()
def transfer(model: InstanceModel, weights: Pretrained, class_names: Sequence[str]) -> Transfer:
    """Copy weights into a model of the same kind for `class_names`, label 1 first.

    Outputs of classes that the weights do not know stay as they were. Where there are no class
    names, or only those of known data with as many and none of them is in `class_names`, classes
    are taken in order if there are as many. Raises ValueError if backbone or FPN do not fit, or a
    number is not finite.
    """
    labels = _shared_labels(weights, class_names)
    own, unfit = model.state_dict(), {}  # the model's own memory
    for name, target in own.items():
        given = weights.state.get(name)
        is_tensor = isinstance(given, Tensor)
        if not (is_tensor and given.is_floating_point() == target.is_floating_point()):
            # PyTorch does not need the counts of batches.
            unfit |= {} if name.endswith("num_batches_tracked") else {name: "missing"}
        elif not given.isfinite().all():
            raise ValueError(f"{weights.source}: {name} has numbers that are not finite")
        elif layer := model.class_layers.get(name.rpartition(".")[0]):
            if problem := _copy_classes(target, given, layer, labels):
                unfit[name] = problem
        elif given.shape == target.shape:
            target.copy_(given)
        else:
            unfit[name] = f"{[*given.shape]}, expected {[*target.shape]}"
    unused = {name: "unknown" for name in weights.state if name not in own}
    of_body = (unfit | unused).items()
    if wrong := [f"{k} {v}" for k, v in of_body if k.startswith(model.body_and_fpn)]:
        more = f" and {len(wrong) - 1} more" * (len(wrong) > 1)
        raise ValueError(f"{weights.source} is not of this network: {wrong[0]}{more}")
    kept = [name for k, name in enumerate(class_names, 1) if k in labels]
    return Transfer(
        source=weights.source,
        kept=kept,
        new=[name for name in class_names if name not in kept],
        unfit=unfit,
        unused=list(unused),
    )


def _shared_labels(weights: Pretrained, class_names: Sequence[str]) -> dict[int, int]:
    """Labels of the weights by labels of the model, with the background."""
    outputs, names = weights.outputs, weights.class_names
    known = {name_key(name): label for label, name in enumerate(names or (), 1)}
    shared = known.keys() & map(name_key, class_names)
    if names is None or (weights.names_by_count and not shared):
        same = outputs == len(class_names) + 1
        return {k: k for k in range(outputs if same else 1)}
    if len(names) + 1 != outputs:
        raise ValueError(f"{weights.source} has {len(names)} class names for {outputs - 1} outputs")
    pairs = {label: known.get(name_key(name)) for label, name in enumerate(class_names, 1)}
    return {0: 0} | {label: other for label, other in pairs.items() if other}


def _copy_classes(target: Tensor, given: Tensor, layer: ClassLayer, labels: dict) -> str:
    """Copy the outputs of shared classes into `target`; what is wrong with `given`, or ""."""
    if given.shape[1:] != target.shape[1:] or len(given) % (layer.repeats * layer.values):
        return f"{[*given.shape]}, expected [..., {', '.join(map(str, target.shape[1:]))}]"
    own, other = (
        tensor.reshape(layer.repeats, -1, layer.values, *tensor.shape[1:])
        for tensor in (target, given)
    )
    pairs = [(t - layer.first, s - layer.first) for t, s in labels.items() if t >= layer.first]
    if pairs and max(s for _, s in pairs) >= other.shape[1]:
        return f"outputs of {other.shape[1]} classes alone"
    own[:, [t for t, _ in pairs]] = other[:, [s for _, s in pairs]].to(own.dtype)
    return ""
