"""The command line: `python -m vocseg_lib COMMAND`; `--help` lists the commands."""

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from vocseg_lib import bench, distributed, mini_voc, report, smoke, voc
from vocseg_lib.bench import PARTS as BENCH_PARTS
from vocseg_lib.description import beside_truth, meant_by
from vocseg_lib.estimate import GPUS, in_words
from vocseg_lib.failures.analysis import overall
from vocseg_lib.failures.mask_failures import parse_thresholds
from vocseg_lib.files import read_json, without_nan, write_json
from vocseg_lib.gallery import Gallery
from vocseg_lib.gallery_page import export_page
from vocseg_lib.judged import analysed_files, judged_files
from vocseg_lib.metrics import PAINT_THRESHOLD, metrics_table
from vocseg_lib.models import MODELS, WeightsError
from vocseg_lib.pictures import DRAWN_SCORE, Painter, draw_predictions
from vocseg_lib.prediction import save_predictions
from vocseg_lib.recipes import PROFILES, parse_changes
from vocseg_lib.runs import RunningElsewhere
from vocseg_lib.study import Study, open_study, repeated
from vocseg_lib.trained import LINEAGE, default_device, predict_run
from vocseg_lib.training import NonFiniteLoss, TooManyBadSamples, WorkerDied
from vocseg_lib.uncertainty import RESAMPLES, bootstrap, bounded, resampled_weights

