import math
from functools import partial
from itertools import repeat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocseg_lib.models import box_resampling as resampling
from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks
from vocseg_lib.utils.rle import encode_rle

SEEDS, COUNTS, LENGTHS = st.integers(0, 2**31), st.integers(0, 7), st.integers(1, 150)
PASTE = paste_masks, resampling.PASTING.resize, resampling.PASTING.encode
UPSAMPLE = upsample_masks, resampling.UPSAMPLING.resize, resampling.UPSAMPLING.encode


def assert_same_bits(functions, masks, boxes, *size):
    plain, in_boxes, encode = functions
    arguments = masks, boxes, *size
    # Each mask alone: of several, PyTorch rounds pixels by their place in all of them.
    inside = repeat(None) if boxes is None else boxes.split(1)
    of_masks = zip(masks.split(1), inside, strict=False)
    expected = torch.cat([torch.zeros(0, *size).bool(), *(plain(*one, *size) for one in of_masks)])
    assert torch.equal(in_boxes(*arguments), expected)
    assert encode(*arguments) == encode_rle(expected)  # by pycocotools


def random_masks(generator, count, *sides):
    """Noise, or few values of which many are at the threshold; some masks empty, full, or NaN."""
    masks = torch.rand(count, *sides, generator=generator)
    if torch.rand((), generator=generator) < 0.5:
        masks = (masks * 4).round() / 4
    masks[:1, :1, :1].fill_(math.nan if torch.rand((), generator=generator) < 0.2 else 0.4)
    kinds = torch.rand(count, 1, 1, generator=generator)
    return torch.where(kinds < 0.15, 0.0, torch.where(kinds > 0.85, 1.0, masks))


@settings(deadline=None, max_examples=60)
@given(SEEDS, COUNTS, LENGTHS, LENGTHS)
def test_pasted_masks_are_torchvisions(seed, count, height, width):
    generator = torch.Generator().manual_seed(seed)
    masks = random_masks(generator, count, 28, 28)
    corners = torch.rand(count, 2, 2, generator=generator).sort(1).values
    corners *= torch.tensor([width, height])
    if seed % 3 == 0:  # a pixel, a line, all rows
        corners[:1, 1] = corners[:1, 0]
        corners[1:3, :, 1] = torch.tensor([0.0, height])
    assert_same_bits(PASTE, masks, corners.flatten(1), height, width)


def test_boxes_whose_corners_are_swapped_hold_nothing():
    boxes = torch.tensor([[50.0, 50, 20, 80], [50.0, 50, 80, 20], [60.0, 60, 20, 20]])
    assert_same_bits(PASTE, torch.rand(3, 28, 28), boxes, 100, 100)


@settings(deadline=None, max_examples=60)
@given(SEEDS, COUNTS, LENGTHS, LENGTHS, st.integers(1, 40))
def test_upsampled_masks_are_the_plain_ones(seed, count, height, width, side):
    generator = torch.Generator().manual_seed(seed)
    logits = 10 * (random_masks(generator, count, side, side + 3) - 0.5)
    # Swapped corners and boxes out of the image among them, one that is a point, one of all rows.
    boxes = torch.rand(count, 4, generator=generator) * 1.6 - 0.3
    if seed % 3 == 0:
        boxes[:1, 2:] = boxes[:1, :2]
        boxes[1:2, [1, 3]] = torch.tensor([0.0, 1.0])
    for crop in (boxes, None):
        assert_same_bits(UPSAMPLE, logits, crop, height, width)


@pytest.mark.parametrize("size", [(375, 500), (138, 138)])
@pytest.mark.parametrize("logit", [60.0, 0.0, -60.0])
def test_masks_of_one_value(size, logit):
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.52, 0.52]])
    assert_same_bits(UPSAMPLE, torch.full((3, 138, 138), logit), boxes, *size)


def test_codes_are_made_in_parts(monkeypatch):
    torch.manual_seed(0)
    masks, boxes = torch.rand(9, 28, 28), torch.rand(9, 2, 2).sort(1).values.flatten(1) * 90
    encode = partial(resampling.PASTING.encode, masks, boxes, 90, 90)
    whole = encode()
    monkeypatch.setattr(resampling, "CELLS_TOGETHER", 7_000)
    assert encode() == whole
