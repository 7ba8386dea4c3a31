"""Imports of COCO annotations: files, names, folders, counts, and the way back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.cli import vocseg
from tests.helpers.coco_files import color_under_mask, picture, plain_set, read_maps, write_coco
from vocseg_lib.data.classes import VOID
from vocseg_lib.data.coco_convert import coco_to_voc, verify_coco, voc_to_coco
from vocseg_lib.data.coco_import.files import find_val_file
from vocseg_lib.data.voc import read_sample, split_ids


def test_only_picture_endings_are_cut(case):
    folder = case("file_names_cut_at_the_dot")
    devkit = coco_to_voc(folder / "annotations.json", folder / "out")
    assert sorted(split_ids(devkit, "trainval")) == [f"shot.v{k}" for k in range(6)]
    for name in ("empty", "null"):
        result = vocseg("import-coco", folder / f"{name}.json", "--out", folder / name)
        assert result.exit_code == 2
        assert "no file_name" in result.stderr
        assert not (folder / name).exists()


def test_bare_file_name(case, monkeypatch):
    monkeypatch.chdir(case("import_of_a_bare_file_name"))
    result = vocseg("import-coco", "annotations.json", "--out", "out")
    assert result.exit_code == 0
    assert "6 images" in result.stdout
    changes = "iterations=1 eval_every=1 checkpoint_every=1 batch_size=2 image_size=64 channels=16"
    options = ("--data", "annotations.json", "--results", "res", "--device", "cpu")
    result = vocseg("train", "--model", "yolact", *options, "--set", *changes.split(), "workers=0")
    assert result.exit_code == 0, result.stderr
    assert "12 objects written" in result.stdout


def test_same_names_in_train_and_valid_are_both_kept(case):
    folder = case("same_file_names_in_train_and_valid")
    devkit = coco_to_voc(folder / "train" / "_annotations.coco.json", folder / "out")
    assert (len(split_ids(devkit, "train")), len(split_ids(devkit, "val"))) == (6, 4)
    for source, name in (("train", "img0"), ("valid", split_ids(devkit, "val")[0])):
        written = devkit / "JPEGImages" / f"{name}.jpg"
        assert written.read_bytes() == (folder / source / "img0.jpg").read_bytes()


def test_names_that_collide_are_all_kept(tmp_path):
    names = ["a/1.jpg", "a_1.jpg", "0.png", "0.jpg", "Up.jpg", "up.jpg", "0_2.jpg", "ä b.jpg"]
    for k, name in enumerate(names):
        picture(tmp_path / name, color=(250, 20, 30 * k))
    boxes = [(k, (5, 6, 20, 10)) for k in range(1, 9)]
    path = write_coco(tmp_path / "a.json", [(name, (60, 40)) for name in names], boxes)
    devkit = coco_to_voc(path, tmp_path / "out")
    written = sorted(split_ids(devkit, "trainval"), key=lambda n: color_under_mask(devkit, n)[2])
    assert len({name.lower() for name in written}) == 8
    assert [written[k] for k in (0, 2, 4, 6, 7)] == ["a_1", "0", "Up", "0_2", "ä_b"]


@pytest.mark.parametrize(
    "form",
    ["C:\\data\\{}.jpg", "/home/x/{}.jpg", "images/train/{}.jpg", "{}.JPG", "../y/{}.jpg"],
)
def test_paths_of_another_machine(tmp_path, form):
    plain_set(tmp_path)
    names = [(form.format(k), (60, 40)) for k in range(10)]
    path = write_coco(tmp_path / "b.json", names, [(1, (5, 6, 20, 10))])
    devkit = coco_to_voc(path, tmp_path / "out")
    assert sorted(split_ids(devkit, "trainval")) == [str(k) for k in range(10)]


def test_one_picture_for_two_names_is_unusable_and_one_listed_twice_is_merged(tmp_path):
    plain_set(tmp_path, 6)
    names = [(f"{k}.jpg", (60, 40)) for k in range(6)] + [("0.jpg", (60, 40))]
    boxes = [(1, (5, 6, 20, 10)), (7, (40, 20, 5, 5))]
    path = write_coco(tmp_path / "b.json", names, boxes)
    devkit = coco_to_voc(path, tmp_path / "out")
    assert len(split_ids(devkit, "trainval")) == 6
    assert len(read_sample(devkit, "0").masks) == 2
    write_coco(path, [("a/0.jpg", (60, 40)), ("b/0.jpg", (60, 40)), *names[1:6]])
    problems, _ = verify_coco(path)
    assert [bad.kind for bad in problems] == ["no object"] + ["ambiguous file name"] * 2


def test_verify_without_pictures_or_objects(case):
    problems, _ = verify_coco(case("evaluate_with_nothing_to_judge") / "gt.json")
    assert [bad.kind for bad in problems] == ["missing images", "no object"]


@pytest.mark.parametrize("path", ["cvat/annotations/instances_Train.json", "plain/train.json"])
def test_val_file_of_the_case(case, path):
    folder = case("val_file_not_recognised")
    result = vocseg("import-coco", folder / path, "--out", folder / "out")
    assert split_ids(folder / "out", "val") == ["v0", "v1", "v2", "v3"]
    assert "val: 4 images of " in result.stdout
    assert "alidation.json" in result.stdout


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("instances_train2017.json", "instances_val2017.json"),
        ("Train.json", "Valid.json"),
        ("training.json", "validation.json"),
        ("x_TRAIN.json", "x_VAL.json"),
        ("train/labels.json", "val/labels.json"),
        ("Train/annotations/train.json", "Validation/annotations/validation.json"),
        ("train.json", "dev.json"),
        ("train.json", ""),
        ("annotations.json", ""),
    ],
)
def test_val_file_under_its_usual_names(tmp_path, train, val):
    for name in filter(None, (train, val, train.lower().replace("train", "test"), "other.json")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_val_file(tmp_path / train) == (tmp_path / val if val else None)


def test_several_val_files_are_an_error_and_one_in_train_is_left_out(tmp_path):
    path = plain_set(tmp_path).rename(tmp_path / "train.json")
    for name in ("val.json", "valid.json"):
        shutil.copy(path, tmp_path / name)
    with pytest.raises(ValueError, match=r"val\.json.*valid\.json"):
        coco_to_voc(path, tmp_path / "out")
    kinds = {bad.kind for bad in verify_coco(path, tmp_path / "val.json")[0]}
    assert kinds == {"in train and val", "unusable annotations"}


def test_categories_of_val_are_matched_by_name(tmp_path):
    for k in range(4):
        picture(tmp_path / f"{k}.jpg")
    box, size = (5, 6, 20, 10), (60, 40)
    images = [(f"{k}.jpg", size) for k in range(4)]
    train = write_coco(tmp_path / "train.json", images[:2], [(1, box)], ["dog", "cat"])
    val = write_coco(tmp_path / "val.json", images[2:], [(1, box)])
    devkit = coco_to_voc(train, tmp_path / "out")  # cat is 2 in train, 1 in val
    assert [np.unique(read_maps(devkit, name)[1])[-1] for name in ("0", "2")] == [1, 2]
    write_coco(val, images[2:], [(1, box)], names=["cow"])
    with pytest.raises(ValueError, match=r"val\.json.*cow"):
        coco_to_voc(train, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# Folders are not overwritten


def test_an_import_keeps_files_that_it_did_not_write(case):
    folder = case("import_wipes_its_folder")
    path, out = folder / "annotations.json", folder / "out"
    coco_to_voc(path, out)
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    coco_to_voc(path, out)  # only its own files: written again
    assert len(voc_to_coco(out, "trainval")["annotations"]) == 18
    (out / "notes.txt").write_text("mine")
    path.write_text(path.read_text() + " ")
    result = vocseg("import-coco", path, "--out", out)
    assert result.exit_code == 2
    assert "notes.txt" in result.stderr
    (out / "notes.txt").unlink()
    corrected = out / "SegmentationClass" / "img0.png"
    Image.fromarray(np.zeros_like(Image.open(corrected))).save(corrected)
    before = corrected.read_bytes()
    with pytest.raises(FileExistsError, match=r"img0\.png"):
        coco_to_voc(path, out)
    assert corrected.read_bytes() == before
    assert {p.name for p in folder.iterdir() if p.name.startswith(".")} == {".out.lock"}


def test_a_changed_picture_is_noticed_and_the_report_printed_again(tmp_path, capsys):
    path, out = plain_set(tmp_path), tmp_path / "out"
    coco_to_voc(path, out)
    report = capsys.readouterr().out
    time = (out / "from_coco.json").stat().st_mtime_ns
    coco_to_voc(path, out)
    assert capsys.readouterr().out == report
    (tmp_path / "0.jpg").touch()
    coco_to_voc(path, out)
    assert (out / "from_coco.json").stat().st_mtime_ns == time
    picture(tmp_path / "0.jpg", color=(20, 250, 20))
    coco_to_voc(path, out)
    assert color_under_mask(out, "0")[1] > 200


def test_a_failed_or_killed_import_leaves_nothing(tmp_path):
    path = plain_set(tmp_path / "in")
    (tmp_path / "in" / "3.jpg").write_bytes((tmp_path / "in" / "3.jpg").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"3\.jpg"):
        coco_to_voc(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "in"]
    picture(tmp_path / "in" / "3.jpg")
    (tmp_path / f".out.{'0' * 32}.writing" / "JPEGImages").mkdir(parents=True)  # of a killed import
    coco_to_voc(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "in", "out"]


# Counts, void, memory


def test_hidden_objects_crowds_and_unusable_images_are_counted(tmp_path, capsys):
    path = plain_set(tmp_path, 20)
    boxes = [(k, (5, 6, 20, 10)) for k in range(1, 21)]
    boxes += [(1, (5, 6, 10, 10)), (1, (15, 6, 10, 10)), (2, (5, 6, 20, 10), {"iscrowd": 1})]
    write_coco(path, [(f"{k}.jpg", (60, 40)) for k in range(20)], boxes)
    (tmp_path / "19.jpg").unlink()
    coco_to_voc(path, tmp_path / "out")
    line = "23 annotations: 20 objects written, 1 crowds made void, 1 hidden by smaller objects, "
    output = capsys.readouterr().out
    assert line + "1 of unusable images" in output
    assert "annotation 1 of 0.jpg" in output
    devkit = coco_to_voc(path, tmp_path / "objects", crowds_as_objects=True)
    assert not read_sample(devkit, "1").void.any()


def test_void_survives_the_way_out_and_back(case, monkeypatch):
    monkeypatch.chdir(case("void_lost_between_export_and_import"))
    for split in ("train", "val"):
        result = vocseg("export-coco", "data", "--split", split, "--out", f"{split}.json")
        assert result.exit_code == 0, result.stderr
    coco_to_voc("train.json", "back", images="data/JPEGImages")
    for split in ("train", "val"):
        assert split_ids(Path("back"), split) == split_ids(Path("data"), split)
        for name in split_ids(Path("data"), split):
            before, after = (read_maps(Path(folder), name) for folder in ("data", "back"))
            assert np.array_equal(before, after)
            assert (before[0] == VOID).any()


def test_many_objects_on_a_large_picture(tmp_path):
    """Import a picture of 24 megapixels with 250 objects in well under 1 GB more."""
    Image.new("RGB", (6000, 4000)).save(tmp_path / "b0.jpg", quality=30)
    for k in range(1, 3):
        picture(tmp_path / f"b{k}.jpg")
    boxes = [(1, (20 + k % 20 * 290, 20 + k // 20 * 300, 200, 200)) for k in range(250)]
    train = write_coco(tmp_path / "train.json", [("b0.jpg", (6000, 4000))], boxes)
    write_coco(tmp_path / "val.json", [("b1.jpg", (60, 40))], [(1, (5, 6, 20, 10))])
    code = (
        "import sys, resource; from vocseg_lib.data.coco_convert import coco_to_voc;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); coco_to_voc(*sys.argv[1:]); print((peak() - before) / 2**10)"
    )
    command = [sys.executable, "-c", code, str(train), str(tmp_path / "out")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert float(lines[-1]) < 600  # MiB
    assert np.unique(read_maps(tmp_path / "out", "b0")[0]).tolist() == [*range(251)]
