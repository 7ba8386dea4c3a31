"""What a study found as one JSON file, and the pages that are filled from it: no figure in them is typed by hand."""

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from vocseg_lib.data.coco import read_predictions
from vocseg_lib.engine.run_folder import LOG, read_log, read_sessions
from vocseg_lib.failures.analysis import Analysis, analyze
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import coverage_of_boxes
from vocseg_lib.metrics.bootstrap import (
    add_intervals,
    bootstrap,
    bootstrap_weights,
    interval,
    paired_differences,
)
from vocseg_lib.metrics.coco_eval import Evaluation, evaluate, metrics_table
from vocseg_lib.plots.gallery import Gallery
from vocseg_lib.plots.training import logged_evaluations, overfitting
from vocseg_lib.study.open import reproduce
from vocseg_lib.study.recipes import MODEL_TITLES, PROSE_FIELDS, get_recipe
from vocseg_lib.study.recipes import differences as recipe_differences
from vocseg_lib.study.results import PREDICTIONS
from vocseg_lib.study.run import recipe_of
from vocseg_lib.study.study import Study
from vocseg_lib.utils.files import atomic_write, read_json, to_jsonable, write_json

REPORT, LINEAGE = "report.json", "lineage.json"
FRONT_PAGE = "front_page"
TABLES = tuple(
    f"{name}.csv"
    for name in "table1 failures metrics differences gap gap_claims crowding ablation".split()
)
"""That the notebooks leave."""
FIGURES = (
    "01_stored_maps",
    "02_assembly",
    "03_training_yolact",
    "03_training_mask_rcnn",
    "04_precision_recall_mask",
    "04_ap_against_iteration",
    "04_ap_against_time",
    "04_differences",
    "05_errors_of_masks",
    "05_failures_of_pixels",
    "05_sheet_localization_failure",
    "06_waterfall",
    "06_crowding_recall",
    "06_oracles_mask",
    "06_ablation",
    "07_proposals",
    "07_lineage",
    "07_strip",
    FRONT_PAGE,
)
"""Those of the notebooks that a report shows; what made them is in their names."""
LARGEST_FIGURE = 300_000
"""Bytes."""
POSTER_SCORE = 0.3
PEERS = (
    {
        "model": "YOLACT",
        "what": "the official code, AdamW 4e-4",
        "minutes": 44,
        "iterations": 2_527,
        "file": "peer_yolact.json",
    },
    {
        "model": "Mask R-CNN",
        "what": "torchvision's, SGD 5e-3",
        "minutes": 31,
        "iterations": 547,
        "file": "peer_mask_rcnn.json",
    },
)
"""Other code, trained on the same images from the same backbone weights in batches of 4 at 320 pixels, on 2 cores of another
machine; the files are what `evaluate --out` says of their predictions."""
COMPARED = ("mask_AP", "mask_AP50")


def collect(results: Path) -> tuple[dict, Figure]:
    """What the notebooks left in a results folder, and the picture for its front page.

    Raises FileNotFoundError, naming what is missing.
    """
    for name in TABLES:
        if not (results / name).is_file():
            raise FileNotFoundError(
                f"{results / name} is missing: run all notebooks first, make study RESULTS={results}"
            )
    runs = {title: results / "runs" / name for name, title in MODEL_TITLES.items()}
    table1 = pd.read_csv(results / "table1.csv")
    models = {
        title: _training(folder, table1[table1["model"] == title]) for title, folder in runs.items()
    }
    study, _ = reproduce(next(iter(runs.values())), results=results)
    judged = {
        (name, checkpoint): _judged(study, study.predictions(name, checkpoint))
        for name in MODEL_TITLES
        for checkpoint in PREDICTIONS
    }
    for name, title in MODEL_TITLES.items():
        models[title]["since"] = {
            since: _difference(judged[name, "last"], judged[name, since])
            for since in ("half", "best")
        }
        models[title]["half"] = _half_way(models[title], judged[name, "half"])
    experiments = [
        _experiment(study, path.parent)
        for path in sorted(results.glob("experiments/*/runs/*/metrics.json"))
    ]
    analyses = {
        title: analyze(e.ground_truth, e.detections, POSTER_SCORE)
        for title, e in study.evaluations().items()
    }
    failures, price_differences = _failures(
        analyses, pd.read_csv(results / "failures.csv", index_col=0)
    )
    metrics = pd.read_csv(results / "metrics.csv", header=[0, 1], index_col=[0, 1, 2]).xs(
        "all", level="class"
    )
    gaps = pd.read_csv(results / "differences.csv").query("`class` == 'all'")
    figures = to_jsonable(
        {
            "data": _data(study),
            "models": models,
            "metrics": {
                title: {"_".join(key): row.to_dict() for key, row in metrics[title].iterrows()}
                for title in MODEL_TITLES.values()
            },
            "half_way": _difference(*(judged[name, "half"] for name in MODEL_TITLES)),
            "differences": {
                f"{row.kind}_{row.metric}": _bounds(row, "difference") for row in gaps.itertuples()
            },
            "peers": [
                _beside(peer, models, experiments, results)
                for peer in PEERS
                if (results / peer["file"]).is_file()
            ],
            "experiments": experiments,
            "failures": failures,
            "failure_differences": price_differences,
            "gap": {
                row.part: _bounds(row, "points")
                for row in pd.read_csv(results / "gap.csv").itertuples()
            },
            "claims": pd.read_csv(results / "gap_claims.csv").to_dict("records"),
            "crowding": _rows(pd.read_csv(results / "crowding.csv"), "metric", "model", "bin"),
            "ablation": _rows(pd.read_csv(results / "ablation.csv"), "variant", "size"),
        },
        digits=4,
    )
    return figures, front_picture(Gallery(analyses, study.devkit))


