import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocseg_lib.models.box_resampling import paste_masks_in_boxes, upsample_masks_in_boxes
from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks

SEEDS = st.integers(0, 2**31)


def assert_same_pixels(masks, expected, allowed=1e-5):
    """Equal but for pixels that rounding carries over the threshold."""
    assert masks.shape == expected.shape
    assert (masks != expected).sum() <= max(1, allowed * masks.numel())


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 60), st.integers(1, 60))
def test_pasted_masks_are_torchvisions(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(7, 28, 28, generator=generator)
    corners = torch.rand(7, 2, 2, generator=generator).sort(1).values
    boxes = (corners * torch.tensor([width, height])).flatten(1)
    arguments = masks, boxes, height, width
    assert_same_pixels(paste_masks_in_boxes(*arguments), paste_masks(*arguments))


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(1, 150), st.integers(1, 150), st.integers(1, 40), st.booleans())
def test_upsampled_masks_are_the_plain_ones(seed, height, width, side, crop):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, side, side + 3, generator=generator) * 5
    # Swapped corners and boxes out of the image among them.
    boxes = torch.rand(6, 4, generator=generator) * 1.6 - 0.3 if crop else None
    arguments = logits, boxes, height, width
    assert_same_pixels(upsample_masks_in_boxes(*arguments), upsample_masks(*arguments))


def test_saturated_masks_are_equal_to_the_pixel_and_none_may_be_given():
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.52, 0.52]])
    arguments = torch.full((3, 138, 138), 60.0), boxes, 375, 500
    assert torch.equal(upsample_masks_in_boxes(*arguments), upsample_masks(*arguments))
    arguments = torch.zeros(0, 28, 28), torch.zeros(0, 4), 40, 30
    for function in (upsample_masks, upsample_masks_in_boxes, paste_masks, paste_masks_in_boxes):
        assert function(*arguments).shape == (0, 40, 30)
