"""Detectors of other code: the official YOLACT (dbolya/yolact) and torchvision's Mask R-CNN."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.models.config import COCO_PRIORS, MODELS, NO_EPSILON, PASCAL_SCALES
from vocseg_lib.models.contract import InstanceModel
from vocseg_lib.models.priors import ASPECT_RATIOS
from vocseg_lib.models.transfer import Pretrained
from vocseg_lib.models.yolact import PROTOTYPES
from vocseg_lib.utils.json_values import shorten
from vocseg_lib.utils.weights import load_weights, read_weights

_SLOTS = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
COCO_SLOTS = tuple(f"unused {k}" if name == "N/A" else name for k, name in enumerate(_SLOTS, 1))
"""Names of COCO's category ids 1..90, which are the labels of torchvision's detectors."""
COCO_NAMES = tuple(name for name in _SLOTS if name != "N/A")
"""COCO's 80 classes: the labels of the official YOLACT."""
NAMES_BY_COUNT = {len(names): names for names in (CLASS_NAMES, COCO_NAMES, COCO_SLOTS)}
_SCORES = "roi_heads.box_predictor.cls_score.bias"
PASCAL_PRIORS = {"scales": PASCAL_SCALES, "square_priors": False}
YOLACT_RENAMES = (
    (r"backbone\.layers\.(\d)\.", lambda m: f"body.layer{int(m[1]) + 1}."),
    (r"backbone\.", "body."),
    # The official FPN keeps lateral and prediction layers from C5 down to C3.
    (r"fpn\.lat_layers\.(\d)\.", lambda m: f"pyramid.lateral.{2 - int(m[1])}.0."),
    (r"fpn\.pred_layers\.(\d)\.", lambda m: f"pyramid.smooth.{2 - int(m[1])}.0."),
    (r"fpn\.downsample_layers\.([01])\.", r"pyramid.down.\1.0."),
    # The official protonet counts ReLUs and the upsampling, too.
    (r"proto_net\.([024])\.", lambda m: f"protonet.before.{int(m[1]) // 2}.0."),
    (r"proto_net\.(8|10)\.", lambda m: f"protonet.after.{int(m[1]) // 2 - 4}.0."),
    (r"prediction_layers\.0\.upfeature\.0\.", "head.shared.0."),
    (r"prediction_layers\.0\.conf_layer\.", "head.classes.0."),
    (r"prediction_layers\.0\.bbox_layer\.", "head.box.0."),
    (r"prediction_layers\.0\.mask_layer\.", "head.coefficients.0."),
    (r"semantic_seg_conv\.", "semantic.0."),
)
TORCHVISION_RENAMES = (  # before torchvision 0.13
    (
        r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?=weight|bias)",
        r"backbone.fpn.\1_blocks.\2.0.",
    ),
    (r"rpn\.head\.conv\.(?=weight|bias)", "rpn.head.conv.0.0."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0."),
)
UNUSED = r"backbone\.layer\d|fpn\.downsample_layers\.[2-9]|.*\.num_batches_tracked$"
"""What old checkpoints of YOLACT hold twice and the official loader leaves out, too."""
MAX_CLASSES = 1_000  # with the background; COCO has 81
BACKBONES = {6: "resnet50", 23: "resnet101"}  # by blocks of stage C4


def load_official(path: str | Path) -> InstanceModel:
    """The detector in a file of the official YOLACT-550 or torchvision's Mask R-CNN, in eval mode.

    Its config has what `detector_weights` finds; its `class_names` are (), if unknown. Raises
    OSError; WeightsError naming what is missing, unknown or of another size.
    """
    try:
        weights = detector_weights(unwrap(read_weights(path)), path)
        if weights is None:
            raise ValueError("it has other tensors")
        config, outputs = MODELS[weights.model], weights.outputs
        semantic = {"semantic_loss": "semantic.0.weight" in weights.state}
        own = weights.config | (semantic if weights.model == "yolact" else {})
        model = resolve_name(config.model)(config(init=None, **own), outputs)
        load_weights(model, weights.state, path)
    except ValueError as error:
        expected = "the official YOLACT-550 or of torchvision's Mask R-CNN"
        raise WeightsError(f"{path} is not a checkpoint of {expected}: {error}") from error
    model.class_names = tuple(weights.class_names or ())
    return model.eval()