def front_picture(gallery: Gallery) -> Figure:
    """The worst localization failure, first of those where the other model got it right: see `Gallery.poster`."""
    cases = gallery.select(type=MASK_FAILURES[0]).sort_values(
        "only this model", ascending=False, kind="stable"
    )
    if not len(cases):
        raise ValueError("neither model has a localization failure to show")
    return gallery.side_by_side(cases.iloc[0], POSTER_SCORE)


def _failures(analyses: dict[str, Analysis], counted: pd.DataFrame) -> tuple[dict, dict]:
    """By family and type: how often (`counted` by notebook 05) and at what cost, of each model; the costs' paired difference."""
    weights = bootstrap_weights(len(next(iter(analyses.values())).dataset_eval.images))
    costs = {title: analysis.resampled_costs(weights) for title, analysis in analyses.items()}
    first, second = costs.values()
    counts = {
        title: coverage_of_boxes(counted.loc[title]).set_index(["family", "type"])["count"]
        for title in costs
    }
    of_each, difference = {title: {} for title in costs}, {}
    for family, name in first:
        for title, of_model in costs.items():
            cost = _with_interval(of_model[family, name])
            of_each[title].setdefault(family, {})[name] = {
                "count": counts[title][family, name],
                "cost": cost,
            }
        difference.setdefault(family, {})[name] = _with_interval(
            first[family, name] - second[family, name]
        )
    return of_each, difference


def _with_interval(values: Float[np.ndarray, " b"]) -> dict:
    """A figure as it is, first of `values`, and its interval over the resamples, the rest of them."""
    low, high = interval(values[1:])
    return {"value": values[0], "low": low, "high": high}


def _experiment(study: Study, run: Path) -> dict:
    """A training beside the study's: its name, command, length and figures on all of val, of its best weights."""
    settings, metrics = read_json(run / "recipe.json"), read_json(run / "metrics.json")
    return {
        "name": run.parents[1].name,
        "model": MODEL_TITLES[settings["model"]],
        "command": _command(settings),
        "settings": _without_paths(settings),
        "iterations": settings["iterations"],
        "minutes": metrics["train_minutes"],
        **_headline(*_judged(study, read_predictions(run / PREDICTIONS["best"]))),
    }


