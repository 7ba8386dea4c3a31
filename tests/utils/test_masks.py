import torch

from vocseg_lib.utils.masks import box_mask


def test_box_masks_by_hand():
    swapped, outside, empty = [0.6, 0.4, 0.2, 0.2], [-1.0, 0.5, 2.0, 3.0], [0.5] * 4
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.4], swapped, outside, empty])
    inside = box_mask(boxes, 10, 10, padding=0)
    assert inside.sum((1, 2)).tolist() == [8, 8, 50, 0]
    assert inside[0, 2:4, 2:6].all()
    assert torch.equal(inside[0], inside[1])
    padded = box_mask(boxes, 10, 10, padding=1)[0].nonzero()
    assert padded.aminmax(dim=0).max.tolist() == [4, 6]
