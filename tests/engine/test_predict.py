import json

import pytest
import torch

from tests.helpers.models import small
from vocseg_lib.data.coco import UNCROPPED, read_predictions
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.predict import predict, save_predictions
from vocseg_lib.engine.profile import measure_speed
from vocseg_lib.utils.rle import decode_rle


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_prediction_file_holds_what_the_model_said(name, devkit, tmp_path):
    model = small(name, score_threshold=0.0, max_detections=5).train()
    dataset = VocDataset(devkit, "val")
    predictions = predict(model, dataset, {"model": name})
    assert model.training  # as it was
    save_predictions(tmp_path / "p.json", predictions)
    loaded = read_predictions(tmp_path / "p.json")
    assert loaded["header"]["model"] == name
    assert loaded["header"]["commit"]
    assert loaded == predictions
    assert [i["name"] for i in loaded["header"]["images"]] == dataset.names
    image, target = dataset[1]
    with torch.inference_mode():
        (found,) = model.eval()([image.as_subclass(torch.Tensor).float() / 255])
    mine = [d for d in loaded["detections"] if d["image_id"] == target["image_id"]]
    assert len(mine) == len(found["scores"]) > 0
    assert torch.equal(
        torch.from_numpy(decode_rle([d["segmentation"] for d in mine])), found["masks"]
    )
    x, y, w, h = mine[0]["bbox"]
    assert [x, y, x + w, y + h] == pytest.approx(found["boxes"][0].tolist(), abs=1e-3)


def test_bare_results_are_read_and_other_files_named(tmp_path):
    (tmp_path / "bare.json").write_text('[{"image_id": 1}]')
    assert read_predictions(tmp_path / "bare.json")["detections"] == [{"image_id": 1}]
    for content in ("{torn", '{"a": 1}', "3"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=r"bad\.json"):
            read_predictions(tmp_path / "bad.json")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "p.json"
    save_predictions(path, {"header": {}, "detections": []})
    with pytest.raises(ValueError, match="JSON"):
        save_predictions(path, {"header": {}, "detections": [float("nan")]})
    assert json.loads(path.read_text()) == {"header": {}, "detections": []}


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_speed_parts_add_up(name):
    model = small(name).train()
    speed = measure_speed(model, [torch.rand(3, 60, 80), torch.rand(3, 50, 50)], repeats=5)
    assert model.training
    assert speed["fps"] == pytest.approx(1 / speed["seconds_per_image"])
    parts = speed["network_seconds"] + speed["postprocess_seconds"]
    assert 0 < speed["postprocess_seconds"] < speed["seconds_per_image"]
    assert parts == pytest.approx(speed["seconds_per_image"], rel=0.5)


def test_masks_before_the_crop_are_kept_when_asked(devkit):
    model, dataset = (
        small("yolact", score_threshold=0.0, max_detections=5),
        VocDataset(devkit, "val"),
    )
    plain, asked = predict(model, dataset), predict(model, dataset, uncropped=True)
    assert not model.uncropped_masks
    assert not any(UNCROPPED in d for d in plain["detections"])
    for before, after in zip(plain["detections"], asked["detections"], strict=True):
        (whole,), (cropped,) = decode_rle([after[UNCROPPED]]), decode_rle([after["segmentation"]])
        assert before == {key: value for key, value in after.items() if key != UNCROPPED}
        assert (
            not (cropped & ~whole).sum() > 0.02 * whole.size
        )  # but for the crop's own edge, a part of it
    assert not any(
        UNCROPPED in d for d in predict(small("mask_rcnn"), dataset, uncropped=True)["detections"]
    )
