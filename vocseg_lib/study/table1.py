"""Table 1, this study's beside the paper's: one tidy table, written as CSV and Markdown."""

import html
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler
from torch import Tensor, nn
from torch.types import Device
from torch.utils.flop_counter import FlopCounterMode

from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.predict import eval_mode
from vocseg_lib.engine.run_folder import LOG, read_log
from vocseg_lib.plots.labels import label_point
from vocseg_lib.plots.style import add_title, as_label, model_color, new_ax
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import checkpoint_ap
from vocseg_lib.study.run import default_device, load_run
from vocseg_lib.study.study import Study
from vocseg_lib.utils.device import autocast
from vocseg_lib.utils.files import naming_damage, read_json, write_text

STUDY, PAPER = "this study", "paper"
COLUMNS = "quantity model source value low high description".split()
CHECKPOINT_TITLES = {
    "best": "best",
    "half": "half-way (published: 6K)",
    "last": "last (published: 12K)",
}
QUANTITIES = {
    "network_ms": "network (ms per image)",
    "postprocess_ms": "post-processing (ms per image)",
    "end_to_end_ms": "end to end (ms per image)",
    "fps": "FPS",
    "train_hours": "training (hours)",
    "parameters_m": "parameters (millions)",
    "gflop": "GFLOP per image",
    "train_peak_gb": "peak memory in training (GB)",
}
"""Speed and size of a model."""
PAPER_VALUES = {
    "YOLACT": {"fps": 17.2, "train_hours": 48.0, "half": 48.5, "last": 27.8},
    "Mask R-CNN": {"fps": 15.8, "train_hours": 48.0, "half": 43.3, "last": 53.2},
}
"""The paper's Table 1, its mAP by checkpoint: see `FOOTNOTES`."""
FOOTNOTES = (
    "Speed: median over the first images of val, one at a time, after a warm-up, on this machine "
    "and in the recipe's precision; the image is decoded already. Network: up to YOLACT's raw "
    "predictions, and to Mask R-CNN's boxes with their 28 x 28 masks (its NMS lies inside); "
    "post-processing: from there to masks of the image's size.",
    "Training: hours of loading and updates, without evaluation. GFLOP: two per multiply-add, one "
    "image of val, after training. Peak memory: tensors on a GPU, the whole process on a CPU.",
    "AP in percent on all of val; in brackets the 95 % interval from a bootstrap over its images.",
    "The paper: its print is damaged, the columns of its Table 1 run into one another. A "
    "reading that agrees with its text: 17.2 FPS and mAP 27.8 at 12K iterations, 48.5 at about "
    "6K for YOLACT-550; 15.8 FPS, 53.2 and 43.3 for Mask R-CNN. It does not say at which IoU its "
    "mAP is taken (it stands beside mask AP50), nor how FPS was measured; about 48 h per model.",
)
PUBLISHED_AP50 = {
    "SDS": 49.7,
    "MNC": 63.5,
    "FCIS": 65.7,
    "YOLACT-550, SBD": 72.3,
    "Mask R-CNN, train_aug": 67.3,
    "Mask R-CNN, COCO weights": 71.4,
}
"""Mask AP50 on VOC 2012 val (percent); other training data and backbones, no speed published."""
LABEL_HEIGHT = 3.2  # points of AP
SPEED_IMAGES = 15


def build_table1(study: Study) -> pd.DataFrame:
    """Table 1 of a study's trained models and the paper; also written to table1.csv and .md.

    Columns: `COLUMNS`; low and high are the 95 % interval.
    """
    images = [
        model_input(study.val_pictures[i][0]) for i in range(min(len(study.val), SPEED_IMAGES))
    ]
    rows = []
    for name, title in MODEL_TITLES.items():
        run_folder = study.run_folder(name)
        if (run_folder / "metrics.json").is_file():
            measured = measure_run(run_folder, images, study.recipe.train.mixed_precision)
            ap = checkpoint_ap(study, run_folder)
            rows += study_rows(title, measured, ap, study.description)
    table = pd.DataFrame([*rows, *paper_rows()], columns=COLUMNS)
    save_table1(table, study.results)
    return table


