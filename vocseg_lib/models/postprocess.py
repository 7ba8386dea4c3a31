"""YOLACT's detection step (sec. 3.1 and 4): from scores and boxes of all priors to detections."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from vocseg_lib.models.config import YolactConfig
from vocseg_lib.utils.boxes import box_iou, decode_boxes
from vocseg_lib.utils.masks import box_mask, split_masks

CANDIDATES_PER_CLASS = 200
_Boxes, _Scores, _Values = Float[Tensor, "_ 4"], Float[Tensor, "c _"], Float[Tensor, "_ k"]
_Kept = tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]
"""Box index, class (0-based) and score of the boxes that NMS keeps, by descending score."""


def detect(
    scores: _Scores, offsets: _Boxes, coefficients: _Values, priors: _Boxes, config: YolactConfig
) -> tuple[_Boxes, Int[Tensor, " n"], Float[Tensor, " n"], _Values]:
    """Boxes (relative xyxy), classes (0-based), scores and coefficients, by descending score.

    `scores` are probabilities of each class, without background. A prior with any score above
    `score_threshold` is a candidate for every class. On a GPU, where counting makes the CPU wait,
    there are `max_detections`: the last ones, with scores of -1, are none.
    """
    is_candidate = scores.amax(0) > config.score_threshold
    if scores.is_cpu:
        candidates = is_candidate.nonzero()[:, 0]
        scores, offsets, priors = scores[:, candidates], offsets[candidates], priors[candidates]
    else:
        candidates = slice(None)
        scores = torch.where(is_candidate, scores, -1.0)
    boxes = decode_boxes(offsets, priors)
    options = config.nms_iou, CANDIDATES_PER_CLASS, config.max_detections
    kept, classes, kept_scores = NMS[config.nms](boxes, scores, *options)
    return boxes[kept], classes, kept_scores, coefficients[candidates][kept]


def fast_nms(boxes: _Boxes, scores: _Scores, iou: float, top_k: int, limit: int) -> _Kept:
    """Fast NMS (sec. 4): per class, drop boxes with IoU > `iou` with *any* higher-scored box.

    Boxes that are dropped still drop others, which makes it one matrix operation. Keeps the `limit`
    best of the `top_k` boxes per class; on a GPU, see `detect`.
    """
    ranked, order = _topk_per_class(scores, top_k)
    overlap = box_iou(boxes[order], boxes[order]).triu_(diagonal=1)
    is_kept = overlap.amax(1) <= iou if len(boxes) else order.bool()  # empty
    classes = torch.arange(len(order), device=order.device)[:, None].expand_as(order)
    if scores.is_cpu:
        return _best(order[is_kept], classes[is_kept], ranked[is_kept], limit)
    ranked = torch.where(is_kept, ranked, -1.0)
    return _best(order.flatten(), classes.flatten(), ranked.flatten(), limit)


def standard_nms(boxes: _Boxes, scores: _Scores, iou: float, top_k: int, limit: int) -> _Kept:
    """Standard NMS on the candidates of `fast_nms`: only boxes that are kept drop others."""
    ranked, order = _topk_per_class(scores, top_k)
    classes = torch.arange(len(order), device=order.device).repeat_interleave(order.shape[1])
    index, ranked = order.flatten(), ranked.flatten()
    kept = batched_nms(boxes[index], ranked, classes, iou)
    return _best(index[kept], classes[kept], ranked[kept], limit)


NMS = {"fast": fast_nms, "standard": standard_nms}


def _topk_per_class(scores: _Scores, top_k: int) -> tuple[Float[Tensor, "c k"], Int[Tensor, "c k"]]:
    """Descending; equal scores in the order of their boxes, as the official code's stable sort."""
    # The bits of non-negative floats sort as the floats do, -1 before them; then earlier boxes win.
    keys = scores.float().contiguous().view(torch.int32).to(torch.int64).bitwise_left_shift_(32)
    keys += torch.arange(scores.shape[1] - 1, -1, -1, device=scores.device)
    order = keys.topk(min(top_k, scores.shape[1]), dim=1).indices
    return scores.gather(1, order), order


def _best(index: Tensor, classes: Tensor, scores: Tensor, count: int) -> _Kept:
    best = scores.sort(descending=True, stable=True).indices[:count]
    return index[best], classes[best], scores[best]


def mask_logits(
    prototypes: Float[Tensor, "h w k"], coefficients: Float[Tensor, "n k"]
) -> Float[Tensor, "n h w"]:
    """Prototypes times each detection's coefficients, summed (eq. 1, before the sigmoid)."""
    return (coefficients @ prototypes.flatten(0, 1).T).view(-1, *prototypes.shape[:2])


def upsample_masks(
    logits: Float[Tensor, "n h w"], boxes: Float[Tensor, "n 4"] | None, height: int, width: int
) -> Bool[Tensor, "n {height} {width}"]:
    """Masks of YOLACT (sec. 3.1): sigmoid, crop with relative boxes, bilinear to the image, > .5.

    The crop is padded by one cell; with `boxes` None there is no crop.
    """
    masks = logits.sigmoid()
    if boxes is not None:
        masks = masks * box_mask(boxes, *logits.shape[1:])
    options = {"size": (height, width), "mode": "bilinear", "align_corners": False}
    parts = split_masks(masks[:, None], height, width)
    return torch.cat([F.interpolate(part, **options)[:, 0] > 0.5 for part in parts])


def scale_boxes(boxes: _Boxes, height: int, width: int) -> _Boxes:
    """Relative xyxy boxes in pixels: corners put in order, clipped to the image."""
    size = boxes.new_tensor([width, height])
    corners = (boxes.reshape(-1, 2, 2) * size).sort(1).values
    return corners.clamp(min=0).minimum(size).flatten(1)
