"""From a data set to batches on a device, reproducibly."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vocseg_lib.data.transforms import model_input


class SeededSamples(Dataset):
    """A data set as an endless sequence of shuffled, augmented samples.

    The sample at step k depends only on the seed and k, so a resumed training sees the same data
    as an uninterrupted one, with any number of workers and processes.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, step: int) -> tuple:
        epoch, position = divmod(step, len(self.dataset))
        shuffling = torch.Generator().manual_seed(hash((self.seed, epoch)))
        order = torch.randperm(len(self.dataset), generator=shuffling)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, epoch, position)))
            return self.dataset[int(order[position])]


def load_batches(dataset: Dataset, batches: Iterable[range], workers: int = 0) -> DataLoader:
    """Batches of a data set, each given by its indices."""
    options = {"num_workers": workers, "collate_fn": collate}
    options["generator"] = torch.Generator()  # starting to load leaves the global one as it is
    return DataLoader(dataset, batch_sampler=batches, **options)


def collate(samples: list) -> tuple[tuple, tuple]:
    """A batch: the samples' images and their targets, each a tuple, since sizes differ."""
    return tuple(zip(*samples, strict=True))


def to_device(images: tuple, targets: tuple, device: str | torch.device) -> tuple[list, list]:
    """Images as plain float tensors in 0..1, targets as plain tensors, on the device."""
    keys = ("boxes", "labels", "masks")
    moved = [{key: t[key].as_subclass(Tensor).to(device) for key in keys} for t in targets]
    return [model_input(image, device) for image in images], moved


def preserve_rng_state(device: str | torch.device) -> AbstractContextManager:
    """Context manager: restore the random state of the CPU and of the device at the end."""
    device = torch.device(device)
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def evenly_spaced(length: int, count: int) -> list[int]:
    """At most `count` evenly spaced indices of a sequence of `length`."""
    count = min(count, length)
    return [i * length // count for i in range(count)]
