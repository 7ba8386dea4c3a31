import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocseg_lib.losses import (
    YolactOutputs,
    _forced_priors,
    match_priors,
    mine_hard_negatives,
    semantic_loss,
    yolact_loss,
)
from vocseg_lib.models.priors import prior_boxes

PRIORS = prior_boxes([(18, 18), (9, 9), (5, 5), (3, 3), (2, 2)])
SIDE = 34
"""Of the grid of prototypes; images are four times as large."""
BIT = 6.125 * math.log(2)
"""The mask loss of zero logits per pixel and area."""


def outputs(batch=1, priors=PRIORS, coefficients=0, prototypes=0, semantic=None):
    """Zeros, with gradients, but for the given values of coefficient and prototype 0."""
    sizes = {"class_logits": 21, "box_offsets": 4, "coefficients": 32}
    out = {name: torch.zeros(batch, len(priors), size) for name, size in sizes.items()}
    out["prototypes"] = torch.zeros(batch, SIDE, SIDE, 32)
    out["coefficients"][..., 0], out["prototypes"][..., 0] = coefficients, prototypes
    out = {name: tensor.requires_grad_() for name, tensor in out.items()}
    return YolactOutputs(**out, priors=priors, semantic_logits=semantic)


def square(low=34, high=102, size=4 * SIDE):
    """A square object of class 7."""
    mask = torch.zeros(1, size, size, dtype=torch.uint8)
    mask[0, low:high, low:high] = 1
    box = torch.tensor([[low / size, low / size, high / size, high / size]])
    return {"boxes": box, "labels": torch.tensor([7]), "masks": mask}


EMPTY = {name: value[:0] for name, value in square().items()}


def loss_of(out, *targets, **options):
    return yolact_loss(out, list(targets) or [square()], **options)


def values_of(*arguments):
    return {name: loss.item() for name, loss in loss_of(*arguments).items()}


def test_matching_by_hand():
    priors = torch.tensor(
        [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.3], [0.5, 0.5, 0.4, 0.18], [0.1, 0.1, 0.1, 0.1]]
    )
    boxes = torch.tensor([[0.3, 0.3, 0.7, 0.7]])
    classes, objects = match_priors(priors, boxes[None], torch.tensor([[3]]))
    assert classes[0].tolist() == [3, 3, -1, 0]  # IoU 1, .75, .45 (ignored), 0
    assert objects[0, :2].tolist() == [0, 0]
    # Each object gets a prior of its own, although neither reaches IoU .5.
    priors = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.9, 0.9, 0.1, 0.1]])
    boxes = torch.tensor([[0.2, 0.2, 0.4, 0.4], [0.45, 0.45, 0.55, 0.55]])
    classes, _ = match_priors(priors, boxes[None], torch.tensor([[4, 5]]))
    assert sorted(classes[0].tolist()) == [4, 5]


def greedy(iou):
    """The official loop over objects: best (object, prior) pair first, each prior once."""
    iou, forced = iou.clone(), {}
    for _ in range(len(iou)):
        best, prior = iou.max(1)
        j = int(best.argmax())
        forced[j] = int(prior[j])
        iou[:, prior[j]] = -1
        iou[j] = -1
    return [forced[j] for j in range(len(iou))]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(9, 30), st.integers(1, 6))
def test_forced_priors_equal_the_loop_over_objects(seed, objects, priors, values):
    # Few different values: ties, as between objects that overlap no prior.
    generator = torch.Generator().manual_seed(seed)
    iou = torch.randint(0, values, (objects, priors), generator=generator) / values
    padding = torch.full((1, objects, priors), -1.0)  # an image without objects changes nothing
    forced = _forced_priors(torch.cat([iou[None], padding]))
    assert forced.tolist() == [greedy(iou), [-1] * objects]
    # More objects than priors.
    assert _forced_priors(torch.tensor([[[0.3], [0.9], [0.0]]])).tolist() == [[-1, 0, -1]]


def test_background_priors_in_a_crowd_are_ignored():
    priors = torch.tensor(
        [[0.2, 0.2, 0.2, 0.2], [0.75, 0.75, 0.1, 0.1], [0.55, 0.8, 0.2, 0.2], [0.2, 0.8, 0.1, 0.1]]
    )
    boxes, labels = torch.tensor([[[0.1, 0.1, 0.3, 0.3]]]), torch.tensor([[5]])
    crowd = torch.tensor([[[0.5, 0.5, 1.0, 1.0]]])
    # The object's; wholly in the crowd; three quarters in it; far away.
    assert match_priors(priors, boxes, labels, crowd)[0].tolist() == [[5, -1, -1, 0]]
    assert match_priors(priors, boxes, labels)[0].tolist() == [[5, 0, 0, 0]]
    # Positives stay positive.
    assert match_priors(priors, crowd, torch.tensor([[7]]), crowd)[0].max() == 7


