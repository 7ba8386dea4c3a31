import torch

from vocseg_lib.utils.masks import box_mask, upsample_masks


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


def test_upsampled_masks_by_hand():
    logits = torch.tensor([[[9.0, -9.0], [9.0, 9.0]]])
    left = torch.tensor([[0.0, 0.0, 0.0, 1.0]])  # padded by a cell: the left column
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).bool()
    assert torch.equal(upsample_masks(logits, None, 4, 4)[0], expected)
    assert upsample_masks(logits, left, 4, 4)[0, :, :2].all()
    assert not upsample_masks(logits, left, 4, 4)[0, :, 2:].any()
