"""A run's best weights for others: safetensors with all that is needed to use it, a model card."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from jinja2 import StrictUndefined, Template
from safetensors.torch import save_file
from torch import Tensor

from vocseg_lib import __version__
from vocseg_lib.data.voc import find_devkit
from vocseg_lib.engine.run_folder import SESSIONS, read_sessions
from vocseg_lib.metrics.coco_eval import HEADLINE
from vocseg_lib.metrics.matching import IOU_TYPES
from vocseg_lib.study.initial_weights import HEADER, file_of, read_own
from vocseg_lib.study.recipes import (
    COCO,
    IMAGENET,
    LINEAGE_MODELS,
    MODEL_TITLES,
    PILOT,
    PILOT_WEIGHTS,
    RECIPES,
    Recipe,
    recipe_changes,
    without_folders,
)
from vocseg_lib.study.results import checkpoint_ap
from vocseg_lib.study.run import read_run
from vocseg_lib.study.study import Study
from vocseg_lib.utils.environment import git_commit
from vocseg_lib.utils.files import (
    atomic_write,
    read_bytes,
    read_json,
    resolve_path,
    to_jsonable,
    write_text,
)

CARD_MARK = "<!-- model card by vocseg export-weights -->"
PRECISIONS = {"fp16": torch.float16, "fp32": torch.float32}
VOC_TERMS = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
LICENSES = {
    "synthetic": "The images are computed by this library; no rights are claimed in them.",
    "VOC 2012": f"The images belong to their Flickr authors; VOC's terms hold: {VOC_TERMS}.",
    "pilot": f"Images in VOC's layout: their owners' terms hold; of VOC's own, {VOC_TERMS}.",
    "own": "Data of one's own: ask its owner before you pass these weights on.",
    "": "The data was not at hand when this was written: its owners' terms hold.",
}
STARTS = {
    None: "random weights",
    IMAGENET: "torchvision's ImageNet weights of the backbone, under ImageNet's terms",
    COCO: "the published COCO detector, under its authors' and COCO's terms",
    **dict.fromkeys((PILOT, *PILOT_WEIGHTS), "weights that come with this library"),
}


def export_weights(
    run: str | Path,
    out: str | Path = "",
    precision: Literal["fp16", "fp32"] = "fp16",
    data: str | Path = "",
) -> tuple[Path, Path]:
    """Write a run's best weights as safetensors, and its model card beside them: both paths.

    Config, class names and metrics are in the header. `load_model` and `init` take the file.

    Args:
        out: default: MODEL.safetensors in the run folder.
        data: the run's devkit, for intervals; default: where the run recorded it.

    Raises:
        ValueError: for numbers that fp16 cannot hold, a file of another ending, other data.
        FileNotFoundError: if the run, or data that is given, is missing.
    """
    run = resolve_path(run)
    config, best = read_run(run)
    start, config = start_of(config), without_folders(config)
    path = Path(out or run / f"{config['model']}.safetensors")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end with .safetensors")
    card = path.with_suffix(".md")
    if card.exists() and not read_bytes(card).startswith(CARD_MARK.encode()):
        raise ValueError(f"{card} exists and is not a model card of ours: choose another --out")
    state = stored_state(best.pop("model"), precision)
    metrics = read_json(run / "metrics.json")
    header = {"config": config, "iteration": best["iteration"], "metrics": metrics}
    header |= {"precision": precision, "commit": git_commit(), "start": start}
    with atomic_write(path) as temporary:
        save_file(state, temporary, {"format": "pt", HEADER: json.dumps(to_jsonable(header))})
    write_text(card, f"{CARD_MARK}\n\n{model_card(run, path, header, data)}")
    return path, card


def stored_state(state: dict[str, Tensor], precision: str = "fp16") -> dict[str, Tensor]:
    """Weights as they are stored. Raises ValueError for numbers that `precision` cannot hold."""
    stored = {name: value.contiguous() for name, value in state.items()}
    for name, value in stored.items():
        # Biases and statistics of batch norm are few, and small ones would become 0.
        if value.is_floating_point() and value.ndim > 1:
            stored[name] = value.to(PRECISIONS[precision])
            if not stored[name].isfinite().all():
                raise ValueError(f"{name} has numbers that {precision} cannot hold: take fp32")
    return stored


def model_card(run: Path, weights: Path, header: dict, data: str | Path = "") -> str:
    """What weights are, in Markdown, from a run's own files; intervals if its data is at hand."""
    config, metrics = header["config"], header["metrics"]
    last = (sessions := [{}, *read_sessions(run / SESSIONS)])[-1]
    devkit = data or next((s["devkit"] for s in reversed(sessions) if "devkit" in s), "")
    recipe = Recipe.of_run(config)
    study = _study_of(run, config, devkit, required=bool(data))
    kind, name = study.data_kind if study else "", config["model"]
    changes = recipe_changes(recipe, RECIPES["paper"]).iloc[:, :2]
    parts = ("train.", f"{LINEAGE_MODELS.get(name, name)}.")
    template = (files("vocseg_lib.study") / "model_card.md.jinja").read_text(encoding="utf-8")
    return Template(template, undefined=StrictUndefined).render(
        **header,
        title=MODEL_TITLES.get(name, name),
        recipe=recipe,
        names=config["class_names"],
        file=weights.name,
        megabytes=weights.stat().st_size / 1e6,
        study=study,
        kind=kind,
        train_images=len(study.dataset("train")) if study else None,
        license=LICENSES[kind],
        aside=len(study.dataset("train")) - len(study.train_names) if study else 0,
        device=last.get("device_name", "unknown device"),
        torch=last.get("torch", "unknown"),
        version=__version__,
        fields=[(f, v) for f, *v in changes.itertuples() if f.startswith(parts)],
        rows=_metric_rows(study, run, metrics),
    )


