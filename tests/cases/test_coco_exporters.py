"""What exporters of COCO annotations write: ids, file names, sizes; masks lie on their objects."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.cli import vocseg
from tests.helpers.coco_files import COLOR, color_under_mask, picture, plain_set, write_coco
from vocseg_lib.data.coco_convert import coco_to_voc, verify_coco
from vocseg_lib.data.voc import split_ids


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def assert_masks_lie_on_their_objects(devkit, count=10):
    names = split_ids(devkit, "trainval")
    assert len(names) == count
    for name in names:
        assert np.abs(np.array(color_under_mask(devkit, name)) - COLOR).max() < 40, name


@pytest.mark.parametrize("ending", ["tif", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
@pytest.mark.parametrize("frame", ["shown", "stored"])
def test_orientation_in_other_formats(tmp_path, ending, orientation, frame):
    turned = orientation if frame == "shown" else {3: 6}.get(orientation, orientation)
    images = [
        (f"{k}.{ending}", picture(tmp_path / f"{k}.{ending}", orientation=turned)) for k in range(5)
    ]
    boxes = {6: (6, 35, 10, 20), 8: (24, 5, 10, 20), 5: (6, 5, 10, 20), 1: (5, 6, 20, 10)}
    box = (5, 6, 20, 10) if frame == "shown" else boxes[turned]
    size = (60, 40) if frame == "shown" else images[0][1]
    listed = [(name, size) for name, _ in images]
    path = write_coco(tmp_path / "a.json", listed, [(k, box) for k in range(1, 6)])
    assert_masks_lie_on_their_objects(coco_to_voc(path, tmp_path / "out"), 5)


IDS = {
    "padded text and names": [*(f"{k:04}" for k in range(9)), "img_a"],
    "hexadecimal": [*(f"{k}e67" for k in range(9)), "0123"],
    "nanoseconds": [1_700_000_000_000_000_000 + k for k in range(10)],
    "nanoseconds as text": [str(1_700_000_000_000_000_000 + k) for k in range(10)],
    "numbers": [*range(10)],
}


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("listed", ["alike", "as float"])
def test_ids_of_images(tmp_path, ids, listed):
    def change(content):
        for image, image_id in zip(content["images"], IDS[ids], strict=True):
            image["id"] = image_id
        for a in content["annotations"]:
            a["image_id"] = content["images"][a["image_id"] - 1]["id"]
            if listed == "as float" and ids == "numbers":
                a["image_id"] = float(a["image_id"])

    path = rewrite(plain_set(tmp_path), change)
    assert_masks_lie_on_their_objects(coco_to_voc(path, tmp_path / "out"))


def test_an_image_listed_twice_with_float_ids_keeps_its_objects(tmp_path, capsys):
    def change(content):
        content["images"].append(content["images"][0] | {"id": 11})
        content["images"][-1].update(width="60.0", height=None)
        content["annotations"][0]["image_id"] = 11
        for a in content["annotations"]:
            a["image_id"] = float(a["image_id"])

    coco_to_voc(rewrite(plain_set(tmp_path), change), tmp_path / "out")
    assert "10 annotations: 10 objects written" in capsys.readouterr().out


NAMES = {
    "number": ("7", 7),
    "url": ("my photo 7.jpg", "my%20photo%207.jpg"),
    "Label Studio": ("x y.jpg", "/data/local-files/?d=set/x%20y.jpg"),
    "long": (f"{'x' * 90}/{'y' * 90}/{'z' * 90}/a.jpg",) * 2,
}


@pytest.mark.parametrize("form", NAMES)
def test_file_names(tmp_path, form):
    on_disk, listed = NAMES[form]
    path = rewrite(plain_set(tmp_path), lambda c: c["images"][0].update(file_name=listed))
    (tmp_path / on_disk).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "0.jpg").rename(tmp_path / on_disk)
    assert_masks_lie_on_their_objects(coco_to_voc(path, tmp_path / "out"))


@pytest.mark.parametrize("names", [("#1", "dog"), ("void", "dog"), ("0 cat", "1 dog")])
def test_names_that_a_class_list_cannot_hold_are_refused(tmp_path, names):
    path = plain_set(tmp_path)
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    rewrite(path, lambda c: c.update(categories=categories))
    with pytest.raises(ValueError, match=rf"a\.json.*{names[0]}"):
        coco_to_voc(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a\0.jpg", "a\ud83d.jpg"])
def test_file_names_that_no_file_can_have(tmp_path, name):
    path = rewrite(plain_set(tmp_path), lambda c: c["images"][3].update(file_name=name))
    with pytest.raises(ValueError, match=r"a\.json.*images\[3\]"):
        coco_to_voc(path, tmp_path / "out")


def test_a_given_folder_goes_before_paths_of_another_one(tmp_path):
    path, old = plain_set(tmp_path / "new"), tmp_path / "old"
    for k in range(10):
        picture(old / f"{k}.jpg", color=(20, 250, 20))
    for folder, out in ((old, "out"), ("../old", "out2")):
        rewrite(
            path,
            lambda c, f=folder: [i.update(file_name=f"{f}/{i['id'] - 1}.jpg") for i in c["images"]],
        )
        devkit = coco_to_voc(path, tmp_path / out, images=tmp_path / "new")
        assert_masks_lie_on_their_objects(devkit)


def test_images_of_val_are_left_out_of_train(tmp_path, monkeypatch, capsys):
    train, val = plain_set(tmp_path), tmp_path / "val.json"
    train.rename(tmp_path / "train.json")
    content = json.loads((tmp_path / "train.json").read_text())
    val.write_text(json.dumps({**content, "images": content["images"][7:], "annotations": []}))
    rewrite(val, lambda c: c.update(annotations=content["annotations"][7:]))
    monkeypatch.chdir(tmp_path)
    devkit = coco_to_voc("train.json", "out")
    assert split_ids(devkit, "train") == [str(k) for k in range(7)]
    assert split_ids(devkit, "val") == ["7", "8", "9"]
    assert capsys.readouterr().out.count("left out of train") == 3
    rewrite(val, lambda c: c.update(images=content["images"]))
    with pytest.raises(ValueError, match=r"val\.json"):
        coco_to_voc("train.json", "out2")


def test_what_is_beside_and_what_val_lacks_is_reported(tmp_path, capsys):
    path = plain_set(tmp_path)
    other = write_coco(tmp_path / "check.json", [("10.jpg", (60, 40))], names=("cat", "unused"))
    picture(tmp_path / "10.jpg")
    coco_to_voc(path, tmp_path / "out")
    assert "check.json" in capsys.readouterr().out
    coco_to_voc(path, tmp_path / "out2", val=other)
    assert "check.json has no object" in capsys.readouterr().out
    found = verify_coco(path, val=other)[0]
    assert [(bad.kind, bad.path) for bad in found] == [("no object", other)]
    rewrite(path, lambda c: c.update(images=c["images"][:4], annotations=c["annotations"][:4]))
    assert any("too few" in note for note in verify_coco(path)[1])
    rewrite(path, lambda c: c["categories"][0].update(name="caf\ud83d"))
    done = vocseg("import-coco", path, "--out", tmp_path / "out3")
    assert (done.exit_code, "a.json" in done.stderr) == (2, True)


def test_annotations_of_pictures_at_another_scale_are_refused(tmp_path):
    def change(content):
        for image in content["images"]:
            image.update(width=30, height=20)
        content["annotations"][0]["segmentation"] = [[20, 5, 35, 5, 35, 15]]  # leaves its image

    path = rewrite(plain_set(tmp_path), change)
    with pytest.raises(ValueError, match=r"0\.jpg.*\(40, 60\).*\(20, 30\)"):
        coco_to_voc(path, tmp_path / "out")
    assert "size mismatch" in {bad.kind for bad in verify_coco(path)[0]}
    rewrite(path, lambda c: [i.pop("width") for i in c["images"]])
    assert len(split_ids(coco_to_voc(path, tmp_path / "out"), "trainval")) == 10


@pytest.mark.parametrize("strays", [1, 2])
def test_polygons_that_leave_their_image_do_not_turn_the_others(tmp_path, strays, capsys):
    box = (12, 6, 20, 10)  # which fits both ways
    count = 11 * strays
    for k in range(count):
        picture(tmp_path / f"{k}.jpg", box=box, orientation=6)
    images = [(f"{k}.jpg", (60, 40)) for k in range(count)]
    path = write_coco(tmp_path / "a.json", images, [(k, box) for k in range(1, count + 1)])

    def change(content):
        for k in range(strays):
            stray = {"segmentation": [[35, 20, 37, 20, 37, 48]], "bbox": [35, 20, 2, 28]}
            content["annotations"].append(content["annotations"][k] | stray | {"id": count + k + 1})

    devkit = coco_to_voc(rewrite(path, change), tmp_path / "out")
    assert_masks_lie_on_their_objects(devkit, count)
    assert f"{strays} images have masks that leave them" in capsys.readouterr().out


def test_val_in_a_folder_of_its_own_keeps_its_pictures(tmp_path):
    for split, color in (("train", (20, 250, 20)), ("valid", COLOR)):
        path = plain_set(tmp_path / split, 5).rename(tmp_path / split / "_annotations.coco.json")
        for k in range(5):
            picture(tmp_path / split / f"{k}.jpg", color=color)
    train = tmp_path / "train"
    devkit = coco_to_voc(train / path.name, tmp_path / "out", images=train)
    for name in split_ids(devkit, "val"):
        assert np.abs(np.array(color_under_mask(devkit, name)) - COLOR).max() < 40


def test_plain_pictures_among_turned_ones_without_sizes(tmp_path):
    turned = [(f"{k}.jpg", picture(tmp_path / f"{k}.jpg", orientation=6)) for k in range(5)]
    plain = [(f"p{k}.jpg", picture(tmp_path / f"p{k}.jpg")) for k in range(5)]
    boxes = [
        *((k, (6, 35, 10, 20)) for k in range(1, 6)),
        *((k, (5, 6, 20, 10)) for k in range(6, 10)),
    ]
    path = write_coco(tmp_path / "a.json", turned + plain, boxes)  # of the stored, and one has none
    rewrite(path, lambda c: [image.pop("width") for image in c["images"]])
    devkit = coco_to_voc(path, tmp_path / "out")
    for name in split_ids(devkit, "trainval"):
        if name != "p4":
            assert np.abs(np.array(color_under_mask(devkit, name)) - COLOR).max() < 40, name


def test_one_picture_for_two_names_of_train_and_val_is_in_neither(tmp_path):
    path = plain_set(tmp_path, 40).rename(tmp_path / "train.json")
    write_coco(tmp_path / "val.json", [("other/0.jpg", (60, 40))], [(1, (5, 6, 20, 10))])
    rewrite(path, lambda c: c["images"][0].update(file_name="one/0.jpg"))
    picture(tmp_path / "v.jpg")
    rewrite(
        tmp_path / "val.json",
        lambda c: c["images"].append(c["images"][0] | {"id": 2, "file_name": "v.jpg"}),
    )
    devkit = coco_to_voc(path, tmp_path / "out")
    assert (len(split_ids(devkit, "train")), split_ids(devkit, "val")) == (39, ["v"])


def test_a_picture_listed_again_at_another_size_is_not_merged(tmp_path):
    def change(content):
        image = content["images"][0] | {"id": 11, "width": 120, "height": 80}
        content["images"].append(image)
        content["annotations"].append(content["annotations"][0] | {"id": 11, "image_id": 11})

    path = rewrite(plain_set(tmp_path, 20), change)
    assert_masks_lie_on_their_objects(coco_to_voc(path, tmp_path / "out"), 20)
    assert "size mismatch" in {bad.kind for bad in verify_coco(path)[0]}


def test_pictures_exchanged_for_others_of_their_size_and_time_are_noticed(tmp_path):
    path = plain_set(tmp_path, 5)
    rewrite(path, lambda c: [i.update(file_name=f"{i['id'] - 1}.bmp") for i in c["images"]])
    for k in range(5):
        picture(tmp_path / f"{k}.bmp", color=COLOR if k else (20, 250, 20))
        os.utime(tmp_path / f"{k}.bmp", (1e9, 1e9))
    devkit = coco_to_voc(path, tmp_path / "out")
    before = color_under_mask(devkit, "0")
    for old, new in (("0", "x"), ("1", "0"), ("x", "1")):
        os.rename(tmp_path / f"{old}.bmp", tmp_path / f"{new}.bmp")
    assert color_under_mask(coco_to_voc(path, tmp_path / "out"), "1") == before


def test_one_mask_off_its_box_is_reported(tmp_path, capsys):
    path = plain_set(tmp_path, 200)
    rewrite(path, lambda c: c["annotations"][6].update(bbox=[40, 30, 10, 8]))
    coco_to_voc(path, tmp_path / "out")
    assert "bbox does not fit the mask in 1 of 200" in capsys.readouterr().out


def test_files_of_the_user_are_not_replaced_by_outputs(tmp_path):
    path = plain_set(tmp_path, 5)
    before, devkit = path.read_bytes(), coco_to_voc(path, tmp_path / "out")
    done = vocseg("export-coco", devkit, "--out", path)
    assert (done.exit_code, path.read_bytes()) == (2, before)
    for _ in range(2):
        assert vocseg("export-coco", devkit, "--out", tmp_path / "val.json").exit_code == 0
    rewrite(path, lambda c: [a.update(score=0.5) for a in c["annotations"]])
    results = tmp_path / "p.json"
    results.write_text(json.dumps(json.loads(path.read_text())["annotations"]))
    for command in ("evaluate", "failures", "describe"):
        done = vocseg(command, "--predictions", results, "--data", path, "--out", results)
        assert (done.exit_code, "p.json" in done.stderr) == (2, True)


def test_class_names_that_a_console_lacks_are_no_error(tmp_path):
    path = rewrite(plain_set(tmp_path), lambda c: c["categories"][0].update(name="猫"))
    command = [sys.executable, "-m", "vocseg_lib", "import-coco", path, "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert (done.returncode, b"10 objects written" in done.stdout) == (0, True)
