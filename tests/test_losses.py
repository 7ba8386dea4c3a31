import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vocseg_lib.losses import (
    _forced_priors,
    match_priors,
    mine_hard_negatives,
    semantic_loss,
    yolact_loss,
)
from vocseg_lib.models.priors import prior_boxes

PRIORS = prior_boxes([(18, 18), (9, 9), (5, 5), (3, 3), (2, 2)])


def zeros(batch=1, classes=21, priors=PRIORS, side=34):
    p = len(priors)
    shapes = ((batch, p, classes), (batch, p, 4), (batch, p, 32), (batch, side, side, 32))
    return [torch.zeros(s, requires_grad=True) for s in shapes]


def square_object(side=136, low=34, high=102):
    mask = torch.zeros(1, side, side, dtype=torch.uint8)
    mask[0, low:high, low:high] = 1
    return (
        torch.tensor([[low / side, low / side, high / side, high / side]]),
        torch.tensor([7]),
        mask,
    )


def test_matching_by_hand():
    priors = torch.tensor(
        [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.3], [0.5, 0.5, 0.4, 0.18], [0.1, 0.1, 0.1, 0.1]]
    )
    boxes = torch.tensor([[0.3, 0.3, 0.7, 0.7]])
    classes, objects = match_priors(priors, boxes[None], torch.tensor([[3]]))
    assert classes[0].tolist() == [3, 3, -1, 0]  # IoU 1, .75, .45 (neutral), 0
    assert objects[0, :2].tolist() == [0, 0]


def test_every_object_gets_a_prior_of_its_own():
    priors = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.9, 0.9, 0.1, 0.1]])
    boxes = torch.tensor([[0.2, 0.2, 0.4, 0.4], [0.45, 0.45, 0.55, 0.55]])
    classes, _ = match_priors(priors, boxes[None], torch.tensor([[4, 5]]))
    assert sorted(classes[0].tolist()) == [4, 5]  # although neither reaches IoU .5


def test_three_hardest_negatives_for_each_positive():
    classes = torch.tensor([[1, 0, 0, 0, 0, 0, -1]])
    logits = torch.zeros(1, 7, 2)
    logits[0, :, 1] = torch.tensor([0.0, 5.0, 1.0, 4.0, 2.0, 3.0, 9.0])
    assert mine_hard_negatives(logits, classes)[0].tolist() == [
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]


def test_zero_logits_give_the_known_values():
    boxes, labels, mask = square_object()
    outputs = zeros()
    semantic = torch.zeros(1, 20, 18, 18)
    losses = yolact_loss(*outputs, PRIORS, [boxes], [labels], [mask], semantic)
    assert losses["class"].item() == pytest.approx(
        4 * math.log(21), rel=1e-5
    )  # 12.18: one positive, three negatives
    assert losses["semantic"].item() == pytest.approx(20 * math.log(2), rel=1e-5)  # 13.86
    # The crop is a pixel wider than the box on each side: 19 x 19 pixels over an area of 17 x 17.
    assert losses["mask"].item() == pytest.approx(6.125 * math.log(2) * 19**2 / 17**2, rel=1e-5)


def test_mask_loss_looks_only_inside_the_ground_truth_box():
    boxes, labels, mask = square_object()
    outputs = zeros()
    with torch.no_grad():
        outputs[2][..., 0] = 1.0
        outputs[3][0, :, :, 0] = -20.0  # everywhere background ...
        outputs[3][0, 8:26, 8:26, 0] = (
            20.0  # ... but around the object, one pixel too wide on two sides
        )
    inside = yolact_loss(*outputs, PRIORS, [boxes], [labels], [mask])["mask"].item()
    with torch.no_grad():
        outputs[3][0, :4, :4, 0] = 20.0  # far outside the box
    assert yolact_loss(*outputs, PRIORS, [boxes], [labels], [mask])["mask"].item() == inside


def test_mask_loss_is_divided_by_the_area():
    losses = []
    for low, high in ((34, 102), (60, 76)):
        boxes, labels, mask = square_object(low=low, high=high)
        losses.append(yolact_loss(*zeros(), PRIORS, [boxes], [labels], [mask])["mask"].item())
    side = (17, 4)
    expected = [6.125 * math.log(2) * (s + 2) ** 2 / s**2 for s in side]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_an_image_without_objects_is_fine_and_changes_no_average():
    boxes, labels, mask = square_object()
    nothing = (
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 50, 40, dtype=torch.uint8),
    )
    alone = yolact_loss(*zeros(), PRIORS, [boxes], [labels], [mask])
    outputs = zeros(2)
    both = yolact_loss(
        *outputs, PRIORS, [boxes, nothing[0]], [labels, nothing[1]], [mask, nothing[2]]
    )
    assert {k: v.item() for k, v in both.items()} == pytest.approx(
        {k: v.item() for k, v in alone.items()}
    )
    outputs = zeros()
    empty = yolact_loss(*outputs, PRIORS, *[[part] for part in nothing], torch.zeros(1, 20, 9, 9))
    sum(empty.values()).backward()
    assert all(torch.isfinite(o.grad).all() for o in outputs if o.grad is not None)
    assert empty["class"].item() == empty["box"].item() == empty["mask"].item() == 0


