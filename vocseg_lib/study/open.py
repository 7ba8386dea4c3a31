"""Open a study: its recipe, data and results folder."""

import zlib
from pathlib import Path

from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import coco_to_voc
from vocseg_lib.data.download import fetch
from vocseg_lib.data.voc import find_devkit, fingerprint
from vocseg_lib.engine.run_folder import CONFIG, read_sessions
from vocseg_lib.study.recipes import MODEL_TITLES, Recipe, get_recipe
from vocseg_lib.study.results import Results, open_files, open_results
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import train_model
from vocseg_lib.utils import distributed
from vocseg_lib.utils.files import project_root, read_json, resolve_path


def open_study(
    profile: str | Recipe,
    data: str | Path = "",
    results: str | Path = "",
    weights: str | Path = "",
    changes: dict | None = None,
) -> Study:
    """The study of a recipe, or of a recipe's name; its data is downloaded or made if missing.

    Args:
        data: VOC devkit instead of the recipe's own data, or COCO annotations (JSON), which are
            converted to one in data/.
        results: default: results/<recipe>.
        weights: file of backbone weights to start from.
        changes: other values of fields of the recipe.
    """
    recipe = profile if isinstance(profile, Recipe) else get_recipe(profile)
    own_weights = {"weights": str(resolve_path(weights))} if weights else {}
    recipe = recipe.with_changes(**(changes or {}), **own_weights)
    root, data = project_root(), resolve_path(data) if data else ""
    with distributed.local_rank_zero_first():
        if str(data).endswith(".json"):
            checksum = zlib.crc32(str(data.resolve()).encode())
            devkit = coco_to_voc(data, root / "data" / f"{data.stem}_{checksum:08x}")
        elif data:
            devkit = find_devkit(data)
        elif recipe.data == "mini_voc":
            devkit = synthetic.write(root / "data" / "mini_voc")
        else:
            devkit = fetch(root / "data" / "voc2012")
    return Study(recipe, devkit, root / (results or f"results/{recipe.name}"))


def reproduce(
    run: str | Path, data: str | Path = "", results: str | Path = "", changes: dict | None = None
) -> tuple[Study, str]:
    """The study that repeats a training, and the name of its model.

    Args:
        run: its folder, or a `config.json` alone.
        data: devkit; default: the one that it was trained on.
        results: default: results/reproduced.

    Raises:
        ValueError: if `run` has no config of a training, or the data is not what it was trained on.
    """
    run = Path(run)
    config = read_json(run / CONFIG if run.is_dir() else run)
    if not isinstance(config, dict) or not config.keys() >= {"model", "recipe", "train"}:
        raise ValueError(f"{run} does not hold the config of a training")
    if not data and run.is_dir():
        sessions = reversed(read_sessions(run / "run.json"))
        data = next((session["devkit"] for session in sessions if "devkit" in session), "")
        if data and not Path(data).is_dir():
            raise FileNotFoundError(f"{data}, the data of {run}, is missing: name it with --data")
    recipe = Recipe.of_run(config)
    study = open_study(recipe, data, results or "results/reproduced", changes=changes)
    before = config.get("data_fingerprint")
    if before and before != (now := fingerprint(study.devkit)):
        raise ValueError(
            f"{study.devkit} is not the data of {run}: its fingerprint is {now}, not {before}"
        )
    return study, config["model"]


def open_or_train(
    profile: str | Recipe,
    data: str | Path = "",
    results: str | Path = "",
    weights: str | Path = "",
    predictions: str = "",
) -> Results:
    """Results of a study's two models, trained first if they are not yet, or of prediction files.

    Args:
        predictions: prediction files, separated by commas, to open instead; `data` is their ground
            truth: see `open_files`, as for what is raised.
    """
    if predictions:
        opened = open_files(predictions.split(","), data, results)
    else:
        study = open_study(profile, data, results, weights)
        for model_name in MODEL_TITLES:
            train_model(study, model_name)
        opened = open_results(study)
    opened.folder.mkdir(parents=True, exist_ok=True)
    return opened
