"""YOLACT's network for other runtimes: as ONNX or by torch.export, and what its detections take."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from vocseg_lib.data.transforms import NORMALIZATIONS
from vocseg_lib.models.postprocess import CANDIDATES_PER_CLASS
from vocseg_lib.models.yolact import PROTOTYPES, Yolact, upsample
from vocseg_lib.utils.boxes import SSD_VARIANCES
from vocseg_lib.utils.files import atomic_write, write_text

INPUT = "images"
OUTPUTS = ("class_scores", "box_offsets", "coefficients", "prototypes")
LARGEST = {"batch": 1024, "height": 16_384, "width": 16_384}
NO_MASK_RCNN = (
    "Mask R-CNN cannot be exported: how many boxes its second stage gets depends on the image, "
    "which torch.export does not trace (torchvision issue 9321). YOLACT can"
)


class ExportedNetwork(nn.Module):
    """A YOLACT's network with resizing, normalization and softmax, up to its detections."""

    def __init__(self, model: nn.Module):
        super().__init__()
        if not isinstance(model, Yolact):
            raise ValueError(NO_MASK_RCNN)
        # Without the layers that PyTorch computes faster, which no other runtime knows.
        plain = replace(model.config, init=None, compile=False)
        self.model = Yolact(plain, model.num_classes).eval()
        self.model.load_state_dict(model.state_dict())
        self.model.class_names = model.class_names

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """`OUTPUTS`, [b, p, classes], [b, p, 4], [b, p, 32] and [b, h, w, 32], of RGB in 0..1."""
        config = self.model.config
        square = upsample(images, (config.image_size, config.image_size))
        out, _ = self.model.forward_layers(normalize(square, *NORMALIZATIONS[config.normalization]))
        scores = out.pop("class_logits").softmax(-1)
        return scores, *(out[name] for name in OUTPUTS[1:])

    def description(self) -> dict:
        """What `postprocess` takes besides the outputs: priors, classes, sizes, thresholds."""
        model, config = self.model, self.model.config
        side = config.image_size
        out = model.network([torch.zeros(3, side, side)])
        return {
            "input": {"name": INPUT, "shape": ["batch", 3, "height", "width"], "range": [0, 1]},
            "outputs": list(OUTPUTS),
            "image_size": side,
            "prototypes": [*out["prototypes"].shape[1:3], PROTOTYPES],
            "class_names": list(model.class_names),
            "variances": list(SSD_VARIANCES),
            "score_threshold": config.score_threshold,
            "candidates_per_class": CANDIDATES_PER_CLASS,
            "nms": config.nms,
            "nms_iou": config.nms_iou,
            "max_detections": config.max_detections,
            "crop": config.crop_in_inference,
            "crop_padding": 1,
            "mask_threshold": 0.5,
            "priors": np.round(out["priors"].double().numpy(), 7).tolist(),
        }


def export_program(
    network: ExportedNetwork, batch: int | None = None
) -> torch.export.ExportedProgram:
    """A network by torch.export, for images of any size; `batch`: a fixed number of them."""
    axes = {2: "height", 3: "width"} | ({} if batch else {0: "batch"})
    shapes = {k: torch.export.Dim(name, min=1, max=LARGEST[name]) for k, name in axes.items()}
    images = torch.zeros(batch or 2, 3, 480, 640)
    return torch.export.export(network.cpu(), (images,), dynamic_shapes=(shapes,), strict=False)


def export_network(
    model: nn.Module,
    out: str | Path,
    precision: str = "fp32",
    batch: int | None = None,
) -> tuple[Path, Path]:
    """Write a YOLACT as .onnx or .pt2 (torch.export) and `description` beside it: both paths.

    Args:
        precision: of stored weights ("fp16": half as large); all is computed in fp32.
        batch: images at once; default: any number.

    Raises:
        ValueError: for another model, a file of another ending, .pt2 in fp16.
        ModuleNotFoundError: without the packages that write ONNX.
    """
    path = Path(out)
    if path.suffix not in (".onnx", ".pt2") or (path.suffix == ".pt2" and precision != "fp32"):
        raise ValueError(f"{path} ({precision}) must end with .onnx, or with .pt2 in fp32")
    network = ExportedNetwork(model)
    description = network.description()
    program = export_program(network, batch)
    with atomic_write(path) as temporary:
        temporary.write_bytes(_pt2(program) if path.suffix == ".pt2" else _onnx(program, precision))
    beside = path.with_suffix(".json")
    write_text(beside, json.dumps(description))
    return path, beside


def _pt2(program: torch.export.ExportedProgram) -> bytes:
    torch.export.save(program, content := BytesIO())
    return content.getvalue()


def _onnx(program: torch.export.ExportedProgram, precision: str) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401  # by torch
    except ModuleNotFoundError as error:
        problem = f"{error}: ONNX needs more packages, pip install 'vocseg_lib[onnx]'"
        raise ModuleNotFoundError(problem) from None
    options = {"input_names": [INPUT], "output_names": OUTPUTS, "verbose": False}
    options["optimize"] = precision == "fp32"  # folds batch norm: other weights, rounded once more
    model = torch.onnx.export(program, dynamo=True, **options).model_proto
    casts = []
    for stored in model.graph.initializer if precision == "fp16" else ():
        if stored.data_type == onnx.TensorProto.FLOAT and len(stored.dims) > 1:
            name, half = stored.name, onnx.numpy_helper.to_array(stored).astype(np.float16)
            stored.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_fp16"))
            cast = {"inputs": [stored.name], "outputs": [name], "to": onnx.TensorProto.FLOAT}
            casts.append(onnx.helper.make_node("Cast", **cast))
    nodes = [*casts, *model.graph.node]
    for described in (*nodes, *model.graph.value_info):
        described.ClearField("metadata_props")  # where in the code it comes from, with paths
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()
