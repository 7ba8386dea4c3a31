"""Options of the command line."""

import argparse
import math

import torch

from vocseg_lib.metrics.bootstrap import RESAMPLES
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE
from vocseg_lib.models import MODELS
from vocseg_lib.plots.pictures import DRAWN_SCORE
from vocseg_lib.study.recipes import LINEAGE_MODELS, RECIPES
from vocseg_lib.study.run import default_device


def device(value: str) -> str:
    """A --device that this machine has."""
    try:
        if torch.device(value).type == "cuda" and not torch.cuda.is_available():
            raise argparse.ArgumentTypeError(f"{value}: no CUDA GPU can be used here; take cpu")
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{value} is no device: {error}") from None
    return value


def hours(value: str) -> float:
    """A number above 0."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{value} is not a number of hours above 0")
    return number


def finite(value: str) -> float:
    """A number that is neither infinite nor none."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{value} is no finite number")
    return number


def share(value: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (number := finite(value)) <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return number


def positive(value: str) -> int:
    """A whole number of at least 1."""
    if not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number of at least 1")
    return int(value)


def natural(value: str) -> int:
    """A whole number of at least 0."""
    if not value.isdigit():
        raise argparse.ArgumentTypeError(f"{value} is not a whole number of at least 0")
    return int(value)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vocseg_lib",
        description="Mask R-CNN or YOLACT, and why? Train and judge both on PASCAL VOC, or on data in its layout.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    devkit = {
        "metavar": "DEVKIT",
        "help": "VOC devkit: the folder that holds JPEGImages/, or one above it",
    }

    fetch = commands.add_parser("fetch", help="download VOC 2012 (2.0 GB), check and unpack it")
    fetch.add_argument(
        "folder", nargs="?", default="data/voc2012", help="where to (default: %(default)s)"
    )

    verify = commands.add_parser(
        "verify", help="report every bad file of a devkit; exit code 1 when there is one"
    )
    verify.add_argument("devkit", **devkit)
    verify.add_argument(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="split lists to walk (default: train, val, trainval)",
    )

    importing = commands.add_parser(
        "import-coco", help="write COCO annotations of one's own images as a devkit"
    )
    importing.add_argument(
        "annotations", metavar="FILE", help="COCO annotations with masks, to train on (JSON)"
    )
    importing.add_argument(
        "--val",
        default="",
        metavar="FILE",
        help="those to judge by (default: see docs/own_data.md)",
    )
    importing.add_argument(
        "--images",
        default="",
        metavar="DIR",
        help="folder of the images (default: beside the annotations)",
    )
    importing.add_argument("--out", required=True, metavar="DIR", help="devkit to write")

    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument(
        "--profile",
        choices=RECIPES,
        default="quick",
        help="recipe to train by (default: %(default)s)",
    )
    recipe.add_argument(
        "--from",
        dest="source",
        metavar="RUN",
        help="the recipe, model and data of this run folder instead",
    )
    recipe.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="change the recipe, as in short_side=550",
    )
    recipe.add_argument(
        "--model", choices=(*MODELS, *LINEAGE_MODELS), help="needed, unless --from says it"
    )
    data = {
        "metavar": "DATA",
        "help": "VOC devkit, or COCO annotations (JSON), of which one is written into data/",
    }
    recipe.add_argument("--data", default="", **data)
    recipe.add_argument(
        "--results",
        default="",
        metavar="DIR",
        help="runs go to DIR/runs/MODEL (default: results/PROFILE)",
    )
    recipe.add_argument(
        "--weights",
        default="",
        metavar="FILE",
        help="backbone weights to start from (default: the profile's)",
    )

    train = commands.add_parser(
        "train",
        parents=[recipe],
        help="train a model, or continue its training, and judge it on val; under torchrun, on several GPUs",
    )
    train.add_argument(
        "--max-hours",
        type=hours,
        metavar="H",
        help="stop then, with a checkpoint; the same command goes on",
    )
    train.add_argument(
        "--mirror",
        default="",
        metavar="DIR",
        help="a second results folder that is kept up to date",
    )
    train.add_argument(
        "--stop-on-bad",
        action="store_true",
        help="stop at a bad sample instead of passing over and listing it",
    )
    train.add_argument(
        "--device",
        type=device,
        default=default_device(),
        help="cpu or cuda (default here: %(default)s)",
    )

    predict = commands.add_parser(
        "predict",
        help="draw a trained model's predictions, or write its prediction file of a devkit",
    )
    predict.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="run folder of a training, such as results/quick/runs/yolact",
    )
    predict.add_argument("--weights", default="", metavar="RUN", help="the same")
    predict.add_argument(
        "--image",
        nargs="+",
        default=[],
        metavar="PATH",
        help="pictures, videos, or folders of them, to draw into",
    )
    predict.add_argument(
        "--score",
        type=share,
        default=DRAWN_SCORE,
        help="draw detections from it on (default: %(default)s)",
    )
    predict.add_argument("--data", default="", **devkit)
    predict.add_argument(
        "--split", default="val", help="split of the devkit to predict (default: %(default)s)"
    )
    predict.add_argument(
        "--out",
        default="",
        metavar="PATH",
        help="folder for pictures (default: predictions), or prediction file (JSON)",
    )
    predict.add_argument(
        "--device",
        type=device,
        default=default_device(),
        help="cpu or cuda (default here: %(default)s)",
    )

    judge = commands.add_parser(
        "evaluate",
        help="judge a prediction file, from here or elsewhere: COCO's and VOC's AP, mean IoU",
    )
    judge.add_argument(
        "--predictions",
        required=True,
        metavar="FILE",
        help="prediction file, or COCO results (JSON)",
    )
    judge.add_argument(
        "--data", required=True, metavar="DATA", help="VOC devkit, or COCO ground truth (JSON)"
    )
    judge.add_argument(
        "--split",
        default="val",
        help="split of the devkit that was predicted (default: %(default)s)",
    )
    judge.add_argument(
        "--score",
        type=float,
        default=SEMANTIC_SCORE,
        help="of what is painted for mean IoU (default: %(default)s)",
    )
    judge.add_argument(
        "--resamples",
        type=natural,
        default=RESAMPLES,
        help="of the bootstrap for the intervals; 0: none (default: %(default)s)",
    )
    judge.add_argument("--out", metavar="FILE", help="also write the figures as JSON")

    export = commands.add_parser(
        "export-coco", help="write a devkit's instances as COCO ground truth (JSON)"
    )
    export.add_argument("devkit", **devkit)
    export.add_argument("--split", default="val", help="split to write (default: %(default)s)")
    export.add_argument("--out", required=True, metavar="FILE", help="file to write (JSON)")

    fails = commands.add_parser(
        "failures",
        help="what goes wrong in prediction files: error types, what they cost in AP, gallery",
    )
    fails.add_argument(
        "--predictions",
        required=True,
        nargs="+",
        metavar="FILE",
        help="one or two prediction files (JSON)",
    )
    fails.add_argument(
        "--data", required=True, metavar="DATA", help="VOC devkit, or COCO ground truth (JSON)"
    )
    fails.add_argument("--split", default="val", help="split of a devkit (default: %(default)s)")
    fails.add_argument(
        "--score",
        type=finite,
        default=0.0,
        metavar="S",
        help="count detections from this score on (default: all)",
    )
    fails.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change a threshold, as in leaked=0.3",
    )
    fails.add_argument(
        "--out", default="", metavar="FILE", help="write the tables and all cases as JSON"
    )
    fails.add_argument(
        "--gallery",
        default="",
        metavar="FILE",
        help="write the worst cases as an HTML page of its own",
    )
    fails.add_argument(
        "--images",
        default="",
        metavar="DIR",
        help="folder of the pictures (default: those of the devkit)",
    )

    words = commands.add_parser(
        "describe", help="images in words, as predicted and as they are, and as scene graphs (JSON)"
    )
    words.add_argument(
        "--predictions", required=True, metavar="FILE", help="prediction file with masks (JSON)"
    )
    words.add_argument(
        "--data", required=True, metavar="DATA", help="VOC devkit, or COCO ground truth (JSON)"
    )
    words.add_argument("--split", default="val", help="split of a devkit (default: %(default)s)")
    words.add_argument(
        "--score",
        type=share,
        default=0.5,
        help="of what is described, at least (default: %(default)s)",
    )
    words.add_argument(
        "--image",
        nargs="+",
        default=[],
        metavar="NAME",
        help="which images, by file name (default: all)",
    )
    words.add_argument("--out", default="", metavar="FILE", help="write the scene graphs as JSON")
    return parser
