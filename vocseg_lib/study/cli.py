"""The command line: `python -m vocseg_lib COMMAND`; `--help` lists the commands."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from vocseg_lib.data.coco_convert import coco_to_voc, voc_to_coco
from vocseg_lib.data.download import FetchError, fetch
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import BadSample
from vocseg_lib.engine.predict import save_predictions
from vocseg_lib.engine.run_folder import RunningElsewhere
from vocseg_lib.engine.train import NonFiniteLoss, Session, TooManyBadSamples, WorkerDied
from vocseg_lib.failures.mask_errors import parse_thresholds
from vocseg_lib.failures.scene_text import describe_with_errors, resolve_image_names
from vocseg_lib.failures.tables import coverage_of_boxes
from vocseg_lib.metrics.bootstrap import add_intervals, bootstrap, bootstrap_weights
from vocseg_lib.metrics.coco_eval import metrics_table
from vocseg_lib.models import MODELS
from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.plots.gallery import Gallery
from vocseg_lib.plots.gallery_page import export_page
from vocseg_lib.plots.pictures import draw_predictions
from vocseg_lib.study.open import open_study, reproduce
from vocseg_lib.study.recipes import parse_changes
from vocseg_lib.study.results import open_files
from vocseg_lib.study.run import load_visualizer, predict_run
from vocseg_lib.study.train import train_model
from vocseg_lib.utils import distributed
from vocseg_lib.utils.files import to_jsonable, write_json

TRAINING_ERRORS = (NonFiniteLoss, RunningElsewhere, TooManyBadSamples, WorkerDied)
USER_ERRORS = (
    OSError,
    ValueError,
    ModuleNotFoundError,
    BadSample,
    FetchError,
    WeightsError,
    *TRAINING_ERRORS,
)


def train(arguments: argparse.Namespace, device: str) -> None:
    changes = parse_changes(arguments.set)
    if arguments.weights:
        changes["weights"] = arguments.weights
    if arguments.source:
        study, model_name = reproduce(arguments.source, arguments.data, arguments.results, changes)
        model_name = arguments.model or model_name
    elif not arguments.model:
        raise ValueError(f"--model is required: {' or '.join(MODELS)}")
    else:
        study = open_study(arguments.profile, arguments.data, arguments.results, changes=changes)
        model_name = arguments.model
    mirror = Path(arguments.mirror) if arguments.mirror else None
    session = Session(device=device, max_hours=arguments.max_hours, mirror=mirror)
    state = train_model(study, model_name, skip_bad=not arguments.stop_on_bad, session=session)
    if distributed.rank():
        return
    if best := state["best"]:
        print(f"{model_name}: best mask AP50 {best['mask_AP50']:.1f} at {best['iteration']}")
    if state["stopped"]:
        print(f"stopped at iteration {state['iteration']}: {state['stopped']}")
    print(f"run folder: {study.run_folder(model_name)}")


def judge(arguments: argparse.Namespace) -> None:
    """Print a prediction file's figures, and write them."""
    results = open_files([arguments.predictions], arguments.data, split=arguments.split)
    (result,) = results.evaluations.values()
    table = metrics_table(result, arguments.score)
    if arguments.resamples:
        weights = bootstrap_weights(len(result.ground_truth["images"]), arguments.resamples)
        table = add_intervals(table, bootstrap(result, weights))
    print(result.per_class.round(1).to_string(index=False), "", sep="\n")
    overall = table[table["class"] == "all"].drop(columns="class")
    print(overall.to_string(index=False, na_rep="", float_format="{:.2f}".format))
    if arguments.out:
        figures = {f"{row.kind}_{row.metric}": row.value for row in overall.itertuples()}
        content = {
            **figures,
            "per_class": result.per_class.to_dict("records"),
            "table": table.to_dict("records"),
        }
        write_json(Path(arguments.out), to_jsonable(content))
        print(arguments.out)


