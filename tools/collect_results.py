"""Collect a study's results as one JSON file and small figures: python -m tools.collect_results.

`tools.fill_pages` fills the pages from that file, so that no number in them is typed by hand.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image

from tools.pilot_runs import (
    AUGMENTATION,
    FP32,
    HALF_PRECISION,
    PAPER,
    SEEDS,
    WEIGHTS,
    kept_file,
    read_training,
)
from tools.tables import bounds, difference, headline, nest, over_classes, read_table
from vocseg_lib import plots
from vocseg_lib.data.image_files import BadFile, read_picture
from vocseg_lib.engine.run_folder import CONFIG
from vocseg_lib.engine.train import TooManyBadSamples
from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import overall_rows
from vocseg_lib.metrics import bootstrap, power
from vocseg_lib.metrics.coco_eval import HEADLINE, Evaluation
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import PREDICTIONS, open_files, open_results
from vocseg_lib.study.study import Study, reproduce
from vocseg_lib.study.table1 import STUDY
from vocseg_lib.utils.files import atomic_write, naming_damage, read_json, to_jsonable, write_json

REPORT, LINEAGE, PEERS = "report.json", "lineage.json", "peers.json"
"""Files of a results folder; the last, written by hand, lists trainings with other code."""
ABLATION = "ablation"
TABLES = {
    "table1": "quantity model source value low high",
    "failures": "model family type class size count",
    "differences": "kind metric class difference low high",
    "rule_book": "rule lead low high significant flips",
    "gap": "part points low high",
    "gap_claims": "the paper says,measured,answer,by",
    "crowding": "metric model bin value low high",
    ABLATION: "variant size value low high difference difference_low difference_high",
}
"""CSV files that the notebooks write, and their columns; the ablation needs a training."""
FIGURES = """01_stored_maps 02_assembly 03_training_yolact 04_precision_recall_mask 04_rule_book
05_errors_of_masks 06_waterfall 07_proposals 07_lineage 07_strip paper front_page""".split()
"""Figures that pages show, each with the number of its notebook."""
MAX_FIGURE_BYTES = 300_000
FRONT_PAGE_SCORE = 0.3
COMPARED = ("mask_AP", "mask_AP50")


def collect(results: Path) -> tuple[dict, Figure]:
    """The report on a results folder in which all notebooks were run, and the front page's figure.

    Raises OSError and ValueError, naming what is missing, damaged or of other data.
    """
    for name in TABLES:
        if name != ABLATION and not (path := results / f"{name}.csv").is_file():
            raise FileNotFoundError(f"{path} is missing: run make study RESULTS={results} first")
    tables = {name: results / f"{name}.csv" for name in TABLES}
    tables = {n: read_table(path, TABLES[n]) for n, path in tables.items() if path.is_file()}
    run = results / "runs" / next(iter(MODEL_TITLES))
    with naming_damage(run / CONFIG):
        study, _ = reproduce(run, results=results)
    analyses = (opened := open_results(study)).analyses(FRONT_PAGE_SCORE)
    with naming_damage(results / "failures.csv"):
        failures, dap_differences = _failures(analyses, tables["failures"])
    with naming_damage(results / "metrics.csv"):
        metrics = _metrics(results / "metrics.csv", opened.evaluations)
    seeds = _seeds(study, results / SEEDS)
    with naming_damage(results / PEERS):
        peers = read_json(results / PEERS) if (results / PEERS).is_file() else []
        peers = [
            compare_with_peer(peer, seeds["trainings"] if seeds else [], results) for peer in peers
        ]
    report = {
        "data": {"kind": study.data_kind, "classes": len(study.class_names)}
        | {"images": {split: len(study.dataset(split)) for split in ("train", "val")}}
        | {"objects": len(study.ground_truth["annotations"])},
        "models": _models(results / WEIGHTS, tables["table1"]),
        "metrics": metrics,
        "differences": over_classes(tables["differences"], "difference"),
        "rules": tables["rule_book"][TABLES["rule_book"].split()].to_dict("records"),
        "seeds": seeds,
        "fp32": _fp32(study, results),
        "half_precision": read_json(path) if (path := results / HALF_PRECISION).is_file() else {},
        "paper": _paper(study, results / PAPER),
        "augmentation": [read_json(p) for p in sorted((results / AUGMENTATION).glob("*.json"))],
        "peers": peers,
        "failures": failures,
        "dap_differences": dap_differences,
        "gap": {row.part: bounds(row, "points") for row in tables["gap"].itertuples()},
        "claims": tables["gap_claims"].to_dict("records"),
        "crowding": nest(tables["crowding"], "metric", "model", "bin"),
        "ablation": nest(tables[ABLATION], "variant", "size") if ABLATION in tables else {},
    }
    return to_jsonable(report, digits=4), front_page_figure(plots.Gallery(analyses, study.devkit))


def front_page_figure(gallery: plots.Gallery) -> Figure:
    """The worst localization failure, preferring those that only one model has."""
    cases = gallery.select(type=MASK_FAILURES[0])
    if not len(cases):
        raise ValueError("neither model has a localization failure to show")
    cases = cases.sort_values("only this model", ascending=False, kind="stable")
    return gallery.side_by_side(cases.iloc[0], FRONT_PAGE_SCORE)


def _models(folder: Path, table1: pd.DataFrame) -> dict:
    """How each model whose weights are kept was trained, and its rows of Table 1, by title."""
    models = {}
    for name, title in MODEL_TITLES.items():
        files = [*folder.glob(f"{name}_seed*.json.gz")]
        if len(files) != 1:
            raise ValueError(f"{folder} must have one {name}_seed*.json.gz, has {len(files)}")
        (file,) = files
        rows = table1[(table1["model"] == title) & (table1["source"] == STUDY)]
        models[title] = read_training(file)
        measured = read_json(folder.parent / "runs" / name / "metrics.json")
        models[title]["speed_cores"] = measured["cpu_cores"]
        models[title]["table1"] = {row.quantity: bounds(row, "value") for row in rows.itertuples()}
    return models


def _seeds(study: Study, folder: Path) -> dict | None:
    """Several trainings of each model: their AP, and what of its spread is the training's."""
    files = [sorted(folder.glob(f"{name}_seed?.json.gz")) for name in MODEL_TITLES]
    if not all(files):
        return None
    opened, count = open_files(files, study.devkit), len(study.val)
    trainings, weights = [], opened.bootstrap_weights()
    for of_model, evaluations in zip(files, opened.trainings.values(), strict=True):
        for file, evaluation in zip(of_model, evaluations, strict=True):
            ap = headline(bootstrap.sample([evaluation], weights, only=HEADLINE))
            trainings.append({**read_training(file), **ap})
    sampled = opened.sampled(only=HEADLINE)
    of_model = dict(zip(MODEL_TITLES.values(), map(headline, sampled.values()), strict=True))
    first, second = sampled.values()
    spread = power.measure_spread(first - second, ("mask", "AP50", "all"), count)
    number = min(map(len, files))
    return {
        "trainings": trainings,
        "models": of_model,
        "differences": difference(first, second),
        "detectable": {n: spread.detectable(count, n) for n in (1, number)},
        "images_needed": {d: spread.images_needed(d, number) for d in power.DIFFERENCES},
    }


