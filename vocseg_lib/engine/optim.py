"""Optimizer and learning rate schedule."""

import math

import torch
from torch import nn

WARMUP_START = 0.1
"""Share of the learning rate at the first iteration of a warm-up (official YOLACT)."""


def lr_factor(
    iteration: int,
    iterations: int,
    schedule: str,
    lr_milestones: tuple[int, ...],
    warmup_iterations: int,
) -> float:
    """What to multiply the learning rate with at an iteration (from 0). Raises ValueError for an unknown schedule."""
    if schedule == "step":
        factor = 0.1 ** sum(iteration >= drop for drop in lr_milestones)
    elif schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * iteration / iterations))
    else:
        raise ValueError(f'no schedule {schedule!r}; choose "step" or "cosine"')
    if iteration < warmup_iterations:
        factor *= WARMUP_START + (1 - WARMUP_START) * iteration / warmup_iterations
    return factor


def build_optimizer(
    model: nn.Module,
    name: str,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    backbone_lr_mult: float = 1.0,
) -> torch.optim.Optimizer:
    """ "sgd" or "adamw" over the parameters that learn, those of the backbone's body with a share of the learning rate.

    Each group says in `share` what share of the learning rate it gets. Raises ValueError for another name.
    """
    learning = [(part, p) for part, p in model.named_parameters() if p.requires_grad]
    body = [p for part, p in learning if backbone_lr_mult != 1 and "body" in part.split(".")]
    rest = [p for part, p in learning if backbone_lr_mult == 1 or "body" not in part.split(".")]
    shares_of = ((rest, 1.0), (body, backbone_lr_mult))
    groups = [
        {"params": p, "share": share, "lr": learning_rate * share} for p, share in shares_of if p
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, learning_rate, momentum=momentum, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, learning_rate, weight_decay=weight_decay)
    raise ValueError(f'no optimizer {name!r}; choose "sgd" or "adamw"')
