"""A study: a recipe, a VOC devkit and a results folder; how it is opened."""

import warnings
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch.utils.data import Subset

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.data.coco_convert import coco_to_voc, voc_to_coco
from vocseg_lib.data.download import fetch
from vocseg_lib.data.loader import evenly_spaced
from vocseg_lib.data.transforms import AUGMENTATIONS
from vocseg_lib.data.voc import VocDataset, class_names, find_devkit, fingerprint
from vocseg_lib.engine.run_folder import CONFIG, LAST, read_sessions
from vocseg_lib.engine.train import TooManyBadSamples
from vocseg_lib.study.initial_weights import with_network_of_init
from vocseg_lib.study.recipes import (
    NAMED_STARTS,
    RECIPES,
    Recipe,
    get_recipe,
    read_config,
    recipe_changes,
)
from vocseg_lib.utils import distributed
from vocseg_lib.utils.files import project_root, resolve_path

VOC_IMAGES = {"train": 1_464, "val": 1_449}
"""Images of VOC 2012's segmentation splits."""
DATA_NOTES = {"synthetic": ", synthetic and not VOC's", "pilot": ", a pilot and not VOC 2012's val"}
"""What is added to a description for a kind of data."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A recipe, its data and a results folder; functions beside it train and evaluate."""

    recipe: Recipe
    devkit: Path
    results: Path

    def dataset(
        self, split: str, augmentation: str = "none", skip_bad: bool = False, masks: bool = True
    ) -> VocDataset:
        """A split of the devkit, with an augmentation of `transforms.AUGMENTATIONS` or "none"."""
        transform = None if augmentation == "none" else AUGMENTATIONS[augmentation]()
        return VocDataset(self.devkit, split, transform, skip_bad, masks)

    def run_folder(self, model_name: str) -> Path:
        """The run folder of a model; those of different seeds lie side by side."""
        return self.results / "runs" / self.recipe.run_name(model_name)

    @cached_property
    def _set_aside(self) -> list[int]:
        """Indices of the images of train by which the best weights are chosen, none by default."""
        count, share = len(self.dataset("train")), self.recipe.train.selection_share
        indices = evenly_spaced(count, max(1, round(share * count)) if share else 0)
        if len(indices) == count:
            raise ValueError(f"selection_share {share} leaves none of {count} images to train on")
        return indices

    @property
    def train_names(self) -> list[str]:
        """The images of train, but for those set aside."""
        aside = {*self._set_aside}
        return [n for i, n in enumerate(self.dataset("train").names) if i not in aside]

    @property
    def selection_ground_truth(self) -> dict:
        """COCO ground truth of the part of train set aside. Raises ValueError if it has no object.

        Unreadable images are left out.
        """
        ids = [index + 1 for index in self._set_aside]
        ground_truth = voc_to_coco(self.devkit, "train", skip_bad=True, image_ids=ids)
        if not ground_truth["annotations"]:
            problem = f"none of the {len(ids)} images of train set aside has an object"
            raise ValueError(f"{problem}: give a larger selection_share")
        return ground_truth

    @cached_property
    def ground_truth(self) -> dict:
        """COCO ground truth of val, without unreadable images.

        Raises:
            TooManyBadSamples: for more of them than the recipe's `max_bad_fraction`.
            ValueError: if val has no object.
        """
        ground_truth = voc_to_coco(self.devkit, "val", skip_bad=True)
        if bad := ground_truth["info"].get("bad_samples"):
            allowed = self.recipe.train.max_bad_fraction
            total = len(bad) + len(ground_truth["images"])
            message = f"{len(bad)} of {total} images of val cannot be read: {'; '.join(bad)}"
            if len(bad) > allowed * total:
                raise TooManyBadSamples(f"{message} (max_bad_fraction is {allowed:.0%})")
            warnings.warn(f"{message}; they are left out", stacklevel=3)
        if not ground_truth["annotations"]:
            raise ValueError(f"val of {self.devkit} has no object: nothing can be evaluated")
        return ground_truth

    def read_predictions(self, path: Path, config: dict | None = None) -> dict:
        """A prediction file on all of val, by a training with `config` (default: any).

        Raises FileNotFoundError; ValueError if it is invalid, or of other data or another config.
        """
        predictions = read_predictions(path, self.ground_truth)
        self.check_header(path, predictions["header"], config)
        return predictions

    def check_header(self, path: Path, header: dict, config: dict | None = None) -> None:
        """Raise ValueError if predictions are not of all of val, its data and `config`, if any."""
        of_training = header.get("config") or {}
        same_data = of_training.get("data_fingerprint") == self.fingerprint
        if header.get("images") != self.val_images or not same_data:
            problem = f"of other images or other data than val of {self.devkit}"
        elif config and of_training != config:
            problem = "of a training with another config"
        else:
            return
        way = "run 03_train again, or choose another results folder"
        raise ValueError(f"{path} holds predictions {problem}: {way}")

    @cached_property
    def val_images(self) -> list[dict]:
        """The images of val as a prediction file's header lists them."""
        names, keys = self.dataset("val").names, ("id", "height", "width")
        images = [{key: image[key] for key in keys} for image in self.ground_truth["images"]]
        return [image | {"name": names[image["id"] - 1]} for image in images]

    @cached_property
    def val(self) -> Subset:
        """The images of val that the ground truth has."""
        indices = [image["id"] - 1 for image in self.ground_truth["images"]]
        return Subset(self.dataset("val"), indices)

    @cached_property
    def val_pictures(self) -> Subset:
        """The same at full size and without masks, to predict."""
        return Subset(self.dataset("val", masks=False), self.val.indices)

    @cached_property
    def fingerprint(self) -> str:
        """Of the devkit: see `voc.fingerprint`."""
        return fingerprint(self.devkit)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the devkit, background not included."""
        return class_names(self.devkit)

    @property
    def data_kind(self) -> str:
        """ "synthetic", "VOC 2012", "pilot" (its classes, other images), "own" (other classes)."""
        if (self.devkit / synthetic.STAMP_NAME).is_file():
            return "synthetic"
        if self.class_names != CLASS_NAMES:
            return "own"
        voc = all(len(self.dataset(split)) == count for split, count in VOC_IMAGES.items())
        return "VOC 2012" if voc else "pilot"

    @property
    def description(self) -> str:
        """Recipe and data in words, for captions."""
        changed = recipe_changes(self.recipe, RECIPES.get(self.recipe.name, self.recipe)).iloc[:, 0]
        pairs = [(str(field).partition(".")[2], value) for field, value in changed.items()]
        # Files to start from are of this machine.
        shown = [p for p in pairs if p[0] != "init" or p[1] in (None, *NAMED_STARTS)]
        texts = dict.fromkeys(f"{name}={value}" for name, value in shown)
        recipe = ", ".join([f"recipe {self.recipe.name}", *texts])
        images = f"{recipe} on {len(self.val)} images of val"
        return images + DATA_NOTES.get(self.data_kind, "")


def open_study(
    profile: str | Recipe,
    data: str | Path = "",
    results: str | Path = "",
    init: str | Path = "",
    changes: dict | None = None,
) -> Study:
    """The study of a recipe, or of one by name; its data is downloaded or made if missing.

    Args:
        profile: see `get_recipe`. Of a `Recipe`, fields of the network are exchanged for those of
            the weights that it starts from.
        data: VOC devkit instead of the recipe's own data, or COCO annotations (JSON), which are
            converted to one in data/.
        results: default: results/<recipe>.
        init: what models start from, if not the recipe's: see `ModelConfig.init`.
        changes: other values of fields of the recipe.
    """
    recipe = profile if isinstance(profile, Recipe) else get_recipe(profile)
    recipe = recipe.with_changes(**(changes or {}) | ({"init": str(init)} if init else {}))
    root, data = project_root(), resolve_path(data) if data else ""
    with distributed.local_rank_zero_first():
        if data and data.suffix.lower() == ".json":
            checksum = zlib.crc32(str(data.resolve()).encode())
            devkit = coco_to_voc(data, root / "data" / f"{data.stem}_{checksum:08x}")
        elif data:
            devkit = find_devkit(data)
        elif recipe.data == "mini_voc":
            devkit = synthetic.write(root / "data" / "mini_voc")
        else:
            devkit = fetch(root / "data" / "voc2012")
    results = root / (results or f"results/{recipe.name}")
    named = () if isinstance(profile, Recipe) else (c.partition("=")[0] for c in profile.split())
    recipe = with_network_of_init(recipe, results, {*named, *(changes or {})})
    return Study(recipe=recipe, devkit=devkit, results=results)


def reproduce(
    run: str | Path,
    data: str | Path = "",
    results: str | Path = "",
    changes: dict | None = None,
    model_name: str | None = None,
) -> tuple[Study, str]:
    """The study that repeats a training, and the name of its model.

    Args:
        run: its folder, or a `config.json` alone.
        data: devkit; default: the one that it was trained on.
        results: default: results/reproduced.
        model_name: the model that is meant, if known.

    Raises:
        ValueError: if `run` has no config of a training, or the data is not what it was trained on.
    """
    run = Path(run)
    config = read_config(run / CONFIG if run.is_dir() else run)
    recipe = Recipe.of_run(config).with_changes(**(changes or {}))
    if model_name not in (None, config["model"]):
        raise ValueError(f"{run} holds a training of {config['model']} alone, not {model_name}")
    if not data and run.is_dir():
        sessions = reversed(read_sessions(run / "run.json"))
        devkits = (session["devkit"] for session in sessions if "devkit" in session)
        data = str(next(devkits, ""))
        try:
            data = data and find_devkit(data)
        except (FileNotFoundError, ValueError) as error:
            problem = f"the data of {run} is missing: give it with --data"
            raise FileNotFoundError(f"{problem} ({error})") from None
    results = results or "results/reproduced"
    init = recipe.model_config(config["model"]).init
    checkpoint = project_root() / results / "runs" / recipe.run_name(config["model"]) / LAST
    is_file = init not in (None, *NAMED_STARTS)
    if is_file and not (checkpoint.is_file() or resolve_path(init).exists()):
        raise FileNotFoundError(f"{init}, which {run} started from, is missing")
    study = open_study(recipe, data, results, changes=changes)
    before, now = config.get("data_fingerprint"), study.fingerprint
    if before and before != now:
        message = f"{study.devkit} is not the data of {run}: its fingerprint is {now}"
        raise ValueError(f"{message}, not {before}")
    return study, config["model"]
