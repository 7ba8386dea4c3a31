"""YOLACT's detection step (YOLACT paper, sec. 3.1 and 4): scores and boxes of all priors to a few boxes, then their masks."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from vocseg_lib.utils.boxes import box_iou, decode_boxes
from vocseg_lib.utils.masks import upsample_masks

CANDIDATES_PER_CLASS = 200


def detect(
    scores: Float[Tensor, "p c"],
    box_offsets: Float[Tensor, "p 4"],
    coefficients: Float[Tensor, "p k"],
    priors: Float[Tensor, "p 4"],
    score_threshold: float = 0.05,
    nms: str = "fast",
    nms_iou: float = 0.5,
    max_detections: int = 100,
) -> tuple[Float[Tensor, "m 4"], Int[Tensor, " m"], Float[Tensor, " m"], Float[Tensor, "m k"]]:
    """Boxes (relative xyxy), classes (0-based), scores and coefficients of the best detections of an image, best first.

    Scores are probabilities without the background's. Priors whose best score is not above `score_threshold` are left out;
    one that stays is a candidate for every class. `nms` is a key of NMS.
    """
    candidate = (scores.amax(1) > score_threshold).nonzero()[:, 0]
    boxes = decode_boxes(box_offsets[candidate], priors[candidate])
    kept, classes, kept_scores = NMS[nms](
        boxes, scores[candidate], nms_iou, CANDIDATES_PER_CLASS, max_detections
    )
    return boxes[kept], classes, kept_scores, coefficients[candidate[kept]]


def fast_nms(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, "n c"],
    iou: float,
    top_k: int,
    max_detections: int,
    min_score: float = -math.inf,
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Fast NMS (YOLACT paper, sec. 4): per class, drop a box that overlaps *any* higher-scored one by more than `iou`.

    Looks at the best `top_k` boxes of a class. Returns box index, class (0-based) and score of the best `max_detections`,
    best first. Unlike in standard NMS, boxes that are dropped still drop others: that is what makes it one matrix
    operation. Scores must be above `min_score`; as in the official code, by default all are.
    """
    ranked, order = _topk_per_class(scores, top_k)
    overlap = box_iou(boxes[order], boxes[order]).triu_(diagonal=1)
    survives = (overlap <= iou).all(1) & (ranked > min_score)
    classes, position = survives.nonzero(as_tuple=True)
    return _best(order[classes, position], classes, ranked[classes, position], max_detections)


def standard_nms(
    boxes: Float[Tensor, "n 4"],
    scores: Float[Tensor, "n c"],
    iou: float,
    top_k: int,
    max_detections: int,
    min_score: float = -math.inf,
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Standard NMS on the same candidates as `fast_nms`: only boxes that are kept drop others."""
    ranked, order = _topk_per_class(scores, top_k)
    classes, position = (ranked > min_score).nonzero(as_tuple=True)
    index, found = order[classes, position], ranked[classes, position]
    kept = batched_nms(boxes[index], found, classes, iou)
    return _best(index[kept], classes[kept], found[kept], max_detections)


NMS = {"fast": fast_nms, "standard": standard_nms}


def _topk_per_class(
    scores: Float[Tensor, "n c"], top_k: int
) -> tuple[Float[Tensor, "c k"], Int[Tensor, "c k"]]:
    """Sorted, equal scores in the order of their boxes, as the official code's sort leaves them; topk alone keeps no order."""
    # The bits of floats that are not negative are ordered as they are; below them, earlier boxes count for more.
    bits = scores.T.float().contiguous().view(torch.int32).to(torch.int64)
    keys = (bits << 32) + torch.arange(len(scores) - 1, -1, -1, device=scores.device)
    order = keys.topk(min(top_k, len(scores)), dim=1).indices
    return scores.T.gather(1, order), order


def _best(
    index: Tensor, classes: Tensor, scores: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    best_scores, best = scores.sort(descending=True)
    best = best[:count]
    return index[best], classes[best], best_scores[:count]


def mask_logits(
    prototypes: Float[Tensor, "h w k"], coefficients: Float[Tensor, "n k"]
) -> Float[Tensor, "n h w"]:
    """Prototypes, weighted with each detection's coefficients and summed (YOLACT paper, eq. 1, before the sigmoid)."""
    height, width = prototypes.shape[:2]
    return (coefficients @ prototypes.flatten(0, 1).T).view(-1, height, width)


def assemble_masks(
    prototypes: Float[Tensor, "h w k"],
    coefficients: Float[Tensor, "n k"],
    boxes: Float[Tensor, "n 4"],
    height: int,
    width: int,
    crop: bool = True,
) -> Bool[Tensor, "n {height} {width}"]:
    """sigmoid of `mask_logits`, cropped with the predicted box (relative xyxy), scaled to the image, > .5 (sec. 3.1)."""
    return upsample_masks(
        mask_logits(prototypes, coefficients), boxes if crop else None, height, width
    )


def scale_boxes(boxes: Float[Tensor, "n 4"], height: int, width: int) -> Float[Tensor, "n 4"]:
    """Relative xyxy boxes in pixels: corners put in order, cut to the image."""
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])
    size = boxes.new_tensor([width, height])
    return torch.cat([low, high], 1).clamp(min=0).minimum(size.repeat(2))