def test_three_hardest_negatives_for_each_positive():
    classes, logits = torch.tensor([[1, 0, 0, 0, 0, 0, -1]]), torch.zeros(1, 7, 2)
    logits[0, :, 1] = torch.tensor([0.0, 5.0, 1.0, 4.0, 2.0, 3.0, 9.0])
    assert mine_hard_negatives(logits, classes)[0].nonzero()[:, 0].tolist() == [1, 3, 5]


def test_zero_logits_give_the_known_values():
    losses = loss_of(outputs(semantic=torch.zeros(1, 20, 18, 18)))
    # One positive, three negatives: 12.18.
    assert losses["class"].item() == pytest.approx(4 * math.log(21), rel=1e-5)
    assert losses["semantic"].item() == pytest.approx(20 * math.log(2), rel=1e-5)  # 13.86


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("by_area", [True, False])
def test_crop_and_area_are_independent(crop, by_area):
    """19 x 19 pixels in the padded box of 17 x 17, on a grid of 34 x 34."""
    loss = loss_of(outputs(), crop=crop, normalize_by_area=by_area)["mask"].item()
    expected = (19 if crop else 34) ** 2 / (17 if by_area else 34) ** 2
    assert loss == pytest.approx(BIT * expected, rel=1e-5)


@pytest.mark.parametrize("crop", [True, False])
def test_mask_loss_is_inside_the_ground_truth_box_unless_not_cropped(crop):
    prototypes = torch.full((SIDE, SIDE), -20.0)
    prototypes[8:26, 8:26] = 20.0  # the object, one pixel too wide on two sides
    before = loss_of(outputs(coefficients=1, prototypes=prototypes), crop=crop)["mask"].item()
    prototypes[:4, :4] = 20.0  # far outside the box
    after = loss_of(outputs(coefficients=1, prototypes=prototypes), crop=crop)["mask"].item()
    assert after == before if crop else after > before + 1


def test_small_objects_weigh_as_much_as_large_ones():
    small = loss_of(outputs(), square(60, 76))["mask"].item()
    assert small == pytest.approx(BIT * (4 + 2) ** 2 / 4**2, rel=1e-5)


def test_an_image_without_objects_changes_no_average():
    assert values_of(outputs(2), square(), EMPTY) == pytest.approx(values_of(outputs()))
    out = outputs(semantic=torch.zeros(1, 20, 9, 9))
    losses = loss_of(out, EMPTY)
    sum(losses.values()).backward()
    assert [losses[name].item() for name in ("class", "box", "mask")] == [0, 0, 0]
    assert all(torch.isfinite(x.grad).all() for x in (out.class_logits, out.prototypes))


def test_losses_are_normalized_over_all_ranks(monkeypatch):
    half = {name: value / 2 for name, value in values_of(outputs()).items()}
    # The mean over ranks is twice this rank's number of positives.
    monkeypatch.setattr("vocseg_lib.utils.distributed.all_reduce_mean", lambda value: 2 * value)
    assert values_of(outputs()) == pytest.approx(half)


def test_logits_keep_a_gradient_where_probabilities_saturate():
    out = outputs(coefficients=1, prototypes=-200)  # surely background, and wrong
    loss_of(out)["mask"].backward()
    assert out.prototypes.grad.abs().max() > 1e-3


def test_semantic_target_is_the_union_of_a_class():
    mask = torch.zeros(2, 8, 8, dtype=torch.uint8)
    mask[0, :4], mask[1, 4:] = 1, 1
    logits = torch.full((1, 20, 8, 8), -30.0)
    logits[0, 2] = 30.0  # class 3 everywhere, where its two objects are
    assert semantic_loss(logits, [{"labels": torch.tensor([3, 3]), "masks": mask}]).item() < 1e-6


def test_more_positives_than_masks_to_train_are_sampled_and_rescaled():
    priors = PRIORS.repeat(2, 1)  # more than one positive
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(len(priors), generator=generator)
    out = outputs(1, priors, coefficients, torch.randn(SIDE, SIDE, generator=generator))
    expected, losses = loss_of(out)["mask"].item(), []
    for seed in range(100):
        torch.manual_seed(seed)
        losses.append(loss_of(out, masks_to_train=1)["mask"].item())
    assert len(set(losses)) > 1
    assert sum(losses) / len(losses) == pytest.approx(expected, rel=0.15)