def test_logits_keep_a_gradient_where_probabilities_saturate():
    boxes, labels, mask = square_object()
    outputs = zeros()
    with torch.no_grad():
        outputs[2][..., 0] = 1.0
        outputs[3][..., 0] = -200.0  # sure of background, and wrong
    sum(yolact_loss(*outputs, PRIORS, [boxes], [labels], [mask]).values()).backward()
    assert outputs[3].grad.abs().max() > 1e-3


def test_semantic_target_is_the_union_of_a_class():
    mask = torch.zeros(2, 8, 8, dtype=torch.uint8)
    mask[0, :4], mask[1, 4:] = 1, 1
    logits = torch.full((1, 20, 8, 8), -30.0)
    logits[0, 2] = 30.0  # class 3 everywhere: right, as its two objects cover the image
    assert semantic_loss(logits, [torch.tensor([3, 3])], [mask]).item() < 1e-6


def greedy(iou):
    """The official loop, an object at a time: the best (object, prior) pair first, each prior once."""
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
    others = torch.full(
        (1, objects, priors), -1.0
    )  # an image without objects beside it changes nothing
    assert _forced_priors(torch.cat([iou[None], others])).tolist() == [greedy(iou), [-1] * objects]


def test_more_objects_than_priors_leave_some_without():
    forced = _forced_priors(torch.tensor([[[0.3], [0.9], [0.0]]]))
    assert forced.tolist() == [[-1, 0, -1]]


def test_background_priors_in_a_crowd_are_neutral():
    priors = torch.tensor(
        [[0.2, 0.2, 0.2, 0.2], [0.75, 0.75, 0.1, 0.1], [0.55, 0.8, 0.2, 0.2], [0.2, 0.8, 0.1, 0.1]]
    )
    boxes, labels = torch.tensor([[[0.1, 0.1, 0.3, 0.3]]]), torch.tensor([[5]])
    crowd = torch.tensor([[[0.5, 0.5, 1.0, 1.0]]])
    # The object's; wholly in the crowd; three quarters in it; far away.
    assert match_priors(priors, boxes, labels, crowd)[0].tolist() == [[5, -1, -1, 0]]
    assert match_priors(priors, boxes, labels)[0].tolist() == [[5, 0, 0, 0]]
    assert (
        match_priors(priors, crowd, torch.tensor([[7]]), crowd)[0][0].max() == 7
    )  # positives stay positive


def test_more_positives_than_masks_to_train_are_drawn_and_rescaled():
    boxes, labels, mask = square_object()
    outputs = zeros()
    with torch.no_grad():
        outputs[2].normal_(generator=torch.Generator().manual_seed(0))
        outputs[3].normal_(generator=torch.Generator().manual_seed(1))
    twice = PRIORS.repeat(2, 1)  # more than one positive
    outputs = [torch.cat([o, o], 1) for o in outputs[:3]] + outputs[3:]
    full = yolact_loss(*outputs, twice, [boxes], [labels], [mask])["mask"]
    draws = []
    for seed in range(200):
        torch.manual_seed(seed)
        draws.append(
            yolact_loss(*outputs, twice, [boxes], [labels], [mask], masks_to_train=1)["mask"].item()
        )
    assert len(set(draws)) > 1
    assert sum(draws) / len(draws) == pytest.approx(full.item(), rel=0.1)


def test_crop_and_area_can_be_switched():
    boxes, labels, mask = square_object()
    losses = {
        (crop, area): yolact_loss(
            *zeros(), PRIORS, [boxes], [labels], [mask], crop=crop, normalize_by_area=area
        )["mask"].item()
        for crop in (True, False)
        for area in (True, False)
    }
    bit = 6.125 * math.log(2)
    # 19 x 19 pixels in the padded box of 17 x 17, on a grid of 34 x 34.
    expected = {
        (True, True): 19**2 / 17**2,
        (True, False): 19**2 / 34**2,
        (False, True): 34**2 / 17**2,
        (False, False): 1,
    }
    assert losses == pytest.approx({key: bit * share for key, share in expected.items()}, rel=1e-5)


def test_without_the_crop_the_rest_of_the_image_counts():
    boxes, labels, mask = square_object()
    outputs = zeros()
    with torch.no_grad():
        outputs[2][..., 0] = 1.0
        outputs[3][0, :4, :4, 0] = 20.0  # far outside the box
    cropped, whole = (
        yolact_loss(*outputs, PRIORS, [boxes], [labels], [mask], crop=crop)["mask"].item()
        for crop in (True, False)
    )
    clean = [
        yolact_loss(*zeros(), PRIORS, [boxes], [labels], [mask], crop=crop)["mask"].item()
        for crop in (True, False)
    ]
    assert cropped == pytest.approx(clean[0])
    assert whole > clean[1] + 1
