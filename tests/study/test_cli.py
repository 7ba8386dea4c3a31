import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
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
from vocseg_lib.plots.images import DRAWN_SCORE
from vocseg_lib.study.cli.options import app
from vocseg_lib.study.recipes import RECIPES, parse_assignments
from vocseg_lib.utils.files import read_json as read

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
COMMANDS = typer.main.get_command(app).commands
HEAVY = {"torch", "torchvision", "pandas", "matplotlib", "pycocotools", "scipy"}
USAGE = (
    *("--help", "train --help", "train --from nowhere", "predict nowhere --image nowhere.jpg"),
    *("train --model unet", "train --profile huge --model yolact"),
    *(f"train --model yolact --max-hours {hours}" for hours in ("0", "many")),
    *("train --model yolact --device banana", "train --model yolact --device mps"),
    *("predict a --weights b --image c.jpg", "train --model yolact --set scales=(1,2)"),
    *("train --model yolact --set nms_iou=7", "train --model yolact --set schedule=foo"),
    "train --model yolact --data nowhere",
    "failures --predictions nowhere.json --data nowhere",
    "evaluate --predictions nowhere.json --data nowhere --resamples -1",
)


@pytest.fixture
def detections(devkit):
    """The annotations of val as detections."""
    annotations = voc_to_coco(devkit, "val")["annotations"]
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: entry[key] for key in keys} | {"score": 0.9} for entry in annotations]


def succeeds(*arguments):
    """What a command without problems prints."""
    done = vocseg(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_parse(page):
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"(?:python -m vocseg_lib|^vocseg) ([a-z][^`\n#]*)", text, re.MULTILINE):
        name, *arguments = shlex.split(line)
        COMMANDS[name].make_context(name, [a for a in arguments if a not in ("...", "…")])
    makefile = (ROOT / "Makefile").read_text()
    for line in re.findall(r"(?:^|`)make ([a-z][^`\n#]*)", text, re.MULTILINE):
        for argument in shlex.split(line):
            name, setting, _ = argument.partition("=")
            defined = rf"^{name} \?=" if setting else f"^{name}:"
            assert re.search(defined, makefile, re.MULTILINE), line


def test_help_defaults_and_several_values_after_one_flag():
    listed = succeeds("--help")
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name}\s+\w", listed, re.MULTILINE), name
        shown = succeeds(name, "--help")
        assert all(flag in shown for p in command.params for flag in p.opts if "-" in flag)
    defaults = {(name, p.name): p.default for name, c in COMMANDS.items() for p in c.params}
    assert defaults["predict", "score"] == DRAWN_SCORE
    assert defaults["evaluate", "score"] == SEMANTIC_SCORE
    assert defaults["evaluate", "resamples"] == RESAMPLES
    arguments = "--image a b --weights run --image c --score 0.5".split()
    parsed = COMMANDS["predict"].make_context("predict", arguments).params
    assert (*parsed["image"], parsed["weights"], parsed["score"]) == ("a", "b", "c", "run", 0.5)
    assert vocseg("predict", "run", "--image").exit_code == 2


