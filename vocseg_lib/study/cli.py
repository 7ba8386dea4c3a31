"""The command line: `python -m vocseg_lib COMMAND` or `vocseg COMMAND`; `--help` lists them.

Heavy packages are imported inside the commands, after their arguments have been checked.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vocseg_lib.failures.config import Thresholds
from vocseg_lib.study import cli_options as cli
from vocseg_lib.study.cli_options import Data, Devkit, Predictions, Split, number, text, texts
from vocseg_lib.study.recipes import MODEL_TITLES, RECIPE_FIELDS, get_recipe, parse_assignments


@cli.command("fetch")
def fetch_command(
    folder: Annotated[str, typer.Argument(help="folder to write to")] = "data/voc2012",
) -> None:
    """Download VOC 2012 (2.0 GB), check and unpack it."""
    from vocseg_lib.data.download import fetch

    print(fetch(folder))


@cli.command("verify")
def verify_command(
    data: cli.AnyData,
    splits: texts("splits to read; default: train, val, trainval", "SPLIT") = (),
    images: cli.ImageFolder = "",
) -> None:
    """Report every problem of a devkit or COCO file; exit code 1 if there is one."""
    cli.require(data, images)
    from vocseg_lib.data.classes import class_names
    from vocseg_lib.data.coco_convert import verify_coco
    from vocseg_lib.data.verify import verify
    from vocseg_lib.data.voc import find_devkit

    is_json = Path(data).suffix.lower() == ".json"
    if splits if is_json else images:
        raise ValueError("--splits is for devkits, --images for COCO annotations (JSON)")
    if is_json:
        problems, notes = verify_coco(data, images=images)
    else:
        problems, names = verify(data, splits or None), class_names(find_devkit(data))
        notes = ["classes: " + ", ".join(f"{k} {name}" for k, name in enumerate(names, 1))]
    lines = [*notes, *(f"{bad.kind}: {bad}" for bad in problems)]
    print(*lines, f"{len(problems)} problems in {data}", sep="\n")
    raise typer.Exit(1 if problems else 0)


@cli.command("import-coco")
def import_coco(
    annotations: Annotated[
        str, typer.Argument(metavar="FILE", help="COCO annotations with masks (JSON) for train")
    ],
    out: text("devkit to write", "DIR"),
    val: text("those for val; default: see docs/own_data.md", "FILE") = "",
    images: cli.ImageFolder = "",
    crowds_as_objects: cli.CrowdsAsObjects = False,
) -> None:
    """Write images with COCO annotations as a devkit."""
    cli.require(annotations, val, images)
    from vocseg_lib.data.coco_convert import coco_to_voc

    print(coco_to_voc(annotations, out, val, images, crowds_as_objects))


@cli.command("export-coco")
def export_coco(
    devkit: Devkit, out: text("file to write (JSON)", "FILE"), split: Split = "val"
) -> None:
    """Write a devkit's instances as COCO ground truth (JSON)."""
    cli.check_output(out, b'{"info": {"devkit"')
    cli.require(devkit)
    from vocseg_lib.data.coco_convert import voc_to_coco
    from vocseg_lib.utils.files import write_json

    content = voc_to_coco(devkit, split)
    write_json(Path(out), content)
    print(f"{len(content['images'])} images, {len(content['annotations'])} objects: {out}")


@cli.command("train")
@cli.takes(cli.TrainOptions)
def train_command(options: cli.TrainOptions) -> None:
    """Train a model, or resume its training, and evaluate it on val; torchrun: on several GPUs."""
    source, hours, weights = options.source, options.max_hours, options.weights
    if not options.model and not source:
        raise ValueError(f"--model is required: {' or '.join(MODEL_TITLES)}")
    if hours is not None and not hours > 0:
        raise ValueError(f"--max-hours must be above 0, got {hours}")
    if source and options.profile:
        problem = f"--profile {options.profile}: --from {source} has its own recipe"
        raise ValueError(f"{problem}; give one of them, and --set to change fields")
    profile = options.profile or "quick"
    changes = parse_assignments(options.changes, RECIPE_FIELDS)
    changes |= {"weights": weights} if weights else {}
    get_recipe(profile).with_changes(**changes)
    weights = changes.get("weights")
    cli.require(options.data, source, str(weights) if weights not in (None, "imagenet") else "")
    from vocseg_lib.engine.train import Session
    from vocseg_lib.study.study import open_study, reproduce
    from vocseg_lib.study.train import train_model
    from vocseg_lib.utils import distributed

    with distributed.process_group(cli.usable_device(options.device)) as device:
        name, folders = options.model, (options.data, options.results)
        if source:
            study, name = reproduce(source, *folders, changes, name)
        else:
            study = open_study(profile, *folders, changes=changes)
        mirror = Path(options.mirror) if options.mirror else None
        session = Session(device=device, max_hours=hours, mirror=mirror)
        state = train_model(study, name, skip_bad=not options.stop_on_bad, session=session)
        if distributed.rank():
            return
    if best := state["best"]:
        ap = best["mask_AP50"]
        shown = "not measured" if ap is None else f"{ap:.1f}"
        print(f"{name}: best mask AP50 {shown} at {best['iteration']}")
    if state["stopped"]:
        print(f"stopped at iteration {state['iteration']}: {state['stopped']}")
    print(f"run folder: {study.run_folder(name)}")


