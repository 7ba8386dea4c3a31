import pytest
import torch
from torch import nn

from tests.helpers.models import small, target
from vocseg_lib.models import MODELS
from vocseg_lib.models.backbones import WeightsError, build_backbone
from vocseg_lib.models.mask_rcnn import MaskRCNN
from vocseg_lib.models.postprocess import fast_nms, standard_nms
from vocseg_lib.models.yolact import Yolact


def nothing(height, width):
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, height, width, dtype=torch.uint8),
    }


@pytest.mark.parametrize("name", MODELS)
def test_contract_on_mixed_sizes_and_images_without_objects(name):
    model = small(name)
    images = [torch.rand(3, 50, 70), torch.rand(3, 120, 64), torch.rand(3, 33, 200)]
    targets = [target(50, 70), target(120, 64), nothing(33, 200)]
    losses = model.train()(images, targets)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(
        p.grad is not None
        for n, p in model.named_parameters()
        if p.requires_grad and "coefficients" not in n
    )
    with pytest.raises(ValueError, match="targets"):
        model(images)
    with torch.inference_mode():
        found = model.eval()(images)
    for image, one in zip(images, found, strict=True):
        n = len(one["scores"])
        assert one["boxes"].shape == (n, 4)
        assert one["masks"].shape == (n, *image.shape[1:])
        assert one["masks"].dtype == torch.bool
        assert one["labels"].dtype == torch.int64
        assert bool(((one["labels"] >= 1) & (one["labels"] <= 20)).all())
        assert bool((one["scores"].diff() <= 0).all())
        assert bool((one["boxes"] >= 0).all())
        assert bool((one["boxes"] <= torch.tensor(image.shape[1:]).flip(0).repeat(2)).all())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 3000), (700, 2)])
def test_no_size_is_too_odd(name, size):
    model = small(name, score_threshold=0.0)
    with torch.inference_mode():
        (found,) = model.eval()([torch.rand(3, *size)])
    assert found["masks"].shape[1:] == size
    assert torch.isfinite(found["boxes"]).all()
    mask = torch.ones(1, *size, dtype=torch.uint8)
    box = torch.tensor([[0.0, 0, size[1], size[0]]])
    target = {"boxes": box, "labels": torch.tensor([2]), "masks": mask}
    assert torch.isfinite(sum(model.train()([torch.rand(3, *size)] * 2, [target] * 2).values()))


@pytest.mark.parametrize("name", MODELS)
def test_a_box_without_width_is_refused(name):
    bad = target(50, 70) | {"boxes": torch.tensor([[5.0, 5, 40, 40], [30.0, 20, 30, 45]])}
    with pytest.raises((ValueError, AssertionError), match=r"width|positive"):
        small(name).train()([torch.rand(3, 50, 70)], [bad])


@pytest.mark.parametrize("name", MODELS)
def test_only_empty_images_train_too(name):
    losses = small(name).train()([torch.rand(3, 40, 40)] * 2, [nothing(40, 40)] * 2)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize("name", MODELS)
def test_prediction_of_an_image_does_not_depend_on_its_batch(name):
    model = small(name).eval()
    a, b = torch.rand(3, 60, 60), torch.rand(3, 60, 60)
    with torch.inference_mode():
        alone, together = model([a])[0], model([a, b])[0]
    assert torch.allclose(alone["boxes"], together["boxes"], atol=1e-3)
    assert torch.allclose(alone["scores"], together["scores"], atol=1e-5)


def test_regions_are_pooled_at_the_same_scale_whatever_came_first(monkeypatch):
    """Among processes, a batch is padded to the largest image of all: much larger than this one's own, at times."""
    image = torch.rand(3, 96, 96)
    plain, padded = (small("mask_rcnn", score_threshold=0.0).train() for _ in range(2))
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr("vocseg_lib.utils.distributed.world_size", lambda: 2)
        patch.setattr(
            "vocseg_lib.utils.distributed.all_gather_counts",
            lambda counts, device: [96, 96, 192, 160],
        )
        patch.setattr("vocseg_lib.utils.distributed.all_reduce_mean", lambda value: value)
        features = padded.backbone.eval()(padded.transform([image])[0].tensors)
        padded.roi_heads.box_roi_pool(features, [torch.tensor([[0.0, 0, 90, 90]])], [(96, 96)])
        padded.roi_heads.mask_roi_pool(features, [torch.tensor([[0.0, 0, 90, 90]])], [(96, 96)])
    with torch.inference_mode():
        ours, theirs = (model.eval()([image])[0] for model in (plain, padded))
    assert len(ours["scores"])
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


