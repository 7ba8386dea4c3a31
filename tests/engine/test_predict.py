import pytest
import torch
from torch.utils.data import Dataset, Subset
from torchvision.transforms.v2.functional import resize

from tests.helpers.models import small
from tests.helpers.trainings import short_config
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.data.coco_validation import UNCROPPED
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine import predict as predictions_module
from vocseg_lib.engine.predict import Pipeline, predict, save_predictions, validation_loss
from vocseg_lib.utils.rle import decode_rle

MODELS = pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])


@MODELS
def test_a_prediction_file_has_the_detections_of_the_model(name, devkit, tmp_path):
    model = small(name, score_threshold=0.0, max_detections=5).train()
    dataset = VocDataset(devkit, "val")
    predictions = predict(model, dataset, {"model": name})
    assert model.training  # as it was
    save_predictions(tmp_path / "p.json", predictions)
    loaded = read_predictions(tmp_path / "p.json")
    assert loaded == predictions
    assert loaded["header"]["model"] == name
    assert loaded["header"]["commit"]
    assert [image["name"] for image in loaded["header"]["images"]] == dataset.names
    for content in ("{torn", '{"a": 1}', "3"):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(ValueError, match=r"p\.json"):
            read_predictions(tmp_path / "p.json")
    image, target = dataset[1]
    with torch.inference_mode():
        (detections,) = model.eval()([image.as_subclass(torch.Tensor).float() / 255])
    rows = [d for d in loaded["detections"] if d["image_id"] == target["image_id"]]
    assert len(rows) == len(detections["scores"]) > 0
    masks = torch.from_numpy(decode_rle([row["segmentation"] for row in rows]))
    assert torch.equal(masks, detections["masks"])
    x, y, w, h = rows[0]["bbox"]
    assert [x, y, x + w, y + h] == pytest.approx(detections["boxes"][0].tolist(), abs=1e-3)
    assert [row["category_id"] for row in rows] == detections["labels"].tolist()


def test_masks_before_the_crop(devkit):
    model = small("yolact", score_threshold=0.0, max_detections=5)
    dataset = VocDataset(devkit, "val")
    cropped, both = predict(model, dataset), predict(model, dataset, uncropped=True)
    assert not any(UNCROPPED in row for row in cropped["detections"])
    for before, after in zip(cropped["detections"], both["detections"], strict=True):
        (whole,), (part,) = decode_rle([after[UNCROPPED]]), decode_rle([after["segmentation"]])
        assert before == {key: value for key, value in after.items() if key != UNCROPPED}
        assert (part & ~whole).sum() <= 0.02 * whole.size  # but for the crop's own edge
    without = predict(small("mask_rcnn"), dataset, uncropped=True)["detections"]
    assert not any(UNCROPPED in row for row in without)


class Pictures(Dataset):
    """Noise of five sizes."""

    SIZES = ((90, 120), (120, 90), (64, 64), (90, 121), (50, 200))

    def __len__(self):
        return 11

    def __getitem__(self, index):
        size, seed = self.SIZES[index % len(self.SIZES)], torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=seed)
        return image, {"image_id": index + 1, "name": f"{index}"}


@MODELS
def test_predictions_depend_neither_on_batch_size_nor_on_workers(name):
    model = small(name, score_threshold=0.0, max_detections=5)
    expected = predict(model, Pictures())
    for batch_size, workers in ((1, 3), (4, 0), (3, 2), (20, 2)):
        found = predict(
            model, Pictures(), pipeline=Pipeline(batch_size=batch_size, workers=workers)
        )
        assert found["header"] == expected["header"]
        ids = [[d["image_id"] for d in p["detections"]] for p in (found, expected)]
        assert ids[0] == ids[1]
        for ours, alone in zip(found["detections"], expected["detections"], strict=True):
            assert ours["category_id"] == alone["category_id"]
            assert ours["score"] == pytest.approx(alone["score"], abs=1e-5)
            assert ours["bbox"] == pytest.approx(alone["bbox"], abs=1e-2)
            masks = decode_rle([ours["segmentation"], alone["segmentation"]])
            assert (masks[0] != masks[1]).mean() < 0.01


@MODELS
def test_masks_are_of_the_size_of_their_picture_whatever_the_model_saw(name, monkeypatch):
    model, (image, _) = small(name, score_threshold=0.0, max_detections=5).eval(), Pictures()[4]
    monkeypatch.setattr(predictions_module, "MAX_PREDICTED_PIXELS", image[0].numel() / 4)
    found = predict(model, Subset(Pictures(), [4]))["detections"]
    with torch.inference_mode():
        (expected,) = model([resize(image, (25, 100)) / 255])
    boxes = torch.tensor([d["bbox"] for d in found])
    assert torch.allclose(boxes[:, :2], 2 * expected["boxes"][:, :2], atol=0.05)
    masks = torch.from_numpy(decode_rle([d["segmentation"] for d in found]))
    assert masks.shape == (len(expected["masks"]), 50, 200)
    halved = masks.reshape(-1, 25, 2, 100, 2).float().mean((2, 4)) > 0.5
    assert (halved != expected["masks"]).float().mean() < 0.1


def test_a_batch_that_does_not_fit_is_halved():
    sizes = []

    class OnSmallGpu(torch.nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("too large")
            found = {"boxes": torch.zeros(1, 4), "labels": torch.ones(1).long()}
            masks = torch.ones(1, *images[0].shape[1:], dtype=torch.bool)
            return [{**found, "scores": torch.ones(1), "masks": masks} for _ in images]

    images, pipeline = Subset(Pictures(), range(0, 11, 5)), Pipeline(batch_size=9)
    predictions = predict(OnSmallGpu(), images, pipeline=pipeline)
    assert [d["image_id"] for d in predictions["detections"]] == [1, 6, 11]
    assert sizes == [3, 1, 1, 1]


@MODELS
def test_evaluation_changes_neither_model_nor_random_numbers(name, devkit):
    model, val = small(name).train(), VocDataset(devkit, "val")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    losses = validation_loss(model, val, short_config())
    predict(model, val, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    torch.rand(5)
    assert validation_loss(model, val, short_config()) == losses  # random samples and all
    terms = [value for key, value in losses.items() if key != "val_loss"]
    assert losses["val_loss"] == pytest.approx(sum(terms))
    assert len(terms) == (3 if name == "yolact" else 5)
