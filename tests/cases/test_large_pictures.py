"""Large pictures with many objects: masks are not held at full size, all at once."""

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from tests.helpers.trainings import QUICK
from vocseg_lib.data import image_files
from vocseg_lib.data import sample as samples
from vocseg_lib.data.classes import save_map
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.data.transforms import AUGMENTATIONS, SsdAugmentation
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import VocDataset, make_devkit_folders, read_sample, write_splits
from vocseg_lib.engine import predict as predictions
from vocseg_lib.engine.train import train
from vocseg_lib.losses import downsample
from vocseg_lib.models.mask_rcnn import paste_masks
from vocseg_lib.models.postprocess import upsample_masks
from vocseg_lib.study.run import build_model
from vocseg_lib.utils import masks as mask_tools
from vocseg_lib.utils.boxes import masks_to_boxes
from vocseg_lib.utils.rle import encode_map, encode_rle

HEIGHT, WIDTH, OBJECTS = 1_000, 1_500, 250  # 25 columns of 10


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A devkit of pictures with 250 squares of 40 pixels, one of which is a single pixel."""
    devkit = tmp_path_factory.mktemp("crowded")
    make_devkit_folders(devkit)
    (devkit / "class_names.txt").write_text("thing\n")
    objects = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k in range(OBJECTS):
        y, x, side = k // 25 * 100 + 20, k % 25 * 60 + 10, 40 if k else 1
        objects[y : y + side, x : x + side] = k + 1
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(devkit / f"JPEGImages/{name}.jpg")
        save_map(devkit / f"SegmentationObject/{name}.png", objects)
        save_map(devkit / f"SegmentationClass/{name}.png", (objects > 0).astype(np.uint8))
    write_splits(devkit, ["a"], ["b"])
    return devkit


def test_codes_of_a_map_are_those_of_its_masks(crowded):
    rng, ids = np.random.default_rng(0), np.arange(1, 4, dtype=np.uint8)
    for size in rng.integers(1, 12, (100, 2)):
        values = rng.integers(0, rng.integers(1, 5), size).astype(np.uint8)
        masks = torch.from_numpy(values == ids[:, None, None])
        assert encode_map(values, ids) == encode_rle(masks)
    # And those of the raw file.
    content, sample = voc_to_coco(crowded, "val"), read_sample(crowded, "b")
    pixels = np.array(Image.open(crowded / "SegmentationObject/b.png"))
    for k, (annotation, box) in enumerate(zip(content["annotations"], sample.boxes, strict=True)):
        mask = np.asfortranarray(pixels == k + 1)
        assert annotation["segmentation"]["counts"].encode() == coco_mask.encode(mask)["counts"]
        rows, columns = np.nonzero(mask)
        corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert box.tolist() == list(corners)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_samples_stay_below_their_bound(crowded, augmentation):
    dataset = VocDataset(crowded, "train", AUGMENTATIONS[augmentation]())
    for seed in range(3):
        torch.manual_seed(seed)
        image, target = dataset[0]
        masks = target["masks"]
        size = 4 * image.numel() + masks.numel()
        assert size <= samples.MAX_SAMPLE_BYTES
        assert image.shape[1:] == masks.shape[1:]
        assert len(masks) == len(target["boxes"]) == len(target["labels"])
    _, target = VocDataset(crowded, "train")[0]  # shrunk from 393 MB to 250
    scale = target["masks"].shape[1] / HEIGHT
    assert scale == pytest.approx((2.5e8 / (262 * HEIGHT * WIDTH)) ** 0.5, abs=2e-3)
    exact = read_sample(crowded, "a").boxes[1:] * scale
    assert (target["boxes"][-249:] - exact).abs().max() <= 1
    assert VocDataset(crowded, "train", masks=False)[0][0].shape[1:] == (HEIGHT, WIDTH)


def test_maps_and_masks_past_a_limit_are_refused_by_name(crowded, monkeypatch):
    monkeypatch.setattr(samples, "MAX_MASK_BYTES", OBJECTS * HEIGHT * WIDTH - 1)
    with pytest.raises(BadFile, match=r"SegmentationObject.b\.png"):
        read_sample(crowded, "b").masks  # noqa: B018
    assert read_sample(crowded, "b").shrunk().masks.shape[0] == OBJECTS
    monkeypatch.setattr(image_files, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    for read in (read_sample, voc_to_coco):
        with pytest.raises(BadFile, match=r"SegmentationObject.b\.png"):
            read(crowded, "val" if read is voc_to_coco else "b")
    found = [(bad.path.name, bad.kind) for bad in verify(crowded) if bad.kind == "too large"]
    assert sorted(found) == [(f"{name}.png", "too large") for name in "aabb"]
    assert len(VocDataset(crowded, "val", masks=False)[0]) == 2  # predictions need no map


def test_zooming_out_shrinks_what_would_not_fit(crowded, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count: torch.full((count,), 0.4))  # factor 2.2
    image, target = SsdAugmentation().zoom_out(*VocDataset(crowded, "train")[0])
    size = 4 * image.numel() + target["masks"].numel()
    assert 0.97 * samples.MAX_SAMPLE_BYTES < size <= samples.MAX_SAMPLE_BYTES
    tight = masks_to_boxes(target["masks"].as_subclass(torch.Tensor))
    assert (tight - target["boxes"].as_subclass(torch.Tensor))[-249:].abs().max() <= 2


def test_masks_are_resized_in_parts(monkeypatch):
    torch.manual_seed(0)
    masks = (torch.rand(7, 20, 30) > 0.5).to(torch.uint8)
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9]]).expand(7, 4)

    def results():
        pixels = boxes * torch.tensor([60, 40, 60, 40])
        yield downsample(masks, 8, 9)
        yield upsample_masks(masks.float() - 0.5, boxes, 40, 60)
        yield paste_masks(masks[:, :20, :20].float(), pixels, 40, 60)
        yield encode_rle(masks, (40, 60))

    whole = list(results())
    monkeypatch.setattr(mask_tools, "CHUNK_PIXELS", 5_000)
    for a, b in zip(whole, results(), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    enlarged = masks.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert whole[-1] == encode_rle(enlarged)


class Quarter(torch.nn.Module):
    """Detects the second quarter of the sides of an image."""

    def forward(self, images):
        height, width = self.seen = images[0].shape[1:]
        y, x = height // 4, width // 4
        masks = torch.zeros(1, height, width, dtype=torch.bool)
        masks[:, y : 2 * y, x : 2 * x] = True
        found = {"boxes": torch.tensor([[x, y, 2 * x, 2 * y]]).float(), "masks": masks}
        return [{**found, "labels": torch.tensor([1]), "scores": torch.ones(1)}]


def test_predictions_of_large_pictures_have_their_size(crowded, monkeypatch):
    dataset, model = VocDataset(crowded, "val", masks=False), Quarter()
    full = predictions.predict(model, dataset, progress=False)
    monkeypatch.setattr(predictions, "MAX_PREDICTED_PIXELS", HEIGHT * WIDTH / 6.25)
    assert predictions.predict(model, dataset, progress=False) == full
    assert model.seen == (HEIGHT * 0.4, WIDTH * 0.4)
    (detection,) = full["detections"]
    assert detection["bbox"] == [WIDTH // 4, HEIGHT // 4, WIDTH // 4, HEIGHT // 4]
    assert coco_mask.toBbox(detection["segmentation"]).tolist() == detection["bbox"]


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_both_models_learn_from_crowded_pictures(crowded, name, tmp_path):
    recipe = QUICK.with_changes(image_size=160, short_side=160, iterations=1, batch_size=2)
    dataset = VocDataset(crowded, "train", AUGMENTATIONS["light"]())
    state = train(build_model(recipe, name, ["thing"]), dataset, tmp_path, recipe.train)
    assert (state["iteration"], state["skipped_updates"]) == (1, 0)
