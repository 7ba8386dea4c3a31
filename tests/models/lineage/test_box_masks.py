"""Masks from boxes, by hand and on synthetic images."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.models import small
from vocseg_lib.data.transforms import model_input
from vocseg_lib.models.lineage.box_masks import MasksFromBoxes, box_masks, grabcut
from vocseg_lib.models.lineage.proposals import to_uint8_hwc


def test_filled_boxes_by_hand():
    boxes = torch.tensor([[1.0, 2, 4, 4], [0, 0, 8, 6], [2.4, 2.4, 2.6, 2.6]])
    expected = torch.zeros(3, 6, 8, dtype=torch.bool)
    expected[0, 2:4, 1:4] = expected[1] = expected[2, 2, 2] = True
    assert torch.equal(box_masks(np.zeros((6, 8, 3), np.uint8), boxes), expected)


def test_grabcut_finds_a_rectangle_in_a_loose_box():
    pixels = np.full((60, 80, 3), 40, np.uint8)
    pixels += np.random.default_rng(0).integers(0, 20, pixels.shape, dtype=np.uint8)
    pixels[20:40, 30:55] += 150
    (mask,) = grabcut(pixels, torch.tensor([[24.0, 14, 62, 46]]))
    assert mask[20:40, 30:55].float().mean() > 0.95
    assert mask.sum() < 1.1 * 20 * 25


def test_grabcut_stays_in_its_box(two):
    for image, target in two:
        boxes = target["boxes"].as_subclass(Tensor)
        boxes = torch.cat([boxes + shift for shift in (0, 7.3, -5.5)]).clamp(min=0)
        pixels = to_uint8_hwc(model_input(image))
        masks, filled = grabcut(pixels, boxes), box_masks(pixels, boxes)
        assert not (masks & ~filled).any()
        assert torch.equal(masks.flatten(1).any(1), filled.flatten(1).any(1))
        assert torch.equal(grabcut(pixels, boxes), masks)


def test_grabcut_fills_boxes_that_it_cannot_segment():
    """One color; no background; too small; partly outside."""
    pixels = np.zeros((30, 30, 3), np.uint8)
    boxes = torch.tensor([[5.0, 5, 20, 20], [0, 0, 30, 30], [3, 3, 5, 5], [28, 28, 40, 40]])
    assert torch.equal(grabcut(pixels, boxes), box_masks(pixels, boxes))
    assert grabcut(pixels, torch.zeros(0, 4)).shape == (0, 30, 30)


def test_masks_of_the_best_detections(image):
    model = small("mask_rcnn", score_threshold=0.0)
    (detections,) = MasksFromBoxes(model, "GrabCut", 5).eval()([image])  # with gradients
    assert detections["masks"].shape == (5, *image.shape[1:])
    with pytest.raises(ValueError, match="polygon"):
        MasksFromBoxes(model, "polygon")
