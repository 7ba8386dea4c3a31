"""Models under torchvision's contract, from pixels to masks."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from vocseg_lib.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn


def model_of(config: ModelConfig, num_classes: int = 21) -> "nn.Module":
    """The plain model of a config, with `num_classes` classes, background counted."""
    return resolve_name(config.model)(config, num_classes)
