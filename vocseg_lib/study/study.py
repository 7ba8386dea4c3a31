"""A study: a recipe, a VOC devkit and a results folder."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch.utils.data import Subset

from vocseg_lib.data import synthetic
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.transforms import AUGMENTATIONS
from vocseg_lib.data.voc import VocDataset, class_names, fingerprint
from vocseg_lib.engine.train import TooManyBadSamples
from vocseg_lib.study.recipes import Recipe

VOC_IMAGES = {"train": 1_464, "val": 1_449}
"""Images of VOC 2012's segmentation splits."""
DATA_NOTES = {"synthetic": ", synthetic and not VOC's", "pilot": ", a pilot and not VOC 2012's val"}
"""What is added to a description for a kind of data."""


@dataclass(frozen=True)
class Study:
    """A recipe, its data and a results folder; functions beside it train and evaluate."""

    recipe: Recipe
    devkit: Path
    results: Path

    def dataset(self, split: str, augmentation: str = "none", skip_bad: bool = False) -> VocDataset:
        """A split of the devkit, with an augmentation of `transforms.AUGMENTATIONS` or "none"."""
        transform = None if augmentation == "none" else AUGMENTATIONS[augmentation]()
        return VocDataset(self.devkit, split, transform, skip_bad)

    def run_folder(self, model_name: str) -> Path:
        """The run folder of a model."""
        return self.results / "runs" / model_name

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

    @cached_property
    def val(self) -> Subset:
        """The images of val that the ground truth has."""
        return Subset(
            self.dataset("val"), [image["id"] - 1 for image in self.ground_truth["images"]]
        )

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
        images = f"recipe {self.recipe.name} on {len(self.val)} images of val"
        return images + DATA_NOTES.get(self.data_kind, "")
