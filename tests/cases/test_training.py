"""Trainings that cannot learn, and weights that are none: refused before they start, by name."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.cli import vocseg
from tests.helpers.trainings import QUICK, SHORT, run
from vocseg_lib.data.classes import save_map
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.train import Session, train
from vocseg_lib.study.run import build_model, load_run
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import overfit, train_model
from vocseg_lib.utils.weights import load_weights, read_weights


def refused(*arguments):
    """The one line of an error."""
    result = vocseg(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_objects_that_cannot_be_learned(case, model):
    folder = case("training_without_objects")
    for data, words in (("no_objects", ["no object"]), ("three_pixels", ["8 of 8", "4 pixels"])):
        command = ("train", "--model", model, "--data", folder / data, "--set", *SHORT)
        line = refused(*command, "--results", folder / "res")
        assert {data, *words} <= {word for word in (data, *words) if word in line}
        assert vocseg("verify", folder / data).exit_code == 1
    assert not (folder / "res").exists()


@pytest.fixture
def mapped(devkit):
    """Write object k of train as a square of `sides[k]` pixels in images of `size`; the devkit."""

    def write(folder, sides, size=(96, 96)):
        shutil.copytree(devkit, folder)
        for name in (folder / "ImageSets/Segmentation/train.txt").read_text().split():
            objects = np.zeros(size, np.uint8)
            for k, side in enumerate(sides):
                objects[4 : 4 + side, 20 * k + 1 : 20 * k + 1 + side] = k + 1
            Image.new("RGB", size[::-1]).save(folder / f"JPEGImages/{name}.jpg")
            save_map(folder / f"SegmentationObject/{name}.png", objects)
            save_map(folder / f"SegmentationClass/{name}.png", (objects > 0).astype(np.uint8))
        return folder

    return write


def test_small_objects_are_counted_at_the_size_that_the_model_sees(mapped, tmp_path, capsys):
    data = mapped(tmp_path / "few", [3, 4, 12])
    study = Study(recipe=QUICK.with_changes(iterations=1), devkit=data, results=tmp_path / "r")
    images = len(study.dataset("train"))
    for name, side, small in (("yolact", 96, 1), ("yolact", 64, 2), ("mask_rcnn", 64, 2)):
        recipe = QUICK.with_changes(image_size=side, short_side=side, iterations=1)
        model = build_model(recipe, name, study.class_names)
        results = tmp_path / f"{name}{side}"
        train(model, study.dataset("train", "light"), results, recipe.train)
        assert f"{small * images} of {3 * images} " in capsys.readouterr().out
    # Nothing is left at a quarter of the size; neither is anything to overfit to.
    small = mapped(tmp_path / "small", [12, 12], (400, 400))
    with pytest.raises(ValueError, match="image_size"):
        train_model(Study(recipe=QUICK, devkit=small, results=tmp_path / "s"), "yolact")
    none = Study(recipe=QUICK, devkit=mapped(tmp_path / "none", []), results=tmp_path / "n")
    with pytest.raises(ValueError, match="no object"):
        overfit(none, "yolact", none.dataset("train").names[:2], "train", steps=1)


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_batch_norm_on_single_values(case, model):
    folder = case("messages_of_pytorch")
    small = [*SHORT, "batch_size=1", "image_size=32", "short_side=32"]
    command = ("train", "--model", model, "--data", folder / "data", "--results", folder / "res")
    assert "batch_norm=frozen" in refused(*command, "--set", *small)
    assert not (folder / "res").exists()
    frozen = vocseg(*command, "--set", *small, "batch_norm=frozen", "iterations=1")
    assert frozen.exit_code == 0


def test_weights_that_are_none_on_the_command_line(case):
    folder = case("messages_of_pytorch")
    for name, begin in (("pointer.pth", "version https://git-lfs"), ("page.pth", "<!DOCTYPE")):
        command = ("train", "--model", "yolact", "--profile", "laptop", "--data", folder / "data")
        picture = ("predict", "--image", folder / name, "--out", folder / "o")
        for wrong in ((*command, "--init"), (*picture, "--weights")):
            line = refused(*wrong, folder / name)
            assert name in line
            assert begin in line
            assert "weights_only" not in line


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"text")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\n  <html>", "web page"),
        (saved({"a": torch.ones(9)})[:300], "cut off"),
        (saved(torch.nn.Linear(1, 1)), "state_dict"),  # code
        (zipped("readme.txt"), "archive"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x10\0\0\0\0\0\0\0{}", "safetensors"),
        (b"some text", "some text"),
    ],
)
def test_files_that_are_no_weights(content, word, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    for read in (read_weights, load_checkpoint):
        with pytest.raises(ValueError, match=word) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_of_another_model():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(4), "extra": torch.ones(1)}
    with pytest.raises(ValueError, match="weights of") as caught:
        load_weights(model, state, "weights of a")
    for part in ("2 keys missing, as 1.weight", "1 keys unexpected, as extra", "0.bias [4]"):
        assert part in str(caught.value)
    whole = model.state_dict()
    for other in ({"model": whole}, torch.ones(1), {**whole, "1.bias": 3}):
        with pytest.raises(ValueError, match="weights of"):
            load_weights(model, other, "weights of a")


def test_only_the_best_checkpoint_is_a_run(devkit, tmp_path):
    run("yolact", devkit, tmp_path, lambda *_: {"mask_AP50": 1.0}, iterations=1, eval_every=1)
    with pytest.raises(ValueError, match="last"):
        load_run(tmp_path / "last.pt")


def test_an_ap_that_is_nan_is_neither_compared_nor_written(devkit, tmp_path):
    aps = iter([float("nan"), 5.0, float("nan"), 4.0])

    def evaluate(*_):
        return {"mask_AP50": next(aps), "val_loss": 1.0}

    options = {"iterations": 4, "eval_every": 1, "patience": 4}
    _, state = run("yolact", devkit, tmp_path, evaluate, **options)
    assert (state["best"]["mask_AP50"], state["evals_since_best"]) == (5, 2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [e["mask_AP50"] for e in logged if "mask_AP50" in e] == [None, 5, None, 4]


def test_options_of_a_session(devkit, tmp_path):
    for hours in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="max_hours"):
            Session(max_hours=hours)
    study = Study(recipe=QUICK, devkit=devkit, results=tmp_path)
    for processes in (0, -2):
        with pytest.raises(ValueError, match="processes"):
            train_model(study, "yolact", processes=processes)
    assert "--profile" in refused("train", "--from", tmp_path, "--profile", "quick")
