"""Checkpoints of the official YOLACT (github.com/dbolya/yolact)."""

import re
from pathlib import Path

from vocseg_lib.models.backbones import WeightsError
from vocseg_lib.models.config import COCO_SCALES, PASCAL_SCALES, YolactConfig
from vocseg_lib.models.yolact import Yolact
from vocseg_lib.utils.weights import load_weights, read_weights

RENAMES = (
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
UNUSED = r"backbone\.layer\d|fpn\.downsample_layers\.[2-9]|.*\.num_batches_tracked$"
"""What old checkpoints hold twice and the official loader leaves out, too."""
MAX_CLASSES = 1_000  # with the background; COCO has 81
BACKBONES = {6: "resnet50", 23: "resnet101"}  # by blocks of stage C4


def load_official(path: str | Path) -> Yolact:
    """A published YOLACT-550 (`yolact_resnet50_*.pth`, `yolact_base_*.pth`), in eval mode.

    Backbone and number of classes are read from the sizes. With COCO's 81 classes the model gets
    COCO's scales and square priors; its labels are 1..80 in the official order. Checkpoints for
    400 or 700 pixels have the same sizes but other scales: they load and detect badly.
    Raises WeightsError naming what is missing, unknown or of another size.
    """
    try:
        state = read_weights(path)
        state = {k: v for k, v in state.items() if not re.match(UNUSED, k)}
        for pattern, replacement in RENAMES:
            state = {re.sub(f"^{pattern}", replacement, k): v for k, v in state.items()}
        backbone = BACKBONES[len({k.split(".")[2] for k in state if k.startswith("body.layer3.")})]
        num_classes = len(state["head.classes.0.bias"]) // 3
        if not 2 <= num_classes <= MAX_CLASSES:
            raise ValueError(f"it is of {num_classes} classes, expected 2 to {MAX_CLASSES}")
        coco, semantic = num_classes == 81, "semantic.0.weight" in state
        priors = {"scales": COCO_SCALES if coco else PASCAL_SCALES, "square_priors": coco}
        config = YolactConfig(backbone=backbone, weights=None, semantic_loss=semantic, **priors)
        model = Yolact(config, num_classes)
        load_weights(model, state, path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        problem = f"{path} is not a checkpoint of the official YOLACT-550 on a ResNet-50 or -101"
        raise WeightsError(f"{problem}: {reason}") from error
    return model.eval()