def unwrap(content: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds: alone, or as "model" or "state_dict" beside others.

    Raises ValueError if there is none.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    is_state = isinstance(content, Mapping) and len(content) > 0
    if not (is_state and all(isinstance(k, str) for k in content)):
        raise ValueError(f"it holds {shorten(content)}, expected a dict of tensors by name")
    state = {name.removeprefix("module."): value for name, value in content.items()}  # DDP's
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{shorten(odd[0])} is not a tensor")
    return state


def detector_weights(state: dict[str, Tensor], source: object) -> Pretrained | None:
    """A state dict of one of the two as weights of ours; None if it is of neither.

    Classes are told by their number: VOC's 20, COCO's 80 or its 90 category ids. Of YOLACT, VOC's
    have the Pascal configuration's priors, all others COCO's, as in the official code; checkpoints
    for 400 or 700 pixels have the same sizes but other scales: they load and detect badly.
    Raises ValueError for other architectures.
    """
    if any(key.startswith("prediction_layers.") for key in state):
        model, body, logits, repeats = "yolact", "body", "head.classes.0.bias", len(ASPECT_RATIOS)
        state = {name: value for name, value in state.items() if not re.match(UNUSED, name)}
        state = _renamed(state, YOLACT_RENAMES)
        config, width, assumed = {"normalization": "official"}, "head.shared.0.bias", ()
        boxes = state.get("head.box.0.bias")
        if boxes is not None and boxes.numel() != 4 * repeats:
            raise ValueError(f"it has {boxes.numel() / 4:g} priors per cell, expected {repeats}")
        coefficients = state.get("head.coefficients.0.bias")
        if coefficients is not None and coefficients.numel() != PROTOTYPES * repeats:
            prototypes = coefficients.numel() / repeats
            raise ValueError(f"it has {prototypes:g} prototypes, expected {PROTOTYPES}")
        if any(name.startswith("maskiou_net.") for name in state):
            raise ValueError("it is of YOLACT++, which has a network for the scores of masks")
    elif any(key.startswith("roi_heads.") for key in state):
        if not any(key.startswith("roi_heads.mask_predictor.") for key in state):
            raise ValueError("it is of a detector without masks")
        if "roi_heads.box_head.fc6.weight" not in state:
            raise ValueError("it is of another architecture than maskrcnn_resnet50_fpn, such as v2")
        model, body, logits, repeats = "mask_rcnn", "backbone.body", _SCORES, 1
        state, width = _renamed(state, TORCHVISION_RENAMES), "backbone.fpn.layer_blocks.0.0.bias"
        # Frozen layers count no batches; those of the COCO weights, and of what was trained from
        # them, have no epsilon (torchvision: `overwrite_eps`); other frozen ones have 1e-5.
        counts = any(name.endswith("num_batches_tracked") for name in state)
        config = {"batch_norm_eps": 1e-5 if counts else NO_EPSILON}
        assumed = () if counts else ("batch_norm_eps",)
    else:
        return None
    blocks = {name.split(".")[body.count(".") + 2] for name in state if f"{body}.layer3." in name}
    sizes = {name: list(state[name].shape) for name in (logits, width) if name in state}
    if len(blocks) not in BACKBONES or len(sizes) < 2 or not all(sizes.values()):
        raise ValueError(f"{logits}, {width} or a ResNet-50 or -101 is missing")
    outputs, config["channels"] = sizes[logits][0] // repeats, sizes[width][0]
    if not 2 <= outputs <= MAX_CLASSES:
        raise ValueError(f"it is of {outputs} classes, expected 2 to {MAX_CLASSES}")
    names = NAMES_BY_COUNT.get(outputs - 1)
    if model == "yolact":
        config |= PASCAL_PRIORS if names == CLASS_NAMES else COCO_PRIORS
    config["backbone"] = BACKBONES[len(blocks)]
    return Pretrained(
        source=str(source),
        model=model,
        state=state,
        outputs=outputs,
        class_names=names,
        names_by_count=True,
        config=config,
        assumed=assumed,
    )


def _renamed(state: dict[str, Tensor], renames: Sequence[tuple]) -> dict[str, Tensor]:
    for pattern, replacement in renames:
        state = {re.sub(f"^{pattern}", replacement, name): value for name, value in state.items()}
    return state
