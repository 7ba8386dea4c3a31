"""Backbones: ImageNet bodies whose stages C2 to C5 feed a feature pyramid."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock

from vocseg_lib.models.speedups import BatchNorm2d, fold_batch_norm


class WeightsError(RuntimeError):
    """Backbone weights could not be had; the message names the alternatives."""


@dataclass(frozen=True)
class Backbone:
    """A body, the names of its children that end stages C2..C5 (strides 4, 8, 16, 32), and their channels."""

    body: nn.Module
    stages: tuple[str, str, str, str]
    channels: tuple[int, int, int, int]


def tiny(norm_layer: Callable[..., nn.Module], width: int = 32) -> nn.Sequential:
    """One residual block a stage, 1.2 M parameters: small enough to learn from nothing in minutes on a CPU."""

    def stage(inputs: int, outputs: int, stride: int) -> nn.Module:
        project = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm_layer(outputs)
        )
        return BasicBlock(inputs, outputs, stride, project, norm_layer=norm_layer)

    stem = nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1, bias=False), norm_layer(width), nn.ReLU(inplace=True)
    )
    widths = (width, width, 2 * width, 4 * width, 8 * width)
    return nn.Sequential(stem, *(stage(inputs, outputs, 2) for inputs, outputs in pairwise(widths)))


def build_backbone(name: str, weights: str | Path | None = "imagenet") -> Backbone:
    """A backbone by name: "resnet50", "resnet101", "mobilenet_v2" or "tiny".

    `weights`: "imagenet" (torchvision's, downloaded once; none for "tiny"), a local file with a state dict in
    torchvision's layout, or None for random ones. Where batch norm is
    in eval mode, its convolution does its work (see `speedups`).
    Raises ValueError for an unknown name, WeightsError when weights are not to be had or do not fit.
    """
    norm_layer = BatchNorm2d
    if name in ("resnet50", "resnet101"):
        network = models.get_model(name, norm_layer=norm_layer)
        published = models.get_model_weights(name).IMAGENET1K_V1
        ends, channels = ("layer1", "layer2", "layer3", "layer4"), (256, 512, 1024, 2048)
    elif name == "mobilenet_v2":
        network = models.mobilenet_v2(norm_layer=norm_layer)
        published, ends, channels = (
            models.MobileNet_V2_Weights.IMAGENET1K_V1,
            ("3", "6", "13", "18"),
            (24, 32, 96, 1280),
        )
    elif name == "tiny":
        network = tiny(norm_layer)
        published, ends, channels = None, ("1", "2", "3", "4"), (32, 64, 128, 256)
    else:
        raise ValueError(f"no backbone {name!r}; choose resnet50, resnet101, mobilenet_v2 or tiny")
    if weights is not None:
        _load(network, name, _state_dict(name, weights, published))
    fold_batch_norm(network)
    return Backbone(network.features if name == "mobilenet_v2" else network, ends, channels)


def _state_dict(name: str, weights: str | Path, published: models.WeightsEnum | None) -> dict:
    alternatives = f'alternatives: weights="FILE", a state dict of torchvision\'s {name}; weights=None, to start from random weights'
    if str(weights) != "imagenet":
        try:
            return torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle may raise anything
            raise WeightsError(
                f"cannot read backbone weights {weights}: {error}; {alternatives}"
            ) from error
    if published is None:
        raise WeightsError(f"there are no ImageNet weights for backbone {name!r}; {alternatives}")
    try:
        return published.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / published.url.split("/")[-1]
        raise WeightsError(
            f"cannot download {published.url}: {error}; {alternatives}; or put the downloaded file at {cache}"
        ) from error


def _load(network: nn.Module, name: str, state: dict) -> None:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"these weights do not fit torchvision's {name}: {str(error)[:400]}"
        ) from error
