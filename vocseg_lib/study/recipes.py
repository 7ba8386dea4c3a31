"""Recipes: every number of a training, by name."""

import ast
import inspect
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.models.config import (
    COCO_PRIORS,
    MODELS,
    NO_EPSILON,
    MaskRCNNConfig,
    ModelConfig,
    YolactConfig,
)
from vocseg_lib.utils.config import Config
from vocseg_lib.utils.files import read_json

if TYPE_CHECKING:
    import pandas as pd

MODEL_TITLES = {name: config.title for name, config in MODELS.items()}
IMAGENET, COCO, PILOT, NOTHING = "imagenet", "coco", "pilot", "none"
PILOT_WEIGHTS = {f"{PILOT}/{name}": name for name in MODEL_TITLES}
NAMED_STARTS = (IMAGENET, COCO, PILOT, NOTHING, *PILOT_WEIGHTS)
"""What `init` may be besides files and folders: see `initial_weights`."""
LINEAGE_MODELS = {"fast_rcnn": "mask_rcnn", "faster_rcnn": "mask_rcnn", "semantic": "yolact"}
"""Models of `models.lineage` that are trained alike, and the model whose options each has."""
PARTS = {"train": TrainConfig, **MODELS}
RECIPE_FIELDS = tuple(dict.fromkeys(f.name for part in PARTS.values() for f in fields(part)))
"""Configs that a recipe is made of, by field; the names of all their fields."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """The same training for every model, and the options of each."""

    name: str  # its key in RECIPES
    expected_time: str = "not yet run"  # for both models
    expected_score: str = "not yet run"  # mask AP50 of both models
    data: Literal["voc2012", "mini_voc"] = "voc2012"  # downloaded, or synthetic and made offline
    train: TrainConfig = field(default_factory=TrainConfig)
    yolact: YolactConfig = field(default_factory=YolactConfig)
    mask_rcnn: MaskRCNNConfig = field(default_factory=MaskRCNNConfig)

    @property
    def needs_gpu(self) -> bool:
        """Whether a training takes days on a CPU."""
        return self.yolact.backbone == "resnet50"

    def with_changes(self, **changes: Any) -> "Recipe":
        """A recipe with other values of fields of its parts, each in every part that has it.

        Raises:
            ValueError: for an unknown field, or a value that the field cannot have.
        """
        if isinstance(init := changes.get("init"), str) and init.lower() in NAMED_STARTS:
            changes["init"] = None if init.lower() == NOTHING else init.lower()
        if unknown := changes.keys() - set(RECIPE_FIELDS):
            known = ", ".join(RECIPE_FIELDS)
            raise ValueError(f"{', '.join(sorted(unknown))} is not a field of a recipe: {known}")
        parts = {}
        for part, kind in PARTS.items():
            own = {field.name for field in fields(kind)} & changes.keys()
            parts[part] = replace(getattr(self, part), **{name: changes[name] for name in own})
        return replace(self, **parts)

    def model_config(self, model_name: str) -> ModelConfig:
        """The options of a model, or of the one that it shares them with (`LINEAGE_MODELS`)."""
        return getattr(self, _part_of(model_name))

    def run_name(self, model_name: str) -> str:
        """Name of a model's run folder, with the seed unless it is the default."""
        return f"{model_name}_seed{self.train.seed}".removesuffix(f"_seed{TrainConfig.seed}")

    def for_model(self, model_name: str) -> dict[str, Any]:
        """Name, data and the model's options, as a run folder records them."""
        return {"name": self.name, "data": self.data} | {
            _part_of(model_name): self.model_config(model_name).to_dict()
        }

    @classmethod
    def of_run(cls, config: dict[str, Any]) -> "Recipe":
        """The recipe in a run folder's `config.json`. Raises ValueError without one."""
        recipe, train = config.get("recipe"), config.get("train")
        if not isinstance(recipe, dict):
            raise ValueError(f"recipe must be the fields of a recipe, got {recipe!r:.60}")
        return cls.from_dict({**recipe, "train": train})


