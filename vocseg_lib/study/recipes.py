"""Recipes: every number of a training in one frozen place. Only notebooks and the command line read them."""

import ast
import inspect
import math
import re
from dataclasses import asdict, dataclass, fields

import pandas as pd

MAY_BE_ZERO = ("warmup_iterations", "workers", "seed")
CHOICES = {
    "data": ("voc2012", "mini_voc"),
    "backbone": ("resnet50", "resnet101", "mobilenet_v2", "tiny"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("step", "cosine"),
    "batch_norm": ("unfrozen", "frozen", "precise", "official"),
    "nms": ("fast", "standard"),
    "roi_pooling": ("align", "pool", "round"),
    "augmentation": ("ssd", "light", "none"),
}
RANGES = {
    "learning_rate": (lambda value: 0 < value < math.inf, "above 0 and finite"),
    "backbone_lr_mult": (lambda value: 0 < value < math.inf, "above 0 and finite"),
    "momentum": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "at least 0 and finite"),
    "max_grad_norm": (lambda value: value > 0, "above 0, or None"),
    "max_bad_fraction": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "image_size": (lambda value: value >= 32, "at least 32 pixels"),
    "short_side": (lambda value: value >= 32, "at least 32 pixels"),
    "lr_milestones": (
        lambda value: isinstance(value, tuple) and all(type(i) is int and i > 0 for i in value),
        "whole numbers, as (8000,)",
    ),
}
"""What a field's value has to fulfil, and how to say it."""


@dataclass(frozen=True)
class Recipe:
    """One way to run the study; both models get the same."""

    name: str  # its key in PROFILES
    command: str  # what runs it
    expected_time: str  # for both models, or "not yet run"
    expected_score: str  # mask AP50 of both models, or "not yet run"
    data: str = "voc2012"  # "voc2012" is fetched, "mini_voc" is drawn offline
    backbone: str = "resnet50"  # "resnet50", "mobilenet_v2" or "tiny"
    weights: str | None = (
        "imagenet"  # start of the backbone: "imagenet", a file, or None for random
    )
    channels: int = 256  # width of FPN and heads (YOLACT paper, sec. 4; FPN paper)
    image_size: int = 550  # side in pixels of the square YOLACT resizes to (YOLACT paper, sec. 6)
    short_side: int = 800  # pixels; Mask R-CNN's own size (its paper, sec. 3.1), as the study names none; 550 gives it YOLACT's
    proposals: int = (
        2_000  # Mask R-CNN's, an image in training; half of it in prediction (FPN paper, sec. 5.2)
    )
    rois_per_image: int = (
        512  # regions an image in Mask R-CNN's loss (FPN paper; Mask R-CNN, sec. 3.1)
    )
    roi_pooling: str = (
        "align"  # Mask R-CNN's; "pool" and "round" round regions to whole cells (its paper, sec. 3)
    )
    batch_size: int = 2  # images (the study)
    iterations: int = 12_000  # parameter updates (the study)
    optimizer: str = "sgd"  # "sgd" or "adamw" (the study: SGD)
    learning_rate: float = 1e-3  # at the start, after warm-up (the study)
    backbone_lr_mult: float = (
        1.0  # share of the learning rate that the backbone's body learns with (the study: 1)
    )
    momentum: float = 0.9  # SGD only (the study)
    weight_decay: float = 5e-4  # the study does not say; the official YOLACT's
    schedule: str = "step"  # "step" (a tenth at each of lr_milestones) or "cosine" (to zero)
    lr_milestones: tuple[int, ...] = (
        8_000,
    )  # iterations; the study divides by 10 but does not say when: two thirds is our reading
    warmup_iterations: int = 0  # linear, from a tenth; the study names none
    max_grad_norm: float | None = None  # largest gradient norm; the study names none
    batch_norm: str = "unfrozen"  # or "frozen", "precise" (statistics taken anew to judge), "official" (frozen below 6)
    semantic_loss: bool = False  # YOLACT's fourth term; the study used three
    crop_in_training: bool = (
        True  # mask loss inside the ground-truth box only (the study; YOLACT paper, sec. 3.1)
    )
    crop_in_inference: bool = (
        True  # masks cropped with the predicted box (the study; YOLACT paper, sec. 3.1)
    )
    normalize_by_area: bool = True  # mask loss over the box's area, else over the image's (the study; YOLACT paper, sec. 3.1)
    nms: str = "fast"  # YOLACT's: "fast" or "standard" (YOLACT paper, sec. 4)
    mixed_precision: bool = False  # fp16 or bf16 where the device has it; the study names none
    compile: bool = False  # the network through torch.compile: slow to start, then faster
    augmentation: str = "ssd"  # "ssd", "light" or "none" (the study: all SSD augmentations)
    eval_every: int = 1_000  # iterations between AP on val; best.pt is chosen by it
    eval_images: int = (
        300  # images of val that AP is taken on in between, evenly spread; at the end, all
    )
    patience: int | None = (
        None  # scores without a better one after which training ends (the study: never)
    )
    max_bad_fraction: float = (
        0.05  # largest share of unreadable training samples that are passed over
    )
    checkpoint_every: int = 250  # iterations between checkpoints
    workers: int = 2  # processes that load images
    seed: int = 0  # of weights, order and augmentation

    def __post_init__(self):
        """Raises ValueError, naming the field, for a value that no training can have."""
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if (
                field.type in (int, int | None)
                and value is not None
                and value < (least := 0 if name in MAY_BE_ZERO else 1)
            ):
                raise ValueError(f"{name} is {value}: it has to be at least {least}")
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(CHOICES[name])}")
            if name in RANGES and value is not None and not RANGES[name][0](value):
                raise ValueError(f"{name} is {value}: it has to be {RANGES[name][1]}")