@cli.command("predict")
def predict_command(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="run folder of a training")] = "",
    weights: text("the same", "RUN") = "",
    image: texts("images, videos, or folders of them", "PATH") = (),
    score: number("least score of a detection that is drawn", min=0, max=1) = 0.3,
    data: text("VOC devkit to predict", "DEVKIT") = "",
    split: Split = "val",
    out: text("folder; default: predictions; or prediction file (.json)", "PATH") = "",
    device: cli.Device = "",
) -> None:
    """Draw a model's detections, or write its prediction file."""
    if run and weights:
        raise ValueError(f"{run} and --weights {weights}: give one of them")
    run = weights or run
    if not run:
        raise ValueError("--weights RUN is required: the run folder of a training")
    if bool(image) == bool(data):
        raise ValueError("either --image PATH or --data DEVKIT is required")
    to_file = bool(data) or out.lower().endswith(".json")
    if to_file:
        cli.check_output(out, b'"config": {"', required=True)
    cli.require(run, data, *image)
    device = cli.usable_device(device)
    from vocseg_lib.engine.predict import save_predictions
    from vocseg_lib.plots.pictures import draw_predictions
    from vocseg_lib.study.run import load_visualizer, predict_pictures, predict_run

    drawn, skipped = 0, []
    if to_file:
        options = (data, split, device) if data else (image, device)
        predictions = (predict_run if data else predict_pictures)(run, *options)
        save_predictions(out, predictions)
        header, count = predictions["header"], len(predictions["detections"])
        drawn, skipped = len(header["images"]), header.get("skipped", [])
        print(f"{drawn} images, {count} detections: {out}")
    else:
        visualizer = load_visualizer(run, score, device)
        for file, written, message in draw_predictions(visualizer, image, out or "predictions"):
            if written:
                drawn += 1
                print(f"{file}: {message} -> {written}")
            else:
                skipped.append(message)
    if skipped:
        print(f"{len(skipped)} files skipped:", *skipped, sep="\n  ", file=sys.stderr)
    raise typer.Exit(0 if drawn else 1)


@cli.command("evaluate")
def evaluate_command(
    predictions: Predictions,
    data: Data,
    split: Split = "val",
    score: number("least score for mean IoU") = 0.5,
    resamples: Annotated[
        int, typer.Option(help="of the bootstrap; 0: no intervals", min=0, max=100_000)
    ] = 1_000,
    out: text("also write the metrics as JSON", "FILE") = "",
) -> None:
    """Evaluate a prediction file: COCO's and VOC's AP, mean IoU."""
    cli.require(predictions, data)
    cli.check_output(out, b'_AP"')
    from vocseg_lib.metrics.bootstrap import add_intervals, bootstrap
    from vocseg_lib.metrics.coco_eval import metrics_table
    from vocseg_lib.study.results import open_files
    from vocseg_lib.utils.files import to_jsonable, write_json

    results = open_files([predictions], data, split=split)
    (evaluation,) = results.evaluations.values()
    table = metrics_table(evaluation, score)
    if resamples:
        table = add_intervals(table, bootstrap(evaluation, results.bootstrap_weights(resamples)))
    print(evaluation.per_class.round(1).to_string(index=False), "", sep="\n")
    overall = table[table["class"] == "all"].drop(columns="class")
    print(overall.to_string(index=False, na_rep="", float_format="{:.2f}".format))
    if out:
        content = {f"{row.kind}_{row.metric}": row.value for row in overall.itertuples()}
        content["per_class"] = evaluation.per_class.to_dict("records")
        write_json(Path(out), to_jsonable({**content, "table": table.to_dict("records")}))
        print(out)


