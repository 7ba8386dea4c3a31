"""Masks as files: the same pixels in each."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from vocseg_lib.data.classes import save_map
from vocseg_lib.data.coco import read_predictions
from vocseg_lib.data.voc import class_names
from vocseg_lib.engine.mask_files import MaskFiles, mask_to_polygons


@settings(max_examples=300, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_polygons_have_the_masks_pixels(mask):
    polygons = mask_to_polygons(mask)
    if mask.any():
        decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape)))
        assert (decoded == mask).all()
    else:
        assert polygons == []


def three_objects():
    """A picture, and detections of a ring, a square below it and an empty mask."""
    y, x = np.mgrid[:40, :60]
    distance = np.hypot(y - 20, x - 20)
    masks = np.stack([(distance < 15) & (distance > 6), (x > 25) & (y > 10), x < 0])
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    boxes = torch.tensor([[5.0, 5, 35, 35], [26, 11, 60, 40], [0, 0, 9, 9]])
    scores, labels = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([2, 1, 2])
    rest = {"boxes": boxes, "scores": scores, "labels": labels}
    return picture, {"masks": torch.from_numpy(masks), **rest}


@pytest.mark.parametrize("polygons", [False, True])
def test_json_pngs_and_cut_outs_agree(tmp_path, polygons):
    picture, detections = three_objects()
    config = {"class_names": ["cup", "a plate"]}
    files = MaskFiles(
        folder=tmp_path,
        class_names=config["class_names"],
        header={"model": "yolact", "config": config},
        polygons=polygons,
        index_pngs=True,
        cutouts=True,
        score=0.3,
    )
    files.start()
    files.add("a/x.jpg", "x", picture, detections)
    files.add("nothing.jpg", "nothing", picture, {k: v[:0] for k, v in detections.items()})
    files.write()
    coco, masks = COCO(tmp_path / "predictions.json"), detections["masks"].numpy()
    assert [i["file_name"] for i in coco.loadImgs([1, 2])] == ["a/x.jpg", "nothing.jpg"]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [type(a["segmentation"]) for a in annotations][:2] == [list if polygons else dict] * 2
    for annotation, mask in zip(annotations, masks, strict=True):
        assert (coco.annToMask(annotation) == mask).all()
        assert annotation["area"] == mask.sum()
    assert [c["name"] for c in coco.loadCats([1, 2])] == config["class_names"]
    stored = [
        np.array(Image.open(tmp_path / f"Segmentation{k}/x.png")) for k in ("Class", "Object")
    ]
    for number, (mask, label) in enumerate(zip(masks[:2], (2, 1), strict=True), 1):
        seen = mask & ~masks[0] if number == 2 else mask  # the better score is on top
        assert ((stored[1] == number) == seen).all()
        assert (stored[0][seen] == label).all()
    assert not stored[1][~masks.any(0)].any()
    assert not np.array(Image.open(tmp_path / "SegmentationClass/nothing.png")).any()
    assert class_names(tmp_path) == ("cup", "a plate")
    rows, columns = slice(11, 40), slice(26, 60)
    cutouts = sorted(path.name for path in (tmp_path / "cutouts").iterdir())
    assert cutouts == ["x_1_a_plate.png", "x_2_cup.png"]
    pixels = np.array(Image.open(tmp_path / "cutouts/x_2_cup.png"))
    assert ((pixels[..., 3] == 255) == masks[1][rows, columns]).all()
    assert (pixels[..., :3] == picture[rows, columns]).all()
    assert list(files.table()["id"]) == [1, 2]
    assert files.counts().loc["a/x.jpg"].to_dict() == {"a plate": 1, "cup": 1}
    assert files.counts().loc["nothing.jpg"].to_dict() == {"a plate": 0, "cup": 0}
    content = read_predictions(tmp_path / "predictions.json")
    assert [d["score"] for d in content["detections"]] == pytest.approx([0.9, 0.8, 0.1])
    # Again, it replaces its own, and without what it has not.
    files.images.clear(), files.annotations.clear()
    files.start()
    assert not list((tmp_path / "cutouts").iterdir())
    files.add("clip.mp4/000001", "a", picture, detections, video="clip.mp4")
    files.forget("clip.mp4")
    assert (files.images, files.annotations) == ([], [])


def test_pictures_that_were_shrunk_and_frames(tmp_path):
    picture, detections = three_objects()
    files = MaskFiles(folder=tmp_path, class_names=["cup", "plate"], header={})
    large = picture.repeat(2, 0).repeat(2, 1)
    for frame in (1, 2):
        files.add(f"clip/{frame}", f"clip_{frame}", large, detections, video="clip", frame=frame)
    assert (files.images[1]["height"], files.images[1]["frame"]) == (80, 2)
    assert files.annotations[0]["bbox"] == [10, 10, 60, 60]
    assert files.annotations[0]["segmentation"]["size"] == [80, 120]
    assert files.counts().loc["clip"].to_dict() == {"cup": 1, "plate": 2}


OTHERS = ["predictions.json", "detections.csv", "cutouts", "class_names.txt", "SegmentationClass"]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_files_of_others_are_not_replaced(tmp_path, name, earlier):
    if earlier and name not in OTHERS[:2]:
        MaskFiles(folder=tmp_path, class_names=["cup"], header={}).start()
    (tmp_path / name).write_text(json.dumps({"header": {"model": "yolact"}, "detections": []}))
    files = MaskFiles(
        folder=tmp_path, class_names=["cup"], header={}, cutouts=True, index_pngs=True
    )
    with pytest.raises(ValueError, match=name):
        files.start()


def test_what_was_changed_or_added_is_not_deleted(tmp_path):
    picture, detections = three_objects()

    def write(stems, **options):
        files = MaskFiles(folder=tmp_path, class_names=["cup", "plate"], header={}, **options)
        files.start()
        for stem in stems:
            files.add(f"{stem}.jpg", stem, picture, detections)
        files.write()
        return [image.get("index_png") for image in files.images]

    # The third is a frame of a video and the second a picture of its name.
    stems = ["a", "clip_000001", "clip_000001"]
    assert write(stems, index_pngs=True, cutouts=True)[2] == "clip_000001_.png"
    index_pngs = tmp_path / "SegmentationClass"
    assert len([*index_pngs.glob("*.png")]) == 3
    changed, added = index_pngs / "a.png", tmp_path / "cutouts" / "mine.png"
    save_map(changed, np.zeros((40, 60), np.uint8))
    added.write_bytes(b"mine")
    for name in ("index_pngs", "cutouts"):
        with pytest.raises(ValueError, match=r"a\.png" if name == "index_pngs" else "mine"):
            write(["b"], **{name: True})
    assert len([*index_pngs.glob("*.png")]) == 3
    write(["b"])
    assert [*index_pngs.glob("*.png")] == [changed]
    assert [*added.parent.glob("*.png")] == [added]
