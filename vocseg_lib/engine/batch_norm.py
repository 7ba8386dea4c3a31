"""What batch norm may do in training with few images a batch: be frozen, learn, or learn and be measured anew to be judged."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """The batch norm layers of a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def set_train_mode(model: nn.Module, frozen: bool) -> nn.Module:
    """The model in train mode; with `frozen`, its batch norm stays in eval mode: a constant affine map."""
    model.train()
    if frozen:
        for norm in batch_norm_layers(model):
            norm.eval()
    return model
