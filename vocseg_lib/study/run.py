"""Models from recipes, and from the run folders of their trainings."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.transforms import model_input
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.predict import load_predictions, predict
from vocseg_lib.engine.resume import BEST
from vocseg_lib.models import MODELS
from vocseg_lib.plots.pictures import DRAWN_SCORE, Visualizer
from vocseg_lib.study.recipes import FROZEN_BELOW, PROSE_FIELDS, Recipe
from vocseg_lib.utils.files import project_root, read_json, resolve_path

LINEAGE = ("fast_rcnn", "faster_rcnn", "semantic")
"""Models of `models.lineage` that are trained like the two of the study."""


def default_device() -> str:
    """ "cuda" when there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build_model(recipe: Recipe, model_name: str, classes: int = len(CLASS_NAMES)) -> nn.Module:
    """A model as its recipe says, for some classes (background not counted), weights drawn from the recipe's seed.

    Raises ValueError for an unknown name.
    """
    if model_name not in (*MODELS, *LINEAGE):
        raise ValueError(f"no model {model_name!r}; choose one of {', '.join((*MODELS, *LINEAGE))}")
    base = {"backbone": recipe.backbone, "weights": recipe.weights, "num_classes": classes + 1}
    shared = {**base, "channels": recipe.channels, "compile": recipe.compile}
    two_stage = {
        "short_side": recipe.short_side,
        "proposals": recipe.proposals,
        "rois_per_image": recipe.rois_per_image,
    }
    torch.manual_seed(recipe.seed)
    if model_name in LINEAGE:
        from vocseg_lib.models import lineage  # needs more packages than the two models

        if model_name == "semantic":
            return lineage.DeepLabV3Components(**base, image_size=recipe.image_size)
        if model_name == "faster_rcnn":
            return lineage.MasksFromBoxes(lineage.FasterRCNN(**shared, **two_stage))
        # As many as Mask R-CNN and Faster R-CNN have in prediction.
        search = lineage.SelectiveSearch(
            recipe.proposals // 2, seed=recipe.seed, cache=project_root() / "data" / "proposals"
        )
        return lineage.MasksFromBoxes(lineage.FastRCNN(search, **shared, **two_stage))
    own = {
        "yolact": {
            "image_size": recipe.image_size,
            "semantic": recipe.semantic_loss,
            "crop_in_training": recipe.crop_in_training,
            "crop_in_inference": recipe.crop_in_inference,
            "normalize_by_area": recipe.normalize_by_area,
            "nms": recipe.nms,
        },
        "mask_rcnn": {**two_stage, "pooling": recipe.roi_pooling},
    }
    return MODELS[model_name](**shared, **own[model_name])


def load_run(run_folder: str | Path, device: str | None = None) -> tuple[nn.Module, dict, dict]:
    """A trained model with its best weights, its settings (`recipe.json`) and `best.pt`'s scores.

    Raises FileNotFoundError when the folder holds no finished training.
    """
    run_folder = Path(run_folder)
    for name in ("recipe.json", "best.pt"):
        if not (run_folder / name).is_file():
            raise FileNotFoundError(
                f"{run_folder / name} is missing: {run_folder} is not the folder of a training"
            )
    settings = read_json(run_folder / "recipe.json")
    recipe, classes = (
        replace(recipe_of(settings), weights=None),
        len(settings.get("class_names", CLASS_NAMES)),
    )
    model = build_model(recipe, settings.get("model"), classes)
    best = load_checkpoint(run_folder / BEST)
    best.pop("settings")
    model.load_state_dict(best.pop("model"))
    return model.to(device or default_device()).eval(), settings, best


def load_visualizer(
    run_folder: str | Path, score: float = DRAWN_SCORE, device: str | None = None
) -> Visualizer:
    """A `Visualizer` with the best weights of a run folder, given as it or as its `best.pt`. Raises FileNotFoundError."""
    folder = resolve_path(run_folder)
    model, settings, _ = load_run(folder.parent if folder.is_file() else folder, device)
    return Visualizer(
        model,
        settings.get("class_names", CLASS_NAMES),
        score,
        settings.get("mixed_precision", False),
    )


def recipe_of(settings: dict) -> Recipe:
    """The recipe in the settings of a run (`recipe.json`)."""
    known = {field.name for field in fields(Recipe)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in known}
    try:
        return Recipe(**dict.fromkeys(PROSE_FIELDS, "") | values)
    except TypeError as error:
        raise ValueError(f"these are not the settings of a training: {error}") from None


def prediction_header(settings: dict, best: dict, dataset: VocDataset) -> dict:
    """What a prediction file says of the model and the data that it comes from."""
    data = {"devkit": dataset.devkit.name, "split": dataset.split}
    return {
        "model": settings["model"],
        "recipe": settings,
        "iteration": best["iteration"],
        "data": data,
    }


def predict_run(
    run_folder: str | Path, devkit: str | Path, split: str = "val", device: str | None = None
) -> dict:
    """The prediction file of a trained model's best weights on a split of a devkit. Raises ValueError when it has other classes."""
    model, settings, best = load_run(run_folder, device)
    dataset, classes = VocDataset(devkit, split), tuple(settings.get("class_names", CLASS_NAMES))
    if classes != dataset.class_names:
        named = [
            ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            for names in (classes, dataset.class_names)
        ]
        raise ValueError(
            f"{run_folder} was trained on other classes ({named[0]}) than {dataset.devkit} has ({named[1]})"
        )
    mixed_precision = settings.get("mixed_precision", False)
    facts = prediction_header(settings, best, dataset)
    return predict(
        model, dataset, facts, device or default_device(), mixed_precision, uncropped=True
    )


def mask_explainer(
    run_folder: str | Path, dataset: VocDataset, device: str | None = None
) -> Callable[[int, Tensor, int], list]:
    """How a trained model got to its detection nearest to a box (xyxy pixels) of a label in an image (by id) of a data set; see
    the models' `inside`. The model is loaded when it is asked for the first time."""
    device = device or default_device()
    load = lru_cache(maxsize=1)(lambda: load_run(run_folder, device)[0])

    def inside(image_id: int, box: Tensor, label: int) -> list[tuple[str, Tensor]]:
        return load().explain_mask(
            model_input(dataset[image_id - 1][0], device), box.to(device), label
        )

    return inside


def cached_metrics(folder: Path, judged: str) -> dict:
    """A run's `metrics.json` when it and the predictions are there and of just these weights and settings; else nothing."""
    try:
        metrics = read_json(folder / "metrics.json")
        load_predictions(folder / "predictions.json")
        return metrics if metrics["judged"] == judged else {}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}


def batch_norm_mode(recipe: Recipe) -> str:
    """What batch norm does in a recipe's training, the official rule applied."""
    if recipe.batch_norm != "official":
        return recipe.batch_norm
    return "frozen" if recipe.batch_size < FROZEN_BELOW else "unfrozen"


def training_options(recipe: Recipe) -> dict:
    """What a recipe says to `training.train`."""
    same = (
        "iterations batch_size optimizer learning_rate backbone_lr_mult momentum weight_decay schedule lr_milestones warmup_iterations "
        "max_grad_norm mixed_precision eval_every patience checkpoint_every max_bad_fraction workers seed"
    )
    return {name: getattr(recipe, name) for name in same.split()} | {
        "batch_norm": batch_norm_mode(recipe)
    }
