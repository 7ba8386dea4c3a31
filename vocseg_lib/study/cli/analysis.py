"""Commands on prediction files: evaluate, failures, describe."""

from pathlib import Path
from typing import TYPE_CHECKING

from vocseg_lib.failures.config import Thresholds
from vocseg_lib.study.cli import options as cli
from vocseg_lib.study.cli.options import (
    Against,
    Data,
    Predictions,
    Resamples,
    Split,
    Trainings,
    number,
    text,
    texts,
)
from vocseg_lib.study.recipes import parse_assignments

if TYPE_CHECKING:
    import pandas as pd


@cli.command("evaluate")
def evaluate_command(
    predictions: Trainings,
    data: Data,
    against: Against = (),
    split: Split = "val",
    score: number("least score for mean IoU") = 0.5,
    resamples: Resamples = 1_000,
    out: text("also write the metrics as JSON", "FILE") = "",
) -> None:
    """Evaluate a model's predictions: every AP, oLRP, mean IoU; compare with another model's."""
    cli.require(*predictions, *against, data)
    cli.check_output(out, b'_AP"')
    from vocseg_lib.metrics import bootstrap
    from vocseg_lib.metrics.calibration import calibration_errors, score_thresholds
    from vocseg_lib.study.results import open_files
    from vocseg_lib.utils.files import to_jsonable, write_json

    results = open_files([predictions, against] if against else [predictions], data, split=split)
    sampled, contents = results.sampled(resamples, score), []
    for title, evaluation in results.evaluations.items():
        print(*([f"{title}:"] if against else []), end="\n" * bool(against))
        table, thresholds = bootstrap.intervals_table(sampled[title]), score_thresholds(evaluation)
        table = table.dropna(axis=1, how="all")  # without resamples, or one training
        for part in (evaluation.per_class.round(1), thresholds.round(2)):
            print(part.to_string(index=False, na_rep=""), "", sep="\n")
        _print_overall(table)
        errors = calibration_errors(evaluation)
        print(", ".join(f"{name} {value:.1f}" for name, value in errors.items()), "", sep="\n")
        overall = table[table["class"] == "all"].itertuples()
        content = {f"{row.kind}_{row.metric}": row.value for row in overall}
        content |= errors
        content["per_class"] = evaluation.per_class.to_dict("records")
        content["score_thresholds"] = thresholds.to_dict("records")
        contents.append({**content, "table": table.to_dict("records")})
    content = contents[0]
    if against:
        gaps = bootstrap.paired_differences(*sampled.values())
        print(" minus ".join(results.predictions), end=":\n")
        _print_overall(gaps.dropna(axis=1, how="all"))
        models = dict(zip(results.predictions, contents, strict=True))
        content = {**content, "models": models, "differences": gaps.to_dict("records")}
    if out:
        write_json(Path(out), to_jsonable(content))
        print(out)


def _print_overall(table: "pd.DataFrame") -> None:
    """Print a table's rows over all classes."""
    overall = table[table["class"] == "all"].drop(columns="class")
    print(overall.to_string(index=False, na_rep="", float_format="{:.2f}".format), "", sep="\n")


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