def measure_run(
    run_folder: Path, images: list[Tensor], mixed_precision: bool = False
) -> dict[str, float]:
    """A trained model's values by the keys of `QUANTITIES`; images are float [3, H, W] in 0..1."""
    with naming_damage(run_folder / "metrics.json"):
        minutes = float(read_json(run_folder / "metrics.json")["train_minutes"])
    with naming_damage(run_folder / LOG):
        log = read_log(run_folder / LOG)
        peaks = [float(entry["peak_memory_gb"]) for entry in log if "peak_memory_gb" in entry]
    device = default_device()
    model, *_ = load_run(run_folder, device)
    options = {"repeats": len(images), "mixed_precision": mixed_precision}
    speed = measure_speed(model, images, device, **options)
    return {
        "network_ms": 1000 * speed["network_seconds"],
        "postprocess_ms": 1000 * speed["postprocess_seconds"],
        "end_to_end_ms": 1000 * speed["seconds_per_image"],
        "fps": speed["fps"],
        "train_hours": minutes / 60,
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "gflop": count_gflop(model, images[0], device),
        "train_peak_gb": max(peaks, default=float("nan")),
    }


@torch.inference_mode()
def measure_speed(
    model: nn.Module,
    images: list[Tensor],
    device: Device = "cpu",
    warmup: int = 3,
    repeats: int = 15,
    mixed_precision: bool = False,
) -> dict[str, float]:
    """Median seconds per image of the network, of post-processing and of both, and `fps` of both.

    Images [3, H, W] in 0..1 are used in turn; the device is synchronized before the clock is read.
    `postprocess` is YOLACT's NMS and mask assembly; of Mask R-CNN, only pasting 28 x 28 masks.
    """
    device = torch.device(device)
    images = [image.to(device) for image in images]
    rows = []
    with eval_mode(model, device):
        for run in range(warmup + repeats):
            with autocast(device, mixed_precision, predicting=True):
                start = _now(device)
                raw = model.network([images[run % len(images)]])
                middle = _now(device)
                model.postprocess(raw)
                end = _now(device)
            rows.append((middle - start, end - middle, end - start))
    network, postprocess, total = map(statistics.median, zip(*rows[warmup:], strict=True))
    seconds = {"network_seconds": network, "postprocess_seconds": postprocess}
    return {**seconds, "seconds_per_image": total, "fps": 1 / total}


@torch.inference_mode()
def count_gflop(model: nn.Module, image: Tensor, device: Device = "cpu") -> float:
    """Floating-point operations for one image [3, H, W] in 0..1: 1e9, two per multiply-add."""
    with eval_mode(model, device), FlopCounterMode(display=False) as counter:
        model([image.to(device)])
    return counter.get_total_flops() / 1e9


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def study_rows(title: str, measured: dict, ap: pd.DataFrame, description: str) -> list[tuple]:
    """One model's rows of the table; `measured` of `measure_run`, `ap` of `checkpoint_ap`."""
    rows = [
        (name, title, STUDY, measured[key], np.nan, np.nan, description)
        for key, name in QUANTITIES.items()
    ]
    for row in ap.itertuples():
        quantity = f"{row.kind} {row.metric}, {CHECKPOINT_TITLES[row.checkpoint]}"
        rows.append((quantity, title, STUDY, row.value, row.low, row.high, description))
    return rows


def paper_rows() -> list[tuple]:
    """The paper's rows: its mAP beside mask AP50."""
    names = QUANTITIES | {key: f"mask AP50, {name}" for key, name in CHECKPOINT_TITLES.items()}
    return [
        (names[key], title, PAPER, value, np.nan, np.nan, "VOC 2012")
        for title, values in PAPER_VALUES.items()
        for key, value in values.items()
    ]


def footnotes(table: pd.DataFrame) -> list[str]:
    """Numbered footnotes; the first one says by which recipe and on which data."""
    notes = (f"This study: {_descriptions(table)}.", *FOOTNOTES)
    return [f"{i}. {note}" for i, note in enumerate(notes, 1)]


def _descriptions(table: pd.DataFrame) -> str:
    return "; ".join(table.loc[table["source"] == STUDY, "description"].unique())


