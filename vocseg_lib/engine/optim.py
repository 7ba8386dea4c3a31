"""Optimizer and learning-rate schedule."""

import math

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from vocseg_lib.engine.config import TrainConfig


def lr_factor(config: TrainConfig, iteration: int) -> float:
    """Learning rate at an iteration (from 0) / `config.learning_rate`."""
    if config.schedule == "step":
        factor = 0.1 ** sum(iteration >= milestone for milestone in config.lr_milestones)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
    if iteration < config.warmup_iterations:  # from a tenth, as in the official YOLACT
        factor *= 0.1 + 0.9 * iteration / config.warmup_iterations
    return factor


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """SGD or AdamW over the parameters that require gradients.

    `lr_mult` of a parameter group is its learning rate / `config.learning_rate`: that of the
    backbone's body is `config.backbone_lr_mult`.
    """
    parameters: dict[float, list] = {1.0: [], config.backbone_lr_mult: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            mult = config.backbone_lr_mult if "body" in name.split(".") else 1.0
            parameters[mult].append(parameter)
    groups = [
        {"params": part, "lr_mult": mult, "lr": config.learning_rate * mult}
        for mult, part in parameters.items()
        if part
    ]
    if config.optimizer == "adamw":
        return AdamW(groups, weight_decay=config.weight_decay)
    return SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
