import pytest
import torch

from tests.helpers.models import small, target
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.priors import prior_boxes
from vocseg_lib.models.yolact import Yolact


def test_published_sizes():
    model = Yolact(YolactConfig(init=None, semantic_loss=True))
    count = sum(p.numel() for p in model.parameters())
    assert count == 30_734_623
    assert count - sum(p.numel() for p in model.semantic.parameters()) == 30_729_483
    with torch.inference_mode():
        out = model.eval().network([torch.rand(3, 375, 500)])
    assert out["class_logits"].shape == (1, 19_248, 21)
    assert out["prototypes"].shape == (1, 138, 138, 32)
    assert out["prototypes"].min() >= 0
    assert out["coefficients"].abs().max() <= 1


def test_options_reach_the_loss():
    batch = [torch.rand(3, 96, 96)], [target(96, 96)]
    losses = small("yolact").train()(*batch)
    for option in ("crop_in_training", "normalize_by_area"):
        changed = small("yolact", **{option: False}).train()(*batch)
        assert changed["mask"].item() != losses["mask"].item()
    semantic = small("yolact", semantic_loss=True).train()(*batch)
    assert semantic.keys() - losses.keys() == {"semantic"}


def test_options_reach_the_detections():
    images = [torch.rand(3, 96, 96)]

    def detect(**options):
        model = small("yolact", score_threshold=0.0, scales=(200,) * 5, **options).eval()
        with torch.inference_mode():
            return model(images)[0]

    fast, uncropped = detect(), detect(crop_in_inference=False)
    assert torch.equal(fast["boxes"], uncropped["boxes"])
    assert bool((uncropped["masks"] >= fast["masks"]).all())
    assert uncropped["masks"].sum() > fast["masks"].sum()
    assert not torch.equal(detect(nms="standard")["boxes"], fast["boxes"])


@pytest.mark.parametrize("label", [0, 21])
def test_labels_out_of_range_are_refused(label):
    bad = target(50, 70) | {"labels": torch.tensor([1, label])}
    with pytest.raises(ValueError, match=r"1\.\.20"):
        small("yolact").train()([torch.rand(3, 50, 70)], [bad])


def test_order_and_sizes_of_priors_by_hand():
    priors = prior_boxes([(1, 2)], scales=[110], aspect_ratios=(1.0, 4.0))
    expected = [[x, 0.5, w, h] for x in (0.25, 0.75) for w, h in ((0.2, 0.2), (0.4, 0.1))]
    assert torch.allclose(priors, torch.tensor(expected))
