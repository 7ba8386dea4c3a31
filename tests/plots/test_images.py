import numpy as np
import pytest
import torch

from vocseg_lib.plots import images
from vocseg_lib.plots.images import Layer, draw_instances, to_hwc


@pytest.mark.parametrize("as_float", [False, True])
def test_masks_are_tinted_and_boxes_labeled(sample, as_float):
    image = sample.image / 255 if as_float else sample.image
    scores = [0.5] * len(sample.labels)
    ax = draw_instances(image, sample.masks, sample.boxes, sample.labels, scores)
    assert len(ax.patches) == len(ax.texts) == len(sample.labels)
    assert all(text.get_text().endswith(" 0.50") for text in ax.texts)
    changed = (ax.images[0].get_array() != to_hwc(sample.image)).any(2)
    covered = sample.masks.amax(0).numpy() > 0
    assert not changed[~covered].any()
    assert changed[covered].mean() > 0.9
    no_masks = {"masks": sample.masks[:0]}
    panels = {"boxes": {**no_masks, "boxes": sample.boxes}, "none": no_masks}
    axes = images.side_by_side(image, panels, "title", "caption")
    assert [ax.get_title() for ax in axes] == list(panels)
    assert [len(ax.patches) for ax in axes] == [len(sample.boxes), 0]


def test_the_first_instance_is_on_top_and_weak_layers_have_less_tint(sample):
    masks = torch.ones(2, 20, 20)
    pixel = draw_instances(torch.zeros(3, 20, 20), masks).images[0].get_array()[10, 10]
    blue, orange = np.array([0x00, 0x72, 0xB2]), np.array([0xD5, 0x5E, 0x00])
    assert np.abs(pixel - (0.5 * blue + 0.25 * orange)).max() <= 1
    # Dotted ones have none.
    mask, picture = sample.masks[0].numpy() > 0, to_hwc(sample.image)
    tints = []
    for strong, dotted in ((True, False), (False, False), (True, True)):
        layer = Layer(mask, [5, 5, 20, 10], "red", "text", strong, dotted)
        pixels = images.draw_layers(picture, [layer]).images[0].get_array()
        tints.append(np.abs(pixels[mask].astype(float) - picture[mask]).mean())
    assert tints[0] > tints[1] > tints[2] == 0


def test_boxes_are_drawn_on_axes_and_into_pixels(sample):
    ax = images.draw_boxes(sample.image, sample.boxes, "title", "caption")
    assert len(ax.patches) == len(sample.boxes)
    changed = (images.draw_box(sample.image, sample.boxes[0]) != to_hwc(sample.image)).any(2)
    x1, y1, x2, y2 = sample.boxes[0].int().tolist()
    assert changed.any()
    assert not changed[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].any()
