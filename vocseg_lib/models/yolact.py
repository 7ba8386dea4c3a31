"""YOLACT (arXiv 1904.02689): one pass gives class, box and mask coefficients a prior, and prototypes an image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.transforms.v2.functional import normalize

from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vocseg_lib.losses import yolact_loss
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.postprocess import assemble_masks, detect, mask_logits, scale_boxes
from vocseg_lib.models.priors import ASPECT_RATIOS, prior_boxes
from vocseg_lib.models.speedups import SparseGradientConv, UpsampledConv
from vocseg_lib.utils.boxes import nearest_box

PROTOTYPES = 32


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    """A convolution as everywhere outside the backbone: Xavier-uniform weights, zero bias, no batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU(inplace=True)) if relu else nn.Sequential(layer)


class FPN(nn.Module):
    """YOLACT's FPN: bilinear top-down, 3x3 + ReLU on P3..P5, stride-2 convolutions without ReLU for P6 and P7."""

    def __init__(self, inputs: Sequence[int], channels: int):
        super().__init__()
        self.lateral = nn.ModuleList(conv(c, channels, 1, relu=False) for c in inputs)
        self.smooth = nn.ModuleList(conv(channels, channels, 3) for _ in inputs)
        self.down = nn.ModuleList(
            conv(channels, channels, 3, stride=2, relu=False) for _ in range(2)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for k in range(len(levels) - 1, 0, -1):
            upsampled = F.interpolate(
                levels[k], levels[k - 1].shape[2:], mode="bilinear", align_corners=False
            )
            levels[k - 1] = levels[k - 1] + upsampled
        levels = [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels


class ProtoNet(nn.Module):
    """Prototypes at twice the resolution of P3, ReLU at the end (sec. 3.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.before = nn.Sequential(*(conv(channels, channels, 3) for _ in range(3)))
        self.after = nn.Sequential(conv(channels, channels, 3), conv(channels, PROTOTYPES, 1))

    def forward(self, p3: Tensor) -> Tensor:
        # The official code has a ReLU after the upsampling too; bilinear values lie between those before it.
        doubled, last = self.after
        return last(UpsampledConv.apply(self.before(p3), doubled[0].weight, doubled[0].bias))


class PredictionHead(nn.Module):
    """Class logits, box offsets and coefficients for each prior; one head for all levels (sec. 4)."""

    def __init__(self, channels: int, num_classes: int, priors_per_cell: int):
        super().__init__()
        self.shared = conv(channels, channels, 3)
        self.classes = conv(channels, num_classes * priors_per_cell, 3, relu=False)
        self.box = conv(channels, 4 * priors_per_cell, 3, relu=False)
        self.coefficients = conv(channels, PROTOTYPES * priors_per_cell, 3, relu=False)
        self.sizes = (num_classes, 4, PROTOTYPES)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        branches = (self.classes[0], self.box[0], self.coefficients[0])
        weight = torch.cat(
            [branch.weight for branch in branches]
        )  # one convolution is faster than three
        bias = torch.cat([branch.bias for branch in branches])
        shared = [
            SparseGradientConv.apply(x, self.shared[0].weight, self.shared[0].bias).relu_()
            for x in levels
        ]
        cells = [
            SparseGradientConv.apply(x, weight, bias).permute(0, 2, 3, 1).flatten(1, 2)
            for x in shared
        ]
        parts = torch.cat(cells, 1).split([len(branch.bias) for branch in branches], 2)
        classes, box, coefficients = (
            p.reshape(len(p), -1, size) for p, size in zip(parts, self.sizes, strict=True)
        )
        return classes, box, coefficients.tanh()


class Yolact(nn.Module):
    """YOLACT on any image size; images are resized to a square of `image_size` pixels, aspect not kept (sec. 6).

    Train: `model(images, targets)` gives the weighted losses. Eval: `model(images)` gives a dict an image with boxes
    [n, 4] (pixels of the image), labels [n], scores [n], masks bool [n, H, W] and coefficients [n, 32], best score first.
    Images are float [3, H, W] in 0..1. What the study asks about can be switched: the loss with or without the `semantic`
    term, masks cropped or not in training (with the ground-truth box) and in inference (with the predicted one), the mask
    loss normalised by the area of the box or of the image, `nms` "fast" or "standard", batch norm frozen or not.
    `compile` runs the network, without the detection step, through torch.compile. While `uncropped_masks` is set, detections
    also have `uncropped_masks` bool [n, H, W]: what their masks were before the crop.
    """

    def __init__(self, config: YolactConfig | None = None, num_classes: int = 21):
        super().__init__()
        self.config = config = config or YolactConfig()
        base = build_backbone(config.backbone, config.weights)
        self.body = IntermediateLayerGetter(base.body, {name: name for name in base.stages[1:]})
        self.pyramid = FPN(base.channels[1:], config.channels)
        self.protonet = ProtoNet(config.channels)
        self.head = PredictionHead(config.channels, num_classes, len(ASPECT_RATIOS))
        self.semantic = None
        if config.semantic_loss:
            self.semantic = conv(config.channels, num_classes - 1, 1, relu=False)
        self.uncropped_masks = False
        self._priors: dict[tuple, Tensor] = {}
        self._layers = (
            torch.compile(self._forward_layers) if config.compile else self._forward_layers
        )
        self.to(memory_format=torch.channels_last)

    def forward(
        self, images: list[Tensor], targets: list[dict] | None = None
    ) -> dict[str, Tensor] | list[dict]:
        if not self.training:
            return self.postprocess(self.network(images))
        if targets is None:
            raise ValueError("targets are needed in train mode; call model.eval() to predict")
        for target in targets:
            if not (target["boxes"][:, 2:] > target["boxes"][:, :2]).all():
                raise ValueError(
                    "a target has a box without width or height, which no loss can be computed for"
                )
            if not ((target["labels"] >= 1) & (target["labels"] < self.head.sizes[0])).all():
                raise ValueError(
                    f"a target has a label outside 1..{self.head.sizes[0] - 1}: {target['labels'].tolist()}"
                )
        out = self.network(images)
        sizes = [out["priors"].new_tensor([w, h, w, h]) for h, w in out["image_sizes"]]
        with torch.autocast(out["priors"].device.type, enabled=False):
            return yolact_loss(
                out["class_logits"],
                out["box_offsets"],
                out["coefficients"],
                out["prototypes"],
                out["priors"],
                [
                    t["boxes"].as_subclass(Tensor) / size
                    for t, size in zip(targets, sizes, strict=True)
                ],
                [t["labels"] for t in targets],
                [t["masks"].as_subclass(Tensor) for t in targets],
                out.get("semantic_logits"),
                crop=self.config.crop_in_training,
                normalize_by_area=self.config.normalize_by_area,
            )

    def network(self, images: list[Tensor]) -> dict:
        """Everything up to the raw predictions: class_logits [b,p,c], box_offsets [b,p,4], coefficients [b,p,32],
        prototypes [b,h,w,32], priors [p,4], image_sizes and, in training with the semantic head, semantic_logits."""
        side = (self.config.image_size, self.config.image_size)
        resized = [
            F.interpolate(x[None].as_subclass(Tensor), side, mode="bilinear", align_corners=False)
            for x in images
        ]
        batch = normalize(torch.cat(resized), IMAGENET_MEAN, IMAGENET_STD, inplace=True)
        out, feature_sizes = self._layers(batch.contiguous(memory_format=torch.channels_last))
        return {
            **{name: value.float() for name, value in out.items()},
            "priors": self._priors_for(feature_sizes, batch.device),
            "image_sizes": [tuple(image.shape[-2:]) for image in images],
        }

    def _forward_layers(self, batch: Tensor) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        levels = self.pyramid(list(self.body(batch).values()))
        class_logits, box_offsets, coefficients = self.head(levels)
        out = {
            "class_logits": class_logits,
            "box_offsets": box_offsets,
            "coefficients": coefficients,
            "prototypes": self.protonet(levels[0]).permute(0, 2, 3, 1),
        }
        if self.semantic is not None and self.training:
            out["semantic_logits"] = self.semantic(levels[0])
        return out, [tuple(level.shape[2:]) for level in levels]

    def _priors_for(self, feature_sizes: list[tuple[int, int]], device: torch.device) -> Tensor:
        key = (*feature_sizes, device)
        if key not in self._priors:
            with torch.inference_mode(False):  # what is kept has to be of use in training too
                priors = prior_boxes(
                    feature_sizes, self.config.scales, ASPECT_RATIOS, self.config.square_priors
                )
                self._priors[key] = priors.to(device)
        return self._priors[key]

    @torch.no_grad()
    def postprocess(self, out: dict) -> list[dict]:
        """Raw predictions to detections: decode, NMS, and masks of the boxes that are kept."""
        results = []
        for i, (height, width) in enumerate(out["image_sizes"]):
            scores = out["class_logits"][i].softmax(-1)[:, 1:]
            boxes, classes, found, coefficients = detect(
                scores,
                out["box_offsets"][i],
                out["coefficients"][i],
                out["priors"],
                self.config.score_threshold,
                self.config.nms,
                self.config.nms_iou,
                self.config.max_detections,
            )
            shape = out["prototypes"][i], coefficients, boxes, height, width
            result = {"labels": classes + 1, "scores": found, "coefficients": coefficients}
            result["masks"] = assemble_masks(*shape, self.config.crop_in_inference)
            if self.uncropped_masks:
                result["uncropped_masks"] = assemble_masks(*shape, crop=False)
            results.append({"boxes": scale_boxes(boxes, height, width), **result})
        return results

    @torch.inference_mode()
    def explain_mask(
        self, image: Tensor, box: Tensor, label: int, strongest: int = 4
    ) -> list[tuple[str, Tensor]]:
        """How the detection that is nearest to a box (xyxy pixels) of a label came about, as titled maps [h, w]: the prototypes
        that weigh most in it, times their coefficients, and their sum after the sigmoid, before the crop. Eval mode only.
        """
        out = self.network([image])
        (found,) = self.postprocess(out)
        if not len(found["boxes"]):
            return []
        prototypes, coefficients = (
            out["prototypes"][0],
            found["coefficients"][nearest_box(found, box, label)],
        )
        terms = prototypes * coefficients
        order = terms.abs().mean((0, 1)).argsort(descending=True)[:strongest].tolist()
        maps = [(f"prototype {k} x {coefficients[k]:+.2f}", terms[..., k]) for k in order]
        return [
            *maps,
            (
                "all 32 added up, before the crop",
                mask_logits(prototypes, coefficients[None])[0].sigmoid(),
            ),
        ]
