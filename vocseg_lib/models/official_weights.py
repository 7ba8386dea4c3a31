"""Checkpoints of the official YOLACT (github.com/dbolya/yolact) as weights of ours."""

import re
from pathlib import Path

import torch
from torch import Tensor

from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.models.config import COCO_SCALES, PASCAL_SCALES, YolactConfig
from vocseg_lib.models.yolact import Yolact

RENAMES = (
    (r"backbone\.layers\.(\d)\.", lambda m: f"body.layer{int(m[1]) + 1}."),
    (r"backbone\.", "body."),
    # Its pyramid keeps lateral and prediction layers from C5 down to C3.
    (r"fpn\.lat_layers\.(\d)\.", lambda m: f"pyramid.lateral.{2 - int(m[1])}.0."),
    (r"fpn\.pred_layers\.(\d)\.", lambda m: f"pyramid.smooth.{2 - int(m[1])}.0."),
    (r"fpn\.downsample_layers\.([01])\.", r"pyramid.down.\1.0."),
    # Its prototype network counts the layers between the convolutions too; the upsampling is number 6.
    (r"proto_net\.([024])\.", lambda m: f"protonet.before.{int(m[1]) // 2}.0."),
    (r"proto_net\.(8|10)\.", lambda m: f"protonet.after.{int(m[1]) // 2 - 4}.0."),
    (r"prediction_layers\.0\.upfeature\.0\.", "head.shared.0."),
    (r"prediction_layers\.0\.conf_layer\.", "head.classes.0."),
    (r"prediction_layers\.0\.bbox_layer\.", "head.box.0."),
    (r"prediction_layers\.0\.mask_layer\.", "head.coefficients.0."),
    (r"semantic_seg_conv\.", "semantic.0."),
)
BLOCKS_OF_STAGE_4 = {"resnet50": 6, "resnet101": 23}
COCO_CLASSES = 81


def our_name(name: str) -> str:
    """Our name of an official parameter; names that are not known stay as they are."""
    for pattern, replacement in RENAMES:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    return name


def load_official(path: str | Path) -> Yolact:
    """A published checkpoint of YOLACT-550 (`yolact_resnet50_*.pth`, `yolact_base_*.pth`) as a `Yolact` in eval mode.

    Backbone and number of classes are read from the sizes. With COCO's 81 classes the model gets COCO's scales and the
    square priors that those weights were trained with; its labels are then 1..80, in the official order. The 700 and
    400 pixel ones have the same sizes but other scales, and cannot be told apart: they would load and detect badly.
    Raises WeightsError naming what is missing, too much or of another size.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs = {our_name(name): value for name, value in state.items() if not _unused(name)}
        backbone = _backbone(theirs)
        num_classes = len(theirs["head.classes.0.bias"]) // 3
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise WeightsError(
            f"{path} is no checkpoint of the official YOLACT-550 with a ResNet: {error!r}"
        ) from error
    coco = num_classes == COCO_CLASSES
    config = YolactConfig(
        backbone=backbone,
        weights=None,
        semantic_loss=any(name.startswith("semantic.") for name in theirs),
        scales=COCO_SCALES if coco else PASCAL_SCALES,
        square_priors=coco,
    )
    model = Yolact(config, num_classes)
    _check(path, model.state_dict(), theirs)
    model.load_state_dict(theirs, strict=False)
    return model.eval()


def _unused(name: str) -> bool:
    """What old checkpoints hold a second time, and what the official loader leaves out as well."""
    return bool(
        re.match(r"backbone\.layer\d|fpn\.downsample_layers\.[2-9]|.*\.num_batches_tracked$", name)
    )


def _backbone(theirs: dict[str, Tensor]) -> str:
    blocks = len({name.split(".")[2] for name in theirs if name.startswith("body.layer3.")})
    for name, count in BLOCKS_OF_STAGE_4.items():
        if count == blocks:
            return name
    raise ValueError(f"its stage C4 has {blocks} blocks; ResNet-50's has 6 and ResNet-101's 23")


def _check(path: str | Path, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    wanted = {
        name: value for name, value in ours.items() if not name.endswith("num_batches_tracked")
    }
    problems = [f"missing: {name}" for name in wanted.keys() - theirs.keys()]
    problems += [f"unknown: {name}" for name in theirs.keys() - wanted.keys()]
    problems += [
        f"size of {name}: {tuple(theirs[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted.keys() & theirs.keys()
        if theirs[name].shape != wanted[name].shape
    ]
    if problems:
        raise WeightsError(
            f"{path} does not fit YOLACT-550:\n  " + "\n  ".join(sorted(problems)[:12])
        )
