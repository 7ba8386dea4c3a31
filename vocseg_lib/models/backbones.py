"""Backbones: ImageNet bodies whose stages C2 to C5 feed a feature pyramid."""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock
from torchvision.ops import Conv2dNormActivation

from vocseg_lib.utils.files import resolve_path
from vocseg_lib.utils.weights import load_weights, read_weights


class WeightsError(RuntimeError):
    """Weights are not available, cannot be read or do not fit; the message says what to do."""


RESNET = ("layer1", "layer2", "layer3", "layer4"), (256, 512, 1024, 2048)
LAYOUTS = {
    "resnet50": RESNET,
    "resnet101": RESNET,
    "mobilenet_v2": (("3", "6", "13", "18"), (24, 32, 96, 1280)),
    "tiny": (("1", "2", "3", "4"), (32, 64, 128, 256)),
}
"""`stages` and `channels` of a `Backbone`, by name."""


class Backbone(NamedTuple):
    """A body; the children that end its stages C2..C5 (strides 4, 8, 16, 32); their channels."""

    body: nn.Module
    stages: tuple[str, str, str, str]
    channels: tuple[int, int, int, int]


def tiny() -> nn.Sequential:
    """One residual block per stage, 1.2 M parameters: learns from scratch in minutes on a CPU."""
    layers = [Conv2dNormActivation(3, 32, 7, 4), BasicBlock(32, 32)]
    for inputs, outputs in pairwise(LAYOUTS["tiny"][1]):
        project = Conv2dNormActivation(inputs, outputs, 1, 2, activation_layer=None)
        layers.append(BasicBlock(inputs, outputs, 2, project))
    return nn.Sequential(*layers)


def _body_sizes(state: Mapping[str, Any]) -> dict[str, list[int]]:
    """Sizes of the tensors in a state dict of a classifier, but for its last layer's."""
    others = r"fc\.|classifier\.|.*\.num_batches_tracked$"
    return {name: [*value.shape] for name, value in state.items() if not re.match(others, name)}


def backbone_of(state: Mapping[str, Tensor]) -> str | None:
    """The name of the backbone whose state dict this is."""
    sizes = _body_sizes(state)
    for name in LAYOUTS:
        with torch.device("meta"):
            network = _network(name)
        if _body_sizes(network.state_dict()) == sizes:
            return name
    return None


def _network(name: str) -> nn.Module:
    return tiny() if name == "tiny" else models.get_model(name)


def build_backbone(name: str, init: str | Path | None = "imagenet") -> Backbone:
    """A backbone by name: "resnet50", "resnet101", "mobilenet_v2" or "tiny".

    `init`: "imagenet" (torchvision's, downloaded once; none for "tiny"), a file with a state
    dict in torchvision's layout, or None for random ones. Raises ValueError for an unknown name,
    WeightsError if weights are not available or do not fit.
    """
    if name not in LAYOUTS:
        raise ValueError(f"{name!r} is not a backbone: choose one of {', '.join(LAYOUTS)}")
    network, source = _network(name), init
    try:
        if init == "imagenet":
            published = models.get_model_weights(name).IMAGENET1K_V1
            source = f"{published.url}, kept in {torch.hub.get_dir()}/checkpoints,"
            state = published.get_state_dict(check_hash=True, weights_only=True)
            load_weights(network, state, source)
        elif init is not None:
            load_weights(network, read_weights(resolve_path(init)), init)
    except Exception as error:  # a download may raise anything
        reason = " ".join(str(error).split())[:600] or type(error).__name__
        if "weights_only" in reason:  # PyTorch's advice would run what the file holds
            reason = "the file is damaged or holds more than tensors: remove it"
        problem = f"no weights from {source} for backbone {name!r}: {reason}"
        choices = f"init=FILE (a state dict of torchvision's {name}) or init=none (random)"
        raise WeightsError(f"{problem}; use {choices}") from error
    body = network.features if name == "mobilenet_v2" else network
    return Backbone(body, *LAYOUTS[name])
