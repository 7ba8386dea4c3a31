"""The command line's app, the types of its options, and checks that need no heavy package."""

import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from vocseg_lib.study.recipes import LINEAGE_MODELS, MODEL_TITLES, PILOT, PILOT_WEIGHTS, RECIPES
from vocseg_lib.utils.files import resolve_path

RUN_FILE = re.compile(r"(config|run|metrics|predictions\w*)\.json")  # of a training
USER_ERRORS = OSError | ValueError | ModuleNotFoundError
MAX_MESSAGE = 2_000  # characters
NO_MEMORY = "out of memory|DefaultCPUAllocator"  # in errors of torch
MARKED_BYTES = 4_096  # at the start of an output

app = typer.Typer(
    help="Train and evaluate YOLACT and Mask R-CNN on PASCAL VOC, or on data in its layout.",
    context_settings={"max_content_width": 100},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Command(TyperCommand):
    """A command: several values may follow one flag; user errors are one line and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {flag for p in self.params if getattr(p, "multiple", False) for flag in p.opts}
        repeated, flag = [], ""
        for argument in args:
            if argument.startswith("-"):
                flag = argument if argument in several else ""
            elif flag and repeated[-1] != flag:
                repeated.append(flag)  # --image a b is --image a --image b
            repeated.append(argument)
        return super().parse_args(ctx, repeated)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except Exception as error:
            of_library = type(error).__module__.startswith("vocseg_lib.")
            if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
                error = f"not enough memory ({error}): take smaller images or batches"
            elif not of_library and not isinstance(error, USER_ERRORS):
                raise
            message = f"{ctx.info_name}: {error}"
            if len(message) > MAX_MESSAGE:
                message = f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 2 :]}"
            typer.echo(message, err=True)
            raise typer.Exit(2) from None


def run_app() -> None:
    """Run the app; exit with 0, 1 (problems) or 2 (wrong arguments)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # where a console lacks characters
    try:
        try:
            app(prog_name="vocseg")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


command = partial(app.command, cls=Command)


def takes(options: type) -> Callable[[Callable], Callable]:
    """Decorator of a command that takes one argument: a dataclass whose fields are its options."""

    def decorate(function: Callable) -> Callable:
        def run(**values: Any) -> None:
            function(options(**values))

        run.__doc__, run.__signature__ = function.__doc__, signature(options)
        run.__annotations__ = options.__annotations__
        return run

    return decorate


def finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


def check_device_name(value: str) -> str:
    if value and not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"must be cpu, cuda or cuda:N, got {value}")
    return value


def resolve_image_names(name: str, images: dict[str, dict]) -> list[str]:
    """The keys of images (see `image_keys`) that a file name, a part of it or a key stands for."""
    from vocseg_lib.data.coco import name_forms

    forms = {
        key: [key, *name_forms(i.get("file_name") or str(i["id"]))] for key, i in images.items()
    }
    matching = ([key for key, known in forms.items() if f in known] for f in name_forms(name))
    return next(filter(None, matching), [])


def check_image_folder(wanted: str, images: str, data: str) -> None:
    """Raise ValueError if pictures are wanted of COCO ground truth without their folder."""
    if wanted and not images and data.endswith(".json"):
        raise ValueError("--images DIR is required: --data is COCO ground truth and not a devkit")


def require(*paths: str) -> None:
    """Raise OSError for the first path that is given and missing, or a pipe or device."""
    for path in (p for p in paths if p and p not in PILOT_WEIGHTS):
        found = resolve_path(path)
        if not (found.is_file() or found.is_dir()):
            problem = "is a pipe, socket or device" if found.exists() else "is missing"
            named = f", or {', '.join(PILOT_WEIGHTS)}" if path.startswith(PILOT) else ""
            ways = f"an existing file or folder{named} is expected"
            raise FileNotFoundError(f"{path} {problem}: {ways}")


def check_output(path: str, mark: bytes, required: bool = False) -> None:
    """Raise ValueError for what is no file, or one without the mark of what a command writes."""
    if (Path(path).exists() and not Path(path).is_file()) if path else required:
        raise ValueError(f"{path or '--out FILE'}: a file to write is required")
    is_of_run = (
        RUN_FILE.fullmatch(Path(path).name) and Path(path).with_name("config.json").is_file()
    )
    if is_of_run:
        raise ValueError(f"{path} is a file of a training: choose another")
    if Path(path).is_file():
        with Path(path).open("rb") as file:
            if mark not in file.read(MARKED_BYTES):
                raise ValueError(f"{path} exists, not written by this command: choose another")