def _part_of(model_name: str) -> str:
    if model_name not in (*MODELS, *LINEAGE_MODELS):
        choices = ", ".join((*MODELS, *LINEAGE_MODELS))
        raise ValueError(f"{model_name!r:.60} is not a model: choose one of {choices}")
    return LINEAGE_MODELS.get(model_name, model_name)


_LAPTOP = {"backbone": "mobilenet_v2", "channels": 128}  # 128: twice the iterations per hour
_COCO_YOLACT = {"init": COCO, "normalization": "official", **COCO_PRIORS}
_COCO_MASK_RCNN = {"init": COCO, "batch_norm_eps": NO_EPSILON}
_QUICK = {"backbone": "tiny", "init": None, "channels": 64}

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="paper",
            expected_time="not yet run (published: about 48 h per model on a GTX 1060 and a T4)",
            expected_score="not yet run (published: YOLACT 27.8, Mask R-CNN 53.2 mAP at 12K)",
        ),
        Recipe(
            name="official",
            expected_score="not yet run (the official YOLACT, trained on SBD: mask AP50 72.3)",
            train=TrainConfig(
                batch_size=8,
                iterations=120_000,
                lr_milestones=(60_000, 100_000),
                warmup_iterations=500,
                batch_norm="official",
                eval_every=10_000,
            ),
            yolact=YolactConfig(semantic_loss=True),
        ),
        Recipe(
            name="t4",
            expected_time="not yet run (meant for both models in one session of 12 h)",
            train=TrainConfig(
                batch_size=10,  # meant to fit into 16 GB in fp16
                learning_rate=1.25e-3,  # the official 1e-3 at batch 8, scaled with the batch
                warmup_iterations=800,
                max_grad_norm=10.0,
                mixed_precision=True,
                patience=4,
            ),
            yolact=YolactConfig(semantic_loss=True),
            mask_rcnn=MaskRCNNConfig(short_side=550),  # the short side of both models' input
        ),
        Recipe(
            name="coco",
            expected_time="not yet run (no training; meant for minutes on a T4)",
            expected_score="not yet run (mask AP on COCO's val: YOLACT 28.0, Mask R-CNN 34.6)",
            train=TrainConfig(iterations=0, batch_norm="frozen"),
            yolact=YolactConfig(**_COCO_YOLACT),
            mask_rcnn=MaskRCNNConfig(**_COCO_MASK_RCNN),
        ),
        Recipe(
            name="finetune",
            expected_time="not yet run (meant for both models in one session of 12 h)",
            train=TrainConfig(
                batch_size=8,  # the official YOLACT's, to which its learning rate belongs
                iterations=3_000,  # 16 passes over VOC 2012's train, as many images as `paper`
                backbone_lr_mult=0.1,  # it knows COCO's images; the new outputs know nothing
                lr_milestones=(2_000, 2_700),  # at two thirds and nine tenths
                warmup_iterations=300,  # while gradients of new outputs are large
                max_grad_norm=10.0,
                batch_norm="frozen",  # COCO's statistics are of more images than a batch has
                mixed_precision=True,
                eval_every=500,
            ),
            yolact=YolactConfig(**_COCO_YOLACT, semantic_loss=True),  # its head is pretrained, too
            mask_rcnn=MaskRCNNConfig(**_COCO_MASK_RCNN, short_side=550),  # meant for 16 GB, as t4
        ),
        Recipe(
            name="laptop",
            expected_time="2 to 4 h per model on 2 CPU cores",
            expected_score="not yet run (the pilot, on other images: results/pilot/report.json)",
            train=TrainConfig(
                batch_size=4,
                iterations=6_000,
                optimizer="adamw",
                backbone_lr_mult=0.1,  # keeps what the backbone learned on ImageNet
                weight_decay=1e-4,
                schedule="cosine",
                lr_milestones=(),
                warmup_iterations=100,
                max_grad_norm=100.0,
                batch_norm="frozen",
                mixed_precision=True,
                augmentation="light",
                eval_every=500,
            ),
            yolact=YolactConfig(**_LAPTOP, image_size=320, semantic_loss=True),
            mask_rcnn=MaskRCNNConfig(
                **_LAPTOP,
                short_side=288,  # both see the same number of pixels of a 4:3 image
                proposals=300,
                rois_per_image=64,
            ),
        ),
        Recipe(
            name="quick",
            expected_time="about 8 minutes on 2 CPU cores, all notebooks",
            expected_score="mask AP50 over 30 on the synthetic data (not VOC)",
            data="mini_voc",
            train=TrainConfig(
                batch_size=8,
                iterations=540,
                optimizer="adamw",
                learning_rate=2e-3,
                weight_decay=1e-4,
                schedule="cosine",
                lr_milestones=(),
                warmup_iterations=50,
                max_grad_norm=20.0,
                augmentation="none",
                eval_every=135,
                eval_images=32,
                checkpoint_every=50,
                workers=0,
            ),
            yolact=YolactConfig(**_QUICK, image_size=224, semantic_loss=True),
            mask_rcnn=MaskRCNNConfig(**_QUICK, short_side=112, proposals=128, rois_per_image=16),
        ),
    )
}


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a training: model, recipe, train, class_names and data_fingerprint.

    Of one that is to be repeated, the last two may be missing. Raises FileNotFoundError, ValueError
    naming the file.
    """
    return check_run_config(read_json(path), path)


def check_run_config(config: object, source: object) -> dict[str, Any]:
    """What `read_config` reads, if it is one. Raises ValueError naming `source`."""
    try:
        if not isinstance(config, dict):
            raise ValueError(f"it holds {config!r:.60}")
        Recipe.of_run(config).model_config(str(config.get("model")))
        names = config.get("class_names", [])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"class_names must be a list of names, got {names!r:.60}")
    except ValueError as error:
        raise ValueError(f"{source} is not the config of a training: {error}") from None
    return config


def without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config for others: of the file that it started from, the name alone."""
    part = _part_of(config["model"])
    options = config["recipe"][part]
    name = (
        options["init"] if options["init"] in (None, *NAMED_STARTS) else Path(options["init"]).name
    )
    return {**config, "recipe": {**config["recipe"], part: {**options, "init": name}}}


