import pytest
import torch

from tests.helpers.models import small, target
from vocseg_lib.models.config import YolactConfig
from vocseg_lib.models.yolact import Yolact


def test_published_sizes():
    model = Yolact(YolactConfig(weights=None, semantic_loss=True))
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
    images, targets = [torch.rand(3, 96, 96)], [target(96, 96)]
    losses = small("yolact").train()(images, targets)
    for option in ("crop_in_training", "normalize_by_area"):
        changed = small("yolact", **{option: False}).train()(images, targets)
        assert changed["mask"].item() != losses["mask"].item()
    semantic = small("yolact", semantic_loss=True).train()(images, targets)
    assert semantic.keys() - losses.keys() == {"semantic"}


def test_options_reach_the_detections():
    images = [torch.rand(3, 96, 96)]

    def detect(uncropped=False, **options):
        model = small("yolact", score_threshold=0.0, scales=(200,) * 5, **options).eval()
        model.uncropped_masks = uncropped
        with torch.inference_mode():
            return model(images)[0]

    fast, standard, uncropped = (
        detect(True),
        detect(nms="standard"),
        detect(crop_in_inference=False),
    )
    assert torch.equal(fast["boxes"], uncropped["boxes"])
    assert torch.equal(fast["uncropped_masks"], uncropped["masks"])
    assert bool((uncropped["masks"] >= fast["masks"]).all())
    assert uncropped["masks"].sum() > fast["masks"].sum()
    assert not torch.equal(standard["boxes"], fast["boxes"])


def test_training_after_inference_mode():
    model, images = small("yolact"), [torch.rand(3, 50, 70)]
    with torch.inference_mode():
        model.eval()(images)
    model.eval()(images)  # with gradients on
    sum(model.train()(images, [target(50, 70)]).values()).backward()


@pytest.mark.parametrize("label", [0, 21])
def test_labels_out_of_range_are_refused(label):
    bad = target(50, 70) | {"labels": torch.tensor([1, label])}
    with pytest.raises(ValueError, match=r"1\.\.20"):
        small("yolact").train()([torch.rand(3, 50, 70)], [bad])
