"""From a data set to batches on a device: an endless row of draws, the same whoever loads it and wherever it goes on."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vocseg_lib.data.transforms import model_input


class SeededSamples(Dataset):
    """A data set as one long row of shuffled, augmented draws; draw k is a function of the seed and k alone.

    That is why a resumed training sees what an uninterrupted one would have, with any number of workers and processes.
    """

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, draw: int) -> tuple:
        epoch, position = divmod(draw, len(self.dataset))
        order = torch.randperm(
            len(self.dataset), generator=torch.Generator().manual_seed(hash((self.seed, epoch)))
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, epoch, position)))
            return self.dataset[int(order[position])]


def load_batches(dataset: Dataset, batches: Iterable[range], workers: int = 0) -> DataLoader:
    """Batches of a data set, each given by its indices."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator(),  # its own, so that starting to load does not move the global one
    )


def collate(samples: list) -> tuple[tuple, tuple]:
    """A batch: the images of the samples and their targets, each a tuple, since sizes differ."""
    return tuple(zip(*samples, strict=True))


def to_device(
    images: tuple, targets: tuple, device: str | torch.device
) -> tuple[list[Tensor], list[dict]]:
    """Images as plain float tensors in 0..1, targets as plain tensors, on the device."""
    floats = [model_input(image, device) for image in images]
    keys = ("boxes", "labels", "masks")
    moved = [{key: t[key].as_subclass(Tensor).to(device) for key in keys} for t in targets]
    return floats, moved


def preserve_rng_state(device: str | torch.device) -> AbstractContextManager:
    """Within, random numbers may be drawn on the CPU and on the device; afterwards it is as if none had been."""
    device = torch.device(device)
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def evenly_spaced(length: int, wanted: int) -> list[int]:
    """`wanted` places in a row of `length`, evenly spread; all when there are no more."""
    return (
        sorted({i * length // wanted for i in range(wanted)})
        if wanted < length
        else list(range(length))
    )
