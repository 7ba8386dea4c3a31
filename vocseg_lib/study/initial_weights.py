"""What a model starts from (`ModelConfig.init`), told by keys and sizes, not by a file's name.

None: random weights. "imagenet": the backbone's, torchvision's. "coco": the published detector of
the model, downloaded once. "pilot": this project's own, of the model, or of one ("pilot/yolact").
A file: of the official YOLACT, torchvision's Mask R-CNN, a backbone in torchvision's layout,
`export-weights` or a `best.pt`. A folder: a run, or results with one.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.run_folder import BEST, CONFIG
from vocseg_lib.models.backbones import WeightsError, backbone_of
from vocseg_lib.models.config import COCO_PRIORS, MODELS, NETWORK_FIELDS, NO_EPSILON
from vocseg_lib.models.official_weights import detector_weights, unwrap
from vocseg_lib.models.transfer import Pretrained
from vocseg_lib.study.recipes import (
    COCO,
    IMAGENET,
    LINEAGE_MODELS,
    NAMED_STARTS,
    NOTHING,
    PILOT,
    PILOT_WEIGHTS,
    RECIPES,
    Recipe,
    check_run_config,
    read_config,
)
from vocseg_lib.utils.environment import git_commit, repository_url
from vocseg_lib.utils.files import file_lock, resolve_path
from vocseg_lib.utils.http import Download, FetchError, download
from vocseg_lib.utils.weights import is_safetensors, read_safetensors, read_weights

HEADER = "vocseg"  # of exported weights: what `metadata` holds, as JSON


@dataclass(frozen=True, kw_only=True)
class PublishedDetector:
    """A trained detector, and where it is."""

    url: str
    sha256: str  # or its first digits, which torchvision has in the file's name
    max_bytes: int
    config: dict[str, Any] = field(default_factory=dict)  # fields of the model's config

    def problem(self, file: Path) -> str:
        """What is wrong with a file; "" if it is the detector's."""
        if not file.is_file():
            return "missing"
        with file.open("rb") as opened:
            if opened.read(1) == b"<":
                return "answers with a web page instead of the file"
            opened.seek(0)
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        wrong = not found.startswith(self.sha256)
        return f"SHA-256 is {found[:16]}..., expected {self.sha256[:16]}" if wrong else ""


COCO_DETECTORS = {
    "yolact": PublishedDetector(
        url="https://huggingface.co/dbolya/yolact-resnet50/resolve/main/yolact_resnet50_54_800000.pth",
        sha256="c12bb7a7e0343281db7f1407b376970bb52651f121d0b60bc4a49207acb6d6d7",
        max_bytes=127_300_392,
        config={
            "backbone": "resnet50",
            "channels": 256,
            "normalization": "official",
            **COCO_PRIORS,
        },
    ),
    "mask_rcnn": PublishedDetector(
        url="https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        sha256="bf2d0c1e",
        max_bytes=200_000_000,
        config={"backbone": "resnet50", "channels": 256, "batch_norm_eps": NO_EPSILON},
    ),
}
"""The published detectors: 28.0 and 34.6 mask AP on COCO's val (their authors' pages)."""
PILOT_SHA256 = {
    "yolact": "34b32cf22a20bc8bc2e0c9207415149da49ae534d4a4a5e956f818c67ae1db17",
    "mask_rcnn": "e25431bdfa6184bd7dd8ba8daf93be679de043b4f214af87fdadee7f9be9f083",
}
PILOT_BYTES = 20_000_000  # at most, of a file
WEIGHTS_FOLDER = Path(__file__).parents[2] / "weights"  # in a checkout


def find_weights(source: str | Path) -> Path:
    """A path as by `resolve_path`; of `PILOT_WEIGHTS`, the file in a checkout, else downloaded.

    Raises WeightsError, also if that file is damaged.
    """
    path, name = resolve_path(source), PILOT_WEIGHTS.get(str(source))
    if path.exists() or not name:
        return path
    file = WEIGHTS_FOLDER / f"pilot_{name}.safetensors"
    version = git_commit().removesuffix("-dirty")  # whose weights these digests are of
    url = f"{repository_url()}/raw/{version}/weights/{file.name}"
    pilot = PublishedDetector(url=url, sha256=PILOT_SHA256[name], max_bytes=PILOT_BYTES)
    if not file.exists():
        return fetch_published(pilot)
    if problem := pilot.problem(file):
        ways = "get it again by git checkout, or delete it, to have it downloaded"
        raise WeightsError(f"{file} is damaged ({problem}): {ways}")
    return file


