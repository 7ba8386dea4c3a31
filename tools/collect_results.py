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

from tools.tables import nest, read_table
from tools.train_command import recorded_config
from vocseg_lib import plots
from vocseg_lib.data.image_files import BadFile, read_picture
from vocseg_lib.engine.run_folder import CONFIG, LOG, read_log, read_sessions
from vocseg_lib.engine.train import TooManyBadSamples
from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import overall_rows
from vocseg_lib.metrics import bootstrap
from vocseg_lib.metrics.bootstrap import Sampled
from vocseg_lib.metrics.coco_eval import HEADLINE, Evaluation, evaluate
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import PREDICTIONS, open_results, run_predictions
from vocseg_lib.study.study import Study, reproduce
from vocseg_lib.study.table1 import STUDY
from vocseg_lib.utils.files import atomic_write, naming_damage, read_json, to_jsonable, write_json

REPORT, LINEAGE, PEERS = "report.json", "lineage.json", "peers.json"
"""Files of a results folder; the last, written by hand, lists trainings with other code."""
TABLES = {
    "table1": "quantity model source value low high",
    "failures": "model family type class size count",
    "differences": "kind metric class difference low high",
    "gap": "part points low high",
    "gap_claims": "the paper says,measured,answer,by",
    "crowding": "metric model bin value low high",
    "ablation": "variant size value low high difference difference_low difference_high",
    "metrics": "",  # see `_metrics`
}
"""CSV files that the notebooks write, and their columns."""
FIGURES = """01_stored_maps 02_assembly 03_training_yolact 03_training_mask_rcnn
04_precision_recall_mask 04_ap_against_iteration 04_ap_against_time 04_differences
05_errors_of_masks 05_failures_of_pixels 05_sheet_localization_failure 06_waterfall
06_crowding_recall 06_oracles_mask 06_ablation 07_proposals 07_lineage 07_strip
front_page""".split()
"""Figures that pages show, each with the number of its notebook."""
MAX_FIGURE_BYTES = 300_000
FRONT_PAGE_SCORE = 0.3
COMPARED = ("mask_AP", "mask_AP50")
VERSIONS = ("python", "torch", "torchvision", "numpy", "vocseg_lib")


def collect(results: Path) -> tuple[dict, Figure]:
    """The report on a results folder in which all notebooks were run, and the front page's figure.

    Raises OSError and ValueError, naming what is missing, damaged or of other data.
    """
    for name in TABLES:
        if not (path := results / f"{name}.csv").is_file():
            raise FileNotFoundError(f"{path} is missing: run make study RESULTS={results} first")
    tables = {name: read_table(results / f"{name}.csv", c) for name, c in TABLES.items() if c}
    run = results / "runs" / next(iter(MODEL_TITLES))
    with naming_damage(run / CONFIG):
        study, _ = reproduce(run, results=results)
    models, halfway = _models(study, tables["table1"])
    runs = sorted(results.glob("experiments/*/runs/*/metrics.json"))
    experiments = [_experiment(study, path.parent) for path in runs]
    with naming_damage(results / PEERS):
        peers = read_json(results / PEERS) if (results / PEERS).is_file() else []
        peers = [compare_with_peer(peer, models, experiments, results) for peer in peers]
    analyses = (opened := open_results(study)).analyses(FRONT_PAGE_SCORE)
    with naming_damage(results / "failures.csv"):
        failures, dap_differences = _failures(analyses, tables["failures"])
    with naming_damage(results / "metrics.csv"):
        metrics = _metrics(results / "metrics.csv", opened.evaluations)
    report = {
        "data": {"kind": study.data_kind, "classes": len(study.class_names)}
        | {"images": {split: len(study.dataset(split)) for split in ("train", "val")}}
        | {"objects": len(study.ground_truth["annotations"])},
        "models": models,
        "metrics": metrics,
        "halfway": halfway,
        "differences": _over_classes(tables["differences"], "difference"),
        "peers": peers,
        "experiments": experiments,
        "failures": failures,
        "dap_differences": dap_differences,
        "gap": {row.part: _bounds(row, "points") for row in tables["gap"].itertuples()},
        "claims": tables["gap_claims"].to_dict("records"),
        "crowding": nest(tables["crowding"], "metric", "model", "bin"),
        "ablation": nest(tables["ablation"], "variant", "size"),
    }
    return to_jsonable(report, digits=4), front_page_figure(plots.Gallery(analyses, study.devkit))


