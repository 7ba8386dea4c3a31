"""From a recipe to plain arguments: the one place where notebooks and the command line meet the library."""

import platform
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from vocseg_lib import mini_voc, voc
from vocseg_lib.classes import CLASS_NAMES
from vocseg_lib.files import read_json, write_json
from vocseg_lib.metrics import evaluate
from vocseg_lib.models import MODELS
from vocseg_lib.prediction import load_predictions, predict, save_predictions
from vocseg_lib.recipes import PROSE_FIELDS, Recipe, get_recipe
from vocseg_lib.speed import measure_speed
from vocseg_lib.training import load_checkpoint_file, train
from vocseg_lib.transforms import AUGMENTATIONS, model_input

MODEL_TITLES = {"yolact": "YOLACT", "mask_rcnn": "Mask R-CNN"}
TABLE_COLUMNS = (
    "model backbone image_size iterations mask_AP mask_AP50 mask_AP75 box_AP box_AP50 box_AP75 seconds_per_image fps train_minutes"
).split()
BY_HEART_LEARNING_RATE = 1e-3
SPEED_IMAGES = 15


def default_device() -> str:
    """ "cuda" when there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build_model(recipe: Recipe, model_name: str) -> nn.Module:
    """A model as its recipe says, weights drawn from the recipe's seed. Raises ValueError for an unknown name."""
    if model_name not in MODELS:
        raise ValueError(f"no model {model_name!r}; choose one of {', '.join(MODELS)}")
    shared = {
        "backbone": recipe.backbone,
        "weights": recipe.weights,
        "channels": recipe.channels,
        "freeze_batch_norm": recipe.batch_size < recipe.frozen_batch_norm_below,
        "compile": recipe.compile,
        "num_classes": len(CLASS_NAMES) + 1,
    }
    own = {
        "yolact": {
            "image_size": recipe.image_size,
            "semantic": recipe.semantic_loss,
            "crop_in_training": recipe.crop_in_training,
            "crop_in_inference": recipe.crop_in_inference,
            "normalise_by_area": recipe.normalise_by_area,
            "nms": recipe.nms,
        },
        "mask_rcnn": {
            "short_side": recipe.short_side,
            "proposals": recipe.proposals,
            "rois_per_image": recipe.rois_per_image,
        },
    }
    torch.manual_seed(recipe.seed)
    return MODELS[model_name](**shared, **own[model_name])


def load_run(run_folder: str | Path, device: str | None = None) -> tuple[nn.Module, dict, dict]:
    """A trained model with its best weights, its settings (`recipe.json`) and `best.pt`'s scores.

    Raises FileNotFoundError when the folder holds no finished training.
    """
    run_folder = Path(run_folder)
    for name in ("recipe.json", "best.pt"):
        if not (run_folder / name).is_file():
            raise FileNotFoundError(f"{run_folder / name} is missing: {run_folder} is not the folder of a training")
    settings = read_json(run_folder / "recipe.json")
    if "model" not in settings:
        raise ValueError(f"{run_folder / 'recipe.json'} does not say which model was trained")
    known = {field.name for field in fields(Recipe)}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in known}
    recipe = Recipe(**dict.fromkeys(PROSE_FIELDS, ""), **values)
    model = build_model(replace(recipe, weights=None), settings["model"])
    best = load_checkpoint_file(run_folder / "best.pt")
    model.load_state_dict(best.pop("model"))
    return model.to(device or default_device()).eval(), settings, best


def predict_run(run_folder: str | Path, devkit: str | Path, split: str = "val", device: str | None = None) -> dict:
    """The prediction file of a trained model's best weights on a split of a devkit."""
    model, settings, best = load_run(run_folder, device)
    dataset = voc.VocDataset(devkit, split)
    data = {"devkit": dataset.devkit.name, "split": split}
    header = {"model": settings["model"], "recipe": settings, "iteration": best["iteration"], "data": data}
    return predict(model, dataset, header, device or default_device(), settings.get("mixed_precision", False))