def start_of(config: dict) -> str:
    """What a training started from, in words; of a training, also what that started from."""
    init = Recipe.of_run(config).model_config(config["model"]).init
    if init in STARTS:
        return STARTS[init]
    try:
        earlier = read_own(file_of(init, config["model"]))
    except (OSError, ValueError):  # gone
        earlier = None
    if not earlier:
        return f"`{Path(init).name}`, under its own terms"
    minutes = earlier.get("metrics", {}).get("train_minutes")
    recipe = earlier["config"]["recipe"]["name"]
    run = f"a run of {earlier['iteration']} iterations by recipe `{recipe}`"
    run += f" in {minutes:.0f} minutes" if minutes else ""
    return f"{run}, which started from {earlier.get('start') or start_of(earlier['config'])}"


def _study_of(run: Path, config: dict, devkit: str | Path, required: bool) -> Study | None:
    """The study of a run; None if its data is missing or has changed, unless it is required."""
    try:
        recipe, found = Recipe.of_run(config), find_devkit(resolve_path(devkit)) if devkit else None
        study = found and Study(recipe=recipe, devkit=found, results=run.parent.parent)
        if study and study.fingerprint != config["data_fingerprint"]:
            raise ValueError(f"{found} is not the data of {run}, or has changed since")
    except (OSError, ValueError):
        if required:
            raise
        return None
    return study


def _metric_rows(study: Study | None, run: Path, metrics: dict) -> list[tuple[str, list[str]]]:
    """AP, AP50 and AP75 of masks and boxes, with intervals where there is the data."""
    if not study:
        names = {k: [f"{k}_{metric}" for metric in HEADLINE] for k in IOU_TYPES}
        return [
            (k, ["–" if metrics[n] is None else f"{metrics[n]:.1f}" for n in of])
            for k, of in names.items()
        ]
    table = checkpoint_ap(study, run)
    best = table[table["checkpoint"] == "best"].set_index(["kind", "metric"])
    cells = best.apply(
        lambda row: f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]", axis=1
    )
    return [(kind, [cells[kind, metric] for metric in HEADLINE]) for kind in IOU_TYPES]
