"""Models of recipes and of run folders."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name

import torch
from torch import Tensor, nn

from vocseg_lib.data.classes import CLASS_NAMES, name_key
from vocseg_lib.data.coco import CONTENT, read_predictions
from vocseg_lib.data.loader import PictureDataset
from vocseg_lib.data.transforms import model_input
from vocseg_lib.data.voc import VocDataset, fingerprint
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.engine.predict import predict
from vocseg_lib.engine.resume import config_changes
from vocseg_lib.engine.run_folder import BEST, CONFIG
from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.models.config import MODELS, ModelConfig
from vocseg_lib.models.mask_rcnn import MaskRCNN
from vocseg_lib.models.official_weights import load_official
from vocseg_lib.models.speedups import speed_up
from vocseg_lib.models.transfer import check_network, load_body, transfer
from vocseg_lib.plots.images import DRAWN_SCORE
from vocseg_lib.plots.pictures import Visualizer, input_files, names_below
from vocseg_lib.plots.videos import is_video
from vocseg_lib.study.initial_weights import find_weights, pretrained, read_own
from vocseg_lib.study.recipes import (
    COCO,
    LINEAGE_MODELS,
    PILOT_WEIGHTS,
    Recipe,
    check_run_config,
    read_config,
    without_folders,
)
from vocseg_lib.study.study import Study
from vocseg_lib.utils import distributed
from vocseg_lib.utils.files import file_checksum, project_root, read_json
from vocseg_lib.utils.weights import load_weights


def default_device() -> str:
    """ "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def build_model(
    recipe: Recipe, model_name: str, class_names: Sequence[str] = CLASS_NAMES
) -> nn.Module:
    """A model of a recipe for some classes, background not listed; random weights by its seed.

    Prints what it keeps of a detector that it starts from. Sped up (`models.speedups`): on a GPU
    it runs the plain parts. Raises ValueError for an unknown name; WeightsError.
    """
    torch.manual_seed(recipe.train.seed)
    config, outputs = recipe.model_config(model_name), len(class_names) + 1
    weights = pretrained(config.init, LINEAGE_MODELS.get(model_name, model_name))
    if weights:
        check_network(config, weights)
        config = replace(config, init=None)
    is_lineage = model_name not in MODELS
    network = (
        _lineage_network(recipe, model_name, config, outputs)
        if is_lineage
        else resolve_name(config.model)(config, outputs)
    )
    if weights and model_name == "semantic":
        load_body(network.body, weights)
    elif weights:
        kept = transfer(network, weights, class_names)
        if (kept.new or kept.unfit) and not recipe.train.iterations:
            new = ", ".join([*kept.new, *kept.unfit])
            raise WeightsError(f"{kept.source} does not know {new}: train, as finetune does")
        if distributed.rank() == 0:
            print(f"{model_name} {kept}", flush=True)
    model = speed_up(_with_masks(network) if is_lineage else network)
    model.class_names = tuple(class_names)
    return model