def usable_device(name: str) -> str:
    """A device of this machine; default: "cuda" if there is a GPU. Raises ValueError if missing."""
    import torch

    gpu = torch.cuda.is_available()
    if name.startswith("cuda") and not gpu:
        raise ValueError(f"--device {name}: no CUDA GPU is available here; use cpu")
    return name or ("cuda" if gpu else "cpu")


def text(help_text: str, metavar: str, *flags: str) -> Any:
    """The type of an option with one value; flags are needed if the metavar is its name in capitals
    (typer 0.27 takes the metavar as the flag)."""
    return Annotated[str, typer.Option(*flags, help=help_text, metavar=metavar)]


def texts(help_text: str, metavar: str, *flags: str) -> Any:
    """The type of an option with one or more values."""
    return Annotated[list[str], typer.Option(*flags, help=help_text, metavar=f"{metavar}...")]


def number(help_text: str, **limits: float) -> Any:
    """The type of an option with a finite number."""
    return Annotated[float | None, typer.Option(help=help_text, callback=finite, **limits)]


MODEL_NAMES = (*MODEL_TITLES, *LINEAGE_MODELS)
Profile = Annotated[
    Literal[tuple(RECIPES)] | None, typer.Option(help="recipe to train by; default: quick")
]
Model = Annotated[
    Literal[MODEL_NAMES] | None,
    typer.Option(
        "--model", metavar="MODEL", help=f"{', '.join(MODEL_NAMES)}; required without --from"
    ),
]
Device = Annotated[
    str,
    typer.Option(help="cpu or cuda; default: cuda if there is a GPU", callback=check_device_name),
]
Devkit = Annotated[
    str, typer.Argument(metavar="DEVKIT", help="VOC devkit: the folder with JPEGImages/, or above")
]
AnyData = Annotated[
    str, typer.Argument(metavar="DATA", help="VOC devkit, or COCO annotations (JSON)")
]
ImageFolder = text("folder of the images; default: see docs/own_data.md", "DIR")
CrowdsAsObjects = Annotated[
    bool, typer.Option("--crowds-as-objects", help="read iscrowd as 0, as for CVAT's brush masks")
]
Data = text("VOC devkit, or COCO ground truth (JSON)", "DATA", "--data")
Split = text("split of the devkit", "NAME")
Predictions = text("prediction file, or COCO results (JSON)", "FILE")
Trainings = texts("prediction file, or those of several trainings (seeds) of a model", "FILE")
Against = texts("the same of a second model", "FILE")
Resamples = Annotated[
    int, typer.Option(help="of the bootstrap; 0: no intervals", min=0, max=100_000)
]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `vocseg train`."""

    model: Model = None
    profile: Profile = None
    source: text("take recipe, model and data of this run folder", "RUN", "--from") = ""
    data: text("VOC devkit, or COCO annotations (JSON), converted", "DATA", "--data") = ""
    results: text("write to DIR/runs/MODEL; default: results/PROFILE", "DIR") = ""
    init: text(
        "imagenet, coco, weights, a run or none; default: the recipe's", "INIT", "--init"
    ) = ""
    changes: texts("change fields, as in short_side=550", "FIELD=VALUE", "--set") = ()
    max_hours: number("then stop; the same command continues") = None
    mirror: text("second results folder, kept up to date", "DIR") = ""
    stop_on_bad: Annotated[
        bool, typer.Option("--stop-on-bad", help="stop at an unreadable sample")
    ] = False
    device: Device = ""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Options of `vocseg predict`."""

    run: Annotated[
        str,
        typer.Argument(
            metavar="[RUN]", help="run folder of a training, file of weights, pilot/MODEL"
        ),
    ] = ""
    weights: text("the same; default: pilot/yolact and pilot/mask_rcnn", "RUN") = ""
    model: Annotated[
        Literal[tuple(MODEL_TITLES)] | None,
        typer.Option("--model", metavar="MODEL", help="instead: its published COCO detector"),
    ] = None
    image: texts("images, videos, or folders of them", "PATH") = ()
    score: number("least score of what is drawn, cut out and listed", min=0, max=1) = 0.3
    masks: Annotated[
        Literal["rle", "polygons"], typer.Option(help="in the folder's predictions.json")
    ] = "rle"
    index_pngs: Annotated[
        bool, typer.Option("--index-pngs", help="write SegmentationClass/ and SegmentationObject/")
    ] = False
    cutouts: Annotated[
        bool, typer.Option("--cutouts", help="write each object as a PNG with transparency")
    ] = False
    data: text("VOC devkit to predict", "DEVKIT") = ""
    split: Split = "val"
    out: text("folder; default: predictions; or prediction file (.json)", "PATH") = ""
    device: Device = ""