def front_page_figure(gallery: plots.Gallery) -> Figure:
    """The worst localization failure, preferring those that only one model has."""
    cases = gallery.select(type=MASK_FAILURES[0])
    if not len(cases):
        raise ValueError("neither model has a localization failure to show")
    cases = cases.sort_values("only this model", ascending=False, kind="stable")
    return gallery.side_by_side(cases.iloc[0], FRONT_PAGE_SCORE)


def _models(study: Study, table1: pd.DataFrame) -> tuple[dict, dict]:
    """How each model was trained and evaluated, by title; the difference of their halfway AP."""
    models, halfway = {}, []
    for name, title in MODEL_TITLES.items():
        run = study.run_folder(name)
        with naming_damage(run):
            models[title] = _training(run, table1[table1["model"] == title])
        evaluated = {c: _evaluate(study, run, c) for c in PREDICTIONS}
        models[title]["change_to_last"] = {
            start: _difference(evaluated["last"], evaluated[start]) for start in ("half", "best")
        }
        half, evals = models[title]["iterations"] // 2, models[title]["evaluations"]
        at = [e for e in evals if e["iteration"] >= half][0]  # noqa: RUF015
        models[title]["half"] = {"iterations": at["iteration"], "minutes": at["minutes"]}
        models[title]["half"] |= _headline(evaluated["half"])
        halfway.append(evaluated["half"])
    return models, _difference(*halfway)


def _training(run: Path, table1: pd.DataFrame) -> dict:
    """How a model was trained, from its run folder, and its rows of Table 1."""
    config, log = read_json(run / CONFIG), read_log(run / LOG)
    sessions, evals = read_sessions(run / "run.json"), plots.logged_evaluations(log).reset_index()
    last = sessions[-1]
    metrics = [c for c in evals if c.startswith(("mask_", "box_")) or c == "val_loss"]
    minutes, rows = evals["seconds"] / 60, table1[table1["source"] == STUDY]
    return {
        **recorded_config(config),
        "minutes": float(minutes.iloc[-1]),
        "sessions": len(sessions),
        "commits": list(dict.fromkeys(session["commit"] for session in sessions)),
        "device": {key: last.get(key) for key in ("device", "device_name", "cpu_cores")},
        "versions": {key: last[key] for key in VERSIONS},
        "started": sessions[0]["started"],
        "evaluations": evals[["iteration", *metrics]].assign(minutes=minutes).to_dict("records"),
        "overfitting": plots.overfitting(log),
        "table1": {row.quantity: _bounds(row, "value") for row in rows.itertuples()},
    }


def _experiment(study: Study, run: Path) -> dict:
    """A training beside the study's: its config, length and AP on val of its best weights."""
    config, metrics = read_json(run / CONFIG), read_json(run / "metrics.json")
    with naming_damage(run):
        return {
            "name": run.parents[1].name,
            "model": MODEL_TITLES[config["model"]],
            **recorded_config(config),
            "minutes": float(metrics["train_minutes"]),
            **_headline(_evaluate(study, run)),
        }


def _evaluate(study: Study, run: Path, checkpoint: str = "best") -> Sampled:
    predictions = run_predictions(study, run, checkpoint)
    evaluation = evaluate(study.ground_truth, predictions["detections"])
    weights = bootstrap.bootstrap_weights(len(study.val))
    return bootstrap.sample([evaluation], weights, only=HEADLINE)


def _headline(evaluated: Sampled) -> dict:
    """COCO's AP, AP50 and AP75 with intervals, by IoU type and metric."""
    return _over_classes(bootstrap.intervals_table(evaluated).dropna(subset=["low"]))


def _difference(first: Sampled, second: Sampled) -> dict:
    """AP of the first - AP of the second, paired, by IoU type and metric."""
    return _over_classes(bootstrap.paired_differences(first, second), "difference")


def _over_classes(table: pd.DataFrame, value: str = "value") -> dict:
    rows = table[table["class"] == "all"].itertuples()
    return {f"{row.kind}_{row.metric}": _bounds(row, value) for row in rows}


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


def _bounds(row: object, value: str) -> dict:
    return {"value": getattr(row, value), "low": row.low, "high": row.high}


def compare_with_peer(peer: dict, models: dict, experiments: list[dict], results: Path) -> dict:
    """A peer's AP beside that of the longest training (or half of one) within its minutes."""
    trainings = [models[peer["model"]]["half"]]
    trainings += [e for e in experiments if e["model"] == peer["model"]]
    within = (t for t in trainings if t["minutes"] <= peer["minutes"])
    longest = max(within, key=lambda training: training["minutes"], default=None)
    ap = _over_classes(pd.DataFrame(read_json(results / peer["file"])["table"]))
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
