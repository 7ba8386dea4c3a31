import pytest
import torch
from torchvision.ops import batched_nms

from vocseg_lib.models.postprocess import fast_nms, scale_boxes, standard_nms, upsample_masks


def test_in_fast_nms_dropped_boxes_drop_others():
    # Each overlaps the next by more than .5.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 6], [0.0, 0, 10, 3.4]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    assert fast_nms(boxes, scores, 0.5, 200, 100)[0].tolist() == [0]
    assert standard_nms(boxes, scores, 0.5, 200, 100)[0].tolist() == [0, 2]


def random_boxes(count, classes):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(count, 2, 2, generator=generator).sort(1).values.flatten(1)
    return boxes, torch.rand(classes, count, generator=generator)


def test_standard_nms_is_torchvisions():
    boxes, scores = random_boxes(60, 3)
    kept, classes, best = standard_nms(boxes, scores, 0.5, 200, 100)
    labels = torch.arange(3).repeat_interleave(60)
    expected = batched_nms(boxes.repeat(3, 1), scores.flatten(), labels, 0.5)[:100]
    assert torch.equal(kept, expected % 60)
    assert torch.equal(classes, labels[expected])
    assert torch.equal(best, scores.flatten()[expected])


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_fast_nms_keeps_the_official_order_among_equal_scores(levels, monkeypatch):
    def official_order(scores, top_k):
        ranked, order = scores.sort(dim=1, descending=True, stable=True)
        return ranked[:, :top_k], order[:, :top_k]

    boxes, scores = random_boxes(300, 5)
    scores = (scores * levels).floor() / levels  # zeros among them
    results = fast_nms(boxes, scores, 0.5, 200, 100)
    monkeypatch.setattr("vocseg_lib.models.postprocess._topk_per_class", official_order)
    expected = fast_nms(boxes, scores, 0.5, 200, 100)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_scaled_boxes_are_ordered_and_inside_the_image():
    boxes = torch.tensor([[0.5, 0.75, 0.25, 0.5], [-1.0, 0.5, 0.5, 2.0]])
    assert scale_boxes(boxes, 40, 20).tolist() == [[5, 20, 10, 30], [0, 20, 10, 40]]


def test_upsampled_masks_by_hand():
    logits = torch.tensor([[[9.0, -9.0], [9.0, 9.0]]])
    left = torch.tensor([[0.0, 0.0, 0.0, 1.0]])  # padded by a cell: the left column
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).bool()
    assert torch.equal(upsample_masks(logits, None, 4, 4)[0], expected)
    assert upsample_masks(logits, left, 4, 4)[0, :, :2].all()
    assert not upsample_masks(logits, left, 4, 4)[0, :, 2:].any()
