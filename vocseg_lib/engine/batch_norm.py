"""Batch norm in training with few images per batch: unfrozen or frozen."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The batch norm layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def set_train_mode(model: nn.Module, freeze_bn: bool) -> nn.Module:
    """The model in train mode; with `freeze_bn`, its batch norm stays in eval mode."""
    model.train()
    if freeze_bn:
        for layer in batch_norm_layers(model):
            layer.eval()
    return model
