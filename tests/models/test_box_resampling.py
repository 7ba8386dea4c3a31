import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocseg_lib.models.box_resampling import paste_masks_in_boxes, upsample_masks_in_boxes
from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks

SEEDS, COUNTS, LENGTHS = st.integers(0, 2**31), st.integers(0, 7), st.integers(1, 150)


def assert_same_pixels(function, plain, *arguments):
    """Equal but for pixels that rounding carries over the threshold."""
    masks, expected = function(*arguments), plain(*arguments)
    assert masks.shape == expected.shape
    assert (masks != expected).sum() <= 1 + 1e-5 * masks.numel()


@settings(deadline=None, max_examples=30)
@given(SEEDS, COUNTS, LENGTHS, LENGTHS)
def test_pasted_masks_are_torchvisions(seed, count, height, width):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, 28, 28, generator=generator)
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values
    boxes = (corners * torch.tensor([width, height])).flatten(1)
    assert_same_pixels(paste_masks_in_boxes, paste_masks, masks, boxes, height, width)


@settings(deadline=None, max_examples=40)
@given(SEEDS, COUNTS, LENGTHS, LENGTHS, st.integers(1, 40))
def test_upsampled_masks_are_the_plain_ones(seed, count, height, width, side):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, side, side + 3, generator=generator) * 5
    # Swapped corners and boxes out of the image among them.
    boxes = torch.rand(count, 4, generator=generator) * 1.6 - 0.3
    for crop in (boxes, None):
        assert_same_pixels(upsample_masks_in_boxes, upsample_masks, logits, crop, height, width)


@pytest.mark.parametrize("size", [(375, 500), (138, 138)])
def test_saturated_masks_are_equal_to_the_pixel(size):
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.52, 0.52]])
    arguments = torch.full((3, 138, 138), 60.0), boxes, *size
    assert torch.equal(upsample_masks_in_boxes(*arguments), upsample_masks(*arguments))
