"""What YOLACT's two tricks buy: its mask loss with and without the crop to the true box, and with and without the division by
the box's area (the study; YOLACT paper, sec. 3.1)."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import nn

from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.predict import load_predictions, predict, save_predictions
from vocseg_lib.engine.resume import BEST, config_changes, read_config
from vocseg_lib.engine.train import train
from vocseg_lib.metrics.average_precision import class_mean
from vocseg_lib.metrics.bootstrap import interval, prepend_point_estimate
from vocseg_lib.metrics.coco_eval import SIZES, Evaluation, coco_metrics, evaluate
from vocseg_lib.study.run import default_device, prediction_header, training_options
from vocseg_lib.study.study import Study
from vocseg_lib.utils.rle import mask_areas

VARIANTS = {
    "crop and area": {},
    "no crop": {"crop_in_training": False},
    "no area": {"normalize_by_area": False},
    "neither": {"crop_in_training": False, "normalize_by_area": False},
}
"""What is switched off in each; the first is the paper's loss."""
SHARE = 1 / 8
"""Of the recipe's iterations that each variant gets."""


def variant_model(study: Study, changes: dict) -> nn.Module:
    """The study's trained YOLACT with a mask loss of its own."""
    model = study.build("yolact", weights=None, **changes)
    model.load_state_dict(load_checkpoint(study.run_folder("yolact") / BEST)["model"])
    return model


def train_variants(
    study: Study, share: float = SHARE, device: str | None = None
) -> dict[str, Evaluation]:
    """Each variant judged on val: the study's YOLACT, trained on with its loss for `share` of the recipe's iterations.

    On the same images, in `results`/ablation, where that was not done yet. Raises FileNotFoundError when the study's YOLACT is
    not trained yet.
    """
    device = device or default_device()
    iterations = max(1, round(share * study.recipe.iterations))
    recipe = replace(
        study.recipe,
        iterations=iterations,
        warmup_iterations=min(study.recipe.warmup_iterations, iterations // 5),
    )
    if not (study.run_folder("yolact") / BEST).is_file():
        raise FileNotFoundError(
            f"{study.run_folder('yolact') / BEST} is missing: run 03_train with MODEL='yolact' first"
        )
    start = checksum(load_checkpoint(study.run_folder("yolact") / BEST)["model"])
    judged = {}
    for name, changes in VARIANTS.items():
        folder = study.results / "ablation" / name.replace(" ", "_")
        model = variant_model(study, changes)
        options = training_options(recipe) | {
            "patience": None,
            "eval_every": iterations,
            "checkpoint_every": iterations,
        }
        settings = {**study.settings("yolact"), **changes, "iterations": iterations, "start": start}
        if config_changes(
            read_config(folder) or settings, settings
        ):  # of another detector, or another recipe
            shutil.rmtree(folder)
        train(
            model,
            study.dataset("train", recipe.augmentation, skip_bad=True),
            folder,
            **options,
            settings=settings,
            device=device,
        )
        path = folder / "predictions.json"
        if not path.is_file():
            facts = prediction_header(settings, {"iteration": iterations}, study.dataset("val"))
            save_predictions(path, predict(model, study.val, facts, device, recipe.mixed_precision))
        judged[name] = evaluate(study.ground_truth, load_predictions(path)["detections"])
    return judged


def ablation_table(
    judged: dict[str, Evaluation], weights: Float[np.ndarray, "b i"]
) -> pd.DataFrame:
    """Mask AP of each variant by size of object, and its difference to the first variant on the same drawn images.

    Columns: variant, size, objects, value, low, high, difference, difference_low, difference_high, empty; intervals of 95 %
    from `weights` (how often each image counts, a row a resample). `empty`: percent of all detections whose mask has no pixel.
    """
    drawn = prepend_point_estimate(weights, weights.shape[1])
    values = {
        (name, size): class_mean(coco_metrics(evaluation.matches["mask"][size], drawn)["AP"])
        for name, evaluation in judged.items()
        for size in SIZES
    }
    first, rows = next(iter(judged)), []
    for (name, size), ap in values.items():
        difference = ap - values[first, size]
        objects = int(judged[name].matches["mask"][size].objects.sum())
        ends = *interval(ap[1:]), difference[0], *interval(difference[1:])
        rows.append((name, size, objects, ap[0], *ends, empty_masks(judged[name])))
    columns = [
        "variant",
        "size",
        "objects",
        "value",
        "low",
        "high",
        "difference",
        "difference_low",
        "difference_high",
        "empty",
    ]
    return pd.DataFrame(rows, columns=columns)


def empty_masks(evaluation: Evaluation) -> float:
    """Percent of the detections whose mask has no pixel; NaN without any."""
    areas = mask_areas([d["segmentation"] for d in evaluation.detections])
    return float(100 * (areas == 0).mean()) if len(areas) else float("nan")
