"""The command line: what it accepts, prints, writes, refuses and loads."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from tests.helpers.cli import vocseg
from tests.helpers.trainings import QUICK
from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.data.voc import split_ids
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.metrics.bootstrap import RESAMPLES
from vocseg_lib.metrics.semantic import SEMANTIC_SCORE
from vocseg_lib.plots.pictures import DRAWN_SCORE
from vocseg_lib.study.cli_options import app
from vocseg_lib.study.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
COMMANDS = typer.main.get_command(app).commands
HEAVY = {"torch", "torchvision", "pandas", "matplotlib", "pycocotools", "scipy"}


@pytest.fixture
def tiny(monkeypatch):
    """The recipe `quick`, of two iterations of a small model."""
    recipe = QUICK.with_changes(iterations=2, batch_size=2, eval_every=2)
    monkeypatch.setitem(RECIPES, "quick", recipe)


@pytest.fixture
def on_devkit(devkit, tmp_path, tiny):
    return "--data", devkit, "--device", "cpu", "--results", tmp_path


@pytest.fixture
def detections(devkit):
    """The annotations of val as detections."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [
        {key: annotation[key] for key in keys} | {"score": 0.9}
        for annotation in voc_to_coco(devkit, "val")["annotations"]
    ]


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_parse(page):
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"(?:python -m vocseg_lib|^vocseg) ([a-z][^`\n#]*)", text, re.MULTILINE):
        name, *arguments = shlex.split(line)
        COMMANDS[name].make_context(name, [a for a in arguments if a not in ("...", "…")])
    makefile = (ROOT / "Makefile").read_text()
    setting = r' ([A-Z]+)=(?:"[^"]*"|\S*)'
    call = rf"(?:^|`)make ([a-z-]+)((?:{setting.replace('(', '(?:', 1)})*)"
    for target, settings in re.findall(call, text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        for name in re.findall(setting, settings):
            assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), name


def test_help_lists_commands_and_options():
    done = vocseg("--help")
    assert done.exit_code == 0
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name}\s+\w", done.stdout, re.MULTILINE), name
        shown = vocseg(name, "--help")
        assert shown.exit_code == 0
        assert all(flag in shown.stdout for p in command.params for flag in p.opts if "-" in flag)


def test_defaults_are_the_librarys():
    defaults = {name: {p.name: p.default for p in c.params} for name, c in COMMANDS.items()}
    assert defaults["predict"]["score"] == DRAWN_SCORE
    assert defaults["evaluate"]["score"] == SEMANTIC_SCORE
    assert defaults["evaluate"]["resamples"] == RESAMPLES


def test_several_values_follow_one_flag():
    parsed = COMMANDS["predict"].make_context(
        "predict", "--image a b --weights run --image c --score 0.5".split()
    )
    assert list(parsed.params["image"]) == ["a", "b", "c"]
    assert (parsed.params["weights"], parsed.params["score"]) == ("run", 0.5)
    assert vocseg("predict", "run", "--image").exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "train --help",
        "train --model unet",
        "train --profile huge --model yolact",
        "train --model yolact --max-hours 0",
        "train --model yolact --max-hours many",
        "train --model yolact --device banana",
        "train --model yolact --data nowhere",
        "train --from nowhere",
        "train --model yolact --set schedule=foo",
        "failures --predictions nowhere.json --data nowhere",
        "evaluate --predictions nowhere.json --data nowhere --resamples -1",
        "predict nowhere --image nowhere.jpg",
    ],
)
def test_help_and_wrong_arguments_load_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['vocseg', *{arguments.split()}]\n"
        "from vocseg_lib.__main__ import main\n"
        f"try: main()\nfinally: print(*{HEAVY} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == (0 if "--help" in arguments else 2)
    assert done.stderr.splitlines()[-1] == ""


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_train_predict_evaluate(on_devkit, devkit, tmp_path, model):
    run, predictions = tmp_path / "runs" / model, tmp_path / "p.json"
    done = vocseg("train", "--model", model, *on_devkit)
    assert done.exit_code == 0
    assert str(run) in done.stdout
    on_val = ("--data", devkit, "--out", predictions, "--device", "cpu")
    assert vocseg("predict", run, *on_val).exit_code == 0
    assert read(predictions)["detections"] == read(run / "predictions.json")["detections"]
    files = ("--predictions", predictions, "--data", devkit, "--out", tmp_path / "m.json")
    done = vocseg("evaluate", *files)
    assert done.exit_code == 0
    assert re.search(r"mask +AP50 +\S+ +\S+ +\S+\n", done.stdout)
    assert re.search(r"mask +mean_IoU +\S+", done.stdout)
    assert read(tmp_path / "m.json")["mask_AP50"] == read(run / "metrics.json")["mask_AP50"]


