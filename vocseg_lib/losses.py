"""YOLACT's loss (YOLACT paper, sec. 3, with the official constants): matching, hard negatives, boxes, masks, semantics."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vocseg_lib.boxes import box_iou, cxcywh_to_xyxy, encode_boxes
from vocseg_lib.masks import inside_boxes

CLASS_WEIGHT, BOX_WEIGHT, MASK_WEIGHT, SEMANTIC_WEIGHT = 1.0, 1.5, 6.125, 1.0
POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
NEGATIVES_PER_POSITIVE = 3
MASKS_TO_TRAIN = 100
"""Positives an image whose masks enter the loss; more are drawn at random and rescaled."""
NEUTRAL, BACKGROUND = -1, 0


def match_priors(
    priors: Float[Tensor, "p 4"], boxes: Float[Tensor, "n 4"], labels: Int[Tensor, " n"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Class (label, 0 background, -1 neutral) and object index of each prior.

    A prior is positive at IoU >= .5 with its best object, background below .4. Each object also takes one prior by
    force: best (object, prior) pair first, each prior once. Boxes relative xyxy, priors relative cxcywh.
    """
    if not len(boxes):
        return torch.zeros(len(priors), dtype=torch.int64, device=priors.device), torch.zeros_like(priors[:, 0], dtype=torch.int64)
    iou = box_iou(boxes, cxcywh_to_xyxy(priors))
    best_iou, best_object = iou.max(0)
    for _ in range(len(boxes)):
        best_of_object, prior_of_object = iou.max(1)
        forced = best_of_object.argmax()
        prior = prior_of_object[forced]
        iou[:, prior] = -1
        iou[forced] = -1
        best_iou[prior] = 2
        best_object[prior] = forced
    classes = labels[best_object]
    classes[best_iou < POSITIVE_IOU] = NEUTRAL
    classes[best_iou < NEGATIVE_IOU] = BACKGROUND
    return classes, best_object


def hard_negatives(logits: Float[Tensor, "b p c"], classes: Int[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
    """The background priors that look least like background, three for each positive, image by image (SSD, sec. 2.2)."""
    difficulty = torch.logsumexp(logits.detach(), -1) - logits.detach()[..., 0]
    difficulty = difficulty.masked_fill(classes != BACKGROUND, 0)
    rank = difficulty.argsort(1, descending=True).argsort(1)
    wanted = (NEGATIVES_PER_POSITIVE * (classes > 0).sum(1, keepdim=True)).clamp(max=classes.shape[1] - 1)
    return (rank < wanted) & (classes == BACKGROUND)


def yolact_loss(
    class_logits: Float[Tensor, "b p c"],
    box_offsets: Float[Tensor, "b p 4"],
    coefficients: Float[Tensor, "b p k"],
    prototypes: Float[Tensor, "b h w k"],
    priors: Float[Tensor, "p 4"],
    boxes: list[Float[Tensor, "_ 4"]],
    labels: list[Int[Tensor, " _"]],
    masks: list[UInt8[Tensor, "_ _ _"]],
    semantic_logits: Float[Tensor, "b c-1 hs ws"] | None = None,
) -> dict[str, Tensor]:
    """Weighted loss terms `class`, `box`, `mask` and, with semantic logits, `semantic`; their sum is the loss.

    Boxes are relative xyxy, labels 1..c-1 (0 is background), masks of any size, priors relative cxcywh.
    Class, box and mask terms are divided by the positives of the whole batch; images without objects are fine.
    """
    matches = [match_priors(priors, b, y) for b, y in zip(boxes, labels, strict=True)]
    classes = torch.stack([m[0] for m in matches])
    positive = classes > 0
    count = positive.sum().clamp(min=1)

    selected = positive | hard_negatives(class_logits, classes)
    class_loss = F.cross_entropy(class_logits[selected], classes[selected], reduction="sum")

    box_loss, mask_loss = box_offsets.sum() * 0, prototypes.sum() * 0
    for i, (_, objects) in enumerate(matches):
        chosen = positive[i]
        if chosen.any():
            matched = objects[chosen]
            wanted = encode_boxes(boxes[i][matched], priors[chosen])
            box_loss = box_loss + F.smooth_l1_loss(box_offsets[i][chosen], wanted, reduction="sum")
            mask_loss = mask_loss + _mask_loss(coefficients[i][chosen], prototypes[i], matched, boxes[i], masks[i])
    losses = {
        "class": CLASS_WEIGHT * class_loss / count,
        "box": BOX_WEIGHT * box_loss / count,
        "mask": MASK_WEIGHT * mask_loss / count,
    }
    if semantic_logits is not None:
        losses["semantic"] = SEMANTIC_WEIGHT * semantic_loss(semantic_logits, labels, masks)
    return losses


def downsample(masks: UInt8[Tensor, "n _ _"], height: int, width: int) -> Float[Tensor, "n {height} {width}"]:
    """Masks as 0 or 1 on a coarser grid: bilinear, then > .5."""
    return (F.interpolate(masks[None].float(), (height, width), mode="bilinear", align_corners=False)[0] > 0.5).float()


def _mask_loss(
    coefficients: Float[Tensor, "m k"],
    prototypes: Float[Tensor, "h w k"],
    objects: Int[Tensor, " m"],
    boxes: Float[Tensor, "n 4"],
    masks: UInt8[Tensor, "n _ _"],
) -> Float[Tensor, ""]:
    """Sum over positives of the BCE inside the ground-truth box over the box's area in prototype pixels (sec. 3.1)."""
    height, width = prototypes.shape[:2]
    total = len(objects)
    if total > MASKS_TO_TRAIN:
        drawn = torch.randperm(total, device=objects.device)[:MASKS_TO_TRAIN]
        coefficients, objects = coefficients[drawn], objects[drawn]
    logits = torch.einsum("hwk,mk->mhw", prototypes, coefficients)
    target = downsample(masks, height, width)
    inside = inside_boxes(boxes, height, width)
    bce = F.binary_cross_entropy_with_logits(logits, target[objects], reduction="none")
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * height * width
    per_object = (bce * inside[objects]).sum((1, 2)) / area[objects]
    return per_object.sum() * (total / len(objects))


def semantic_loss(
    logits: Float[Tensor, "b c h w"], labels: list[Int[Tensor, " _"]], masks: list[UInt8[Tensor, "_ _ _"]]
) -> Float[Tensor, ""]:
    """Pixel-wise BCE of the class map, mean over the grid and the batch, summed over classes (YOLACT paper, sec. 5)."""
    target = torch.zeros_like(logits)
    for i, (y, m) in enumerate(zip(labels, masks, strict=True)):
        if len(y):
            index = (y - 1)[:, None, None].expand(-1, *logits.shape[2:])
            target[i].scatter_reduce_(0, index, downsample(m, *logits.shape[2:]).to(target.dtype), "amax")
    batch, _, height, width = logits.shape
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / (batch * height * width)
