"""What holds for each model."""

import pytest
import torch

from tests.helpers.models import empty_target, small, target
from vocseg_lib.models.config import MODELS

pytestmark = pytest.mark.parametrize("name", MODELS)


def test_mixed_sizes_and_images_without_objects(name):
    model = small(name)
    images = [torch.rand(3, 50, 70), torch.rand(3, 120, 64), torch.rand(3, 33, 200)]
    targets = [target(50, 70), target(120, 64), empty_target(33, 200)]
    total = sum(model.train()(images, targets).values())
    total.backward()
    assert torch.isfinite(total)
    parameters = [(n, p) for n, p in model.named_parameters() if "coefficients" not in n]
    assert [n for n, p in parameters if p.requires_grad and p.grad is None] == []
    empty = sum(model([images[0]] * 2, [empty_target(50, 70)] * 2).values())
    empty.backward()
    assert torch.isfinite(empty)
    with pytest.raises(ValueError, match="targets"):
        model(images)
    with torch.inference_mode():
        results = model.eval()(images)
    for image, result in zip(images, results, strict=True):
        n, (height, width) = len(result["scores"]), image.shape[1:]
        boxes, labels, masks = result["boxes"], result["labels"], result["masks"]
        assert (boxes.shape, masks.shape) == ((n, 4), (n, height, width))
        assert (labels.dtype, masks.dtype) == (torch.int64, torch.bool)
        assert ((labels >= 1) & (labels <= 20)).all()
        assert (result["scores"].diff() <= 0).all()
        assert ((boxes >= 0) & (boxes <= torch.tensor([width, height] * 2))).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 3000), (700, 2)])
def test_extreme_image_sizes(name, size):
    model = small(name, score_threshold=0.0)
    with torch.inference_mode():
        (result,) = model.eval()([torch.rand(3, *size)])
    assert result["masks"].shape[1:] == size
    assert torch.isfinite(result["boxes"]).all()
    mask = torch.ones(1, *size, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0, size[1], size[0]]])
    one = {"boxes": box, "labels": torch.tensor([2]), "masks": mask}
    assert torch.isfinite(sum(model.train()([torch.rand(3, *size)] * 2, [one] * 2).values()))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("boxes", torch.tensor([[5.0, 5, 40, 40], [30.0, 20, 30, 45]]), "width"),
        ("boxes", torch.full((2, 4), torch.nan), "width"),
        ("labels", torch.tensor([1, 21]), "label"),
        ("labels", torch.tensor([0, 1]), "label"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(name, key, value, named):
    with pytest.raises(ValueError, match=named):
        small(name).train()([torch.rand(3, 50, 70)], [target(50, 70) | {key: value}])


def test_predictions_do_not_depend_on_the_batch(name):
    model, images = small(name).eval(), list(torch.rand(2, 3, 60, 60))
    with torch.inference_mode():
        alone, together = model(images[:1])[0], model(images)[0]
    assert torch.allclose(alone["boxes"], together["boxes"], atol=1e-3)
    assert torch.allclose(alone["scores"], together["scores"], atol=1e-5)


def test_explanations_are_of_the_nearest_detection(name):
    model = small(name, score_threshold=0.0, max_detections=20).eval()
    image = torch.rand(3, 60, 80)
    with torch.inference_mode():
        (result,) = model([image])
        box, label = result["boxes"][-1], int(result["labels"][-1])
        maps = model.explain_mask(image, box, label)
        out = model.network([image])
        if name == "yolact":
            expected = torch.sigmoid(out["prototypes"][0] @ result["coefficients"][-1])
        else:
            expected = out["detections"][0]["masks"][-1, 0]
    assert len(maps) == {"yolact": 5, "mask_rcnn": 1}[name]
    torch.testing.assert_close(maps[-1][1], expected, atol=1e-5, rtol=1e-4)
    assert all(title.startswith("prototype ") for title, _ in maps[:-1])
    assert small(name, score_threshold=1.0).eval().explain_mask(image, box, label) == []
