"""What predicting in bf16 costs: python -m tools.half_precision DEVKIT.

The pilot's weights on the devkit's val, in fp32 and with the network in bf16, which `predict` never
takes. Writes results/pilot/half_precision.json, which `tools.collect_results` reads.
"""

import argparse

import torch

from tools.pilot_runs import FOLDER, HALF_PRECISION
from tools.tables import difference, headline
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.predict import predict
from vocseg_lib.metrics import bootstrap
from vocseg_lib.metrics.coco_eval import HEADLINE, evaluate
from vocseg_lib.study.recipes import MODEL_TITLES, PILOT_WEIGHTS
from vocseg_lib.study.run import load_model
from vocseg_lib.utils.files import to_jsonable, write_json


def sampled(model: torch.nn.Module, dataset: VocDataset, bf16: bool) -> bootstrap.Sampled:
    """AP of a model's predictions with the network in bf16 or fp32, over resampled images."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        predictions = predict(model, dataset)
    evaluation = evaluate(voc_to_coco(dataset.devkit, dataset.split), predictions["detections"])
    return bootstrap.sample([evaluation], bootstrap.bootstrap_weights(len(dataset)), only=HEADLINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="VOC devkit")
    try:
        dataset, rows = VocDataset(parser.parse_args().data, "val"), {}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for weights, name in PILOT_WEIGHTS.items():
        model = load_model(weights, "cpu")
        bf16, fp32 = (sampled(model, dataset, half) for half in (True, False))
        rows[MODEL_TITLES[name]] = {
            "bf16": headline(bf16),
            "fp32": headline(fp32),
            "change": difference(bf16, fp32),
        }
    write_json(FOLDER / HALF_PRECISION, to_jsonable(rows, digits=4))


if __name__ == "__main__":
    main()
