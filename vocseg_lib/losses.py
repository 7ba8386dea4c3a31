"""YOLACT's loss (YOLACT paper, sec. 3, with the official constants): matching, hard negatives, boxes, masks, semantics."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vocseg_lib.utils import distributed
from vocseg_lib.utils.boxes import box_area, box_intersection, box_iou, cxcywh_to_xyxy, encode_boxes
from vocseg_lib.utils.masks import box_mask

CLASS_WEIGHT, BOX_WEIGHT, MASK_WEIGHT, SEMANTIC_WEIGHT = 1.0, 1.5, 6.125, 1.0
POSITIVE_IOU, NEGATIVE_IOU = 0.5, 0.4
CROWD_IOF = 0.7
"""A background prior with a larger share of its area in a crowd box becomes neutral."""
NEGATIVES_PER_POSITIVE = 3
MASKS_TO_TRAIN = 100
IGNORE, BACKGROUND = -1, 0


def match_priors(
    priors: Float[Tensor, "p 4"],
    boxes: Float[Tensor, "b n 4"],
    labels: Int[Tensor, "b n"],
    crowd_boxes: Float[Tensor, "b _ 4"] | None = None,
) -> tuple[Int[Tensor, "b p"], Int[Tensor, "b p"]]:
    """Class (label, 0 background, -1 neutral) and object index of each prior of each image.

    A prior is positive at IoU >= .5 with its best object, background below .4. Each object also takes one prior by
    force: best (object, prior) pair first, each prior once. Boxes relative xyxy, priors relative cxcywh; images with
    fewer objects are filled up with label 0.
    """
    corners = cxcywh_to_xyxy(priors).expand(len(boxes), -1, -1)
    iou = box_iou(boxes, corners).masked_fill_((labels == BACKGROUND)[..., None], -1)
    best_iou, objects = iou.max(1)
    forced = _forced_priors(iou)
    image, number = (forced >= 0).nonzero(as_tuple=True)
    best_iou[image, forced[image, number]] = 1
    objects[image, forced[image, number]] = number
    classes = labels.gather(1, objects)
    classes[best_iou < POSITIVE_IOU] = IGNORE
    classes[best_iou < NEGATIVE_IOU] = BACKGROUND
    if crowd_boxes is not None:
        in_crowd = box_intersection(crowd_boxes, corners).amax(1) / box_area(corners)
        classes[(classes == BACKGROUND) & (in_crowd > CROWD_IOF)] = IGNORE
    return classes, objects


def _forced_priors(iou: Float[Tensor, "b n p"]) -> Int[Tensor, "b n"]:
    """A prior for each object, the best (object, prior) pair first, each prior once; -1 for objects (IoU -1) that get none.

    A pair that is the best of its row and of its column will be taken whatever else is, so all such pairs are taken at
    once. Two or three rounds do what takes a loop as many as there are objects.
    """
    iou = iou.clone()
    numbers = torch.arange(iou.shape[1], device=iou.device)
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


def mine_hard_negatives(
    logits: Float[Tensor, "b p c"], classes: Int[Tensor, "b p"]
) -> Bool[Tensor, "b p"]:
    """The background priors that look least like background, three for each positive, image by image (SSD, sec. 2.2)."""
    difficulty = torch.logsumexp(logits.detach(), -1) - logits.detach()[..., 0]
    order = difficulty.masked_fill_(classes != BACKGROUND, 0).argsort(1, descending=True)
    wanted = (NEGATIVES_PER_POSITIVE * (classes > 0).sum(1, keepdim=True)).clamp(
        max=classes.shape[1] - 1
    )
    hardest = torch.arange(classes.shape[1], device=classes.device) < wanted
    return torch.zeros_like(hardest).scatter(1, order, hardest) & (classes == BACKGROUND)


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
    crowd_boxes: list[Float[Tensor, "_ 4"]] | None = None,
    crop: bool = True,
    normalize_by_area: bool = True,
    masks_to_train: int = MASKS_TO_TRAIN,
) -> dict[str, Tensor]:
    """Weighted loss terms `class`, `box`, `mask` and, with semantic logits, `semantic`; their sum is the loss.

    Boxes are relative xyxy, labels 1..c-1 (0 is background), masks of any size, priors relative cxcywh. Objects of a crowd
    are no objects here; their boxes make background priors neutral. Class, box and mask terms are divided by the
    positives of the whole batch; images without objects are fine. `crop` and the rest: see `mask_loss`.
    """
    nothing = class_logits.new_zeros(
        1, 4
    )  # an object more for each image, of no class, so that each has one
    padded_boxes = pad_sequence([torch.cat([b, nothing]) for b in boxes], batch_first=True)
    padded_labels = pad_sequence([F.pad(y, (0, 1)) for y in labels], batch_first=True)
    padded_crowds = (
        pad_sequence([torch.cat([b, nothing]) for b in crowd_boxes], batch_first=True)
        if crowd_boxes
        else None
    )
    classes, objects = match_priors(priors, padded_boxes, padded_labels, padded_crowds)
    positive = classes > 0
    # Processes average their gradients: what each divides by is its share of the positives of all.
    count = distributed.all_reduce_mean(positive.sum().float()).clamp(
        min=1 / distributed.world_size()
    )

    selected = positive | mine_hard_negatives(class_logits, classes)
    class_loss = F.cross_entropy(class_logits[selected], classes[selected], reduction="sum")

    image, prior = positive.nonzero(as_tuple=True)
    wanted = encode_boxes(padded_boxes[image, objects[positive]], priors[prior])
    box_loss = F.smooth_l1_loss(box_offsets[positive], wanted, reduction="sum")

    chosen = sample_positives(positive, masks_to_train)
    mask_losses = [
        mask_loss(coefficients[i, k], prototypes[i], objects[i, k], b, m, crop, normalize_by_area)
        * scale
        for i, ((k, scale), b, m) in enumerate(zip(chosen, boxes, masks, strict=True))
    ]
    losses = {
        "class": CLASS_WEIGHT * class_loss / count,
        "box": BOX_WEIGHT * box_loss / count,
        "mask": MASK_WEIGHT * torch.stack(mask_losses).sum() / count,
    }
    if semantic_logits is not None:
        losses["semantic"] = SEMANTIC_WEIGHT * semantic_loss(semantic_logits, labels, masks)
    return losses


def downsample(
    masks: UInt8[Tensor, "n _ _"], height: int, width: int
) -> Float[Tensor, "n {height} {width}"]:
    """Masks as 0 or 1 on a coarser grid: bilinear, then > .5."""
    return (
        F.interpolate(masks[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
        > 0.5
    ).float()


def sample_positives(
    positive: Bool[Tensor, "b p"], most: int
) -> list[tuple[Int[Tensor, " _"], float]]:
    """The positives of each image whose masks are trained, `most` at random where there are more, and how much each stands for.

    Random numbers are drawn for the images of all processes, so that they do not depend on how these share the batch.
    """
    chosen = [row.nonzero()[:, 0] for row in positive]
    counts = [len(row) for row in chosen]
    offset = distributed.rank() * len(counts)
    for i, total in enumerate(distributed.all_gather_counts(counts, positive.device)):
        if total > most:
            drawn = torch.randperm(total, device=positive.device)[:most]
            if 0 <= i - offset < len(chosen):
                chosen[i - offset] = chosen[i - offset][drawn]
    return [
        (row, max(total, 1) / max(len(row), 1)) for row, total in zip(chosen, counts, strict=True)
    ]


def mask_loss(
    coefficients: Float[Tensor, "m k"],
    prototypes: Float[Tensor, "h w k"],
    objects: Int[Tensor, " m"],
    boxes: Float[Tensor, "n 4"],
    masks: UInt8[Tensor, "n _ _"],
    crop: bool = True,
    normalize_by_area: bool = True,
) -> Float[Tensor, ""]:
    """Sum over an image's positives of the pixel-wise BCE of their assembled masks (YOLACT paper, sec. 3.1).

    `objects` says whose mask each positive has to draw. With `crop`, only pixels in the ground-truth box count (padded by
    one), else all. `normalize_by_area` divides by the area of the box in prototype pixels, so that small objects weigh as
    much as large ones; else by that of the whole grid.
    """
    height, width = prototypes.shape[:2]
    if not len(objects):
        return coefficients.sum() * 0 + prototypes.sum() * 0
    logits = coefficients @ prototypes.flatten(0, 1).T
    target = downsample(masks, height, width).flatten(1)
    inside = box_mask(boxes, height, width).flatten(1) if crop else torch.ones_like(target)
    area = box_area(boxes) if normalize_by_area else torch.ones_like(boxes[:, 0])
    weight = inside / (area * height * width)[:, None]
    return F.binary_cross_entropy_with_logits(
        logits, target[objects], weight[objects], reduction="sum"
    )


def semantic_loss(
    logits: Float[Tensor, "b c h w"],
    labels: list[Int[Tensor, " _"]],
    masks: list[UInt8[Tensor, "_ _ _"]],
) -> Float[Tensor, ""]:
    """Pixel-wise BCE of the class map, mean over the grid and the batch, summed over classes (YOLACT paper, sec. 5)."""
    target = torch.zeros_like(logits)
    for i, (y, m) in enumerate(zip(labels, masks, strict=True)):
        if len(y):
            index = (y - 1)[:, None, None].expand(-1, *logits.shape[2:])
            target[i].scatter_reduce_(
                0, index, downsample(m, *logits.shape[2:]).to(target.dtype), "amax"
            )
    batch, _, height, width = logits.shape
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / (
        batch * height * width
    )
