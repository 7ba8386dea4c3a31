"""The command line: `python -m vocseg_lib fetch|verify|train|predict|evaluate|bench`."""

import argparse
import sys
from pathlib import Path

import torch

from vocseg_lib import bench, mini_voc, voc
from vocseg_lib.files import read_json, write_json
from vocseg_lib.metrics import check_images, evaluate
from vocseg_lib.models import MODELS, WeightsError
from vocseg_lib.prediction import load_predictions, save_predictions
from vocseg_lib.recipes import PROFILES
from vocseg_lib.study import default_device, open_study, predict_run
from vocseg_lib.training import ChangedSettings, NonFiniteLoss

USER_ERRORS = (OSError, ValueError, voc.BadSample, voc.FetchError, WeightsError, ChangedSettings, NonFiniteLoss)


def device(value: str) -> str:
    """A --device that this machine has."""
    try:
        if torch.device(value).type == "cuda" and not torch.cuda.is_available():
            raise argparse.ArgumentTypeError(f"{value}: no CUDA GPU can be used here; take cpu")
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{value} is no device: {error}") from None
    return value


def positive(value: str) -> int:
    """A whole number of at least 1."""
    if not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number of at least 1")
    return int(value)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vocseg_lib",
        description="Mask R-CNN or YOLACT, and why? Train and judge both on PASCAL VOC, or on data in its layout.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    devkit = {"metavar": "DEVKIT", "help": "VOC devkit: the folder that holds JPEGImages/, or one above it"}

    fetch = commands.add_parser("fetch", help="download VOC 2012 (2.0 GB), check and unpack it")
    fetch.add_argument("folder", nargs="?", default="data/voc2012", help="where to (default: %(default)s)")

    verify = commands.add_parser("verify", help="report every bad file of a devkit; exit code 1 when there is one")
    verify.add_argument("devkit", **devkit)
    verify.add_argument("--splits", nargs="+", metavar="SPLIT", help="split lists to walk (default: train, val, trainval)")

    train = commands.add_parser("train", help="train a model, or continue its training, and judge it on val")
    train.add_argument("--profile", choices=PROFILES, default="quick", help="recipe to train by (default: %(default)s)")
    train.add_argument("--model", choices=MODELS, required=True)
    train.add_argument("--data", default="", **devkit)
    train.add_argument("--results", default="", metavar="DIR", help="the run goes to DIR/runs/MODEL (default: results/PROFILE)")
    train.add_argument("--weights", default="", metavar="FILE", help="backbone weights to start from (default: the profile's)")
    train.add_argument("--stop-on-bad", action="store_true", help="stop at a bad sample instead of passing over and listing it")
    train.add_argument("--device", type=device, default=default_device(), help="cpu or cuda (default here: %(default)s)")

    predict = commands.add_parser("predict", help="write the prediction file of a trained model")
    predict.add_argument("run", metavar="RUN", help="run folder of a training, such as results/quick/runs/yolact")
    predict.add_argument("--data", required=True, **devkit)
    predict.add_argument("--split", default="val", help="split to predict (default: %(default)s)")
    predict.add_argument("--out", required=True, metavar="FILE", help="prediction file to write (JSON)")
    predict.add_argument("--device", type=device, default=default_device(), help="cpu or cuda (default here: %(default)s)")

    judge = commands.add_parser("evaluate", help="COCO AP of a prediction file, for masks and boxes")
    judge.add_argument("predictions", metavar="FILE", help="prediction file, or COCO results with RLE masks")
    judge.add_argument("--data", required=True, **devkit)
    judge.add_argument("--split", default="val", help="split that was predicted (default: %(default)s)")
    judge.add_argument("--out", metavar="FILE", help="also write the figures as JSON")

    bench = commands.add_parser("bench", help="speed and memory, as ratios to torchvision's ResNet-50 body")
    bench.add_argument("--data", default="", metavar="DEVKIT", help="for the data path (default: drawn images)")
    bench.add_argument("--out", default="results/bench.json", metavar="FILE", help="figures as JSON (default: %(default)s)")
    bench.add_argument("--table", default="", metavar="FILE", help="measure nothing; print the figures of FILE as a Markdown table")
    bench.add_argument(
        "--repeats", type=positive, default=9, help="timings a figure, of which the median is taken (default: %(default)s)"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; the exit code."""
    if arguments.command == "fetch":
        print(voc.fetch(arguments.folder))
    elif arguments.command == "verify":
        problems = voc.verify(arguments.devkit, arguments.splits)
        print(*problems, f"{len(problems)} problems in {arguments.devkit}", sep="\n")
        return 1 if problems else 0
    elif arguments.command == "train":
        study = open_study(arguments.profile, arguments.data, arguments.results, arguments.weights)
        state = study.train(arguments.model, skip_bad=not arguments.stop_on_bad, device=arguments.device)
        print(f"{arguments.model}: best mask AP50 {state['best']['mask_AP50']:.1f} at iteration {state['best']['iteration']}")
        print(f"run folder: {study.run_folder(arguments.model)}")
    elif arguments.command == "predict":
        save_predictions(arguments.out, predict_run(arguments.run, arguments.data, arguments.split, arguments.device))
        print(arguments.out)
    elif arguments.command == "bench":
        if arguments.table:
            print(bench.markdown(read_json(Path(arguments.table))))
            return 0
        devkit = voc.find_devkit(arguments.data) if arguments.data else mini_voc.write(Path("data") / "mini_voc")
        figures = bench.measure(devkit, arguments.repeats)
        print(bench.table(figures).round(3).fillna("").to_string(index=False))
        write_json(Path(arguments.out), bench.report(figures))
        print(arguments.out)
    else:
        truth, predictions = voc.coco_ground_truth(arguments.data, arguments.split), load_predictions(arguments.predictions)
        check_images(truth, predictions["header"])
        result = evaluate(truth, predictions["detections"])
        print(result.per_class.round(1).to_string(index=False), "", sep="\n")
        print(*(f"{name:10} {value:6.2f}" for name, value in result.summary.items()), sep="\n")
        if arguments.out:
            write_json(Path(arguments.out), {**result.summary, "per_class": result.per_class.to_dict("records")})
    return 0


def main() -> int:
    arguments = build_parser().parse_args()
    try:
        return run(arguments)
    except USER_ERRORS as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