TRAINING_ERRORS = (NonFiniteLoss, RunningElsewhere, TooManyBadSamples, WorkerDied)
USER_ERRORS = (OSError, ValueError, ModuleNotFoundError, voc.BadSample, voc.FetchError, WeightsError, *TRAINING_ERRORS)


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
    devkit = {"metavar": "DEVKIT", "help": "VOC devkit: the folder that holds JPEGImages/, or one above it"}

    fetch = commands.add_parser("fetch", help="download VOC 2012 (2.0 GB), check and unpack it")
    fetch.add_argument("folder", nargs="?", default="data/voc2012", help="where to (default: %(default)s)")

    verify = commands.add_parser("verify", help="report every bad file of a devkit; exit code 1 when there is one")
    verify.add_argument("devkit", **devkit)
    verify.add_argument("--splits", nargs="+", metavar="SPLIT", help="split lists to walk (default: train, val, trainval)")

    importing = commands.add_parser("import-coco", help="write COCO annotations of one's own images as a devkit")
    importing.add_argument("annotations", metavar="FILE", help="COCO annotations with masks, to train on (JSON)")
    importing.add_argument("--val", default="", metavar="FILE", help="those to judge by (default: see docs/own_data.md)")
    importing.add_argument("--images", default="", metavar="DIR", help="folder of the images (default: beside the annotations)")
    importing.add_argument("--out", required=True, metavar="DIR", help="devkit to write")

    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument("--profile", choices=PROFILES, default="quick", help="recipe to train by (default: %(default)s)")
    recipe.add_argument("--from", dest="source", metavar="RUN", help="the recipe, model and data of this run folder instead")
    recipe.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change the recipe, as in short_side=550")
    recipe.add_argument("--model", choices=(*MODELS, *LINEAGE), help="needed, unless --from says it")
    data = {"metavar": "DATA", "help": "VOC devkit, or COCO annotations (JSON), of which one is written into data/"}
    recipe.add_argument("--data", default="", **data)
    recipe.add_argument("--results", default="", metavar="DIR", help="runs go to DIR/runs/MODEL (default: results/PROFILE)")
    recipe.add_argument("--weights", default="", metavar="FILE", help="backbone weights to start from (default: the profile's)")

    train = commands.add_parser(
        "train",
        parents=[recipe],
        help="train a model, or continue its training, and judge it on val; under torchrun, on several GPUs",
    )
    train.add_argument("--max-hours", type=hours, metavar="H", help="stop then, with a checkpoint; the same command goes on")
    train.add_argument("--mirror", default="", metavar="DIR", help="a second results folder that is kept up to date")
    train.add_argument("--accept-changes", action="store_true", help="go on from the weights of a run with another recipe")
    train.add_argument("--stop-on-bad", action="store_true", help="stop at a bad sample instead of passing over and listing it")
    train.add_argument("--device", type=device, default=default_device(), help="cpu or cuda (default here: %(default)s)")

    estimate = commands.add_parser("estimate", parents=[recipe], help="time and memory of a training, by arithmetic")
    estimate.add_argument("--gpu", choices=GPUS, help="reckon for this card (default: for the device here)")

    predict = commands.add_parser("predict", help="draw a trained model's predictions, or write its prediction file of a devkit")
    predict.add_argument("run", nargs="?", metavar="RUN", help="run folder of a training, such as results/quick/runs/yolact")
    predict.add_argument("--weights", default="", metavar="RUN", help="the same")
    predict.add_argument(
        "--image", nargs="+", default=[], metavar="PATH", help="pictures, videos, or folders of them, to draw into"
    )
    predict.add_argument("--score", type=share, default=DRAWN_SCORE, help="draw detections from it on (default: %(default)s)")
    predict.add_argument("--data", default="", **devkit)
    predict.add_argument("--split", default="val", help="split of the devkit to predict (default: %(default)s)")
    predict.add_argument(
        "--out", default="", metavar="PATH", help="folder for pictures (default: predictions), or prediction file (JSON)"
    )
    predict.add_argument("--device", type=device, default=default_device(), help="cpu or cuda (default here: %(default)s)")

    judge = commands.add_parser("evaluate", help="judge a prediction file, from here or elsewhere: COCO's and VOC's AP, mean IoU")
    judge.add_argument("--predictions", required=True, metavar="FILE", help="prediction file, or COCO results (JSON)")
    judge.add_argument("--data", required=True, metavar="DATA", help="VOC devkit, or COCO ground truth (JSON)")
    judge.add_argument("--split", default="val", help="split of the devkit that was predicted (default: %(default)s)")
    judge.add_argument(
        "--score", type=float, default=PAINT_THRESHOLD, help="of what is painted for mean IoU (default: %(default)s)"
    )
    judge.add_argument(
        "--resamples", type=natural, default=RESAMPLES, help="of the bootstrap for the intervals; 0: none (default: %(default)s)"
    )
    judge.add_argument("--out", metavar="FILE", help="also write the figures as JSON")

    export = commands.add_parser("export-coco", help="write a devkit's instances as COCO ground truth (JSON)")
    export.add_argument("devkit", **devkit)
    export.add_argument("--split", default="val", help="split to write (default: %(default)s)")
    export.add_argument("--out", required=True, metavar="FILE", help="file to write (JSON)")

    fails = commands.add_parser("failures", help="what goes wrong in prediction files: error types, what they cost in AP, gallery")
    fails.add_argument("--predictions", required=True, nargs="+", metavar="FILE", help="one or two prediction files (JSON)")
    fails.add_argument("--data", required=True, metavar="DATA", help="VOC devkit, or COCO ground truth (JSON)")
    fails.add_argument("--split", default="val", help="split of a devkit (default: %(default)s)")
    fails.add_argument("--score", type=finite, default=0.0, metavar="S", help="count detections from this score on (default: all)")
    fails.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change a threshold, as in leaked=0.3")
    fails.add_argument("--out", default="", metavar="FILE", help="write the tables and all cases as JSON")
    fails.add_argument("--gallery", default="", metavar="FILE", help="write the worst cases as an HTML page of its own")
    fails.add_argument("--images", default="", metavar="DIR", help="folder of the pictures (default: those of the devkit)")

    words = commands.add_parser("describe", help="images in words, as predicted and as they are, and as scene graphs (JSON)")
    words.add_argument("--predictions", required=True, metavar="FILE", help="prediction file with masks (JSON)")
    words.add_argument("--data", required=True, metavar="DATA", help="VOC devkit, or COCO ground truth (JSON)")
    words.add_argument("--split", default="val", help="split of a devkit (default: %(default)s)")
    words.add_argument("--score", type=share, default=0.5, help="of what is described, at least (default: %(default)s)")
    words.add_argument("--image", nargs="+", default=[], metavar="NAME", help="which images, by file name (default: all)")
    words.add_argument("--out", default="", metavar="FILE", help="write the scene graphs as JSON")

    bench = commands.add_parser("bench", help="speed and memory, as ratios to torchvision's ResNet-50 body")
    bench.add_argument("--data", default="", metavar="DEVKIT", help="for the data path (default: drawn images)")
    bench.add_argument("--out", default="results/bench.json", metavar="FILE", help="figures as JSON (default: %(default)s)")
    bench.add_argument("--table", default="", metavar="FILE", help="measure nothing; print the figures of FILE as a Markdown table")
    bench.add_argument(
        "--repeats", type=positive, default=9, help="timings a figure, of which the median is taken (default: %(default)s)"
    )
    bench.add_argument("--only", choices=BENCH_PARTS, default="", help="measure this part, and keep the other figures of --out")
    reporting = commands.add_parser(
        "report", help="what the notebooks found, as one JSON file with small figures, and pages filled from it"
    )
    reporting.add_argument("results", metavar="RESULTS", help="results folder of a study whose notebooks were run")
    reporting.add_argument(
        "--pages", action="store_true", help="fill docs/findings.md and README.md here from its report.json instead"
    )
    smoke = commands.add_parser("smoke", help="a few iterations of both models in each precision: speed, memory, losses")
    smoke.add_argument("--profile", choices=PROFILES, default="paper", help="recipe (default: %(default)s)")
    smoke.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change the recipe, as in batch_size=16")
    smoke.add_argument("--data", default="", **devkit)
    smoke.add_argument("--iterations", type=positive, default=60, help="updates a run (default: %(default)s)")
    smoke.add_argument("--out", default="results/gpu_smoke.json", metavar="FILE", help="figures as JSON (default: %(default)s)")
    smoke.add_argument("--device", type=device, default=default_device(), help="cpu or cuda (default here: %(default)s)")
    return parser