def test_predictions_are_drawn_on_images(on_devkit, devkit, tmp_path):
    assert vocseg("train", "--model", "mask_rcnn", *on_devkit).exit_code == 0
    weights = ("--weights", tmp_path / "runs" / "mask_rcnn" / "best.pt", "--device", "cpu")
    options = ("predict", *weights, "--out", tmp_path / "drawn", "--score", 0, "--image")
    notes = write(tmp_path / "notes.txt", "not an image")
    images = sorted((devkit / "JPEGImages").iterdir())[:2]
    done = vocseg(*options, *images, notes)
    assert done.exit_code == 0
    for image in images:
        drawn = tmp_path / "drawn" / f"{image.stem}.png"
        assert re.search(rf"{image}: .* -> {drawn}", done.stdout)
        assert Image.open(image).size == Image.open(drawn).size
    assert str(notes) in done.stderr
    done = vocseg(*options, notes)
    assert done.exit_code == 1
    assert str(notes) in done.stderr


def test_a_training_is_stopped_and_resumed(on_devkit, tmp_path):
    command = ("train", "--model", "yolact", *on_devkit, "--mirror", tmp_path / "mirror")
    done = vocseg(*command, "--max-hours", "0.0000001")
    assert done.exit_code == 0
    assert re.search(r"stopped at iteration 1\b", done.stdout)
    done = vocseg(*command)
    assert done.exit_code == 0
    assert "best mask AP50" in done.stdout
    done = vocseg(*command, "--set", "learning_rate=0.5", "momentum=0.8")
    assert done.exit_code == 2
    assert all(text in done.stderr for text in ("learning_rate", "0.5", "momentum"))
    run = tmp_path / "runs" / "yolact"
    mirrored = {path.name for path in (tmp_path / "mirror" / "runs" / "yolact").iterdir()}
    assert mirrored == {path.name for path in run.iterdir()} - {"running.lock"}


def test_a_training_is_repeated(on_devkit, devkit, tmp_path):
    assert vocseg("train", "--model", "mask_rcnn", *on_devkit).exit_code == 0
    run = tmp_path / "runs" / "mask_rcnn"
    again = ("train", "--from", run, "--device", "cpu", "--results", tmp_path / "again")
    assert vocseg(*again).exit_code == 0
    repeated = tmp_path / "again" / "runs" / "mask_rcnn"
    assert read(run / "config.json") == read(repeated / "config.json")
    first, second = (load_checkpoint(folder / "best.pt")["model"] for folder in (run, repeated))
    assert checksum(first) == checksum(second)
    other = synthetic.write(tmp_path / "other", train=4, val=2, seed=9)
    done = vocseg(*again[:3], "--data", other, "--results", tmp_path / "c")
    assert done.exit_code == 2
    assert str(other) in done.stderr


def test_data_commands(devkit, damageable, tmp_path):
    done = vocseg("fetch", damageable.parent.parent)
    assert done.exit_code == 0
    assert str(damageable) in done.stdout
    for split in ("train", "val"):
        out = tmp_path / f"{split}.json"
        assert vocseg("export-coco", devkit, "--split", split, "--out", out).exit_code == 0
    command = ("import-coco", tmp_path / "train.json", "--out", tmp_path / "devkit")
    assert vocseg(*command).exit_code == 2  # without images
    assert vocseg(*command, "--images", devkit / "JPEGImages").exit_code == 0
    assert split_ids(tmp_path / "devkit", "val") == split_ids(devkit, "val")
    assert vocseg("verify", damageable, "--splits", "train", "val").exit_code == 0
    bad = damageable / "JPEGImages" / f"{split_ids(damageable, 'val')[0]}.jpg"
    bad.unlink()
    done = vocseg("verify", damageable)
    assert done.exit_code == 1
    assert f"missing: {bad}" in done.stdout


