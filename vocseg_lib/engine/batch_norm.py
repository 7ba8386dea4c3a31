"""What batch norm may do in training with few images a batch: be frozen, learn, or learn and be measured anew to be judged."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vocseg_lib.utils import distributed

MODES = ("unfrozen", "frozen", "precise")


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


@contextmanager
def precise_statistics(model: nn.Module, batches: Iterable, forward: Callable) -> Iterator[None]:
    """Within, batch norm's statistics are those of the training data under the weights of this moment; then as before.

    They are taken over the whole of `batches`, where the running ones remember the last few, seen under weights of before
    ("Rethinking Batch in BatchNorm", Wu and Johnson, sec. 3): the mean of the batches' means, and the mean of their
    variances plus the variance of their means. `forward(batch)` runs the model. With several processes, each gives its own
    share of batches.
    """
    layers = batch_norm_layers(model)
    before = [
        (norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone())
        for norm in layers
    ]
    momentum = [norm.momentum for norm in layers]
    sums = [
        torch.zeros(2, norm.num_features, dtype=torch.float64, device=norm.running_mean.device)
        for norm in layers
    ]
    count = torch.zeros((), device=next(model.parameters()).device)
    was_training = model.training
    set_train_mode(model, frozen=False)
    for norm in layers:
        norm.momentum = 1.0  # running statistics are then those of the last batch
    with torch.no_grad(), distributed.single_process():
        for batch in batches:
            forward(batch)
            count += 1
            for norm, total in zip(layers, sums, strict=True):
                total += torch.stack([norm.running_mean, norm.running_var + norm.running_mean**2])
    model.train(was_training)
    count = distributed.all_reduce_mean(count)
    for norm, total, old in zip(layers, sums, momentum, strict=True):
        mean, square = distributed.all_reduce_mean(total) / count
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(square - mean**2)
        norm.momentum = old
    try:
        yield
    finally:
        for norm, (mean, variance, tracked) in zip(layers, before, strict=True):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.num_batches_tracked.copy_(tracked)
