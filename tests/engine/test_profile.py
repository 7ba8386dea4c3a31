import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.helpers.trainings import QUICK
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.batch_norm import batch_norm_layers
from vocseg_lib.engine.profile import (
    GPUS,
    STEP_OVER_FORWARD,
    convolution_speed,
    count,
    estimate,
    extremes,
    in_words,
)
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.run import build_model
from vocseg_lib.study.study import Study


class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def forward(self, images, targets):
        return {"class": self.layer(torch.stack(images)).square().sum()}


@pytest.fixture
def sample(devkit):
    image, target = VocDataset(devkit, "train")[0]
    return image[:, :32, :40], target


def test_counts_by_hand(sample):
    for samples in ([sample], [sample, sample]):
        flops, stored = count(OneConvolution(), samples, False, None, "cpu").tolist()
        assert flops == 2 * 32 * 40 * 8 * 3 * 9
        assert stored == 4 * 32 * 40 * (
            3 + 8
        )  # the image for the weights' gradient, the map for the square's


def test_half_precision_is_counted_also_where_it_is_slow(sample):
    stored = [
        count(OneConvolution(), [sample], False, half, "cpu")[1]
        for half in (torch.float16, torch.bfloat16)
    ]
    assert stored == [2 * 32 * 40 * (3 + 8) + 2 * 3 * 8 * 9] * 2  # and the weights in that format


def test_padding_to_the_largest_of_a_batch_is_counted(sample):
    _, target = sample
    batch = [
        (torch.zeros(3, height, width), target)
        for height, width in ((30, 30), (20, 60), (40, 30), (50, 20))
    ]
    assert [tuple(image.shape[1:]) for image, _ in extremes(batch)] == [(20, 60), (50, 20)]
    assert extremes(batch[:1]) == batch[:1]
    model = build_model(QUICK, "mask_rcnn")
    target = {
        **target,
        "boxes": target["boxes"][:0],
        "labels": target["labels"][:0],
        "masks": target["masks"][:0],
    }
    wide, tall = (
        (torch.zeros(3, *size), {**target, "masks": torch.zeros(0, *size)})
        for size in ((64, 128), (128, 64))
    )
    alone, mixed = (
        count(model, samples, False, None, "cpu")[0] for samples in ([wide], [wide, tall])
    )
    assert mixed > 1.4 * alone


def test_skipped_convolutions_count_like_real_ones(devkit, monkeypatch):
    samples = [VocDataset(devkit, "train")[k] for k in range(2)]
    model = build_model(QUICK, "yolact")
    skipped = count(model, samples, False, None, "cpu")
    monkeypatch.setattr("vocseg_lib.engine.profile.SkippedConvolutions", nullcontext)
    assert torch.equal(skipped, count(model, samples, False, None, "cpu"))


def test_memory_and_time_by_hand(sample):
    options = {"iterations": 1000, "batch_size": 4, "gpu": "t4", "scores": 2, "eval_images": 30}
    found = estimate(OneConvolution(), [[sample, sample], [sample] * 3], **options)
    flops, stored, weights = 2 * 32 * 40 * 8 * 3 * 9, 4 * 32 * 40 * 11, 3 * 8 * 9
    assert found["weights_gb"] == pytest.approx(
        4 * weights * 3 / 1e9
    )  # weights, gradients, momentum
    assert found["activations_gb"] == pytest.approx(1.25 * 4 * stored / 1e9)
    assert found["memory_gb"] == pytest.approx(found["weights_gb"] + found["activations_gb"] + 1.0)
    speed = 0.5 * GPUS["t4"]["flops"][torch.float32]
    assert found["hours"] == pytest.approx(
        (STEP_OVER_FORWARD * 4 * 1000 + 60) * flops / speed / 3600
    )
    adamw = estimate(OneConvolution(), [[sample]], **options, optimizer="adamw")
    assert adamw["weights_gb"] == pytest.approx(4 * weights * 4 / 1e9)
    halves = estimate(OneConvolution(), [[sample]], **options, processes=2)
    assert halves["hours"] == pytest.approx(found["hours"] / 2)
    with pytest.raises(ValueError, match="no figures for GPU 'k80'"):
        estimate(OneConvolution(), [[sample]], **{**options, "gpu": "k80"})


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_counting_changes_nothing(name, devkit):
    model = build_model(QUICK, name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    flops, stored = count(model, [VocDataset(devkit, "train")[0]], False, None, "cpu").tolist()
    assert flops > 1e6
    assert stored > 1e5
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert all(norm.training for norm in batch_norm_layers(model))


def test_frozen_batch_norm_keeps_no_activation(devkit):
    model = build_model(replace(QUICK, image_size=320), "yolact")
    samples = [VocDataset(devkit, "train")[0]]
    frozen, unfrozen = (count(model, samples, frozen, None, "cpu")[1] for frozen in (True, False))
    assert frozen < 0.9 * unfrozen


def test_speed_is_a_speed():
    assert 1e9 < convolution_speed("cpu", None, 0.05) < 1e14


def test_it_is_said_before_a_training_starts_and_only_then(devkit, tmp_path, capsys):
    study = Study(replace(QUICK, iterations=2, batch_size=2), devkit, tmp_path)
    study.train("yolact", device="cpu")
    said = capsys.readouterr().out
    assert "YOLACT: about" in said
    assert "TFLOP an iteration" in said
    study.train("yolact", device="cpu")
    assert "about" not in capsys.readouterr().out


def test_too_large_a_batch_is_warned_of(devkit, tmp_path):
    huge = Study(replace(QUICK, batch_size=10**9), devkit, tmp_path)
    with pytest.warns(UserWarning, match="smaller batch_size"):
        in_words(huge.estimate("yolact", gpu="t4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_words(Study(QUICK, devkit, tmp_path).estimate("yolact", gpu="t4"))


def test_the_t4_recipe_fits_a_t4_and_one_session_of_twelve_hours(
    real_devkit, tmp_path, monkeypatch
):
    monkeypatch.setattr("vocseg_lib.study.study.COUNTED_BATCHES", 1)
    study = Study(get_recipe("t4"), real_devkit, tmp_path)
    found = [study.estimate(name, "cpu", gpu="t4") for name in ("yolact", "mask_rcnn")]
    largest = max(each["memory_gb"] for each in found)
    assert largest < 15.8
    assert 1.2 * largest > 15.8  # two images more would not fit
    assert sum(each["hours"] for each in found) < 6  # right to a factor of two
