"""Open a study: its recipe, data and results folder."""

import warnings
import zlib
from dataclasses import replace
from pathlib import Path

from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import write_from_coco
from vocseg_lib.data.download import fetch
from vocseg_lib.data.voc import find_devkit, fingerprint
from vocseg_lib.engine.resume import config_changes, earlier_recipes
from vocseg_lib.engine.run_folder import read_sessions
from vocseg_lib.study.recipes import Recipe, get_recipe
from vocseg_lib.study.run import recipe_of
from vocseg_lib.study.study import Study
from vocseg_lib.utils import distributed
from vocseg_lib.utils.files import project_root, read_json, resolve_path


def open_study(
    profile: str | Recipe,
    data: str | Path = "",
    results: str | Path = "",
    weights: str | Path = "",
    changes: dict | None = None,
) -> Study:
    """The study of a profile, or of a recipe: its data fetched or drawn when it is not there yet.

    `data` is a devkit folder to use instead of the profile's own, or COCO annotations (JSON), of which one is written into
    data/; `results` defaults to results/<profile>; `weights` is a file of backbone weights to start from instead of the
    profile's; `changes` are other values of fields of the recipe.
    """
    recipe = profile if isinstance(profile, Recipe) else get_recipe(profile)
    recipe = replace(
        recipe, **(changes or {}), **({"weights": str(resolve_path(weights))} if weights else {})
    )
    data = resolve_path(data) if data else ""
    with distributed.local_rank_zero_first():
        if str(data).endswith(".json"):
            place = zlib.crc32(str(Path(data).resolve()).encode())
            devkit = write_from_coco(
                data, project_root() / "data" / f"{Path(data).stem}_{place:08x}"
            )
        elif data:
            devkit = find_devkit(data)
        elif recipe.data == "mini_voc":
            devkit = synthetic.write(project_root() / "data" / "mini_voc")
        else:
            devkit = fetch(project_root() / "data" / "voc2012")
    return Study(recipe, devkit, project_root() / (results or f"results/{recipe.name}"))


def reproduce(
    run: str | Path, data: str | Path = "", results: str | Path = "", changes: dict | None = None
) -> tuple[Study, str | None]:
    """The study that repeats a training, and the name of its model; `run` is its folder, or a `recipe.json` alone.

    `data` defaults to the devkit it was trained on, `results` to results/repeat. Raises ValueError when the data is other data.
    """
    run = Path(run)
    settings = read_json(run / "recipe.json" if run.is_dir() else run)
    if not isinstance(settings, dict):
        raise ValueError(f"{run} holds no settings of a training")
    for entry in earlier_recipes(run) if run.is_dir() else ():
        named = ", ".join(config_changes(entry["settings"], settings))
        warnings.warn(
            f"{run} had other settings up to iteration {entry['until']} ({named}): what is repeated is a training "
            "with the last ones from its start, and not the same",
            stacklevel=2,
        )
    if not data and run.is_dir():
        data = next(
            (
                call["devkit"]
                for call in reversed(read_sessions(run / "run.json"))
                if "devkit" in call
            ),
            "",
        )
        if data and not Path(data).is_dir():
            raise FileNotFoundError(
                f"{data}, the data of {run}, is not there: say where it is with --data"
            )
    study = open_study(recipe_of(settings), data, results or "results/repeat", changes=changes)
    before = settings.get("data_fingerprint")
    if before and before != (now := fingerprint(study.devkit)):
        raise ValueError(
            f"{study.devkit} is not the data of {run}: its fingerprint is {now}, not {before}; see --data"
        )
    return study, settings.get("model")
