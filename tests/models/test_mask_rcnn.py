import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tests.helpers.models import small, target
from vocseg_lib.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vocseg_lib.models.config import MaskRCNNConfig
from vocseg_lib.models.mask_rcnn import MaskRCNN
from vocseg_lib.models.roi_pooling import POOLING


def test_full_size_is_torchvisions():
    expected = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
    model = MaskRCNN(MaskRCNNConfig(init=None))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 44.08
    a, b = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, expected))
    assert a == b


def test_losses_are_torchvisions_with_the_same_random_numbers():
    model, plain = small("mask_rcnn").train(), small("mask_rcnn").train()
    plain.transform = GeneralizedRCNNTransform(96, 160, IMAGENET_MEAN, IMAGENET_STD)
    for part in (plain.rpn, plain.roi_heads):
        sampler = part.fg_bg_sampler
        options = sampler.batch_size_per_image, sampler.positive_fraction
        part.fg_bg_sampler = BalancedPositiveNegativeSampler(*options)
    batch = [torch.rand(3, 96, 128), torch.rand(3, 64, 96)], [target(96, 128), target(64, 96)]
    torch.manual_seed(1)
    losses = model(*batch)
    torch.manual_seed(1)
    expected = GeneralizedRCNN.forward(plain, *batch)
    expected = {name.removeprefix("loss_"): loss.item() for name, loss in expected.items()}
    assert {k: loss.item() for k, loss in losses.items()} == pytest.approx(expected, rel=1e-6)


def test_losses_are_normalized_over_all_ranks(monkeypatch):
    model, batch = small("mask_rcnn").train(), ([torch.rand(3, 96, 96)], [target(96, 96)])

    def losses():
        torch.manual_seed(1)
        return {name: loss.item() for name, loss in model(*batch).items()}

    single = losses()
    # The mean over ranks is twice this rank's number of samples.
    monkeypatch.setattr("vocseg_lib.utils.distributed.all_reduce_mean", lambda value: 2 * value)
    assert losses() == pytest.approx({name: loss / 2 for name, loss in single.items()}, rel=1e-5)


def test_regions_are_pooled_at_the_same_scale_whatever_came_first():
    image = torch.rand(3, 96, 96)
    fresh, used = (small("mask_rcnn", score_threshold=0.0).eval() for _ in range(2))
    with torch.inference_mode():
        used([torch.rand(3, 2, 700)])  # padded to many times its height
        (expected,), (result,) = fresh([image]), used([image])
    assert len(expected["scores"])
    for name, value in expected.items():
        assert torch.equal(value, result[name]), name


def test_pooling_rounds_and_align_does_not():
    """Two bins on a map whose value is its column, in cells of 4 pixels."""
    features = {"0": torch.arange(10.0).expand(1, 1, 10, 10).clone()}
    boxes = torch.tensor([[8.0, 8, 24, 24], [9.0, 9, 25, 25]])  # columns 2 to 6, and a pixel on
    pooled = {}
    for name, kind in POOLING.items():
        pool = kind(["0"], 2, 2)
        pool.scales, pool.map_levels = [0.25], lambda boxes: torch.zeros(len(boxes[0])).long()
        pooled[name] = pool(features, [boxes], [(40, 40)])[:, 0, 0].tolist()
    assert pooled["pool"] == [[4, 6], [4, 6]]  # the maxima of columns 2 to 4 and 4 to 6
    assert pooled["align"] == [[3, 5], [3.25, 5.25]]  # means; a pixel is a quarter of a cell
    assert pooled["round"] == [[3, 5], [3, 5]]
