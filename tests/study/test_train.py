"""Trainings of a study: what they learn, what they write, and what is evaluated again."""

from dataclasses import replace

import pytest

from tests.helpers.trainings import QUICK
from vocseg_lib.data.coco import read_predictions, subset
from vocseg_lib.data.voc import split_ids
from vocseg_lib.engine.predict import predict
from vocseg_lib.engine.run_folder import read_sessions
from vocseg_lib.engine.train import Session
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.study.recipes import MODEL_TITLES, get_recipe
from vocseg_lib.study.results import checkpoint_ap
from vocseg_lib.study.run import load_run
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import open_or_train, overfit, train_model
from vocseg_lib.utils.files import read_json, write_json

SHORT = QUICK.with_changes(iterations=4, batch_size=2, eval_every=2, checkpoint_every=2)


@pytest.mark.parametrize(("name", "steps"), [("yolact", 220), ("mask_rcnn", 120)])
def test_four_images_are_overfitted(name, steps, some_devkit, tmp_path):
    recipe = get_recipe("quick").with_changes(image_size=192, short_side=112)
    study = Study(recipe, some_devkit, tmp_path)
    annotations = study.ground_truth["annotations"]
    counts = {image["id"]: 0 for image in study.ground_truth["images"]}
    for annotation in annotations:
        counts[annotation["image_id"]] += 1
    ids = sorted(counts, key=lambda i: abs(counts[i] - 2))[:4]  # images of about two objects
    names = [study.dataset("val").names[i - 1] for i in ids]
    model = overfit(study, name, names, steps=steps, device="cpu")
    dataset = study.dataset("val")
    dataset.names = names
    detections = predict(model, dataset, progress=False)["detections"]
    detections = [{**d, "image_id": ids[d["image_id"] - 1]} for d in detections]
    summary = evaluate(subset(study.ground_truth, set(ids)), detections).summary
    assert summary["mask_AP50"] > 90, summary


def test_a_moved_run_folder_is_all_that_is_needed(devkit, tmp_path):
    study = Study(SHORT, devkit, tmp_path)
    state = train_model(study, "yolact")
    folder = study.run_folder("yolact")
    files = {"config.json", "run.json", "log.jsonl", "metrics.json", "predictions.json"}
    files |= {"predictions_half.json", "predictions_last.json"}
    files |= {"last.pt", "previous.pt", "best.pt", "running.lock"}
    assert {path.name for path in folder.iterdir()} | {"running.lock"} == files
    for name, iteration in (("half", 2), ("last", 4)):
        header = read_json(folder / f"predictions_{name}.json")["header"]
        assert header["iteration"] == iteration
    table = checkpoint_ap(folder, study.ground_truth)
    assert set(table["checkpoint"]) == {"best", "half", "last"}
    moved = folder.rename(tmp_path / "elsewhere")
    model, config, best = load_run(moved, "cpu")
    assert not model.training
    assert config["train"] == SHORT.train.to_dict()
    assert best["iteration"] == state["best"]["iteration"]
    assert best["iteration"] == read_json(moved / "metrics.json")["iterations"]
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_run(tmp_path)


def test_predictions_are_remade_if_weights_or_config_changed_or_a_file_is_damaged(devkit, tmp_path):
    recipe = SHORT.with_changes(iterations=2)
    folder = Study(recipe, devkit, tmp_path).run_folder("yolact")
    files = [folder / "metrics.json", folder / "predictions.json"]

    def evaluated(recipe):
        train_model(Study(recipe, devkit, tmp_path), "yolact")
        return [read_json(path) for path in files], [path.stat().st_mtime_ns for path in files]

    contents, times = evaluated(recipe)
    assert evaluated(recipe) == (contents, times)  # kept
    for path in files:
        path.write_text("{")
        assert evaluated(recipe)[0] == contents
    for field, value in (("seed", 7), ("nms", "standard")):
        for path in [*folder.glob("*.pt"), folder / "config.json"]:
            path.unlink()
        (metrics, predictions), _ = evaluated(recipe.with_changes(**{field: value}))
        config = predictions["header"]["config"]
        assert {**config["train"], **config["recipe"]["yolact"]}[field] == value
        assert metrics["checksum"] != contents[0]["checksum"]


