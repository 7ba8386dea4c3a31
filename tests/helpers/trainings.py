"""Short trainings."""

from dataclasses import replace

from vocseg_lib.data.transforms import light_augmentation
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.train import train
from vocseg_lib.study.recipes import get_recipe
from vocseg_lib.study.run import build_model

QUICK = replace(
    get_recipe("quick"), image_size=64, short_side=64, channels=16, rois_per_image=16, proposals=32
)


def run(model_name, devkit, folder, iterations=6, **options):
    dataset = VocDataset(devkit, "train", light_augmentation())
    model = build_model(QUICK, model_name)
    options = {"batch_size": 2, "learning_rate": 1e-3, "checkpoint_every": 2, **options}
    return model, train(model, dataset, folder, iterations=iterations, **options)


def ignoring_time(log):
    return [
        {k: v for k, v in entry.items() if not k.endswith("seconds") and k != "peak_memory_gb"}
        for entry in log
    ]