def _fp32(study: Study, results: Path) -> list[dict]:
    """Trainings in fp32 beside those of the same seed and schedule in half precision."""
    pairs, weights = [], bootstrap.bootstrap_weights(len(study.val))
    for file in sorted((results / FP32).glob("*_seed?.json.gz")):
        files = results / SEEDS / file.name, file
        (evaluations,) = open_files([files], study.devkit).trainings.values()
        mixed, fp32 = (bootstrap.sample([e], weights, only=HEADLINE) for e in evaluations)
        half, full = map(read_training, files)
        if half["device"]["half_precision"] in (None, "None") or any(
            half["train"][key] != full["train"][key] for key in ("iterations", "eval_every")
        ):
            raise ValueError(f"{file} has no training in half precision to be compared with")
        pair = {"mixed": headline(mixed), "change": difference(mixed, fp32)}
        pairs.append(full | headline(fp32) | pair)
    return pairs


def _paper(study: Study, folder: Path) -> list[dict]:
    """Trainings by the published recipe: AP halfway, of the best weights and at the end."""
    trainings, weights = [], bootstrap.bootstrap_weights(len(study.val))
    for best in sorted(folder.glob("*_seed?.json.gz")):
        evaluated = {}
        for checkpoint in PREDICTIONS:
            file = kept_file(folder, best.name.removesuffix(".json.gz"), checkpoint)
            (evaluation,) = open_files([file], study.devkit).evaluations.values()
            evaluated[checkpoint] = bootstrap.sample([evaluation], weights, only=HEADLINE)
        trainings.append(read_training(best) | {c: headline(e) for c, e in evaluated.items()})
        trainings[-1]["change_to_last"] = {
            start: difference(evaluated["last"], evaluated[start]) for start in ("half", "best")
        }
    return trainings