PROSE_FIELDS = ("command", "expected_time", "expected_score")
"""Fields that say something of a recipe and change nothing in a training."""
FROZEN_BELOW = 6
"""Images a batch below which the official YOLACT freezes batch norm."""
PROFILES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="paper",
            command="make study PROFILE=paper",
            expected_time="not yet run (the study: about 48 h a model on a GTX 1060 and a T4)",
            expected_score="not yet run (the study: YOLACT 27.8, Mask R-CNN 53.2 mAP at 12K iterations)",
        ),
        Recipe(
            name="official",
            command="make study PROFILE=official",
            expected_time="not yet run",
            expected_score="not yet run (the official YOLACT, trained on SBD: mask AP50 72.3)",
            batch_size=8,
            iterations=120_000,
            lr_milestones=(60_000, 100_000),
            warmup_iterations=500,
            batch_norm="official",
            semantic_loss=True,
            eval_every=10_000,
        ),
        Recipe(
            name="t4",
            command="make study PROFILE=t4",
            expected_time="not yet run (meant for both models in one session of 12 h; `estimate` says what to expect)",
            expected_score="not yet run",
            batch_size=10,  # what fits into 16 GB in fp16: Mask R-CNN then wants 13 by the estimate, with 12 images 15.5
            short_side=550,  # both models see the same number of pixels
            learning_rate=1.25e-3,  # the official YOLACT's 1e-3 for batches of 8, scaled with the batch
            warmup_iterations=800,
            max_grad_norm=10.0,
            semantic_loss=True,
            mixed_precision=True,
            patience=4,
        ),
        Recipe(
            name="laptop",
            command="make study PROFILE=laptop",
            expected_time="under 2 hours a model on 2 CPU cores (in the pilot, for YOLACT with iterations=12000)",
            expected_score="not yet run (the pilot, on other images: results/pilot/report.json)",
            backbone="mobilenet_v2",
            channels=128,  # twice as many iterations in the same time as with 256
            image_size=320,
            short_side=288,  # both models see the same number of pixels of a 4:3 picture
            proposals=300,
            rois_per_image=64,
            batch_size=4,
            iterations=6_000,
            optimizer="adamw",
            learning_rate=1e-3,
            backbone_lr_mult=0.1,  # heads learn from nothing, and fast; what the body knows of ImageNet's classes should last
            weight_decay=1e-4,
            schedule="cosine",
            lr_milestones=(),
            warmup_iterations=100,
            max_grad_norm=100.0,
            batch_norm="frozen",
            semantic_loss=True,
            mixed_precision=True,
            augmentation="light",
            eval_every=500,
        ),
        Recipe(
            name="quick",
            command="make study",
            expected_time="about 15 minutes on 2 CPU cores, all notebooks",
            expected_score="mask AP50 over 30 on the drawn data (not VOC)",
            data="mini_voc",
            backbone="tiny",
            weights=None,
            channels=64,
            image_size=224,
            short_side=144,
            proposals=256,
            rois_per_image=32,
            batch_size=8,
            iterations=600,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=1e-4,
            schedule="cosine",
            lr_milestones=(),
            warmup_iterations=50,
            max_grad_norm=20.0,
            augmentation="light",
            eval_every=150,
            checkpoint_every=50,
            workers=0,
        ),
    )
}


def get_recipe(profile: str) -> Recipe:
    """The recipe of that name. Raises ValueError, naming those there are."""
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; choose one of {', '.join(PROFILES)}")
    return PROFILES[profile]


def parse_changes(assignments: list[str]) -> dict[str, object]:
    """Values of fields from texts like "short_side=550". Raises ValueError for an unknown field or a value of another type."""
    kinds = {field.name: field.type for field in fields(Recipe)}
    changes = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in kinds:
            raise ValueError(
                f"{assignment!r} sets no field of a recipe: FIELD=VALUE is expected, with one of {', '.join(kinds)}"
            )
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        kind = type(value).__name__.replace("NoneType", "None")
        if kind == "tuple" and not all(type(item) is int for item in value):
            kind = "a tuple of other things"
        if kind not in re.split(r"\W+", str(kinds[name]).replace("[int, ...]", "")) and not (
            kind == "int" and "float" in str(kinds[name])
        ):
            raise ValueError(f"{assignment!r}: {name} is {kinds[name]}, not {kind}")
        changes[name] = value
    return changes


def recipe_changes(first: Recipe, second: Recipe) -> pd.DataFrame:
    """The settings in which two recipes differ, a row each: what it is, its value in the one and in the other."""
    meanings = dict(
        re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(Recipe), re.MULTILINE)
    )
    ours, theirs = asdict(first), asdict(second)
    changed = [
        name for name in ours if name not in ("name", *PROSE_FIELDS) and ours[name] != theirs[name]
    ]
    columns = {first.name: [ours[n] for n in changed], second.name: [theirs[n] for n in changed]}
    return pd.DataFrame(
        {**columns, "what it is": [meanings[n] for n in changed]},
        index=pd.Index(changed, name="setting"),
    )