def test_published_sizes():
    yolact = Yolact(weights=None, semantic=True)
    assert sum(p.numel() for p in yolact.parameters()) == 30_734_623
    assert sum(p.numel() for p in Yolact(weights=None).parameters()) == 30_729_483
    assert round(sum(p.numel() for p in MaskRCNN(weights=None).parameters()) / 1e6, 2) == 44.08
    with torch.inference_mode():
        out = yolact.eval().network([torch.rand(3, 375, 500)])
    assert out["class_logits"].shape == (1, 19_248, 21)
    assert out["prototypes"].shape == (1, 138, 138, 32)
    assert out["prototypes"].min() >= 0
    assert out["coefficients"].abs().max() <= 1


def test_mask_rcnn_at_full_width_is_torchvisions():
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21).state_dict()
    ours = MaskRCNN(weights=None).state_dict()
    # Theirs has frozen batch norm, which counts no batches.
    assert {k: v.shape for k, v in ours.items() if "num_batches" not in k} == {
        k: v.shape for k, v in theirs.items() if "num_batches" not in k
    }


def test_fast_nms_lets_dropped_boxes_drop_others():
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0.0, 0, 10, 6], [0.0, 0, 10, 3.4]]
    )  # each overlaps the next by over .5
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert fast_nms(boxes, scores, 0.5, 200, 100)[0].tolist() == [0]
    assert standard_nms(boxes, scores, 0.5, 200, 100)[0].tolist() == [0, 2]


def test_standard_nms_is_torchvisions():
    from torchvision.ops import batched_nms

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, 2, generator=generator).sort(1).values.flatten(1)
    scores = torch.rand(60, 3, generator=generator)
    kept, classes, found = standard_nms(corners, scores, 0.5, 200, 100)
    labels = torch.arange(3).repeat_interleave(60)
    expected = batched_nms(corners.repeat(3, 1), scores.T.flatten(), labels, 0.5)[:100]
    assert torch.equal(kept, expected % 60)
    assert torch.equal(classes, labels[expected])
    assert torch.equal(found, scores.T.flatten()[expected])


def detect_with(images, **options):
    with torch.inference_mode():
        return small("yolact", **options).eval()(images)[0]


def test_switches_reach_the_loss_and_the_detection():
    images, targets = [torch.rand(3, 96, 96)], [target(96, 96)]
    losses = small("yolact").train()(images, targets)
    for switch in ({"crop_in_training": False}, {"normalize_by_area": False}):
        assert (
            small("yolact", **switch).train()(images, targets)["mask"].item()
            != losses["mask"].item()
        )
    assert small("yolact", semantic=True).train()(images, targets).keys() - losses.keys() == {
        "semantic"
    }
    found, uncropped, kept = (
        detect_with(images, score_threshold=0.0, scales=(200,) * 5, **switch)
        for switch in ({}, {"crop_in_inference": False}, {"nms": "standard"})
    )
    assert torch.equal(found["boxes"], uncropped["boxes"])
    assert bool((uncropped["masks"] >= found["masks"]).all())
    assert uncropped["masks"].sum() > found["masks"].sum()
    assert not torch.equal(kept["boxes"], found["boxes"])
    with pytest.raises(ValueError, match="no NMS 'soft'; choose one of fast, standard"):
        small("yolact", nms="soft")


