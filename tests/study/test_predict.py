"""Predictions of pictures without labels."""

import json
import shutil
import statistics

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.helpers.cli import vocseg
from vocseg_lib.utils.files import read_json as read


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_unlabelled_pictures_become_a_prediction_file(trained, devkit, tmp_path):
    run, out, truth = trained.run_folder("mask_rcnn"), tmp_path / "p.json", tmp_path / "gt.json"
    vocseg("export-coco", devkit, "--out", truth)
    content, folder = read(truth), tmp_path / "pictures"
    folder.mkdir()
    names = [image["file_name"] for image in content["images"]]
    for name in names:
        shutil.copy(devkit / "JPEGImages" / name, folder)
    notes, clip = write(folder / "notes.txt", "not an image"), write(folder / "a.mp4", "a video")
    command = ("predict", run, "--device", "cpu", "--image", folder, "--out")
    done = vocseg(*command, out)
    assert (done.exit_code, str(notes) in done.stderr, str(clip) in done.stderr) == (0, True, True)
    header, detections = read(out)["header"], read(out)["detections"]
    images = {image["file_name"]: image["id"] for image in header["images"]}
    assert list(images.items()) == [(name, k) for k, name in enumerate(sorted(names), 1)]
    keys = {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert all(set(d) == keys for d in detections)
    expected = {image["id"]: image["file_name"] for image in content["images"]}
    of_run = [
        (expected[d["image_id"]], d["score"]) for d in read(run / "predictions.json")["detections"]
    ]
    of_files = {image_id: name for name, image_id in images.items()}
    assert sorted((of_files[d["image_id"]], d["score"]) for d in detections) == sorted(of_run)
    # In ground truth with other ids, images are found by their file names.
    for entry in (*content["images"], *content["annotations"]):
        key = "image_id" if "image_id" in entry else "id"
        entry[key] = 1000 - entry[key]
    write(truth, content)
    metrics = tmp_path / "m.json"
    vocseg("evaluate", "--predictions", out, "--data", truth, "--out", metrics)
    assert read(metrics)["mask_AP50"] == read(run / "metrics.json")["mask_AP50"]
    for other in (folder, truth):
        before = truth.read_bytes()
        done = vocseg("predict", run, "--device", "cpu", "--data", devkit, "--out", other)
        assert (done.exit_code, str(other) in done.stderr) == (2, True)
        assert truth.read_bytes() == before


def test_classes_are_the_same_in_any_case(trained, devkit, tmp_path):
    run, other = trained.run_folder("yolact"), tmp_path / "devkit"
    shutil.copytree(devkit, other)
    names = [name.upper() for name in trained.class_names]
    for lacking in (0, 1):
        names = names[: len(names) - lacking]
        (other / "class_names.txt").write_text("\n".join(names))
        done = vocseg(
            "predict", run, "--device", "cpu", "--data", other, "--out", tmp_path / "p.json"
        )
        assert done.exit_code == 2 * lacking, done.output
    assert "tvmonitor there, no other here" in done.stderr


@pytest.mark.parametrize("masks", ["rle", "polygons"])
def test_pictures_become_masks_that_are_read_back(trained, devkit, tmp_path, masks):
    run, out, truth = trained.run_folder("yolact"), tmp_path / "out", tmp_path / "gt.json"
    vocseg("export-coco", devkit, "--out", truth)
    score = statistics.median(d["score"] for d in read(run / "predictions.json")["detections"])
    images = [devkit / "JPEGImages" / image["file_name"] for image in read(truth)["images"]]
    options = ("--score", score, "--masks", masks, "--index-pngs", "--cutouts", "--device", "cpu")
    done = vocseg("predict", run, "--image", *images, "--out", out, *options)
    assert done.exit_code == 0, done.output
    coco, table = COCO(out / "predictions.json"), pd.read_csv(out / "detections.csv")
    assert sorted(i["file_name"] for i in coco.imgs.values()) == sorted(p.name for p in images)
    assert set(table["id"]) == {k for k, a in coco.anns.items() if a["score"] >= score}
    assert len(list((out / "cutouts").iterdir())) == sum(table["area"] > 0)
    for image_id, image in coco.imgs.items():
        stored = np.array(
            Image.open((out / "SegmentationObject" / image["file_name"]).with_suffix(".png"))
        )
        expected = np.zeros_like(stored)
        shown = [a for a in coco.imgToAnns[image_id] if a["score"] >= score]
        for number, annotation in reversed([*enumerate(shown, 1)]):
            expected[coco.annToMask(annotation) == 1] = number
        assert (stored == expected).all()
    # The same metrics as of the run, and the other commands.
    metrics, files = (
        tmp_path / "m.json",
        ("--predictions", out / "predictions.json", "--data", truth),
    )
    assert vocseg("evaluate", *files, "--out", metrics).exit_code == 0
    assert read(metrics)["mask_AP50"] == read(run / "metrics.json")["mask_AP50"]
    for command in ("failures", "describe"):
        assert vocseg(command, *files).exit_code == 0