def fetch_published(published: PublishedDetector) -> Path:
    """The file of a published detector, downloaded if missing, resumable, checked by SHA-256.

    Raises WeightsError, with the alternatives.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    if published.problem(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = {"problem": published.problem, "max_bytes": published.max_bytes}
        source = Download(urls=[published.url], **arguments)
        try:
            with file_lock(path.parent, f"another process downloads to {path.parent}"):
                if published.problem(path):
                    download(source, path)
        except (FetchError, OSError) as error:
            reason = "; ".join(line.strip() for line in str(error).splitlines())
            reason = reason.replace(":; ", ": ")
            ways = "or start from init=FILE, or train from init=imagenet or init=none"
            raise WeightsError(f"no published weights {path.name}: {reason}; {ways}") from error
    return path


def pretrained(init: str | None, model_name: str) -> Pretrained | None:
    """The detector to start a model from; None if `init` is of a backbone alone, or nothing.

    Raises FileNotFoundError; WeightsError if it is of another model or cannot be read.
    """
    if init in (None, IMAGENET):
        return None
    is_coco = init == COCO
    path = fetch_published(COCO_DETECTORS[model_name]) if is_coco else file_of(init, model_name)
    try:
        weights = _read(path)
        if weights and weights.model != model_name:
            raise ValueError(f"it is of {weights.model}, not of {model_name}")
    except ValueError as error:
        raise WeightsError(f"init={init}: {error}") from error
    if weights and is_coco:
        weights = replace(weights, config=COCO_DETECTORS[model_name].config, assumed=())
    return weights


def check_start(recipe: Recipe, model_name: str) -> None:
    """Raise ValueError if a recipe that does not train has no detector to start from."""
    init = recipe.model_config(model_name).init
    own = LINEAGE_MODELS.get(model_name, model_name)
    if not (recipe.train.iterations or pretrained(init, own)):
        problem = f"init={init or NOTHING} is no detector, and iterations=0"
        raise ValueError(f"{problem}: change one of them")


def file_of(init: str, model_name: str) -> Path:
    """The weights' file of a run folder, or of the model's run in a results folder."""
    path = find_weights(f"{init}/{model_name}" if init == PILOT else init)
    folders = (path, path / "runs" / model_name)
    inside = next((folder / BEST for folder in folders if (folder / BEST).is_file()), None)
    if path.is_dir() and not inside:
        raise FileNotFoundError(
            f"init={path}: a folder without {BEST}, and without runs/{model_name}"
        )
    if not path.exists():
        ways = f"{', '.join(NAMED_STARTS)}, a file or a run folder"
        raise FileNotFoundError(f"init={path}: is missing; choose {ways}")
    return inside or path


def _read(path: Path) -> Pretrained | None:
    if checkpoint := read_own(path):
        return weights_of_run(checkpoint, path)
    return detector_weights(unwrap(read_weights(path)), path)


def read_own(path: Path) -> dict[str, Any] | None:
    """A `best.pt`, or what `export-weights` wrote: config, model, iteration and metrics.

    None for another file of weights. Raises OSError, ValueError.
    """
    if is_safetensors(path):
        state, metadata = read_safetensors(path)
        try:
            return {**json.loads(metadata[HEADER]), "model": state}
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path} is not of export-weights: no {HEADER!r} in its header"
            ) from None
    content = read_weights(path)
    if not (isinstance(content, dict) and {"config", "model", "checksum"} <= content.keys()):
        return None
    if "optimizer" in content:
        raise ValueError(f"{path} is to resume a training: give its {BEST}, or the run folder")
    return load_checkpoint(path, ("config", "model", "iteration"))


def weights_of_run(checkpoint: dict[str, Any], path: Path) -> Pretrained:
    """The weights in a `best.pt` of ours. Raises ValueError if they are of no detector."""
    config = check_run_config(checkpoint["config"], path)
    name, names = config["model"], tuple(config.get("class_names", ()))
    if name not in MODELS:
        raise ValueError(f"{path} is of {name}: expected one of {', '.join(MODELS)}")
    model_config = Recipe.of_run(config).model_config(name)
    return Pretrained(
        source=str(path),
        model=name,
        state=checkpoint["model"],
        outputs=len(names) + 1,
        class_names=names,
        config={field: getattr(model_config, field) for field in NETWORK_FIELDS[name]},
    )


def with_network_of_init(recipe: Recipe, results: Path, explicit: Collection[str] = ()) -> Recipe:
    """A recipe with the fields of each model's network that the weights it starts from have.

    But for `explicit` ones, which must be the weights' own when a model is built. Where a file is
    missing, those of a training in `results` that started from it, which can be resumed without.
    What cannot be read raises when it is used.
    """
    for name in MODELS:
        config = getattr(recipe, name)
        if config.init == COCO:
            fields = COCO_DETECTORS[name].config
        else:
            try:
                weights = pretrained(config.init, name)
                fields = weights.config if weights else _plain_network(recipe, name)
                if not weights and config.init not in (None, IMAGENET):
                    state = unwrap(read_weights(find_weights(config.init)))
                    fields |= {"backbone": backbone_of(state) or config.backbone}
            except (OSError, WeightsError):
                run = results / "runs" / recipe.run_name(name)
                fields = _recorded(run / CONFIG, name, config.init)
        taken = {field: value for field, value in fields.items() if field not in explicit}
        recipe = replace(recipe, **{name: replace(config, **taken)})
    return recipe


def _plain_network(recipe: Recipe, model_name: str) -> dict[str, Any]:
    """What a recipe for COCO's weights has because of them, as it is without them."""
    own = getattr(RECIPES.get(recipe.name, recipe), model_name)
    plain = type(own)()
    fields = [f for f in NETWORK_FIELDS[model_name] if own.init == COCO]
    return {f: getattr(plain, f) for f in fields}


def _recorded(path: Path, model_name: str, init: str | None) -> dict[str, Any]:
    """The fields of the network in a `config.json`, if that is of a training with this start."""
    try:
        config = Recipe.of_run(read_config(path)).model_config(model_name)
    except (OSError, ValueError):
        return {}
    return (
        {f: getattr(config, f) for f in NETWORK_FIELDS[model_name]} if config.init == init else {}
    )