def _lineage_network(
    recipe: Recipe, model_name: str, config: ModelConfig, outputs: int
) -> nn.Module:
    # These need more packages than the two models.
    from vocseg_lib.models.lineage.proposals import SelectiveSearch
    from vocseg_lib.models.lineage.semantic import DeepLabV3Components
    from vocseg_lib.models.lineage.two_stage import FasterRCNN, FastRCNN

    if model_name == "semantic":
        return DeepLabV3Components(outputs, config.backbone, config.init, config.image_size)
    if model_name == "faster_rcnn":
        return FasterRCNN(config, outputs)
    # As many as Mask R-CNN and Faster R-CNN have in inference.
    cache = project_root() / "data" / "proposals"
    search = SelectiveSearch(config.proposals // 2, seed=recipe.train.seed, cache=cache)
    return FastRCNN(search, config, outputs)


def _with_masks(network: nn.Module) -> nn.Module:
    from vocseg_lib.models.lineage.box_masks import MasksFromBoxes

    return MasksFromBoxes(network) if isinstance(network, MaskRCNN) else network


def load_run(run_folder: str | Path, device: str | None = None) -> tuple[nn.Module, dict, dict]:
    """A trained model, in eval mode, its config, and its iteration with the metrics on val.

    Of a run folder, its `best.pt`, or what else `initial_weights` lists, but a backbone's.

    Raises:
        FileNotFoundError: if the folder holds no evaluated training.
        ValueError, WeightsError: naming what is wrong with a file.
    """
    path = find_weights(run_folder)
    if not path.exists():
        ways = f"a run folder, a file of weights, or {', '.join(PILOT_WEIGHTS)}"
        raise FileNotFoundError(f"{run_folder} is missing: give {ways}")
    is_best = path.name == BEST and (path.parent / CONFIG).is_file()
    if path.is_dir() or is_best:
        run_folder = path.parent if is_best else path
        config, best = read_run(run_folder)
        source = f"{run_folder / BEST}, by {CONFIG} beside it,"
    elif best := read_own(path):
        config, source = check_run_config(best.pop("config"), path), path
    else:
        model = speed_up(load_official(path))
        name = next(name for name, config in MODELS.items() if isinstance(model.config, config))
        recipe = Recipe(name=COCO, train=TrainConfig(iterations=0), **{name: model.config})
        names = model.class_names or [f"class {k}" for k in range(1, model.num_classes)]
        config = {"model": name, "recipe": recipe.for_model(name), "class_names": list(names)}
        config["train"] = recipe.train.to_dict()
        return model.to(device or default_device()).eval(), config, {"iteration": 0}
    recipe = Recipe.of_run(config).with_changes(init=None)
    model = build_model(recipe, config["model"], config["class_names"])
    load_weights(model, best.pop("model"), source)
    return model.to(device or default_device()).eval(), config, best


def load_model(path: str | Path, device: str | None = None) -> nn.Module:
    """The model of `load_run`, ready to predict; `class_names` has its classes, label 1 first."""
    return load_run(path, device)[0]


def read_run(run_folder: Path) -> tuple[dict, dict]:
    """The config of a run folder, and what its `best.pt` holds besides.

    Raises FileNotFoundError; ValueError if they are not of one training.
    """
    for path in (run_folder / CONFIG, run_folder / BEST):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {run_folder} is not a training's folder")
    config = read_config(run_folder / CONFIG)
    best = load_checkpoint(run_folder / BEST, ("config", "model", "iteration"))
    if changes := config_changes(best.pop("config"), config):
        problem = f"{run_folder / BEST} is not of the training in {CONFIG} beside it"
        raise ValueError(f"{problem}: {'; '.join(changes[:3])}")
    return config, best


def load_visualizer(
    run_folder: str | Path, score: float = DRAWN_SCORE, device: str | None = None
) -> Visualizer:
    """A `Visualizer` with the best weights of a run folder, given as it or as its `best.pt`."""
    model, config, best = load_run(run_folder, device)
    options = {"score": score, "mixed_precision": config["train"]["mixed_precision"]}
    of_model = {"config": without_folders(config), "iteration": best["iteration"]}
    options["header"] = {"model": config["model"], **of_model}
    return Visualizer(model=model, class_names=config["class_names"], **options)


def prediction_header(config: dict, iteration: int, dataset: VocDataset) -> dict:
    """The part of a prediction file's header on the model and the data it comes from."""
    data = {"devkit": dataset.devkit.name, "split": dataset.split}
    data["fingerprint"] = fingerprint(dataset.devkit, [dataset.split])
    return {"model": config["model"], "config": config, "iteration": iteration, "data": data}


def predict_run(
    run_folder: str | Path, devkit: str | Path, split: str = "val", device: str | None = None
) -> dict:
    """The prediction file of a run's best weights on a split of a devkit.

    Raises:
        ValueError: if the devkit has other classes.
    """
    model, config, best = load_run(run_folder, device)
    dataset, names = VocDataset(devkit, split, masks=False), tuple(config["class_names"])
    shared = {*map(name_key, names)} & {*map(name_key, dataset.class_names)}
    known = [name_key(name) in shared for name in dataset.class_names]
    same = [*map(name_key, names)] == [*map(name_key, dataset.class_names)]
    if not same and config["recipe"]["name"] == COCO and shared:
        recipe = Recipe.of_run(config).with_changes(init=str(run_folder), iterations=1)
        model = build_model(recipe, config["model"], dataset.class_names)
        names = dataset.class_names
        config = config | {"class_names": list(names), "recipe": recipe.for_model(config["model"])}
    elif not same:
        alone = [
            [n for n in of if name_key(n) not in shared] for of in (names, dataset.class_names)
        ]
        first, second = (", ".join(n[:4]) + ", ..." * (len(n) > 4) or "no other" for n in alone)
        problem = f"{run_folder} was trained on other classes, or in another order, than"
        raise ValueError(f"{problem} {devkit} has: {first} there, {second} here")
    header = prediction_header(config, best["iteration"], dataset)
    device, mixed_precision = device or default_device(), config["train"]["mixed_precision"]
    predictions = predict(model, dataset, header, device, mixed_precision, uncropped=True)
    found = predictions["detections"]  # of classes that start from random numbers, none
    return predictions | {"detections": [d for d in found if known[d["category_id"] - 1]]}


def predict_pictures(
    run_folder: str | Path, paths: Sequence[str | Path], device: str | None = None
) -> dict:
    """The prediction file of a run's best weights on pictures, or folders of them, without labels.

    The header lists its `images` with file_name (with folders where pictures of several are given),
    ids from 1, `size_and_crc32`, and `skipped`: the files that are no readable pictures, and why.
    Raises FileNotFoundError, and ValueError if no picture is readable.
    """
    model, config, best = load_run(run_folder, device)
    files = input_files(paths)
    videos = [
        f"{path} is a video; a prediction file is of pictures" for path in filter(is_video, files)
    ]
    dataset = PictureDataset([path for path in files if not is_video(path)])
    header = {"model": config["model"], "config": config, "iteration": best["iteration"]}
    device, mixed_precision = device or default_device(), config["train"]["mixed_precision"]
    predictions = predict(model, dataset, header, device, mixed_precision)
    header, skipped = predictions["header"], [*videos, *dataset.skipped.values()]
    pictures = [path for path in dataset.paths if path not in dataset.skipped]
    if not pictures:
        raise ValueError(f"no readable picture: {'; '.join(skipped)}")
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in pictures])
    header |= {"data": {"pictures": Path(common).name}, "skipped": skipped}
    # Ids without gaps.
    ids = {image["id"]: k for k, image in enumerate(header["images"], 1)}
    for entry in predictions["detections"]:
        entry["image_id"] = ids[entry["image_id"]]
    rows = zip(header["images"], pictures, names_below(pictures), strict=True)
    for image, path, name in rows:
        image |= {"id": ids[image["id"]], "file_name": name, CONTENT: file_checksum(path)}
    return predictions


def mask_explainer(
    run_folder: str | Path, dataset: VocDataset, device: str | None = None
) -> Callable[[int, Tensor, int], list]:
    """`explain(image_id, box, label)`: how a run's model got to its detection nearest to a box.

    See the models' `explain_mask`. The model is loaded at the first call.
    """
    device = device or default_device()
    load = lru_cache(maxsize=1)(lambda: load_run(run_folder, device)[0])

    def explain(image_id: int, box: Tensor, label: int) -> list[tuple[str, Tensor]]:
        image = model_input(dataset[image_id - 1][0], device)
        return load().explain_mask(image, box.to(device), label)

    return explain


def cached_metrics(study: Study, folder: Path, key: str, config: dict) -> dict:
    """A run's `metrics.json` if it and the predictions are of these weights and config, else {}."""
    try:
        metrics, path = read_json(folder / "metrics.json"), folder / "predictions.json"
        header = read_predictions(path)["header"]
        study.check_header(path, header, config)
        same = metrics["checksum"] == key and header["iteration"] == metrics["iterations"]
        return metrics if same else {}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}
