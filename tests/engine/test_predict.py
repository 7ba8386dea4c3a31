import pytest
import torch

from tests.helpers.models import small
from tests.helpers.trainings import short_config
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.data.coco_validation import UNCROPPED
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.predict import predict, save_predictions, validation_loss
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