def test_help_and_wrong_arguments_load_nothing_heavy():
    code = f"""
import sys
from vocseg_lib.__main__ import main
for arguments in {USAGE}:
    sys.argv = ["vocseg", *arguments.split()]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, *{HEAVY} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exits = re.findall("^exit .*", done.stdout, re.MULTILINE)
    assert exits == [f"exit {0 if '--help' in arguments else 2}" for arguments in USAGE]


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_predict_and_evaluate(trained, devkit, tmp_path, model):
    run, predictions = trained.run_folder(model), tmp_path / "p.json"
    succeeds("predict", run, "--data", devkit, "--out", predictions, "--device", "cpu")
    assert read(predictions)["detections"] == read(run / "predictions.json")["detections"]
    files = ("--predictions", predictions, "--data", devkit, "--out", tmp_path / "m.json")
    printed = succeeds("evaluate", *files)
    assert re.search(r"mask +AP50 +\S+ +\S+ +\S+\n(.*\n)*mask +mean_IoU +\S+", printed)
    assert read(tmp_path / "m.json")["mask_AP50"] == read(run / "metrics.json")["mask_AP50"]


def test_predictions_are_drawn_on_images(trained, devkit, tmp_path):
    weights = ("--weights", trained.run_folder("mask_rcnn") / "best.pt", "--device", "cpu")
    options = ("predict", *weights, "--out", tmp_path / "drawn", "--score", 0, "--image")
    notes = write(tmp_path / "notes.txt", "not an image")
    images = sorted((devkit / "JPEGImages").iterdir())[:2]
    for some, code in (((*images, notes), 0), ((notes,), 1)):
        done = vocseg(*options, *some)
        assert (done.exit_code, str(notes) in done.stderr) == (code, True)
        for image in some[:-1]:
            drawn = tmp_path / "drawn" / f"{image.stem}.png"
            assert re.search(rf"{image}: .* -> {drawn}", done.stdout)
            assert Image.open(image).size == Image.open(drawn).size


def test_a_training_is_stopped_and_resumed(devkit, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "quick", QUICK.with_changes(iterations=2, batch_size=2))
    command = ("train", "--model", "yolact", "--data", devkit, "--device", "cpu")
    command += ("--results", tmp_path, "--mirror", tmp_path / "mirror")
    run = tmp_path / "runs" / "yolact"
    assert "stopped at iteration 1:" in succeeds(*command, "--max-hours", "0.0000001")
    assert re.search(rf"best mask AP50.*\n.*{run}\n", succeeds(*command))
    done = vocseg(*command, "--set", "learning_rate=0.5", "momentum=0.8")
    assert done.exit_code == 2
    assert all(text in done.stderr for text in ("learning_rate", "0.5", "momentum"))
    mirrored = {path.name for path in (tmp_path / "mirror" / "runs" / "yolact").iterdir()}
    assert mirrored == {path.name for path in run.iterdir()} - {"running.lock"}


def test_a_training_is_repeated(trained, tmp_path):
    run = trained.run_folder("mask_rcnn")
    again = ("train", "--from", run, "--device", "cpu", "--results", tmp_path / "again")
    succeeds(*again)
    repeated = tmp_path / "again" / "runs" / "mask_rcnn"
    assert read(run / "config.json") == read(repeated / "config.json")
    first, second = (load_checkpoint(folder / "best.pt")["model"] for folder in (run, repeated))
    assert checksum(first) == checksum(second)
    assert vocseg(*again, "--model", "yolact").exit_code == 2
    other = synthetic.write(tmp_path / "other", train=4, val=2, seed=9)
    done = vocseg(*again, "--data", other)
    assert (done.exit_code, str(other) in done.stderr) == (2, True)


def test_data_commands(devkit, damageable, tmp_path):
    assert str(damageable) in succeeds("fetch", damageable.parent.parent)
    for split in ("train", "val"):
        succeeds("export-coco", devkit, "--split", split, "--out", tmp_path / f"{split}.json")
    command = ("import-coco", tmp_path / "train.json", "--out", tmp_path / "devkit")
    assert vocseg(*command).exit_code == 2  # without images
    succeeds(*command, "--images", devkit / "JPEGImages")
    assert split_ids(tmp_path / "devkit", "val") == split_ids(devkit, "val")
    succeeds("verify", damageable, "--splits", "train", "val")
    bad = next(damageable.glob("JPEGImages/*"))
    bad.unlink()
    done = vocseg("verify", damageable)
    assert (done.exit_code, f"missing: {bad}" in done.stdout) == (1, True)


def test_wrong_arguments_get_one_line_and_exit_code_two(devkit, tmp_path):
    torn, empty = tmp_path / "torn.json", write(tmp_path / "list.json", [])
    torn.write_text("{")
    image = {"id": 1, "name": "other", "height": 1, "width": 1}
    other = write(tmp_path / "other.json", {"header": {"images": [image]}, "detections": []})
    out, val = ("--out", tmp_path / "out"), ("--data", devkit)
    torn_file, yolact = ("--predictions", torn), ("train", "--model", "yolact", "--data")
    changes = "learning_rate size=3 batch_size=0 schedule=foo lr_milestones=('a',)".split()
    wrong = [
        *(("verify", tmp_path), ("export-coco", tmp_path, *out), ("import-coco", torn, *out)),
        *((*yolact, torn), ("train", *val), ("train", "--from", empty, *val)),
        *(("predict", *val, *out), ("predict", tmp_path), ("predict", tmp_path, *val)),
        ("predict", tmp_path, *val, *out),
        *(("evaluate", *torn_file, *val), ("evaluate", *torn_file, *val, "--split", "test")),
        *(("evaluate", "--predictions", other, *val), ("failures", *torn_file, torn, *val)),
        ("failures", *torn_file, other, empty, *val),
        ("failures", *torn_file, "--data", empty, "--gallery", tmp_path / "g.html"),
        ("failures", *torn_file, *val, "--set", "none=1"),
        *((*yolact, devkit, "--device", "cpu", "--set", change) for change in changes),
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
    succeeds("export-coco", devkit, "--out", exported)
    command, printed = ("evaluate", "--predictions", predictions, "--resamples"), []
    for data in (devkit, exported):
        printed.append(succeeds(*command, 20, "--data", data, "--out", tmp_path / "m.json"))
        metrics = read(tmp_path / "m.json")
        names = "mask_AP box_AP75 mask_voc_AP70 mask_AP_without_void mask_mean_IoU".split()
        assert {name: metrics[name] for name in names} == dict.fromkeys(names, 100)
        assert metrics["table"][0].keys() == {"kind", "metric", "class", "value", "low", "high"}
        expected = {"oLRP", "oLRP_loc", "oLRP_score", "best_F1", "F1_score"}
        assert expected < metrics["score_thresholds"][0].keys()
        assert metrics["mask_oLRP"] == metrics["mask_oLRP_FN"] == 0
    assert printed[0] == printed[1]
    write(predictions, [{k: v for k, v in d.items() if k != "segmentation"} for d in detections])
    assert "mask" not in succeeds(*command, 0, "--data", devkit)


def test_trainings_of_two_models_are_compared(devkit, detections, tmp_path):
    parts = [detections, detections[1:], detections[2:], detections[::2], detections[1::2]]
    files = [write(tmp_path / f"{k}.json", part) for k, part in enumerate(parts)]
    command = ("evaluate", "--data", devkit, "--resamples", 30, "--out", tmp_path / "m.json")
    succeeds(*command, "--predictions", *files[:3], "--against", *files[3:])
    content = read(tmp_path / "m.json")
    assert len(content["models"]) == 2
    rows = {(r["kind"], r["metric"], r["class"]): r for r in content["differences"]}
    row = rows["mask", "AP50", "all"]
    assert row["significant"]
    assert row["joint_low"] <= row["low"] <= row["difference"] <= row["high"]
    assert 0 <= row["training_share"] <= 1
    first, second = (model["mask_AP50"] for model in content["models"].values())
    assert row["difference"] == pytest.approx(first - second)
    for wrong in (("--against", files[0]), ("--against", tmp_path / "none.json")):
        assert vocseg(*command, "--predictions", files[0], *wrong).exit_code == 2


def test_rules_and_a_plan_are_written(devkit, detections, tmp_path):
    files = [
        write(tmp_path / "all.json", detections),
        write(tmp_path / "some.json", detections[3:]),
    ]
    arguments = ("--predictions", files[0], "--against", files[1], "--data", devkit)
    out = ("--out", tmp_path / "out")
    printed = succeeds("rules", *arguments, "--resamples", 30, *out)
    assert "Boundary AP" in printed
    table = pd.read_csv(tmp_path / "out" / "rule_book.csv").set_index("rule")
    assert table.loc["COCO AP", "first"] == 100
    assert table.loc["oLRP", "first"] == 0 < table.loc["oLRP", "lead"]
    assert (tmp_path / "out" / "rule_book.png").stat().st_size > 5_000
    succeeds("plan", *arguments, "--training-sd", 2, *out)
    plan = pd.read_csv(tmp_path / "out" / "plan.csv", index_col=0)
    assert (plan.to_numpy()[:, -1] <= plan.to_numpy()[:, 0]).all()
    for wrong in (
        ("plan", *arguments, "--metric", "no", *out),
        ("rules", *arguments, "--out", files[0]),
    ):
        assert vocseg(*wrong).exit_code == 2


def test_failures_of_predictions_from_elsewhere(devkit, detections, tmp_path):
    half = detections[::2]
    files = [write(tmp_path / "all.json", detections), write(tmp_path / "half.json", half)]
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    command = ("failures", "--out", out, "--gallery", page, "--predictions")
    printed = succeeds(*command, *files, "--data", devkit, "--set", "min_leakage=0.3")
    assert re.search(rf"half: {len(half)} \w+, {len(detections)} \w+", printed)
    models, thresholds = (read(out)[key] for key in ("models", "thresholds"))
    assert thresholds["min_leakage"] == 0.3
    assert models["all"]["cases"] == []
    assert len(models["half"]["cases"]) >= 2 * (len(detections) - len(half))  # of masks, of boxes
    assert page.stat().st_size > 10_000
    exported = write(tmp_path / "gt.json", voc_to_coco(devkit, "val"))
    done = vocseg(*command, files[1], "--data", exported, "--images", tmp_path)
    first, *_, last = split_ids(devkit, "val")
    assert done.exit_code == 2
    assert all(text in done.stderr for text in (f"{first}.jpg", str(tmp_path)))
    shutil.copy(devkit / "JPEGImages" / f"{last}.jpg", tmp_path)
    done = vocseg(*command, files[1], "--data", exported, "--images", tmp_path)
    assert (done.exit_code, f"{first}.jpg" in done.stderr) == (0, True)


def test_assignments_as_text():
    texts = {
        "a=550": 550,
        "b=1e-3": 1e-3,
        "c=None": None,
        "d=(1, 2)": (1, 2),
        "e=x/y.pth": "x/y.pth",
    }
    names = [text[0] for text in texts]
    assert parse_assignments(texts, names) == dict(zip(names, texts.values(), strict=True))
    for wrong in ("a", "size=3", "=3"):
        with pytest.raises(ValueError, match=f"{wrong}.*a, b, c, d, e"):
            parse_assignments([wrong], names)
