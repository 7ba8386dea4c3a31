"""Short trainings."""

from vocseg_lib.data.transforms import light_augmentation
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.train import Session, train
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.run import build_model

QUICK = get_recipe("quick").with_changes(
    image_size=64, short_side=64, channels=16, rois_per_image=16, proposals=32
)


def short_config(**options):
    """A `TrainConfig` of a few iterations of two images."""
    defaults = {"iterations": 6, "batch_size": 2, "lr_milestones": (), "workers": 0}
    return TrainConfig(**defaults | options)


def run(model_name, devkit, folder, evaluate=None, on_log=None, session=None, **options):
    """A QUICK model trained for a few iterations: (model, state)."""
    dataset = VocDataset(devkit, "train", light_augmentation())
    model = build_model(QUICK, model_name)
    config = short_config(**{"checkpoint_every": 2, **options})
    return model, train(model, dataset, folder, config, evaluate, on_log, session or Session())


def ignoring_time(log):
    """Log entries without what differs between equal trainings."""
    timed = ("hours_left", "peak_memory_gb")
    return [
        {k: v for k, v in entry.items() if not k.endswith("seconds") and k not in timed}
        for entry in log
    ]
