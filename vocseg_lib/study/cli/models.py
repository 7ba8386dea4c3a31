"""Commands on models: train, predict, export."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from vocseg_lib.study.cli import options as cli
from vocseg_lib.study.cli.options import text
from vocseg_lib.study.recipes import (
    MODEL_TITLES,
    PILOT_WEIGHTS,
    RECIPE_FIELDS,
    get_recipe,
    parse_assignments,
)

SHOWN_ROWS = 40  # of the table of what was found


@cli.command("train")
@cli.takes(cli.TrainOptions)
def train_command(options: cli.TrainOptions) -> None:
    """Train a model, or resume its training, and evaluate it on val; torchrun: on several GPUs."""
    source, hours, init = options.source, options.max_hours, options.init
    if not options.model and not source:
        raise ValueError(f"--model is required: {' or '.join(MODEL_TITLES)}")
    if hours is not None and not hours > 0:
        raise ValueError(f"--max-hours must be above 0, got {hours}")
    if source and options.profile:
        problem = f"--profile {options.profile}: --from {source} has its own recipe"
        raise ValueError(f"{problem}; give one of them, and --set to change fields")
    profile = options.profile or "quick"
    changes = parse_assignments(options.changes, RECIPE_FIELDS)
    changes |= {"init": init} if init else {}
    get_recipe(profile).with_changes(**changes)
    cli.require(options.data, source)
    from vocseg_lib.engine.train import Session
    from vocseg_lib.study.initial_weights import with_network_of_init
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
        if mirror:  # of a training that is resumed from there
            study = replace(study, recipe=with_network_of_init(study.recipe, mirror, changes))
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
@cli.takes(cli.PredictOptions)
def predict_command(options: cli.PredictOptions) -> None:
    """Draw a model's detections and write their masks, or write its prediction file."""
    run, out = options.run or options.weights, options.out
    if options.run and options.weights:
        raise ValueError(f"{options.run} and --weights {options.weights}: give one of them")
    if run and options.model:
        raise ValueError(f"--model {options.model}: {run} says which model it is")
    if bool(options.image) == bool(options.data):
        raise ValueError("either --image PATH or --data DEVKIT is required")
    to_file = bool(options.data) or out.lower().endswith(".json")
    if to_file and (options.index_pngs or options.cutouts or options.masks == "polygons"):
        raise ValueError("--index-pngs, --cutouts and --masks polygons need --image and a folder")
    if to_file and not (run or options.model):
        ways = f"{', '.join(PILOT_WEIGHTS)}, a run folder or a file"
        raise ValueError(f"a prediction file is of one model: give --weights, one of {ways}")
    if to_file:
        cli.check_output(out, b'"config": {"', required=True)
    cli.require(run, options.data, *options.image)
    device = cli.usable_device(options.device)
    from vocseg_lib.engine.predict import save_predictions
    from vocseg_lib.study.initial_weights import COCO_DETECTORS, fetch_published
    from vocseg_lib.study.run import predict_pictures, predict_run

    if options.model:
        run = str(fetch_published(COCO_DETECTORS[options.model]))
    if to_file:
        arguments = (options.data, options.split) if options.data else (options.image,)
        predictions = (predict_run if options.data else predict_pictures)(run, *arguments, device)
        save_predictions(out, predictions)
        header, count = predictions["header"], len(predictions["detections"])
        drawn, skipped = header["images"], header.get("skipped", [])
        print(f"{len(drawn)} images, {count} detections: {out}")
    elif run:
        drawn, skipped = _draw(run, options, device)
    else:
        drawn, skipped = _draw_both(options, device)
    if skipped:
        print(f"skipped ({len(skipped)}):", *skipped, sep="\n  ", file=sys.stderr)
    raise typer.Exit(0 if drawn else 1)