def open_for_training(arguments: argparse.Namespace) -> tuple[Study, str]:
    """The study and the name of the model that `train` or `estimate` is asked for."""
    changes = parse_changes(arguments.set) | ({"weights": arguments.weights} if arguments.weights else {})
    if arguments.source:
        study, model_name = repeated(arguments.source, arguments.data, arguments.results, changes)
        return study, arguments.model or model_name
    if not arguments.model:
        raise ValueError(f"which model? Say --model {' or --model '.join(MODELS)}")
    return open_study(arguments.profile, arguments.data, arguments.results, changes=changes), arguments.model


def train(arguments: argparse.Namespace, device: str) -> None:
    study, model_name = open_for_training(arguments)
    state = study.train(
        model_name,
        skip_bad=not arguments.stop_on_bad,
        device=device,
        max_hours=arguments.max_hours,
        mirror=arguments.mirror,
        accept_changes=arguments.accept_changes,
    )
    if distributed.rank():
        return
    best = state["best"]
    if best:
        print(f"{model_name}: best mask AP50 {best['mask_AP50']:.1f} at iteration {best['iteration']}")
    if state["stopped"] == "max_hours":
        print(f"stopped after {arguments.max_hours:g} h at iteration {state['iteration']}; the same command goes on from there")
    elif state["stopped"] == "patience":
        print(f"stopped at iteration {state['iteration']}: no better score for {study.recipe.patience} times")
    print(f"run folder: {study.run_folder(model_name)}")


def judge(arguments: argparse.Namespace) -> None:
    """Print a prediction file's figures, and write them."""
    _, judged = judged_files([arguments.predictions], arguments.data, split=arguments.split)
    (result,) = judged.values()
    table = metrics_table(result, arguments.score)
    if arguments.resamples:
        weights = resampled_weights(len(result.ground_truth["images"]), arguments.resamples)
        table = bounded(table, bootstrap(result, weights))
    print(result.per_class.round(1).to_string(index=False), "", sep="\n")
    overall = table[table["class"] == "all"].drop(columns="class")
    print(overall.to_string(index=False, na_rep="", float_format="{:.2f}".format))
    if arguments.out:
        figures = {f"{row.kind}_{row.metric}": row.value for row in overall.itertuples()}
        content = {**figures, "per_class": result.per_class.to_dict("records"), "table": table.to_dict("records")}
        write_json(Path(arguments.out), without_nan(content))
        print(arguments.out)


def show_failures(arguments: argparse.Namespace) -> None:
    """Print what goes wrong in one or two prediction files, and write it."""
    if len(arguments.predictions) > 2:
        raise ValueError(f"{len(arguments.predictions)} prediction files: one or two can be shown beside one another")
    if len(set(arguments.predictions)) < len(arguments.predictions):
        raise ValueError(f"--predictions has {arguments.predictions[0]} twice: nothing could be told apart")
    thresholds = parse_thresholds(arguments.set)
    images = arguments.images or ("" if arguments.data.endswith(".json") else arguments.data)
    if arguments.gallery and not images:
        raise ValueError("where are the pictures? Say --images DIR, as --data is COCO ground truth and no devkit")
    analyses = analysed_files(arguments.predictions, arguments.data, arguments.split, arguments.score, thresholds)
    for title, analysis in analyses.items():
        table = overall(analysis.table).drop(columns=["class", "size"])
        print(f"{title}: {len(analysis.counted.detections)} detections, {len(analysis.counted.objects)} objects")
        print(table.to_string(index=False, na_rep="", float_format="{:.2f}".format), "", sep="\n")
    if arguments.out:
        content = {
            title: {"table": a.table.to_dict("records"), "cases": a.cases.drop(columns="place").to_dict("records")}
            for title, a in analyses.items()
        }
        write_json(
            Path(arguments.out), without_nan({"thresholds": asdict(thresholds), "score": arguments.score, "models": content})
        )
        print(arguments.out)
    if arguments.gallery:
        page, about = export_page(Gallery(analyses, images), arguments.gallery)
        print(about, page, sep="\n")


