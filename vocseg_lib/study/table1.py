"""Table 1, ours beside the paper's, as one tidy table from which CSV, Markdown and a styled DataFrame are made."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from pandas.io.formats.style import Styler
from torch import Tensor

from vocseg_lib.data.transforms import model_input
from vocseg_lib.engine.profile import count_gflop, measure_speed
from vocseg_lib.engine.run_folder import LOG, read_log
from vocseg_lib.models import MODELS
from vocseg_lib.plots.style import COLORS, MODEL_COLORS, add_title, new_ax
from vocseg_lib.study.recipes import MODEL_TITLES
from vocseg_lib.study.results import checkpoint_ap
from vocseg_lib.study.run import default_device, load_run
from vocseg_lib.study.study import Study
from vocseg_lib.utils.files import read_json

OURS, PAPER = "ours", "paper"
NAN = float("nan")
CHECKPOINTS = {
    "best": "best",
    "half": "half-way (the study's 6K)",
    "last": "last (the study's 12K)",
}
COLUMNS = ["quantity", "model", "source", "value", "low", "high", "about"]
COSTS = {
    "network_ms": "network (ms an image)",
    "postprocess_ms": "post-processing (ms an image)",
    "end_to_end_ms": "end to end (ms an image)",
    "fps": "FPS",
    "train_hours": "training (hours)",
    "parameters_m": "parameters (millions)",
    "gflop": "GFLOP an image",
    "train_peak_gb": "peak memory in training (GB)",
}
PAPER_FIGURES = {
    "YOLACT": {"fps": 17.2, "train_hours": 48.0, "mask AP half": 48.5, "mask AP last": 27.8},
    "Mask R-CNN": {"fps": 15.8, "train_hours": 48.0, "mask AP half": 43.3, "mask AP last": 53.2},
}
"""Its Table 1 in our reading: see `FOOTNOTES`."""
FOOTNOTES = (
    "Speed: median over the first images of val, one at a time, after a warm-up, on this machine and in the recipe's precision; "
    "the image is decoded already. Network: up to YOLACT's raw predictions, and to Mask R-CNN's boxes with their 28 x 28 masks "
    "(its NMS lies inside); post-processing: from there to masks of the image's size.",
    "Training: hours of loading and updates, without scoring. GFLOP: two for each multiply-add, one image of val, after training. "
    "Peak memory: tensors on a GPU, the whole process on a CPU.",
    "AP in percent on all of val; in brackets the 95 % interval from a bootstrap over its images.",
    "The paper: its print is damaged, the columns of its Table 1 run into one another. Our reading, which agrees with its text: "
    "17.2 FPS and mAP 27.8 at 12K iterations, 48.5 at about 6K for YOLACT-550; 15.8 FPS, 53.2 and 43.3 for Mask R-CNN. It does "
    "not say at which IoU its mAP is taken (we put it beside mask AP50), nor how FPS was measured; about 48 hours a model.",
)
PUBLISHED_AP50 = {
    "SDS": 49.7,
    "MNC": 63.5,
    "FCIS": 65.7,
    "YOLACT-550, SBD": 72.3,
    "Mask R-CNN, train_aug": 67.3,
    "Mask R-CNN, COCO weights": 71.4,
}
"""Published mask AP50 on VOC 2012 val (percent), other training data and backbones, speed not published with it."""
LINE = 3.2
"""Points of AP that a line of text is high."""
PAPER_POINTS = {"paper, YOLACT 6K": (17.2, 48.5), "paper, YOLACT 12K": (17.2, 27.8)}
PAPER_POINTS |= {"paper, Mask R-CNN 6K": (15.8, 43.3), "paper, Mask R-CNN 12K": (15.8, 53.2)}
SPEED_IMAGES = 15


def rows_of(model: str, costs: dict[str, float], ap: pd.DataFrame, about: str) -> pd.DataFrame:
    """One model's part of the tidy table: `costs` by the keys of `COSTS`; `ap` with checkpoint, kind, metric, value, low, high.

    `about` says by which recipe and on which data.
    """
    rows = [(COSTS[key], model, OURS, costs[key], NAN, NAN, about) for key in COSTS if key in costs]
    for entry in ap.itertuples():
        quantity = f"{entry.kind} {entry.metric}, {CHECKPOINTS[entry.checkpoint]}"
        rows.append((quantity, model, OURS, entry.value, entry.low, entry.high, about))
    return pd.DataFrame(rows, columns=COLUMNS)


def paper_rows() -> pd.DataFrame:
    """The paper's figures, where they stand beside ours: its mAP beside mask AP50."""
    rows = []
    for model, figures in PAPER_FIGURES.items():
        for key, value in figures.items():
            quantity = COSTS.get(key) or f"mask AP50, {CHECKPOINTS[key.removeprefix('mask AP ')]}"
            rows.append((quantity, model, PAPER, value, NAN, NAN, "VOC 2012"))
    return pd.DataFrame(rows, columns=COLUMNS)


def about_ours(table: pd.DataFrame) -> str:
    """By which recipe and on which data our figures are."""
    return "; ".join(dict.fromkeys(table.loc[table["source"] == OURS, "about"]))


