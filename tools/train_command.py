"""How a model was trained, from its run's config: what is reported, and the command."""

import shlex
from pathlib import Path

from vocseg_lib.study.recipes import (
    NAMED_STARTS,
    Recipe,
    get_recipe,
    recipe_changes,
    without_folders,
)


def recorded_config(config: dict) -> dict:
    """A run's command, recipe and training config; of the file it starts from, the name."""
    (part,) = config["recipe"].keys() - {"name", "data"}
    recorded = {name: config[name] for name in ("train", "data_fingerprint")}
    recorded["iterations"] = config["train"]["iterations"]
    return {
        "command": train_command(config, part),
        "recipe": without_folders(config)["recipe"],
        **recorded,
    }


def train_command(config: dict, part: str) -> str:
    """The command that trains a model with a run's config on DEVKIT."""
    recipe, base = Recipe.of_run(config), get_recipe(config["recipe"]["name"])
    changes = {
        field.partition(".")[2]: value
        for field, value in recipe_changes(recipe, base).iloc[:, 0].items()
        if field.startswith(("train.", f"{part}."))
    }
    init = changes.pop("init", None)
    init = init if init in (None, *NAMED_STARTS) else Path(init).name
    command = ["vocseg", "train", "--profile", base.name, "--model", config["model"]]
    command += ["--data", "DEVKIT", *(["--init", init] if init else [])]
    command += ["--set", *(f"{name}={value}" for name, value in changes.items())] if changes else []
    return shlex.join(command)