def test_nothing_cached_in_inference_is_in_the_way_of_training():
    model, images = small("yolact"), [torch.rand(3, 50, 70)]
    with torch.inference_mode():
        model.eval()(images)
    model.eval()(images)  # with gradients on
    sum(model.train()(images, [target(50, 70)]).values()).backward()


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "tiny"])
@pytest.mark.parametrize("freeze", [False, True])
def test_backbones_have_their_strides_channels_and_batch_norm(name, freeze):
    from torchvision.models._utils import IntermediateLayerGetter

    base = build_backbone(name, None, freeze)
    stages = IntermediateLayerGetter(base.body, {s: s for s in base.stages})(
        torch.rand(2, 3, 64, 64)
    )
    assert [tuple(x.shape[1:]) for x in stages.values()] == [
        (c, 64 // s, 64 // s) for c, s in zip(base.channels, (4, 8, 16, 32), strict=True)
    ]
    base.body.train()
    norms = [m for m in base.body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(
        norm.training is not freeze and norm.weight.requires_grad is not freeze for norm in norms
    )


def test_weights_from_a_file(tmp_path):
    path = tmp_path / "tiny.pt"
    source = build_backbone("tiny", None).body
    torch.save(source.state_dict(), path)
    for freeze in (False, True):
        loaded = build_backbone("tiny", path, freeze).body
        assert torch.equal(loaded[0][0].weight, source[0][0].weight)


def test_weights_that_cannot_be_had_name_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(WeightsError, match="weights=None") as caught:
        build_backbone("resnet50", "imagenet")
    assert "resnet50-0676ba61.pth" in str(caught.value)
    with pytest.raises(WeightsError, match="no ImageNet weights for backbone 'tiny'"):
        build_backbone("tiny", "imagenet")
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        build_backbone("tiny", tmp_path / "nowhere.pth")
    (tmp_path / "torn.pth").write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"torn\.pth"):
        build_backbone("tiny", tmp_path / "torn.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="do not fit"):
        build_backbone("tiny", tmp_path / "other.pth")
    with pytest.raises(ValueError, match="choose resnet50, resnet101, mobilenet_v2 or tiny"):
        build_backbone("vgg16")


def test_imagenet_weights_load_from_a_file(shared):
    build_backbone(
        "mobilenet_v2", shared / "weights" / "mobilenet_v2_imagenet.pth", freeze_batch_norm=True
    )


def official_order(scores, top_k):
    ranked, order = scores.T.sort(dim=1, descending=True, stable=True)
    return ranked[:, :top_k], order[:, :top_k]


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_fast_nms_keeps_the_official_order_among_equal_scores(levels, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(300, 2, 2, generator=generator).sort(1).values.flatten(1)
    scores = (torch.rand(300, 5, generator=generator) * levels).floor() / levels  # zeros among them
    ours = fast_nms(boxes, scores, 0.5, 200, 100)
    monkeypatch.setattr("vocseg_lib.models.postprocess._topk_per_class", official_order)
    theirs = fast_nms(boxes, scores, 0.5, 200, 100)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_label_that_is_no_class_is_refused():
    for label in (0, 21):
        bad = target(50, 70) | {"labels": torch.tensor([1, label])}
        with pytest.raises(ValueError, match=r"label outside 1\.\.20"):
            small("yolact").train()([torch.rand(3, 50, 70)], [bad])


@pytest.mark.parametrize(("name", "titles"), [("yolact", 5), ("mask_rcnn", 1)])
def test_inside_shows_the_nearest_detection(name, titles):
    model = small(name, score_threshold=0.0, max_detections=20).eval()
    image = torch.rand(3, 60, 80)
    with torch.inference_mode():
        (found,) = model([image])
    k = len(found["scores"]) - 1
    box, label = found["boxes"][k], int(found["labels"][k])
    maps = model.explain_mask(image, box, label)
    assert len(maps) == titles
    if name == "yolact":
        with torch.inference_mode():
            total = torch.sigmoid(
                model.network([image])["prototypes"][0] @ found["coefficients"][k]
            )
        torch.testing.assert_close(maps[-1][1], total, atol=1e-5, rtol=1e-4)
        assert all(title.startswith("prototype ") for title, _ in maps[:-1])
    else:
        assert maps[0][1].shape == (28, 28)
    nothing = small(name, score_threshold=1.0).eval()
    assert nothing.explain_mask(image, box, label) == []
