import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from vocseg_lib.utils.masks import box_mask, paste_masks, upsample_masks
from vocseg_lib.utils.rle import decode_rle, encode_rle, mask_areas


def test_rle_round_trip():
    masks = torch.rand(4, 13, 7) > 0.6
    assert np.array_equal(decode_rle(encode_rle(masks)), masks.numpy())
    assert encode_rle(masks[:0]) == []
    assert len(decode_rle([])) == 0


def test_inside_boxes_by_hand():
    boxes = torch.tensor(
        [[0.2, 0.2, 0.6, 0.4], [0.6, 0.4, 0.2, 0.2], [-1.0, 0.5, 2.0, 3.0], [0.5, 0.5, 0.5, 0.5]]
    )
    inside = box_mask(boxes, 10, 10, padding=0)
    expected = torch.zeros(10, 10, dtype=torch.bool)
    expected[2:4, 2:6] = True
    assert torch.equal(inside[0], expected)
    assert torch.equal(inside[1], expected)  # swapped corners are put in order
    assert inside[2].sum() == 50
    assert not inside[3].any()
    assert box_mask(boxes, 10, 10, padding=1)[0].nonzero().aminmax(dim=0).max.tolist() == [4, 6]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 60))
def test_paste_equals_torchvision(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(7, 1, 28, 28, generator=generator)
    corners = torch.rand(7, 2, 2, generator=generator).sort(1).values * torch.tensor(
        [width, height]
    )
    boxes = corners.flatten(1)
    ours = paste_masks(masks[:, 0], boxes, height, width)
    theirs = paste_masks_in_image(masks, boxes, (height, width))[:, 0]
    close_call = (theirs - 0.5).abs() < 1e-5
    assert torch.equal(ours | close_call, (theirs > 0.5) | close_call)


def interpolated(logits, inside, height, width):
    return torch.nn.functional.interpolate(
        (logits.sigmoid() * inside)[None], (height, width), mode="bilinear"
    )[0]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31),
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(1, 40),
    st.booleans(),
)
def test_enlarged_in_boxes_equals_interpolated_everywhere(seed, height, width, side, cropped):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, side, side + 3, generator=generator) * 5
    boxes = (
        torch.rand(6, 4, generator=generator) * 1.6 - 0.3
    )  # swapped corners and boxes out of the image among them
    inside = (
        box_mask(boxes, side, side + 3)
        if cropped
        else torch.ones(6, side, side + 3, dtype=torch.bool)
    )
    ours = upsample_masks(logits, boxes if cropped else None, height, width)
    theirs = interpolated(logits, inside, height, width)
    close_call = (theirs - 0.5).abs() < 1e-5
    assert torch.equal(ours | close_call, (theirs > 0.5) | close_call)


def test_enlarged_saturated_masks_are_equal_to_the_pixel():
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.52, 0.52]])
    logits = torch.full((3, 138, 138), 60.0)
    ours = upsample_masks(logits, boxes, 375, 500)
    assert torch.equal(ours, interpolated(logits, box_mask(boxes, 138, 138), 375, 500) > 0.5)
    assert upsample_masks(logits[:0], boxes[:0], 375, 500).shape == (0, 375, 500)


def test_no_masks_to_paste():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 40, 30).shape == (0, 40, 30)


def test_areas_of_more_masks_than_pycocotools_takes_at_once():
    masks = torch.zeros(300, 9, 9, dtype=torch.bool)
    for k in range(300):
        masks[k, : k % 9, :3] = True
    assert mask_areas(encode_rle(masks)).tolist() == [3 * (k % 9) for k in range(300)]
    assert mask_areas([]).shape == (0,)