def footnotes(table: pd.DataFrame) -> list[str]:
    """Numbered, the first one about our figures."""
    return [f"{i}. {note}" for i, note in enumerate((f"Ours: {about_ours(table)}.", *FOOTNOTES), 1)]


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A row a quantity, a column a source and model, each figure as text with its interval."""
    text = table.assign(text=[_text(row.value, row.low, row.high) for row in table.itertuples()])
    text["column"] = text["source"] + ": " + text["model"]
    order = list(dict.fromkeys(text["quantity"])), list(dict.fromkeys(text["column"]))
    return (
        text.pivot(index="quantity", columns="column", values="text")
        .loc[order[0], order[1]]
        .fillna("–")
    )


def styled(table: pd.DataFrame) -> Styler:
    """The wide table for a notebook, the paper's columns in grey, footnotes below."""
    shown = wide(table).rename_axis(index=None, columns=None)
    paper = [column for column in shown if column.startswith(PAPER)]
    caption = "<br>".join(footnotes(table))
    styles = [
        {
            "selector": "caption",
            "props": "caption-side: bottom; text-align: left; max-width: 60em; font-size: 85%",
        }
    ]
    return (
        shown.style.set_properties(subset=paper, color="grey")
        .set_caption(caption)
        .set_table_styles(styles)
    )


def markdown(table: pd.DataFrame) -> str:
    """The wide table and its footnotes in Markdown."""
    shown = wide(table)
    lines = ["| | " + " | ".join(shown.columns) + " |", "|---" * (len(shown.columns) + 1) + "|"]
    lines += [
        "| " + " | ".join([quantity, *row]) + " |"
        for quantity, row in zip(shown.index, shown.to_numpy(), strict=True)
    ]
    return "\n".join([*lines, "", *footnotes(table)]) + "\n"


def save(table: pd.DataFrame, results: Path) -> None:
    """Write `table1.csv` (tidy, numbers as they are) and `table1.md`."""
    results.mkdir(parents=True, exist_ok=True)
    table.to_csv(results / "table1.csv", index=False)
    (results / "table1.md").write_text(markdown(table))


def speed_and_accuracy(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mask AP50 of the best checkpoint against FPS; in grey the paper's points and, where no speed is known, published levels."""
    ax = new_ax(ax, (8, 4.6))
    ours = table[table["source"] == OURS].pivot_table(
        index="model", columns="quantity", values="value", sort=False
    )
    quantity = f"mask AP50, {CHECKPOINTS['best']}"
    for model, row in ours.iterrows():
        at = row[COSTS["fps"]], row[quantity]
        ax.plot(
            *at,
            "o",
            color=MODEL_COLORS.get(model, COLORS[2]),
            markersize=9,
            label=f"{model}, ours",
        )
    for name, at in PAPER_POINTS.items():
        ax.plot(*at, "o", color="grey")
        ax.annotate(name, at, fontsize=7, color="grey", xytext=(4, 4), textcoords="offset points")
    right = 1.35 * max(ours[COSTS["fps"]].max(), *(x for x, _ in PAPER_POINTS.values()))
    below = 101.0
    for name, level in sorted(PUBLISHED_AP50.items(), key=lambda item: -item[1]):
        below = min(level, below - LINE)  # each label on a line of its own
        ax.plot(right, level, "<", color="grey", clip_on=False)
        ax.annotate(
            f"{name}: {level}",
            (0.98 * right, below),
            fontsize=7,
            color="grey",
            ha="right",
            va="center",
        )
    ax.set_xlim(0, right)
    ax.set_ylim(0, 100)
    ax.set_xlabel("FPS on the machine of each (◂ at the edge: speed not published)")
    ax.set_ylabel("mask AP50 (percent)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="lower left")
    fastest, best = ours[COSTS["fps"]].idxmax(), ours[quantity].idxmax()
    reading = f"Of ours ({about_ours(table)}), {fastest} has the higher speed and {best} the higher AP50. "
    reading += "Grey: published, on VOC 2012 val, with other training data and machines."
    return add_title(ax, "Speed and accuracy", reading, 100)


def _text(value: float, low: float, high: float) -> str:
    digits = 1 if abs(value) >= 10 else 2
    interval = "" if pd.isna(low) else f" [{low:.1f}, {high:.1f}]"
    return f"{value:.{digits}f}{interval}"


def measure_costs(
    run_folder: Path, images: list[Tensor], device: str, mixed_precision: bool = False
) -> dict[str, float]:
    """Costs of a trained model by the keys of `COSTS`; images are float [3, H, W] in 0..1."""
    model, *_ = load_run(run_folder, device)
    speed = measure_speed(model, images, device, mixed_precision=mixed_precision)
    log = read_log(run_folder / LOG)
    peaks = [entry["peak_memory_gb"] for entry in log if "peak_memory_gb" in entry]
    return {
        "network_ms": 1000 * speed["network_seconds"],
        "postprocess_ms": 1000 * speed["postprocess_seconds"],
        "end_to_end_ms": 1000 * speed["seconds_per_image"],
        "fps": speed["fps"],
        "train_hours": read_json(run_folder / "metrics.json")["train_minutes"] / 60,
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "gflop": count_gflop(model, images[0], device),
        "train_peak_gb": max(peaks, default=float("nan")),
    }


def table1(study: Study) -> pd.DataFrame:
    """Table 1, tidy (see `COLUMNS`), ours and the paper's; also written to table1.csv and .md."""
    trained = [name for name in MODELS if (study.run_folder(name) / "metrics.json").is_file()]
    images = [model_input(study.val[i][0]) for i in range(min(len(study.val), SPEED_IMAGES))]
    parts = []
    for name in trained:
        folder, half = study.run_folder(name), study.recipe.train.mixed_precision
        costs = measure_costs(folder, images, default_device(), half)
        ap = checkpoint_ap(folder, study.ground_truth)
        parts.append(rows_of(MODEL_TITLES[name], costs, ap, study.description))
    table = pd.concat([*parts, paper_rows()], ignore_index=True)
    save(table, study.results)
    return table