def show_failures(arguments: argparse.Namespace) -> None:
    """Print what goes wrong in one or two prediction files, and write it."""
    if len(arguments.predictions) > 2:
        raise ValueError(
            f"{len(arguments.predictions)} prediction files: one or two can be shown beside one another"
        )
    if len(set(arguments.predictions)) < len(arguments.predictions):
        raise ValueError(
            f"--predictions has {arguments.predictions[0]} twice: nothing could be told apart"
        )
    thresholds = parse_thresholds(arguments.set)
    images = arguments.images or ("" if arguments.data.endswith(".json") else arguments.data)
    if arguments.gallery and not images:
        raise ValueError(
            "where are the pictures? Say --images DIR, as --data is COCO ground truth and no devkit"
        )
    analyses = open_files(arguments.predictions, arguments.data, split=arguments.split).analyses(
        arguments.score, thresholds
    )
    for title, analysis in analyses.items():
        table = coverage_of_boxes(analysis.table).drop(columns=["class", "size"])
        print(
            f"{title}: {len(analysis.counted.detections)} detections, {len(analysis.counted.objects)} objects"
        )
        print(table.to_string(index=False, na_rep="", float_format="{:.2f}".format), "", sep="\n")
    if arguments.out:
        content = {
            title: {
                "table": a.table.to_dict("records"),
                "cases": a.cases.drop(columns="place").to_dict("records"),
            }
            for title, a in analyses.items()
        }
        write_json(
            Path(arguments.out),
            to_jsonable(
                {"thresholds": asdict(thresholds), "score": arguments.score, "models": content}
            ),
        )
        print(arguments.out)
    if arguments.gallery:
        page, about = export_page(Gallery(analyses, images), arguments.gallery)
        print(about, page, sep="\n")


def describe(arguments: argparse.Namespace) -> None:
    """Print images in words, with what went wrong beside each sentence, and write their scene graphs."""
    results = open_files([arguments.predictions], arguments.data, split=arguments.split)
    (analysis,) = results.analyses(arguments.score).values()
    ids = {
        str(Path(image.get("file_name", str(image["id"]))).with_suffix("")): image["id"]
        for image in analysis.dataset_eval.images
    }
    meant = {asked: resolve_image_names(asked, ids) for asked in arguments.image}
    if unknown := [asked for asked, names in meant.items() if not names]:
        raise ValueError(
            f"{arguments.data} has no image {', '.join(unknown)} in its {arguments.split}"
        )
    graphs = {}
    for name in dict.fromkeys(name for names in meant.values() for name in names) or ids:
        described, told = describe_with_errors(analysis, ids[name])
        graphs[name] = {source: description.graph for source, description in described.items()}
        for source, lines in told.groupby("source", sort=False):
            wrong = [
                f"{line.sentence} [{line.failures}]" if line.failures else line.sentence
                for line in lines.itertuples()
            ]
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
        raise ValueError(
            "of what? Say --image PATH, to draw into pictures, or --data DEVKIT, to write a prediction file"
        )
    if arguments.data:
        if not arguments.out:
            raise ValueError("where to? Say --out FILE, the prediction file to write")
        save_predictions(
            arguments.out, predict_run(run, arguments.data, arguments.split, arguments.device)
        )
        print(arguments.out)
        return 0
    painter, read, skipped = load_visualizer(run, arguments.score, arguments.device), 0, []
    for file, written, said in draw_predictions(
        painter, arguments.image, arguments.out or "predictions"
    ):
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
        print(fetch(arguments.folder))
    elif arguments.command == "verify":
        problems = verify(arguments.devkit, arguments.splits)
        print(*problems, f"{len(problems)} problems in {arguments.devkit}", sep="\n")
        return 1 if problems else 0
    elif arguments.command == "import-coco":
        print(coco_to_voc(arguments.annotations, arguments.out, arguments.val, arguments.images))
    elif arguments.command == "train":
        with distributed.process_group(arguments.device) as here:
            train(arguments, here)
    elif arguments.command == "predict":
        return predict(arguments)
    elif arguments.command == "export-coco":
        truth = voc_to_coco(arguments.devkit, arguments.split)
        write_json(Path(arguments.out), truth)
        print(
            f"{len(truth['images'])} images, {len(truth['annotations'])} objects: {arguments.out}"
        )
    elif arguments.command == "failures":
        show_failures(arguments)
    elif arguments.command == "describe":
        describe(arguments)
    else:
        judge(arguments)
    return 0
