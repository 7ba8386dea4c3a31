"""Short trainings."""

import math

import torch
from torch import nn

from benchmarks.attack_seeds import NoisyModel as NoisyModel
from vocseg_lib.data.transforms import AUGMENTATIONS
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.engine.train import train
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.run import build_model

QUICK = get_recipe("quick").with_changes(
    image_size=64, short_side=64, channels=16, rois_per_image=16, proposals=32
)
SMALL = "image_size=96 short_side=96 batch_size=2 eval_every=1 eval_images=2 workers=0".split()
SHORT = (
    "iterations=6 eval_every=3 checkpoint_every=3 batch_size=2 image_size=64 short_side=64 "
    "channels=16 proposals=32 rois_per_image=8 warmup_iterations=1 workers=0"
).split()
"""Values of `train --set`."""


class Explodes(nn.Module):
    """Loss, or only its gradient, is not finite at the calls `at`, from 1; batch norm then, too."""

    def __init__(self, *at, backward=False):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.ones(())), nn.BatchNorm2d(1)
        self.at, self.calls, self.backward = at, 0, backward

    def forward(self, images, targets):
        self.calls += 1
        factor = torch.tensor(float("nan") if self.calls in self.at else 1.0)
        self.norm(factor * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
        if self.backward:
            zero = self.weight - self.weight.detach()  # where the slope of the root is infinite
            return {"class": zero.sqrt() if self.calls in self.at else zero}
        return {"class": self.weight * factor}


class Stopped(Exception):
    """Raised by `StoppingDataset`."""


class StoppingDataset(VocDataset):
    """A data set of which only so many `samples` can be read before a training is stopped."""

    samples = math.inf

    def __getitem__(self, index):
        if self.samples == 0:
            raise Stopped
        self.samples -= 1
        return super().__getitem__(index)


def short_config(**options):
    """A `TrainConfig` of a few iterations of two images."""
    defaults = {"iterations": 6, "batch_size": 2, "lr_milestones": (), "workers": 0}
    return TrainConfig(**{**defaults, "checkpoint_every": 2, **options})


def run(model, devkit, folder, evaluate=None, session=None, run_config=None, **options):
    """A model, or a QUICK one by name, and its state; `Stopped` after `stop_after` iterations."""
    stop_after = options.pop("stop_after", math.inf)
    config, dataset = (
        short_config(**options),
        StoppingDataset(devkit, "train", AUGMENTATIONS["light"]()),
    )
    dataset.samples = stop_after * config.batch_size
    model = build_model(QUICK, model) if isinstance(model, str) else model
    arguments = {"session": session, "run_config": run_config}
    return model, train(model, dataset, folder, config, evaluate, **arguments)


def weights(folder):
    """The checksum of the weights in the last checkpoint."""
    return checksum(load_checkpoint(folder / "last.pt")["model"])


def log_of(folder):
    """Log entries without what differs between equal trainings."""
    return [
        {k: v for k, v in entry.items() if not k.endswith(("seconds", "_gb", "hours_left"))}
        for entry in read_log(folder / "log.jsonl")
    ]