def _draw_both(options: cli.PredictOptions, device: str) -> tuple[list[Path], list[str]]:
    """Draw with the pilot's models, each in a folder of its own, and their pictures side by side.

    As `_draw` of the last.
    """
    from vocseg_lib.plots.pictures import draw_side_by_side

    out, drawn = Path(options.out or "predictions"), {}
    for run, name in PILOT_WEIGHTS.items():
        print(f"{MODEL_TITLES[name]} ({run}):")
        drawn[name], skipped = _draw(run, replace(options, out=str(out / name)), device)
    for paths in zip(*drawn.values(), strict=True):
        if paths[0].suffix == ".png":
            pictures = {MODEL_TITLES[name]: path for name, path in zip(drawn, paths, strict=True)}
            print(draw_side_by_side(pictures, out / "side_by_side"))
    return drawn[name], skipped


def _draw(run: str, options: cli.PredictOptions, device: str) -> tuple[list[Path], list[str]]:
    """Draw pictures and videos and write their masks; the files, and what was skipped and why."""
    from vocseg_lib.engine.mask_files import JSON_NAME, TABLE_NAME, MaskFiles
    from vocseg_lib.plots.pictures import draw_predictions
    from vocseg_lib.study.run import load_visualizer

    visualizer = load_visualizer(run, options.score, device)
    out, drawn, skipped = Path(options.out or "predictions"), [], []
    files = MaskFiles(
        folder=out,
        class_names=visualizer.class_names,
        header=visualizer.header,
        polygons=options.masks == "polygons",
        index_pngs=options.index_pngs,
        cutouts=options.cutouts,
        score=options.score,
    )
    try:
        for file, written, message in draw_predictions(visualizer, options.image, out, files):
            if written:
                drawn.append(written)
                print(f"{file}: {message} -> {written}")
            else:
                skipped.append(message)
    finally:  # also what was done before it was interrupted
        if files.names:
            files.write()
    if drawn:
        counts = files.counts()
        print(counts.to_string(max_rows=SHOWN_ROWS) if counts.size else "nothing was found")
        print(f"{out / JSON_NAME}: {len(files.annotations)} detections; {out / TABLE_NAME}")
    return drawn, skipped


@cli.command("export-weights")
def export_weights_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="run folder of a training")],
    out: text("file to write (.safetensors); default: in the run folder", "FILE") = "",
    precision: Annotated[Literal["fp16", "fp32"], typer.Option(help="of the numbers")] = "fp16",
    data: text("the run's devkit, for intervals; default: as recorded", "DEVKIT", "--data") = "",
) -> None:
    """Write a run's best weights for others (safetensors), with a model card."""
    cli.require(run, data)
    if out:
        cli.check_output(out, b'"vocseg"')
    from vocseg_lib.study.export import export_weights

    print(*export_weights(run, out, precision, data), sep="\n")


@cli.command("export")
def export_command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="run folder, weights, pilot/yolact")],
    onnx: Annotated[bool, typer.Option("--onnx", help="for other runtimes, in ONNX")] = False,
    torch_export: Annotated[bool, typer.Option("--torch", help="by torch.export (.pt2)")] = False,
    out: text("file to write; default: yolact.onnx or yolact.pt2", "FILE") = "",
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="of weights in ONNX")] = "fp32",
    batch: Annotated[int | None, typer.Option(help="images at once; default: any", min=1)] = None,
) -> None:
    """Write YOLACT's network for other programs, and what its detections take as JSON beside it."""
    if onnx == torch_export:
        raise ValueError("either --onnx or --torch is required")
    cli.require(run)
    path = out or ("yolact.onnx" if onnx else "yolact.pt2")
    if onnx != path.endswith(".onnx"):
        raise ValueError(f"--out {path} must end with {'.onnx' if onnx else '.pt2'}")
    from vocseg_lib.models.exported import export_network
    from vocseg_lib.study.run import load_model

    print(*export_network(load_model(run, "cpu"), path, precision, batch), sep="\n")
