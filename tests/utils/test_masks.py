import torch

from vocseg_lib.utils.masks import box_mask


def test_box_masks_by_hand():
    swapped, outside, empty = [0.6, 0.4, 0.2, 0.2], [-1.0, 0.5, 2.0, 3.0], [0.5] * 4
    boxes = torch.tensor([[0.2, 0.2, 0.6, 0.4], swapped, outside, empty])
    inside = box_mask(boxes, 10, 10, padding=0)
    expected = torch.zeros(10, 10, dtype=torch.bool)
    expected[2:4, 2:6] = True
    assert torch.equal(inside[0], expected)
    assert torch.equal(inside[1], expected)
    assert inside[2].sum() == 50
    assert not inside[3].any()
    padded = box_mask(boxes, 10, 10, padding=1)[0].nonzero()
    assert padded.aminmax(dim=0).max.tolist() == [4, 6]
