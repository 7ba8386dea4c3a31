"""Backbones: ImageNet bodies whose stages C2 to C5 feed a feature pyramid."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock


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


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A body; the children that end its stages C2..C5 (strides 4, 8, 16, 32); their channels."""

    body: nn.Module
    stages: tuple[str, str, str, str]
    channels: tuple[int, int, int, int]


def tiny(width: int = 32) -> nn.Sequential:
    """One residual block per stage, 1.2 M parameters: learns from scratch in minutes on a CPU."""

    def stage(inputs: int, outputs: int) -> nn.Module:
        norm = nn.BatchNorm2d(outputs)
        project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), norm)
        return BasicBlock(inputs, outputs, 2, project)

    conv = nn.Conv2d(3, width, 3, 2, 1, bias=False)
    stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    widths = (width, width, 2 * width, 4 * width, 8 * width)
    return nn.Sequential(stem, *(stage(inputs, outputs) for inputs, outputs in pairwise(widths)))


def build_backbone(name: str, weights: str | Path | None = "imagenet") -> Backbone:
    """A backbone by name: "resnet50", "resnet101", "mobilenet_v2" or "tiny".

    `weights`: "imagenet" (torchvision's, downloaded once; none for "tiny"), a file with a state
    dict in torchvision's layout, or None for random ones. Raises ValueError for an unknown name,
    WeightsError if weights are not available or do not fit.
    """
    if name not in LAYOUTS:
        raise ValueError(f"{name!r} is not a backbone: choose one of {', '.join(LAYOUTS)}")
    network = tiny() if name == "tiny" else models.get_model(name)
    if weights is not None:
        _load_weights(network, name, str(weights))
    body = network.features if name == "mobilenet_v2" else network
    stages, channels = LAYOUTS[name]
    return Backbone(body=body, stages=stages, channels=channels)


def _load_weights(network: nn.Module, name: str, weights: str) -> None:
    source = weights
    try:
        if weights == "imagenet":
            published = models.get_model_weights(name).IMAGENET1K_V1
            source = f"{published.url}, kept in {torch.hub.get_dir()}/checkpoints,"
            state = published.get_state_dict(check_hash=True)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:  # a damaged pickle may raise anything
        problem = f"no weights from {source} for backbone {name!r}: {str(error)[:400]}"
        choices = f"weights=FILE (a state dict of torchvision's {name}) or weights=None (random)"
        raise WeightsError(f"{problem}; use {choices}") from error
