import torch

from vocseg_lib.models.config import COCO_SCALES
from vocseg_lib.models.priors import prior_boxes


def test_order_and_sizes_by_hand():
    priors = prior_boxes([(1, 2)], scales=[110], aspect_ratios=(1.0, 4.0))
    expected = [[x, 0.5, w, h] for x in (0.25, 0.75) for w, h in ((0.2, 0.2), (0.4, 0.1))]
    assert torch.allclose(priors, torch.tensor(expected))


def test_published_number_of_priors():
    sizes = [(n, n) for n in (69, 35, 18, 9, 5)]
    assert prior_boxes(sizes).shape == (19_248, 4)
    square = prior_boxes(sizes, COCO_SCALES, square=True)
    assert torch.equal(square[:, 2], square[:, 3])