@cli.command("failures")
def failures_command(
    predictions: texts("one or two prediction files (JSON)", "FILE"),
    data: Data,
    split: Split = "val",
    score: number("least score of a detection") = 0.0,
    changes: texts("change a threshold, as in min_leakage=0.3", "NAME=VALUE", "--set") = (),
    out: text("write the tables and all cases as JSON", "FILE") = "",
    gallery: text("write the worst cases as one HTML page", "FILE") = "",
    images: text("folder of the images; default: the devkit's", "DIR") = "",
) -> None:
    """What goes wrong in one or two prediction files: error types, their dAP, a gallery."""
    if len(predictions) > 2:
        raise ValueError(f"--predictions takes one or two files, got {len(predictions)}")
    if len(set(predictions)) < len(predictions):
        raise ValueError(f"--predictions {predictions[0]}: the same file is given twice")
    cli.check_image_folder(gallery, images, data)
    thresholds = Thresholds(**parse_assignments(changes, Thresholds().to_dict()))
    cli.require(*predictions, data, images)
    cli.check_output(out, b'{"thresholds"')
    cli.check_output(gallery, b"<title>Failure gallery")
    from vocseg_lib.failures.tables import overall_rows
    from vocseg_lib.study.results import open_files
    from vocseg_lib.utils.files import to_jsonable, write_json

    analyses = open_files(predictions, data, split=split).analyses(score, thresholds)
    models = {}
    for title, analysis in analyses.items():
        counted, cases = analysis.at_threshold, analysis.cases.drop(columns="table_row")
        table = overall_rows(analysis.table).drop(columns=["class", "size"])
        print(f"{title}: {len(counted.detections)} detections, {len(counted.objects)} objects")
        print(table.to_string(index=False, na_rep="", float_format="{:.2f}".format), "", sep="\n")
        tables = {"table": analysis.table, "cases": cases}
        models[title] = {name: table.to_dict("records") for name, table in tables.items()}
    if gallery:
        from vocseg_lib import plots

        page, summary = plots.export_page(plots.Gallery(analyses, images or data), gallery)
        print(summary, page, sep="\n")
    if out:
        content = {"thresholds": thresholds.to_dict(), "score": score, "models": models}
        write_json(Path(out), to_jsonable(content))
        print(out)


@cli.command("describe")
def describe_command(
    predictions: Predictions,
    data: Data,
    split: Split = "val",
    score: number("least score of a detection", min=0, max=1) = 0.5,
    image: texts("images, by file name; default: all", "NAME") = (),
    out: text("write the scene graphs as JSON", "FILE") = "",
    pictures: text("write each image with its masks and sentences, as PNG", "DIR") = "",
    images: text("folder of the images; default: the devkit's", "DIR") = "",
) -> None:
    """Describe images in words, as predicted and as annotated; as scene graphs and pictures."""
    cli.require(predictions, data, images)
    cli.check_image_folder(pictures, images, data)
    cli.check_output(out, b'"as predicted"')
    from vocseg_lib import plots
    from vocseg_lib.data.coco import image_keys
    from vocseg_lib.failures.scene_text import describe_with_errors
    from vocseg_lib.study.results import open_files
    from vocseg_lib.utils.files import write_json

    results = open_files([predictions], data, split=split)
    (analysis,) = results.analyses(score).values()
    gallery = plots.Gallery({"": analysis}, images or data) if pictures else None
    keys = image_keys(results.ground_truth["images"])
    names = {asked: cli.resolve_image_names(asked, keys) for asked in image}
    if unknown := [asked for asked, matching in names.items() if not matching]:
        raise ValueError(f"--image {', '.join(unknown)}: not an image of {split} of {data}")
    graphs = {}
    for name in dict.fromkeys(name for matching in names.values() for name in matching) or keys:
        described, sentences = describe_with_errors(analysis, keys[name]["id"])
        graphs[name] = {source: description.graph for source, description in described.items()}
        for source, lines in sentences.groupby("source", sort=False):
            texts = lines["sentence"] + (" [" + lines["failures"] + "]").replace(" []", "")
            print(f"{name}, {source}: {' '.join(texts)}")
        if gallery:
            picture = gallery.picture(keys[name]["id"])
            print(plots.save_scene(pictures, name, picture, described, sentences))
    if out:
        write_json(Path(out), graphs)
        print(out)


main = cli.run_app