@dataclass(frozen=True)
class Study:
    """A recipe, a devkit and a results folder; what the notebooks do with them, a method each."""

    recipe: Recipe
    devkit: Path
    results: Path

    def dataset(self, split: str, augmentation: str = "none", skip_bad: bool = False) -> voc.VocDataset:
        """A split of the devkit; `augmentation` is one of `transforms.AUGMENTATIONS`, "none" leaves it as it is."""
        transform = None if augmentation == "none" else AUGMENTATIONS[augmentation]()
        return voc.VocDataset(self.devkit, split, transform, skip_bad)

    @cached_property
    def ground_truth(self) -> dict:
        """COCO ground truth of val. Raises ValueError when val has no object to judge by."""
        truth = voc.coco_ground_truth(self.devkit, "val")
        if not truth["annotations"]:
            raise ValueError(f"no image of val in {self.devkit} has an object, so nothing can be judged")
        return truth

    def run_folder(self, model_name: str) -> Path:
        """Where a model's training lives."""
        return self.results / "runs" / model_name

    def train(self, model_name: str, skip_bad: bool = True, device: str | None = None) -> dict:
        """Train a model, or continue, or do nothing when it is done; then write its predictions and metrics on val."""
        device = device or default_device()
        recipe, folder = self.recipe, self.run_folder(model_name)
        val, truth = self.dataset("val"), self.ground_truth  # a bad file of val stops here, not after hours
        # A checkpoint brings all weights: the backbone's need not be fetched again.
        weights = None if (folder / "last.pt").is_file() else recipe.weights

        def score(model: nn.Module) -> dict[str, float]:
            found = predict(model, val, device=device, mixed_precision=recipe.mixed_precision, progress=False)
            return evaluate(truth, found["detections"]).summary

        state = train(
            build_model(replace(recipe, weights=weights), model_name),
            self.dataset("train", recipe.augmentation, skip_bad),
            folder,
            iterations=recipe.iterations,
            batch_size=recipe.batch_size,
            optimizer=recipe.optimizer,
            learning_rate=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            schedule=recipe.schedule,
            lr_drops=recipe.lr_drops,
            warmup_iterations=recipe.warmup_iterations,
            clip_norm=recipe.clip_norm,
            mixed_precision=recipe.mixed_precision,
            score=score,
            score_every=recipe.score_every,
            checkpoint_every=recipe.checkpoint_every,
            workers=recipe.workers,
            seed=recipe.seed,
            settings=self._settings(model_name),
            device=device,
        )
        metrics = folder / "metrics.json"
        judged = metrics.is_file() and (folder / "predictions.json").is_file()
        if not judged or read_json(metrics)["iterations"] != state["best"]["iteration"]:
            self.judge(model_name, state, device)
        return state

    def learn_by_heart(
        self, model_name: str, names: str | list[str], split: str = "val", steps: int = 120, device: str | None = None
    ) -> nn.Module:
        """A model fitted to a few images alone, to look inside it or to see that it can learn; in eval mode.

        Adam, without augmentation, into `results`/by_heart; done once.
        """
        device = device or default_device()
        dataset = self.dataset(split)
        dataset.names = [names] if isinstance(names, str) else list(names)
        folder = self.results / "by_heart" / f"{model_name}_{'_'.join(dataset.names)}"
        model = build_model(self.recipe, model_name)
        train(
            model,
            dataset,
            folder,
            iterations=steps,
            batch_size=max(2, min(4, len(dataset))),
            optimizer="adamw",
            learning_rate=BY_HEART_LEARNING_RATE,
            weight_decay=0.0,
            schedule="cosine",
            warmup_iterations=10,
            clip_norm=20.0,
            seed=self.recipe.seed,
            settings={**self._settings(model_name), "names": dataset.names, "steps": steps},
            device=device,
        )
        return model.eval()

    def judge(self, model_name: str, state: dict, device: str) -> None:
        """Write a run's `predictions.json` and `metrics.json` from its best weights."""
        folder = self.run_folder(model_name)
        predictions = predict_run(folder, self.devkit, "val", device)
        save_predictions(folder / "predictions.json", predictions)
        summary = evaluate(self.ground_truth, predictions["detections"]).summary
        training = {
            "iterations": state["best"]["iteration"],
            "train_minutes": state["seconds"] / 60,
            "skipped": state["skipped"],
        }
        versions = {"python": platform.python_version(), "torch": torch.__version__, "device": device}
        write_json(folder / "metrics.json", {**summary, **training, **versions})

    def _settings(self, model_name: str) -> dict:
        recipe = {k: v for k, v in asdict(self.recipe).items() if k not in PROSE_FIELDS}
        return {"model": model_name, **recipe, "data_fingerprint": voc.fingerprint(self.devkit)}

    def predictions(self, model_name: str) -> dict:
        """A model's prediction file on val. Raises FileNotFoundError when it is not trained yet."""
        path = self.run_folder(model_name) / "predictions.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: run 03_train with MODEL={model_name!r} first")
        return load_predictions(path)

    def measure_speed(self, model_name: str) -> dict:
        """Latency of a trained model on the first images of val, one at a time."""
        model, *_ = load_run(self.run_folder(model_name))
        val = self.dataset("val")
        images = [model_input(val[i][0]) for i in range(min(len(val), SPEED_IMAGES))]
        return measure_speed(model, images, default_device(), mixed_precision=self.recipe.mixed_precision)

    def table1(self) -> pd.DataFrame:
        """Table 1: a row a trained model, speed measured now; also written to `table1.csv`."""
        rows = []
        for model_name in (name for name in MODELS if (self.run_folder(name) / "metrics.json").is_file()):
            metrics = read_json(self.run_folder(model_name) / "metrics.json")
            size = {"yolact": self.recipe.image_size, "mask_rcnn": self.recipe.short_side}[model_name]
            known = {"model": MODEL_TITLES[model_name], "backbone": self.recipe.backbone, "image_size": size}
            rows.append({**known, **metrics, **self.measure_speed(model_name)})
        table = pd.DataFrame(rows, columns=TABLE_COLUMNS)
        self.results.mkdir(parents=True, exist_ok=True)
        table.round(4).to_csv(self.results / "table1.csv", index=False)
        return table


def open_study(profile: str, data: str = "", results: str = "", weights: str = "") -> Study:
    """The study of a profile: its data fetched or drawn when it is not there yet.

    `data` is a devkit folder to use instead of the profile's own; `results` defaults to results/<profile>; `weights`
    is a file of backbone weights to start from instead of the profile's.
    """
    recipe = get_recipe(profile)
    if weights:
        recipe = replace(recipe, weights=str(weights))
    if data:
        devkit = voc.find_devkit(data)
    elif recipe.data == "mini_voc":
        devkit = mini_voc.write(Path("data") / "mini_voc")
    else:
        devkit = voc.fetch(Path("data") / "voc2012")
    return Study(recipe, devkit, Path(results or Path("results") / profile))