def _half_way(model: dict, judged: tuple[Evaluation, pd.DataFrame]) -> dict:
    """A training's length and figures half-way."""
    score = next(s for s in model["scores"] if s["iteration"] >= model["iterations"] // 2)
    return {"iterations": score["iteration"], "minutes": score["minutes"], **_headline(*judged)}


def _without_paths(settings: dict) -> dict:
    """Settings for a page: weights by the name of their file, without class names."""
    named = {"weights": settings["weights"] and Path(settings["weights"]).name}
    return {k: v for k, v in (settings | named).items() if k not in (*PROSE_FIELDS, "class_names")}


def _command(settings: dict) -> str:
    """What trains a model with these settings on DEVKIT."""
    recipe = recipe_of(settings)
    changed = {
        k: getattr(recipe, k)
        for k in recipe_differences(get_recipe(recipe.name), recipe).index
        if k != "weights"
    }
    command = [
        "python",
        "-m",
        "vocseg_lib",
        "train",
        "--profile",
        recipe.name,
        "--model",
        settings["model"],
        "--data",
        "DEVKIT",
    ]
    if recipe.weights not in (None, "imagenet"):
        command += ["--weights", Path(recipe.weights).name]
    if changed:
        command += ["--set", *(f"{name}={value}" for name, value in changed.items())]
    return shlex.join(command)


def _training(run: Path, table1: pd.DataFrame) -> dict:
    """How a model was trained, from its run folder, and what it costs and reaches, from Table 1."""
    settings, calls, log = (
        read_json(run / "recipe.json"),
        read_sessions(run / "run.json"),
        read_log(run / LOG),
    )
    recipe, scores, last = recipe_of(settings), logged_evaluations(log).reset_index(), calls[-1]
    kept = ["iteration", *(c for c in scores if c.startswith(("mask_", "box_")) or c == "val_loss")]
    return {
        "command": _command(settings),
        "recipe": _without_paths(settings),
        "iterations": recipe.iterations,
        "minutes": float(scores["seconds"].iloc[-1] / 60),
        "calls": len(calls),
        "commits": list(dict.fromkeys(call["commit"] for call in calls)),
        "device": {k: last.get(k) for k in ("device", "device_name", "cpu_cores")},
        "versions": {k: last[k] for k in ("python", "torch", "torchvision", "numpy", "vocseg_lib")},
        "started": calls[0]["started"],
        "scores": scores[kept].assign(minutes=scores["seconds"] / 60).to_dict("records"),
        "overfitting": overfitting(log),
        "table1": {
            row.quantity: _bounds(row, "value")
            for row in table1[table1["source"] == "ours"].itertuples()
        },
    }


def _judged(study: Study, predictions: dict) -> tuple[Evaluation, pd.DataFrame]:
    """Predictions on val judged, and their resamples, the same draws for all."""
    evaluation = evaluate(study.ground_truth, predictions["detections"])
    return evaluation, bootstrap(evaluation, bootstrap_weights(len(study.val)), headline=True)


def _headline(evaluation: Evaluation, resamples: pd.DataFrame) -> dict:
    """COCO's AP of what `_judged` gives, with intervals, by figure."""
    return _of_all_classes(add_intervals(metrics_table(evaluation), resamples).dropna())


def _of_all_classes(table: pd.DataFrame) -> dict:
    """A tidy table's figures over all classes, by kind and metric."""
    return {
        f"{row.kind}_{row.metric}": _bounds(row, "value")
        for row in table[table["class"] == "all"].itertuples()
    }


def _difference(
    first: tuple[Evaluation, pd.DataFrame], second: tuple[Evaluation, pd.DataFrame]
) -> dict:
    """AP of one checkpoint less that of another, paired, by figure; both from `_judged`."""
    table = paired_differences(first[0], second[0], (first[1], second[1])).query("`class` == 'all'")
    return {f"{row.kind}_{row.metric}": _bounds(row, "difference") for row in table.itertuples()}


def _data(study: Study) -> dict:
    """What was trained on and judged on, and whether that is VOC 2012 itself."""
    images = {split: len(study.dataset(split)) for split in ("train", "val")}
    objects = len(study.ground_truth["annotations"])
    return {
        "kind": study.kind_of_data,
        "images": images,
        "objects": objects,
        "classes": len(study.class_names),
    }


def _bounds(row: object, value: str) -> dict:
    return {"value": getattr(row, value), "low": row.low, "high": row.high}


def _beside(peer: dict, models: dict, experiments: list[dict], results: Path) -> dict:
    """A peer's figures, and those of our longest training of that model within its minutes: an experiment, or the study's half."""
    ours = [models[peer["model"]]["half"], *(e for e in experiments if e["model"] == peer["model"])]
    ours = [
        {k: o[k] for k in ("iterations", "minutes", *COMPARED)}
        for o in ours
        if o["minutes"] <= peer["minutes"]
    ]
    figures = _of_all_classes(pd.DataFrame(read_json(results / peer["file"])["table"]))
    return {
        **peer,
        **{k: figures[k] for k in COMPARED},
        "ours": max(ours, key=lambda o: o["minutes"], default=None),
    }


def _rows(table: pd.DataFrame, *keys: str) -> dict:
    """A table as nested dicts by its key columns."""
    if not keys:
        return table.iloc[0].to_dict()
    return {
        key: _rows(part.drop(columns=keys[0]), *keys[1:])
        for key, part in table.groupby(keys[0], sort=False)
    }


def write(results: str | Path) -> list[Path]:
    """Gather what the notebooks left in a results folder, as `report.json` and figures small enough for a page; the files.

    Where notebook 07 alone has run, its `lineage.json` is the report.
    """
    results, written = Path(results), []
    if not (results / LINEAGE).is_file() or (results / TABLES[0]).is_file():
        report, picture = collect(results)
        save_figure(picture, results, FRONT_PAGE)
        write_json(results / REPORT, report)
        written.append(results / REPORT)
    for name in FIGURES:
        source = results / "figures" / f"{name}.png"
        if source.is_file():
            shrink(source, results / f"{name}.png")
            written.append(results / f"{name}.png")
    return written


def shrink(source: Path, target: Path, largest: int = LARGEST_FIGURE) -> None:
    """A picture with at most 256 colours, and as much smaller as it takes to stay below `largest` bytes."""
    with Image.open(source) as image:
        picture = image.convert("RGB")
    width = picture.width
    while True:
        small = picture.resize(
            (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
        )
        with atomic_write(target) as beside:
            small.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(
                beside, format="PNG", optimize=True
            )
        if target.stat().st_size <= largest:
            return
        width = int(0.85 * width)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, help="results folder of a study whose notebooks were run"
    )
    print(*write(parser.parse_args().results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
