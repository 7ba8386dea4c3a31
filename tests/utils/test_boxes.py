import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou as torchvision_iou

from vocseg_lib.utils import boxes as box


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    assert torch.allclose(box.box_iou(a, b), torch.tensor([[2 / 6, 0.0], [0.0, 0.0]]))


@given(st.integers(0, 2**31))
def test_iou_equals_torchvision(seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, 9, 2, 2, generator=generator).sort(2).values.flatten(2)
    assert torch.allclose(box.box_iou(*corners), torchvision_iou(*corners), atol=1e-6)
    assert torch.equal(box.box_iou(corners, corners)[1], box.box_iou(corners[1], corners[1]))


def test_decode_inverts_encode():
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.9, 0.3, 0.1]])
    boxes = torch.tensor([[0.3, 0.4, 0.7, 0.6], [0.0, 0.7, 0.4, 1.0]])
    offsets = box.encode_boxes(boxes, priors)
    expected = torch.tensor([0.0, 0.0, 5 * math.log(2), 5 * math.log(0.5)])
    assert torch.allclose(offsets[0], expected)
    assert torch.allclose(box.decode_boxes(offsets, priors), boxes, atol=1e-6)
    corners = box.cxcywh_to_xyxy(priors)
    assert torch.allclose(box.decode_boxes(torch.zeros(2, 4), priors), corners)


def test_masks_to_boxes_is_exclusive_and_takes_empty_masks():
    masks = torch.zeros(3, 6, 8, dtype=torch.uint8)
    masks[0, 2:4, 1:7] = 1
    masks[1, 5, 7] = 1
    assert box.masks_to_boxes(masks).tolist() == [[1, 2, 7, 4], [7, 5, 8, 6], [0, 0, 0, 0]]
    assert box.masks_to_boxes(masks[:0]).shape == (0, 4)