def _metrics(file: Path, evaluations: dict[str, Evaluation]) -> dict:
    """Notebook 04's metrics by model, which must be those of the predictions."""
    table = pd.read_csv(file, header=[0, 1], index_col=[0, 1, 2]).xs("all", level="class")
    metrics = {
        title: {"_".join(key): row.to_dict() for key, row in table[title].iterrows()}
        for title in MODEL_TITLES.values()
    }
    for title, summary in ((title, e.summary) for title, e in evaluations.items()):
        if not np.allclose([metrics[title][m]["value"] for m in summary], [*summary.values()]):
            raise ValueError(f"{file} is not of the predictions of {title}: run make study again")
    return metrics


def _failures(analyses: dict[str, Analysis], table: pd.DataFrame) -> tuple[dict, dict]:
    """Count (of notebook 05) and dAP by model, family and type; the paired difference of dAP."""
    weights = bootstrap.bootstrap_weights(len(next(iter(analyses.values())).dataset_eval.images))
    dap = {title: analysis.resampled_dap(weights) for title, analysis in analyses.items()}
    failures, differences = {title: {} for title in dap}, {}
    for title, of_model in dap.items():
        rows = overall_rows(table[table["model"] == title])
        counts = rows.set_index(["family", "type"])["count"]
        for (family, name), values in of_model.items():
            entry = {"count": counts[family, name], "dap": _with_interval(values)}
            failures[title].setdefault(family, {})[name] = entry
    first, second = dap.values()
    for key in first:
        differences.setdefault(key[0], {})[key[1]] = _with_interval(first[key] - second[key])
    return failures, differences


def _with_interval(values: Float[np.ndarray, " b"]) -> dict:
    """A point estimate, the first of `values`, and its interval over the resamples, the others."""
    low, high = bootstrap.interval(values[1:])
    return {"value": values[0], "low": low, "high": high}


def compare_with_peer(peer: dict, trainings: list[dict], results: Path) -> dict:
    """A peer's AP beside that of this study's longest training within its minutes of a core."""
    of_model = [t for t in trainings if t["model"] == peer["model"]]
    within = (t for t in of_model if t["minutes"] <= peer["minutes"] * peer["cores"])
    longest = max(within, key=lambda training: training["minutes"], default=None)
    ap = over_classes(pd.DataFrame(read_json(results / peer["file"])["table"]))
    return {
        **peer,
        **{key: ap[key] for key in COMPARED},
        "study": longest and {key: longest[key] for key in ("iterations", "minutes", *COMPARED)},
    }


def write(results: Path) -> list[Path]:
    """Write `report.json`, unless only notebook 07 has run, and small figures; their paths."""
    written = []
    if not (results / LINEAGE).is_file() or (results / "table1.csv").is_file():
        report, figure = collect(results)
        plots.save_figure(figure, results, FIGURES[-1])
        if evaluations := {run["model"]: run["evaluations"] for run in report["paper"]}:
            plots.save_figure(plots.ap_against_iteration(evaluations), results, PAPER)
        write_json(results / REPORT, report)
        written.append(results / REPORT)
    for name in FIGURES:
        source, target = results / "figures" / f"{name}.png", results / f"{name}.png"
        if source.is_file():
            shrink(source, target)
            written.append(target)
    return written


def shrink(source: Path, target: Path, max_bytes: int = MAX_FIGURE_BYTES) -> None:
    """Write a picture with 256 colors, at the largest size that takes at most `max_bytes`."""
    picture = Image.fromarray(read_picture(source))
    width = picture.width
    while True:
        height = round(picture.height * width / picture.width)
        small = picture.resize((width, height), Image.Resampling.LANCZOS)
        small = small.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        with atomic_write(target) as temporary:
            small.save(temporary, format="PNG", optimize=True)
        if target.stat().st_size <= max_bytes:
            return
        width = int(0.85 * width)


def main(arguments: list[str] | None = None) -> None:
    """Print the paths of the files written; exit code 2 for results that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="results folder of make study")
    options = parser.parse_args(arguments)
    try:
        print(*write(options.results), sep="\n")
    except (OSError, ValueError, BadFile, TooManyBadSamples) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
