"""A training in which nothing is sampled at random, in one process or under torchrun.

Its numbers do not depend on how processes share a batch. Arguments: model, devkit, run folder and
"once", to stop after one iteration, or "all".
"""

import sys
from dataclasses import replace

from torchvision.transforms import v2

from tests.helpers.trainings import QUICK, short_config
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.predict import predict, validation_loss
from vocseg_lib.engine.train import Session, train
from vocseg_lib.study.run import build_model
from vocseg_lib.utils import distributed

CONFIG = short_config(
    iterations=4, batch_size=4, learning_rate=1e-4, batch_norm="frozen", eval_every=4, workers=1
)
TWO = replace(CONFIG, batch_size=2, workers=0)


def main(name, devkit, folder, sessions):
    model = build_model(QUICK.with_changes(image_size=96, semantic_loss=True), name)
    if name == "mask_rcnn":  # all regions of an image
        for part in (model.rpn, model.roi_heads):
            part.fg_bg_sampler.batch_size_per_image = 10**6
    val = VocDataset(devkit, "val")

    def evaluate(model, iteration):
        predictions = predict(model, val, progress=False)
        names = [image["name"] for image in predictions["header"]["images"]]
        return {"mask_AP50": 1.0, "names": names, **validation_loss(model, val, TWO)}

    with distributed.process_group("cpu") as device:
        session = Session(device=device, max_hours=1e-9 if sessions == "once" else None)
        # Of one size: others would be padded to the largest of a process's part of a batch.
        dataset = VocDataset(devkit, "train", v2.Resize((96, 128)))
        train(model, dataset, folder, CONFIG, evaluate, session=session)


if __name__ == "__main__":
    main(*sys.argv[1:])
