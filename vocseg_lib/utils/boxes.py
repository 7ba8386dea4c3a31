"""Box geometry; boxes are absolute xyxy, x2 and y2 exclusive, unless a name says otherwise."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

SSD_VARIANCES = (0.1, 0.2)  # of centers and of sizes
Boxes = Float[Tensor, "*n 4"]
N, M = Float[Tensor, "*batch n 4"], Float[Tensor, "*batch m 4"]


def cxcywh_to_xyxy(boxes_cxcywh: Boxes) -> Boxes:
    """Corners of boxes given by center and size."""
    half = boxes_cxcywh[..., 2:] / 2
    return torch.cat([boxes_cxcywh[..., :2] - half, boxes_cxcywh[..., :2] + half], -1)


def box_area(boxes: Boxes) -> Float[Tensor, "*n"]:
    """Width times height."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_intersection(a: N, b: M) -> Float[Tensor, "*batch n m"]:
    """Area shared by each box in `a` and each box in `b`."""
    # Vectors of their own: CPUs read each of them `n` or `m` times.
    ax1, ay1, ax2, ay2 = a.movedim(-1, 0).contiguous()[..., :, None]
    bx1, by1, bx2, by2 = b.movedim(-1, 0).contiguous()[..., None, :]
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def box_iou(a: N, b: M) -> Float[Tensor, "*batch n m"]:
    """IoU of each box in `a` with each box in `b`; 0 between two empty boxes.

    As `torchvision.ops.box_iou`, with leading batch dimensions (Fast NMS compares per class).
    """
    inter = box_intersection(a, b)
    union = (box_area(a)[..., :, None] + box_area(b)[..., None, :]).sub_(inter)
    return inter / union.clamp_(min=torch.finfo(union.dtype).tiny)


def encode_boxes(boxes: Boxes, priors_cxcywh: Boxes) -> Boxes:
    """Offsets from priors to boxes, divided by SSD's variances 0.1 and 0.2 (SSD paper, eq. 2)."""
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = boxes[..., 2:] - boxes[..., :2]
    shift = (center - priors_cxcywh[..., :2]) / priors_cxcywh[..., 2:]
    scale = torch.log(size / priors_cxcywh[..., 2:])
    return torch.cat([shift / SSD_VARIANCES[0], scale / SSD_VARIANCES[1]], -1)


def decode_boxes(offsets: Boxes, priors_cxcywh: Float[Tensor, "*#n 4"]) -> Boxes:
    """The inverse of `encode_boxes`: xyxy boxes in the units of the priors."""
    shift, scale = offsets[..., :2] * SSD_VARIANCES[0], offsets[..., 2:] * SSD_VARIANCES[1]
    center = priors_cxcywh[..., :2] + shift * priors_cxcywh[..., 2:]
    size = priors_cxcywh[..., 2:] * torch.exp(scale)
    return cxcywh_to_xyxy(torch.cat([center, size], -1))


def masks_to_boxes(masks: Shaped[Tensor, "n h w"]) -> Float[Tensor, "n 4"]:
    """Tight boxes of masks, x2 and y2 exclusive; zeros for an empty mask."""
    height, width = masks.shape[1:]
    columns, rows = masks.amax(1) != 0, masks.amax(2) != 0  # ten times faster than any()
    x, y = torch.arange(width, device=masks.device), torch.arange(height, device=masks.device)
    x1, y1 = torch.where(columns, x, width).amin(1), torch.where(rows, y, height).amin(1)
    x2, y2 = torch.where(columns, x + 1, 0).amax(1), torch.where(rows, y + 1, 0).amax(1)
    return torch.stack([x1, y1, x2, y2], 1).float() * columns.any(1, keepdim=True)
