"""YOLACT's loss (arXiv 1904.02689, sec. 3), term by term, with the official code's constants."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vocseg_lib.utils import distributed
from vocseg_lib.utils.boxes import box_area, box_intersection, box_iou, cxcywh_to_xyxy, encode_boxes
from vocseg_lib.utils.masks import box_mask, split_masks

WEIGHTS = {"class": 1.0, "box": 1.5, "mask": 6.125, "semantic": 1.0}
PRIOR_POSITIVE_IOU, PRIOR_NEGATIVE_IOU = 0.5, 0.4
CROWD_IOF = 0.7  # background priors with a larger fraction of their area in a crowd are ignored
NEGATIVES_PER_POSITIVE = 3
IGNORED_CLASS, BACKGROUND_CLASS = -1, 0
_Target, _Loss = dict[str, Tensor], Float[Tensor, ""]
_PerPrior = Int[Tensor, "b p"]


@dataclass(frozen=True, kw_only=True)
class YolactOutputs:
    """Raw predictions for a batch."""

    class_logits: Float[Tensor, "b p c"]  # class 0 is background
    box_offsets: Float[Tensor, "b p 4"]  # see `encode_boxes`
    coefficients: Float[Tensor, "b p k"]
    prototypes: Float[Tensor, "b h w k"]
    priors: Float[Tensor, "p 4"]  # relative cxcywh
    semantic_logits: Float[Tensor, "b c-1 hs ws"] | None = None


def match_priors(
    priors: Float[Tensor, "p 4"],
    boxes: Float[Tensor, "b n 4"],
    labels: Int[Tensor, "b n"],
    crowd_boxes: Float[Tensor, "b _ 4"] | None = None,
) -> tuple[_PerPrior, _PerPrior]:
    """Class (label, 0 background, -1 ignored) and object index of each prior of each image.

    A prior is positive at IoU >= .5 with its best object, background below .4 with all. Each
    object is also forced on one prior: best (object, prior) pair first, each prior once. Boxes are
    relative xyxy; images with fewer objects are padded with label 0.
    """
    corners = cxcywh_to_xyxy(priors).expand(len(boxes), -1, -1)
    iou = box_iou(boxes, corners).masked_fill_((labels == BACKGROUND_CLASS)[..., None], -1)
    best_iou, objects = iou.max(1)
    # Forced matches.
    forced = _forced_priors(iou)
    image, index = (forced >= 0).nonzero(as_tuple=True)
    best_iou[image, forced[image, index]] = 1
    objects[image, forced[image, index]] = index
    # Classes by thresholds.
    classes = labels.gather(1, objects)
    classes[best_iou < PRIOR_POSITIVE_IOU] = IGNORED_CLASS
    classes[best_iou < PRIOR_NEGATIVE_IOU] = BACKGROUND_CLASS
    if crowd_boxes is not None:
        in_crowd = box_intersection(crowd_boxes, corners).amax(1) / box_area(corners)
        classes[(classes == BACKGROUND_CLASS) & (in_crowd > CROWD_IOF)] = IGNORED_CLASS
    return classes, objects


def _forced_priors(iou: Float[Tensor, "b n p"]) -> Int[Tensor, "b n"]:
    """A prior for each object, best pair first, each prior once; -1 for objects that get none.

    All pairs that are the best of their row and of their column are taken at once, which needs two
    or three rounds. Padding has IoU -1.
    """
    iou, numbers = iou.clone(), torch.arange(iou.shape[1], device=iou.device)
    forced = torch.full(iou.shape[:2], -1, device=iou.device)
    while True:
        best, prior = iou.max(2)
        rivals = iou.gather(2, prior[:, None, :].expand(-1, iou.shape[1], -1))
        taken = (rivals.argmax(1) == numbers) & (best >= 0)
        if not taken.any():
            return forced
        forced[taken] = prior[taken]
        iou[taken] = -1
        iou[taken.nonzero()[:, 0], :, prior[taken]] = -1


def mine_hard_negatives(logits: Float[Tensor, "b p c"], classes: _PerPrior) -> Bool[Tensor, "b p"]:
    """The background priors of least background probability, 3 per positive, per image (SSD)."""
    logits = logits.detach()
    difficulty = torch.logsumexp(logits, -1) - logits[..., 0]
    order = difficulty.masked_fill_(classes != BACKGROUND_CLASS, 0).argsort(1, descending=True)
    wanted = NEGATIVES_PER_POSITIVE * (classes > 0).sum(1, keepdim=True)
    numbers = torch.arange(classes.shape[1], device=classes.device)
    hardest = numbers < wanted.clamp(max=len(numbers) - 1)
    return torch.zeros_like(hardest).scatter(1, order, hardest) & (classes == BACKGROUND_CLASS)


def yolact_loss(
    outputs: YolactOutputs,
    targets: list[_Target],
    crop: bool = True,
    normalize_by_area: bool = True,
    masks_to_train: int = 100,
) -> dict[str, Tensor]:
    """Weighted terms `class`, `box`, `mask` and, with semantic logits, `semantic`.

    Targets per image: `boxes` [n, 4] (relative xyxy), `labels` [n], `masks` uint8 [n, h, w], and
    `crowd_boxes` of crowds, which are not among the objects. Class, box and mask terms are divided
    by the positives of the whole batch, over all ranks. `masks_to_train`: most positives per image
    in the mask term, sampled at random; for the other options see `mask_loss`.
    """
    padding = outputs.priors.new_zeros(1, 4)  # so that each image has a box
    boxes = [torch.cat([target["boxes"], padding]) for target in targets]
    crowds = [torch.cat([target.get("crowd_boxes", padding), padding]) for target in targets]
    labels = [F.pad(target["labels"], (0, 1)) for target in targets]
    boxes, crowds, labels = (pad_sequence(p, batch_first=True) for p in (boxes, crowds, labels))
    classes, objects = match_priors(outputs.priors, boxes, labels, crowds)
    positive = classes > 0
    selected = positive | mine_hard_negatives(outputs.class_logits, classes)
    image, prior = positive.nonzero(as_tuple=True)
    offsets = encode_boxes(boxes[image, objects[positive]], outputs.priors[prior])
    mask_losses = []
    for i, target in enumerate(targets):
        index = positive[i].nonzero()[:, 0]
        total = len(index)
        if total > masks_to_train:
            index = index[torch.randperm(total, device=index.device)[:masks_to_train]]
        predicted = outputs.coefficients[i, index], outputs.prototypes[i]
        loss = mask_loss(*predicted, target, objects[i, index], crop, normalize_by_area)
        mask_losses.append(loss * (max(total, 1) / max(len(index), 1)))
    # DDP averages gradients over ranks: so is the number of positives.
    least = 1 / distributed.shares()
    count = distributed.all_reduce_mean(positive.sum().float()).clamp(min=least)
    logits, predicted = outputs.class_logits[selected], outputs.box_offsets[positive]
    sums = {
        "class": F.cross_entropy(logits, classes[selected], reduction="sum"),
        "box": F.smooth_l1_loss(predicted, offsets, reduction="sum"),
        "mask": torch.stack(mask_losses).sum(),
    }
    losses = {name: WEIGHTS[name] * total / count for name, total in sums.items()}
    if outputs.semantic_logits is not None:
        losses["semantic"] = WEIGHTS["semantic"] * semantic_loss(outputs.semantic_logits, targets)
    return losses


def downsample(masks: UInt8[Tensor, "n _ _"], height: int, width: int) -> Float[Tensor, "n h w"]:
    """Masks as 0 or 1 on a coarser grid: bilinear, then > .5."""
    options = {"size": (height, width), "mode": "bilinear", "align_corners": False}
    parts = split_masks(masks[:, None], *masks.shape[1:])
    resized = torch.cat([F.interpolate(part.float(), **options)[:, 0] for part in parts])
    return (resized > 0.5).float()


def mask_loss(
    coefficients: Float[Tensor, "m k"],
    prototypes: Float[Tensor, "h w k"],
    target: _Target,
    objects: Int[Tensor, " m"],
    crop: bool = True,
    normalize_by_area: bool = True,
) -> _Loss:
    """Pixel-wise BCE of the masks of an image's positives, summed (sec. 3.1).

    `objects` are the positives' indices in `target`. With `crop` only pixels in the ground-truth
    box count, padded by one. `normalize_by_area` divides by the box's area in prototype pixels, so
    that small objects weigh as much as large ones, else by the grid's.
    """
    height, width = prototypes.shape[:2]
    logits = coefficients @ prototypes.flatten(0, 1).T
    masks, boxes = downsample(target["masks"], height, width).flatten(1), target["boxes"]
    inside = box_mask(boxes, height, width).flatten(1) if crop else torch.ones_like(masks)
    area = box_area(boxes) if normalize_by_area else torch.ones_like(boxes[:, 0])
    weight = (inside / (area * height * width)[:, None])[objects]
    return F.binary_cross_entropy_with_logits(logits, masks[objects], weight, reduction="sum")


def semantic_loss(logits: Float[Tensor, "b c h w"], targets: list[_Target]) -> _Loss:
    """Pixel-wise BCE of the class map, summed over classes, mean over grid and batch (sec. 5)."""
    expected = torch.zeros_like(logits)
    for class_map, target in zip(expected, targets, strict=True):
        masks = downsample(target["masks"], *logits.shape[2:])
        index = (target["labels"] - 1)[:, None, None].expand_as(masks)
        class_map.scatter_reduce_(0, index, masks, "amax")
    loss = F.binary_cross_entropy_with_logits(logits, expected, reduction="sum")
    return loss / logits[:, 0].numel()
