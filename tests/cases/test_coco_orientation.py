"""Imports of turned pictures: masks lie where PIL and pycocotools put them."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools.coco import COCO

from tests.helpers.coco_files import (
    COLOR,
    TURNS,
    color_under_mask,
    picture,
    plain_set,
    read_maps,
    write_coco,
)
from vocseg_lib.data.coco_convert import coco_to_voc, verify_coco
from vocseg_lib.data.voc import read_sample, split_ids


@pytest.mark.parametrize(
    "path", ["upside_down/", "mirrored/", "square_on_its_side/", "exif_json_has_the_raw_size"]
)
def test_masks_lie_on_the_pictures_as_shown(case, path, capsys):
    folder = case("exif_turn_that_keeps_the_size") / path if "/" in path else case(path)
    devkit = coco_to_voc(folder / "annotations.json", folder / "out")
    for name in split_ids(devkit, "trainval"):
        assert np.abs(np.array(color_under_mask(devkit, name)) - COLOR).max() < 20
        assert Image.open(devkit / "JPEGImages" / f"{name}.jpg").getexif().get(0x0112, 1) == 1
    kinds = {bad.kind for bad in verify_coco(folder / "annotations.json")[0]}
    assert kinds == {"ambiguous orientation" if "/" in path else "other size"}
    assert "img0.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("frame", ["shown", "stored"])
@pytest.mark.parametrize("size", [(60, 40), (50, 50)])
@pytest.mark.parametrize("coded", [False, True])
def test_every_orientation_equals_pil_and_pycocotools(tmp_path, orientation, frame, size, coded):
    """One oblong picture turned by 90 degrees decides for those that sizes do not decide."""
    box = (5, 6, 20, 10)
    for k in range(5):
        stored = picture(tmp_path / f"{k}.jpg", size, box, orientation)
    picture(tmp_path / "guide.jpg", (60, 40), box, 6)  # stored as 40 x 60
    images = [(f"{k}.jpg", size if frame == "shown" else stored) for k in range(5)]
    images.append(("guide.jpg", (60, 40) if frame == "shown" else (40, 60)))

    def stored_box(name):
        red = np.asarray(Image.open(tmp_path / name))[..., 0] > 170
        ys, xs = np.nonzero(red)
        return tuple(int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1))

    boxes = [(k, box if frame == "shown" else stored_box(n)) for k, (n, _) in enumerate(images, 1)]
    path = write_coco(tmp_path / "a.json", images, boxes)
    coco = COCO(path)
    if coded:
        content = json.loads(path.read_text())
        for a in content["annotations"]:
            rle = coco.annToRLE(a)
            a["segmentation"] = rle | {"counts": rle["counts"].decode()}
        path.write_text(json.dumps(content))
    devkit = coco_to_voc(path, tmp_path / "out")
    for image_id, (name, _) in enumerate(images, 1):
        mask = Image.fromarray(coco.annToMask(coco.loadAnns(coco.getAnnIds(image_id))[0]))
        turn = orientation if name != "guide.jpg" else 6
        if frame == "stored" and turn != 1:
            mask = mask.transpose(TURNS[turn])
        sample = read_sample(devkit, name[:-4])
        assert np.array_equal(sample.masks[0], mask)
        assert mask.getbbox() == (5, 6, 25, 16)
        with Image.open(tmp_path / name) as image:
            shown = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1).astype(int)
        difference = np.abs(shown - sample.image.numpy())
        assert difference.mean() < 3


def test_small_objects_follow_the_pictures_whose_masks_decide(tmp_path):
    """Sizes as stored, polygons as shown; in the last picture they fit both ways."""
    for k in range(6):
        picture(tmp_path / f"{k}.jpg", (40, 90), (5, 60 if k < 5 else 6, 20, 10), 6)
    images = [(f"{k}.jpg", (90, 40)) for k in range(6)]
    boxes = [(k + 1, (5, 60 if k < 5 else 6, 20, 10)) for k in range(6)]
    devkit = coco_to_voc(write_coco(tmp_path / "a.json", images, boxes), tmp_path / "out")
    assert read_maps(devkit, "5")[0].shape == (90, 40)
    for name in split_ids(devkit, "trainval"):
        assert color_under_mask(devkit, name)[0] > 200


def test_a_size_may_be_missing(tmp_path):
    path = plain_set(tmp_path)
    content = json.loads(path.read_text())
    content["images"][0] |= {"width": None, "height": 0}
    path.write_text(json.dumps(content))
    devkit = coco_to_voc(path, tmp_path / "out")
    assert read_maps(devkit, "0")[0].shape == (40, 60)