def get_recipe(profile: str) -> Recipe:
    """The recipe of that name; with other values of fields in a text like "t4 iterations=6000".

    Raises ValueError, listing the names.
    """
    name, *changes = profile.split() or [profile]
    if name not in RECIPES:
        raise ValueError(f"{name!r} is not a recipe: choose one of {', '.join(RECIPES)}")
    return RECIPES[name].with_changes(**parse_assignments(changes, RECIPE_FIELDS))


def parse_assignments(assignments: Iterable[str], names: Collection[str]) -> dict[str, Any]:
    """Values by name from texts like "short_side=550". Raises ValueError for any other text."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in names:
            raise ValueError(
                f"{assignment!r:.60} must be NAME=VALUE with one of {', '.join(names)}"
            )
        try:
            values[name] = ast.literal_eval(text)
        except (MemoryError, RecursionError, SyntaxError, ValueError):
            values[name] = text
    return values


def recipe_changes(recipe: Recipe, base: Recipe) -> "pd.DataFrame":
    """Fields in which a recipe differs from another: one row per field, with its comment.

    Columns: the two recipes' names, "meaning"; index: "part.field".
    """
    import pandas as pd  # here: the command line reads recipes before it needs pandas

    rows = {}
    for part, kind in PARTS.items():
        for cls in kind.__mro__[:-2]:
            comments = re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(cls), re.MULTILINE)
            for name, meaning in comments:
                values = [getattr(getattr(r, part), name) for r in (recipe, base)]
                if values[0] != values[1]:
                    rows[f"{part}.{name}"] = (*values, meaning)
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=[recipe.name, base.name, "meaning"]
    ).rename_axis("field")
