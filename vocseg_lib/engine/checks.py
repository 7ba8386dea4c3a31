"""What must hold before a training starts: objects to learn from, values for batch norm."""

import time

import numpy as np
import torch
from torch import nn
from torch.types import Device
from torch.utils.data import Dataset

from vocseg_lib.data.image_files import BadFile
from vocseg_lib.data.sample import fitting_size, read_object_sides
from vocseg_lib.data.transforms import MIN_MASK_SIDE
from vocseg_lib.data.voc import VocDataset, sample_paths
from vocseg_lib.engine.batch_norm import batch_norm_layers
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.predict import eval_mode
from vocseg_lib.utils import distributed

MIN_EPSILON = 1e-8  # of batch norm that learns: with less, a channel of equal values is not finite
CHECK_SECONDS = 1.0  # for counting objects that are too small, once one is large enough


def check_objects(dataset: Dataset, model: nn.Module) -> None:
    """Print how many objects are too small to be learned; ValueError if there are no others.

    Too small: lower or narrower than 4 pixels in the image, where augmentation drops them, or in
    the model's input, where that is a cell of both models' finest maps. Reads maps alone: all of
    them, or as many as there is time for. Without a readable one, training reports what is wrong.
    """
    if not isinstance(dataset, VocDataset):
        return
    data, start = f"{dataset.split} of {dataset.devkit}", time.monotonic()
    objects = small = read = 0
    # In steps of the golden ratio, so that any part is spread over the list.
    for k in np.argsort(np.arange(len(dataset)) * 0.618034 % 1):
        if small < objects and time.monotonic() - start > CHECK_SECONDS:
            break
        try:
            size, sides = read_object_sides(sample_paths(dataset.devkit, dataset.names[k])[1])
        except BadFile:
            continue
        read += 1
        given = fitting_size(size, len(sides))
        scale = np.array(model.input_size(*given) if hasattr(model, "input_size") else given) / size
        if dataset.transform:
            scale = np.minimum(scale, np.array(given) / size)
        objects, small = objects + len(sides), small + (sides * scale < MIN_MASK_SIDE).any(1).sum()
    if read and not objects:
        raise ValueError(f"{data} has no object in SegmentationObject: nothing can be learned")
    if small:
        sizes = f"lower or narrower than {MIN_MASK_SIDE} pixels in the image or the model's input"
        many = f"{small} of {objects} objects in {read} images of {data} are {sizes}"
        if small == objects:
            advice = "use larger images, or a larger image_size or short_side"
            raise ValueError(f"{many}: nothing can be learned; {advice}")
        print(f"{many}: too small to be learned")


def check_batch_norm(model: nn.Module, config: TrainConfig, device: Device) -> None:
    """Raises ValueError if batch norm may get one value per channel, or would divide by 0."""
    if config.iterations and not config.freeze_batch_norm:
        if any(layer.eps < MIN_EPSILON for layer in batch_norm_layers(model)):
            problem = (
                "batch norm without an epsilon, as in torchvision's COCO weights, cannot learn"
            )
            raise ValueError(f"{problem}: set batch_norm=frozen")
    alone = config.batch_size == distributed.world_size() * config.accumulate
    if config.freeze_batch_norm or not alone or not hasattr(model, "input_size"):
        return
    counts = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, x: counts.append(x[0][0, 0].numel()))
        for layer in batch_norm_layers(model)
    ]
    # A square has the smallest maps.
    with eval_mode(model, device), torch.no_grad():
        model([torch.zeros(3, 32, 32, device=device)])
    for hook in hooks:
        hook.remove()
    if min(counts, default=2) < 2:
        raise ValueError(
            "batch norm needs more than one value per channel, and an image of a batch of one may "
            "have one: set batch_norm=frozen, or a larger batch_size, image_size or short_side"
        )