def test_an_unreadable_image_of_val_is_left_out_of_evaluation(damageable, tmp_path):
    names = split_ids(damageable, "val")
    (damageable / "JPEGImages" / f"{names[1]}.jpg").write_bytes(b"torn")
    study = Study(SHORT.with_changes(iterations=2, max_bad_fraction=0.4), damageable, tmp_path)
    with pytest.warns(UserWarning, match=names[1]):
        train_model(study, "yolact")
    header = read_json(study.run_folder("yolact") / "predictions.json")["header"]
    images = [(image["id"], image["name"]) for image in header["images"]]
    assert images == [(1, names[0]), (3, names[2])]


def test_two_processes_are_started_and_their_bad_samples_listed(damageable, tmp_path, capfd):
    bad = split_ids(damageable, "train")[:3]
    for name in bad:
        (damageable / "JPEGImages" / f"{name}.jpg").write_bytes(b"torn")
    recipe = SHORT.with_changes(batch_size=4, max_bad_fraction=0.5)
    study, session = Study(recipe, damageable, tmp_path), Session(device="cpu")
    two = train_model(study, "yolact", processes=2, session=session)
    one = train_model(replace(study, results=tmp_path / "one"), "yolact", session=session)
    assert two.keys() == one.keys()
    for key in ("iteration", "stopped", "bad_samples", "skipped_updates", "overflows"):
        assert two[key] == one[key]
    assert {name.split(":")[0] for name in two["bad_samples"]} == {
        f"JPEGImages/{name}.jpg" for name in bad
    }
    folder = study.run_folder("yolact")
    assert read_json(folder / "metrics.json")["bad_samples"] == two["bad_samples"]
    assert read_sessions(folder / "run.json")[0]["processes"] == 2
    assert "train" in capfd.readouterr().err
    for processes, device, number in ((3, "cpu", "4"), (99, "cuda", "99")):
        with pytest.raises(ValueError, match=number):
            train_model(study, "yolact", processes=processes, session=Session(device=device))


def test_runs_and_their_prediction_files_give_the_same_results(devkit, tmp_path):
    recipe = QUICK.with_changes(batch_size=2, iterations=2, eval_every=2, checkpoint_every=2)
    results = open_or_train(recipe, devkit, tmp_path / "study")
    assert list(results.predictions) == list(MODEL_TITLES.values())
    assert (results.folder, results.images) == (tmp_path / "study", devkit)
    assert [entry["iteration"] for entry in results.logs()["YOLACT"] if "loss" in entry] == [1, 2]

    runs = [results.study.run_folder(name) / "predictions.json" for name in MODEL_TITLES]
    for name, run in zip(MODEL_TITLES, runs, strict=True):
        (tmp_path / f"{name}.json").write_bytes(run.read_bytes())
    files = [str(tmp_path / f"{name}.json") for name in MODEL_TITLES]
    opened = open_or_train("quick", devkit, tmp_path / "files", predictions=",".join(files))
    assert type(opened) is type(results)
    assert list(opened.predictions) == list(MODEL_TITLES)
    assert (opened.folder.is_dir(), opened.study, opened.logs()) == (True, None, {})
    pair = (opened.evaluations.values(), results.evaluations.values())
    assert all(a.summary == b.summary for a, b in zip(*pair, strict=True))

    other = read_predictions(runs[0])
    other["header"]["images"][0]["name"] = "another"
    write_json(tmp_path / "other.json", other)
    with pytest.raises(ValueError, match=r"other\.json"):
        open_or_train("quick", devkit, tmp_path, predictions=str(tmp_path / "other.json"))
