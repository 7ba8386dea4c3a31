"""Predictions of the weights in weights/ on val: python -m tools.pilot_predictions DEVKIT.

For `vocseg evaluate`: without the masks before the crop, to be small.
"""

import argparse
from pathlib import Path

from vocseg_lib.study.recipes import PILOT_WEIGHTS
from vocseg_lib.study.run import predict_run
from vocseg_lib.utils.files import write_json

FOLDER = Path(__file__).parents[1] / "results" / "pilot"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devkit", type=Path)
    devkit = parser.parse_args().devkit
    for weights, name in PILOT_WEIGHTS.items():
        predictions = predict_run(weights, devkit)
        for detection in predictions["detections"]:
            detection.pop("segmentation_uncropped", None)
        write_json(FOLDER / f"pilot_{name}.json.gz", predictions)


if __name__ == "__main__":
    main()