def describe(arguments: argparse.Namespace) -> None:
    """Print images in words, with what went wrong beside each sentence, and write their scene graphs."""
    (analysis,) = analysed_files([arguments.predictions], arguments.data, arguments.split, arguments.score).values()
    ids = {str(Path(image.get("file_name", str(image["id"]))).with_suffix("")): image["id"] for image in analysis.scenes.images}
    meant = {asked: meant_by(asked, ids) for asked in arguments.image}
    if unknown := [asked for asked, names in meant.items() if not names]:
        raise ValueError(f"{arguments.data} has no image {', '.join(unknown)} in its {arguments.split}")
    graphs = {}
    for name in dict.fromkeys(name for names in meant.values() for name in names) or ids:
        described, told = beside_truth(analysis, ids[name])
        graphs[name] = {source: description.graph for source, description in described.items()}
        for source, lines in told.groupby("source", sort=False):
            wrong = [f"{line.sentence} [{line.failures}]" if line.failures else line.sentence for line in lines.itertuples()]
            print(f"{name}, {source}: {' '.join(wrong)}")
    if arguments.out:
        write_json(Path(arguments.out), graphs)
        print(arguments.out)


def predict(arguments: argparse.Namespace) -> int:
    """Draw what a trained model finds, or write its prediction file; 1 when no picture could be read."""
    run = arguments.weights or arguments.run
    if not run:
        raise ValueError("with which model? Say --weights RUN, the run folder of a training")
    if bool(arguments.image) == bool(arguments.data):
        raise ValueError("of what? Say --image PATH, to draw into pictures, or --data DEVKIT, to write a prediction file")
    if arguments.data:
        if not arguments.out:
            raise ValueError("where to? Say --out FILE, the prediction file to write")
        save_predictions(arguments.out, predict_run(run, arguments.data, arguments.split, arguments.device))
        print(arguments.out)
        return 0
    painter, read, skipped = Painter.of_run(run, arguments.score, arguments.device), 0, []
    for file, written, said in draw_predictions(painter, arguments.image, arguments.out or "predictions"):
        if written:
            read += 1
            tqdm.write(f"{file}: {said} -> {written}")
        else:
            skipped.append(said)
    if skipped:
        print(f"passed over {len(skipped)} files:", *skipped, sep="\n  ", file=sys.stderr)
    return 0 if read else 1


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; the exit code."""
    if arguments.command == "fetch":
        print(voc.fetch(arguments.folder))
    elif arguments.command == "verify":
        problems = voc.verify(arguments.devkit, arguments.splits)
        print(*problems, f"{len(problems)} problems in {arguments.devkit}", sep="\n")
        return 1 if problems else 0
    elif arguments.command == "import-coco":
        print(voc.write_from_coco(arguments.annotations, arguments.out, arguments.val, arguments.images))
    elif arguments.command == "train":
        with distributed.joined(arguments.device) as here:
            train(arguments, here)
    elif arguments.command == "estimate":
        study, model_name = open_for_training(arguments)
        print(f"{model_name}: {in_words(study.estimate(model_name, gpu=arguments.gpu))}")
    elif arguments.command == "smoke":
        study = open_study(arguments.profile, arguments.data, changes=parse_changes(arguments.set))
        print(smoke.measure(study, arguments.iterations, arguments.device, Path(arguments.out)).to_string(index=False))
        print(arguments.out)
    elif arguments.command == "predict":
        return predict(arguments)
    elif arguments.command == "bench":
        if arguments.table:
            print(bench.markdown(read_json(Path(arguments.table))))
            return 0
        devkit = voc.find_devkit(arguments.data) if arguments.data else mini_voc.write(Path("data") / "mini_voc")
        out = Path(arguments.out)
        before = read_json(out)["details"] if arguments.only and out.is_file() else {}
        figures = before | bench.measure(devkit, arguments.repeats, arguments.only)
        print(bench.table(figures).round(3).fillna("").to_string(index=False))
        write_json(out, bench.report(figures))
        print(arguments.out)
    elif arguments.command == "report":
        folder = Path(arguments.results)
        if arguments.pages and (folder / report.LINEAGE).is_file() and not (folder / report.REPORT).is_file():
            print(*report.write_lineage_page(read_json(folder / report.LINEAGE), Path()), sep="\n")
        elif arguments.pages:
            print(*report.write_pages(read_json(folder / report.REPORT), Path()), sep="\n")
        else:
            print(*report.write(folder), sep="\n")
    elif arguments.command == "export-coco":
        truth = voc.coco_ground_truth(arguments.devkit, arguments.split)
        write_json(Path(arguments.out), truth)
        print(f"{len(truth['images'])} images, {len(truth['annotations'])} objects: {arguments.out}")
    elif arguments.command == "failures":
        show_failures(arguments)
    elif arguments.command == "describe":
        describe(arguments)
    else:
        judge(arguments)
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
