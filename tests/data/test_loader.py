import pytest
import torch
from torch.utils.data import Dataset

from vocseg_lib.data import loader
from vocseg_lib.data.loader import SeededSamples, evenly_spaced
from vocseg_lib.data.transforms import AUGMENTATIONS
from vocseg_lib.data.voc import VocDataset


class RandomNumbers(Dataset):
    """Five samples with a random number each."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index, torch.rand(()).item()


def test_a_sample_depends_only_on_seed_and_step():
    data = RandomNumbers()
    samples = SeededSamples(data, 3)
    first = [samples[k] for k in range(15)]
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    assert [samples[k] for k in reversed(range(15))] == first[::-1]
    assert torch.equal(torch.random.get_rng_state(), state)
    epochs = [[index for index, _ in first[k : k + 5]] for k in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert len({number for _, number in first}) == 15
    assert [SeededSamples(data, 4)[k] for k in range(15)] != first


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers(devkit, workers):
    dataset = SeededSamples(VocDataset(devkit, "train", AUGMENTATIONS["ssd"]()), 0)
    state = torch.random.get_rng_state()
    batches = list(loader.load_batches(dataset, [range(0, 2), range(20, 22)], workers))
    with loader.preserve_rng_state("cpu"):
        torch.rand(7)
    assert torch.equal(torch.random.get_rng_state(), state)
    for steps, (images, targets) in zip(((0, 1), (20, 21)), batches, strict=True):
        for step, image, target in zip(steps, images, targets, strict=True):
            expected_image, expected = dataset[step]
            assert torch.equal(image, expected_image)
            assert torch.equal(target["masks"], expected["masks"])


def test_batches_become_plain_tensors_as_models_take_them(devkit):
    images, targets = zip(*(VocDataset(devkit, "val")[k] for k in (0, 1)), strict=True)
    floats, plain = loader.to_device(images, targets, "cpu")
    for image, before, target in zip(floats, images, plain, strict=True):
        assert type(image) is torch.Tensor
        assert torch.equal((255 * image).round().to(torch.uint8), before.as_subclass(torch.Tensor))
        assert target.keys() == {"boxes", "labels", "masks"}
        assert {type(value) for value in target.values()} == {torch.Tensor}


def test_evenly_spaced_indices():
    assert evenly_spaced(10, 5) == [0, 2, 4, 6, 8]
    assert evenly_spaced(3, 5) == [0, 1, 2]