def test_wrong_arguments_get_one_line_and_exit_code_two(devkit, tmp_path):
    torn, empty = tmp_path / "torn.json", write(tmp_path / "list.json", [])
    torn.write_text("{")
    image = {"id": 1, "name": "other", "height": 1, "width": 1}
    other = write(tmp_path / "other.json", {"header": {"images": [image]}, "detections": []})
    out = ("--out", tmp_path / "out")
    yolact = ("train", "--model", "yolact", "--data", devkit, "--device", "cpu")
    wrong = [
        ("verify", tmp_path),
        ("export-coco", tmp_path, *out),
        ("import-coco", torn, *out),
        ("train", "--model", "yolact", "--data", torn),
        ("train", "--data", devkit),
        ("train", "--from", empty, "--data", devkit),
        ("predict", "--image", tmp_path),
        ("predict", tmp_path),
        ("predict", tmp_path, "--data", devkit),
        ("predict", tmp_path, "--data", devkit, *out),
        ("evaluate", "--predictions", torn, "--data", devkit),
        ("evaluate", "--predictions", torn, "--data", devkit, "--split", "test"),
        ("evaluate", "--predictions", other, "--data", devkit),
        ("failures", "--predictions", torn, torn, "--data", devkit),
        ("failures", "--predictions", torn, other, empty, "--data", devkit),
        ("failures", "--predictions", torn, "--data", empty, "--gallery", tmp_path / "g.html"),
        ("failures", "--predictions", torn, "--data", devkit, "--set", "none=1"),
        *((*yolact, "--set", change) for change in ("learning_rate", "size=3", "batch_size=0")),
        *((*yolact, "--set", change) for change in ("schedule=foo", "lr_milestones=('a',)")),
    ]
    for arguments in wrong:
        done = vocseg(*arguments)
        assert done.exit_code == 2, arguments
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{arguments[0]}: ")
        if "--set" in arguments:
            assert arguments[-1].split("=")[0] in line


def test_predictions_from_elsewhere_are_evaluated(devkit, detections, tmp_path):
    predictions, exported = write(tmp_path / "p.json", detections), tmp_path / "c.json"
    assert vocseg("export-coco", devkit, "--out", exported).exit_code == 0
    outputs = []
    for data in (devkit, exported):
        files = ("--predictions", predictions, "--data", data, "--out", tmp_path / "m.json")
        done = vocseg("evaluate", *files, "--resamples", 20)
        assert done.exit_code == 0
        outputs.append(done.stdout)
        metrics = read(tmp_path / "m.json")
        names = "mask_AP box_AP75 mask_voc_AP70 mask_AP_without_void mask_mean_IoU".split()
        assert {name: metrics[name] for name in names} == dict.fromkeys(names, 100)
        assert metrics["table"][0].keys() == {"kind", "metric", "class", "value", "low", "high"}
    assert outputs[0] == outputs[1]
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in detections]
    write(predictions, boxes)
    done = vocseg("evaluate", "--predictions", predictions, "--data", devkit, "--resamples", 0)
    assert done.exit_code == 0
    assert "mask" not in done.stdout


def test_failures_of_predictions_from_elsewhere(devkit, detections, tmp_path):
    half = detections[::2]
    files = [write(tmp_path / "all.json", detections), write(tmp_path / "half.json", half)]
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    options = ("failures", "--out", out, "--gallery", page, "--predictions")
    done = vocseg(*options, *files, "--data", devkit, "--set", "min_leakage=0.3")
    assert done.exit_code == 0
    assert re.search(rf"half: {len(half)} \w+, {len(detections)} \w+", done.stdout)
    models, thresholds = (read(out)[key] for key in ("models", "thresholds"))
    assert thresholds["min_leakage"] == 0.3
    assert models["all"]["cases"] == []
    assert len(models["half"]["cases"]) >= 2 * (len(detections) - len(half))  # of masks, of boxes
    assert page.stat().st_size > 10_000
    exported = write(tmp_path / "gt.json", voc_to_coco(devkit, "val"))
    options = (*options, files[1], "--data", exported, "--images", tmp_path)
    assert vocseg(*options).exit_code == 0  # unreadable images are listed on the page
