"""Commands on the predictions of two models: rules (the rule book), plan (the planner)."""

from pathlib import Path
from typing import Annotated

import typer

from vocseg_lib.study.cli import options as cli
from vocseg_lib.study.cli.options import Against, Data, Resamples, Split, Trainings, number, text

FEWEST_IMAGES = 5  # whose spread can be measured
Folder = text("folder for tables and figures", "DIR")


@cli.command("rules")
def rules_command(
    predictions: Trainings,
    against: Against,
    data: Data,
    out: Folder = "results/rule_book",
    split: Split = "val",
    score: number("least score for mean IoU") = 0.5,
    resamples: Resamples = 1_000,
    images: text("folder of the pictures; default: the devkit's", "DIR") = "",
) -> None:
    """The rule book: which of two models wins by how much under which rule."""
    cli.require(*predictions, *against, data, images)
    from vocseg_lib import plots
    from vocseg_lib.metrics.rule_book import rule_book
    from vocseg_lib.study.results import open_files
    from vocseg_lib.utils.files import write_text

    folder = _new_folder(out)
    results = open_files([predictions, against], data, split=split)
    if len(results.ground_truth["images"]) < 2:
        raise ValueError(f"{data} has one image: intervals need several")
    table = rule_book(*results.sampled(resamples, score).values())
    write_text(folder / "rule_book.csv", table.to_csv(index=False))
    print(f"first: {', second: '.join(results.predictions)}")
    shown = table.drop(columns=["kind", "metric"]).dropna(axis=1, how="all")
    print(shown.to_string(index=False, na_rep="", float_format="{:.2f}".format))
    plots.style.write_figure(
        plots.rule_book_chart(table, *results.predictions), folder / "rule_book.png"
    )
    print(folder / "rule_book.csv", folder / "rule_book.png", sep="\n")
    pictures = Path(images) if images else results.images
    if not pictures and table["flips"].any():
        print("no pictures of the images that flip the winner: give --images DIR")
    flips = plots.explain_flips(results.evaluations, table, pictures) if pictures else ()
    for rule, axes in flips:
        name = "".join(c if c.isalnum() else "_" for c in rule)
        plots.style.write_figure(axes[0].figure, folder / f"flip_{name}.png")
        print(folder / f"flip_{name}.png")


@cli.command("plan")
def plan_command(
    predictions: Trainings,
    against: Against,
    data: Data,
    metric: text("metric to compare", "METRIC", "--metric") = "AP50",
    out: Folder = "results/plan",
    split: Split = "val",
    training_sd: Annotated[
        float | None,
        typer.Option(help="points by which trainings of one model spread, if not measured", min=0),
    ] = None,
) -> None:
    """The planner: how many images and trainings it takes to show a difference."""
    cli.require(*predictions, *against, data)
    from vocseg_lib import plots
    from vocseg_lib.metrics import power
    from vocseg_lib.metrics.table import METRICS
    from vocseg_lib.study.results import open_files
    from vocseg_lib.utils.files import write_text

    if metric not in (known := [name for name in METRICS if name != "oLRP_score"]):
        raise ValueError(f"--metric {metric}: choose one of {', '.join(known)}")
    folder = _new_folder(out)
    results = open_files([predictions, against], data, split=split)
    if (count := len(results.ground_truth["images"])) < FEWEST_IMAGES:
        raise ValueError(f"{count} images are too few to plan from: {FEWEST_IMAGES} are needed")
    first, second = results.sampled(only=[metric]).values()
    difference = first - second
    key = next((k for k in difference.of_images if k[2] == "all"), None)
    if key is None:
        raise ValueError(f"--metric {metric} is of masks, and there are boxes alone")
    spread = power.measure_spread(difference, key, count, training_sd)
    trainings = min(len(predictions), len(against))
    table = power.plan(spread)
    name = f"{key[0]} {metric}"
    print(f"Images to show a difference in {name} (rows, points) in {100 * power.POWER:.0f} % of")
    print("studies, by trainings of each model (columns; inf: more trainings are needed):")
    print(table.to_string(float_format="{:.0f}".format), "", sep="\n")
    now = spread.detectable(count, trainings)
    print(f"{count} images and {trainings} training(s) of each show {now:.1f} points and more.")
    if not spread.of_training and trainings == 1:
        print("How much trainings differ is not known from one of each model, and left out: give")
        print("several of each, or --training-sd.")
    write_text(folder / "plan.csv", table.to_csv())
    ax = plots.detectable_differences(spread, count, trainings, name)
    plots.style.write_figure(ax, folder / "plan.png")
    print(folder / "plan.csv", folder / "plan.png", sep="\n")


def _new_folder(out: str) -> Path:
    """The folder of an output, made. Raises ValueError if it is a file."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {out} is a file: a folder is expected")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
