"""Ablation of YOLACT's mask loss: crop to the ground-truth box, normalization by its area.

(YOLACT paper, sec. 3.1.)
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.predict import predict, save_predictions
from vocseg_lib.engine.resume import ChangedConfig, check_config
from vocseg_lib.engine.run_folder import BEST, clear_run_folder
from vocseg_lib.engine.train import Session, train
from vocseg_lib.metrics.average_precision import class_mean, coco_metrics
from vocseg_lib.metrics.bootstrap import interval, prepend_point_estimate
from vocseg_lib.metrics.coco_eval import Evaluation, evaluate
from vocseg_lib.metrics.matching import AREA_RANGES
from vocseg_lib.study.recipes import Recipe
from vocseg_lib.study.run import build_model, default_device, prediction_header
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import run_config
from vocseg_lib.utils.rle import mask_areas

VARIANTS = {
    "crop and area": {},
    "no crop": {"crop_in_training": False},
    "no area": {"normalize_by_area": False},
    "neither": {"crop_in_training": False, "normalize_by_area": False},
}
"""What is switched off in each; the first is the paper's loss."""
FRACTION = 1 / 20
"""Iterations of each variant / iterations of the recipe."""


def variant_recipe(recipe: Recipe, fraction: float, changes: dict) -> Recipe:
    """The recipe of a variant: a short training of YOLACT with another mask loss."""
    iterations = max(1, round(fraction * recipe.train.iterations))
    steps = dict.fromkeys(("iterations", "eval_every", "checkpoint_every"), iterations)
    steps["warmup_iterations"] = min(recipe.train.warmup_iterations, iterations // 5)
    return recipe.with_changes(**steps, patience=None, init=None, **changes)


def train_variants(study: Study, fraction: float = FRACTION) -> dict[str, Evaluation]:
    """Evaluations on val of the study's YOLACT, trained further with the loss of each variant.

    On the same images, in `results`/ablation, if not done yet.

    Raises:
        FileNotFoundError: if the study's YOLACT is not trained yet.
    """
    best = study.run_folder("yolact") / BEST
    if not best.is_file():
        raise FileNotFoundError(f"{best} is missing: run 03_train with MODEL='yolact' first")
    weights, device = load_checkpoint(best)["model"], default_device()
    evaluations = {}
    for name, changes in VARIANTS.items():
        recipe = variant_recipe(study.recipe, fraction, changes)
        folder = study.results / "ablation" / name.replace(" ", "_")
        config = run_config(replace(study, recipe=recipe), "yolact")
        config["start"] = checksum(weights)
        try:
            check_config(folder, config)
        except ChangedConfig:  # trained from other weights, or with another recipe
            clear_run_folder(folder)
        # Train from the study's weights.
        model = build_model(recipe, "yolact", study.class_names)
        model.load_state_dict(weights)
        dataset = study.dataset("train", recipe.train.augmentation, skip_bad=True)
        session = Session(device=device)
        train(model, dataset, folder, recipe.train, session=session, run_config=config)
        # Predict val once.
        path, mixed_precision = folder / "predictions.json", recipe.train.mixed_precision
        try:
            predictions = study.read_predictions(path, config)
        except (FileNotFoundError, ValueError):
            header = prediction_header(config, recipe.train.iterations, study.dataset("val"))
            predictions = predict(model, study.val_pictures, header, device, mixed_precision)
            save_predictions(path, predictions)
            predictions = study.read_predictions(path, config)
        evaluations[name] = evaluate(study.ground_truth, predictions["detections"])
    return evaluations


def ablation_table(
    evaluations: dict[str, Evaluation], weights: Float[np.ndarray, "resamples images"]
) -> pd.DataFrame:
    """Mask AP of each variant by object size, and its difference to the first variant (percent).

    Columns: variant, size, objects, value, low, high, difference, difference_low,
    difference_high, empty (percent of the detections whose mask has no pixel). The 95 % intervals
    are paired: `weights` (how often each image counts in a resample) are the same for all.
    """
    weights = prepend_point_estimate(weights, weights.shape[1])
    ap = {
        (name, size): class_mean(coco_metrics(evaluation.matches("mask", size), weights)["AP"])
        for name, evaluation in evaluations.items()
        for size in AREA_RANGES
    }
    first, rows = next(iter(evaluations)), []
    for (name, size), values in ap.items():
        differences = values - ap[first, size]
        objects = int(evaluations[name].matches("mask", size).num_gt.sum())
        ends = *interval(values[1:]), differences[0], *interval(differences[1:])
        rows.append((name, size, objects, values[0], *ends, empty_masks(evaluations[name])))
    columns = "variant size objects value low high difference difference_low difference_high empty"
    return pd.DataFrame(rows, columns=columns.split())


def empty_masks(evaluation: Evaluation) -> float:
    """Percent of the detections whose mask has no pixel; NaN without any."""
    areas = mask_areas([d["segmentation"] for d in evaluation.detections])
    return float(100 * (areas == 0).mean()) if len(areas) else float("nan")