def wide_table1(table: pd.DataFrame) -> pd.DataFrame:
    """One row per quantity, one column per source and model: values as text with intervals."""
    texts = [_text(row.value, row.low, row.high) for row in table.itertuples()]
    table = table.assign(text=texts, column=table["source"] + ": " + table["model"])
    wide = table.pivot(index="quantity", columns="column", values="text")
    return wide.loc[table["quantity"].unique(), table["column"].unique()].fillna("–")


def _text(value: float, low: float, high: float) -> str:
    digits = 1 if abs(value) >= 10 else 2
    interval = "" if pd.isna(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{value:.{digits}f}{interval}"


def styled_table1(table: pd.DataFrame) -> Styler:
    """The wide table for a notebook, the paper's columns in gray, footnotes below."""
    wide = wide_table1(table).rename_axis(index=None, columns=None)
    paper = [column for column in wide if column.startswith(PAPER)]
    caption = "caption-side: bottom; text-align: left; max-width: 60em; font-size: 85%"
    styler = wide.style.set_properties(subset=paper, color="grey").format(escape="html")
    styler = styler.format_index(escape="html").format_index(escape="html", axis=1)
    styler = styler.set_table_attributes('class="tex2jax_ignore"')  # by MathJax
    styler = styler.set_table_styles([{"selector": "caption", "props": caption}])
    notes = (html.escape(note, quote=False) for note in footnotes(table))
    return styler.set_caption("<br>".join(notes))


def save_table1(table: pd.DataFrame, results: Path) -> None:
    """Write `table1.csv` (tidy, unrounded) and `table1.md` (the wide table and its footnotes)."""
    wide = wide_table1(table)
    header = [["", *wide.columns], ["---"] * (1 + len(wide.columns))]
    rows = [map(_as_markdown, row) for row in (*header, *wide.reset_index().to_numpy())]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *map(_as_markdown, footnotes(table))]
    write_text(results / "table1.csv", table.to_csv(index=False))
    write_text(results / "table1.md", "\n".join(lines) + "\n")


def _as_markdown(text: str) -> str:
    """A text that Markdown shows as it is, also in a table."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def speed_and_accuracy(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mask AP50 of the best checkpoint against FPS; in gray the paper's and published values."""
    ax = new_ax(ax, (8, 4.6))
    rows = table[table["source"] == STUDY].set_index(["quantity", "model"])["value"]
    fps, ap50 = rows["FPS"], rows[f"mask AP50, {CHECKPOINT_TITLES['best']}"]
    for i, model in enumerate(fps.index):
        style = {"color": model_color(model, i), "label": f"{as_label(model)}, this study"}
        ax.plot(fps[model], ap50[model], "o", markersize=9, **style)
    for model, values in PAPER_VALUES.items():
        for key, iterations in (("half", "6K"), ("last", "12K")):
            point, label = (values["fps"], values[key]), f"paper, {model} {iterations}"
            ax.plot(*point, "o", color="grey")
            label_point(ax, point, label, fontsize=7, color="grey")
    # Published levels stand at the right edge, each label on a line of its own.
    right = 1.35 * max(fps.max(), *(values["fps"] for values in PAPER_VALUES.values()))
    y = 101.0
    for name, level in sorted(PUBLISHED_AP50.items(), key=lambda item: -item[1]):
        y = min(level, y - LABEL_HEIGHT)
        ax.plot(right, level, "<", color="grey", clip_on=False)
        style = {"fontsize": 7, "color": "grey", "ha": "right", "va": "center"}
        ax.annotate(f"{name}: {level}", (0.98 * right, y), **style)
    ax.set(xlim=(0, right), ylim=(0, 100), ylabel="mask AP50 (percent)")
    ax.set_xlabel("FPS on the machine of each (◂ at the edge: speed not published)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="lower left")
    faster, better = fps.idxmax(), ap50.idxmax()
    reading = f"In this study ({_descriptions(table)}), {faster} has the higher speed and "
    reading += f"{'also' if better == faster else better} the higher AP50. Gray: published, on VOC "
    reading += "2012 val, with other training data and machines."
    return add_title(ax, "Speed and accuracy", reading, 100)
