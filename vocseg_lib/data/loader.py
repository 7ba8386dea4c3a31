"""From a data set to batches on a device, reproducibly."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from vocseg_lib.data.image_files import BadFile, read_picture, without_ending
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


class PictureDataset(Dataset):
    """Pictures without annotations as `(image, target)`, for prediction.

    image: uint8 [3, h, w], as it is shown. target: image_id (from 1), name. What cannot be read is
    None; `skipped` says why.
    """

    def __init__(self, paths: Sequence[Path]):
        self.paths, self.skipped = paths, {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, dict] | None:
        try:
            picture = read_picture(self.paths[index])
        except BadFile as error:
            self.skipped[self.paths[index]] = str(error)
            return None
        image = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
        name = without_ending(self.paths[index].name)
        return tv_tensors.Image(image), {"image_id": index + 1, "name": name}


def load_batches(dataset: Dataset, batches: Iterable[range], workers: int = 0) -> DataLoader:
    """Batches of a data set, each given by its indices."""
    options = {"num_workers": workers, "collate_fn": collate}
    options["generator"] = torch.Generator()  # starting to load leaves the global one as it is
    return DataLoader(dataset, batch_sampler=batches, **options)


def map_ahead(pool: Executor | None, function: Callable, items: Iterable, waiting: int) -> Iterator:
    """`map(function, items)`, of which a pool computes up to `waiting` before they are taken."""
    futures = deque()
    for item in items:
        if pool is None:
            yield function(item)
            continue
        futures.append(pool.submit(function, item))
        if len(futures) > waiting:
            yield futures.popleft().result()
    yield from (future.result() for future in futures)


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
