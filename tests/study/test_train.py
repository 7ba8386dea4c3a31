import json
from dataclasses import replace

import pytest

from vocseg_lib.data.coco_validation import subset
from vocseg_lib.data.voc import split_ids
from vocseg_lib.engine.predict import predict
from vocseg_lib.engine.run_folder import read_log, read_sessions
from vocseg_lib.engine.train import Session, train
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.study.recipes import MODEL_TITLES, get_recipe
from vocseg_lib.study.results import checkpoint_ap
from vocseg_lib.study.run import load_run
from vocseg_lib.study.study import Study
from vocseg_lib.study.train import open_or_train, overfit, train_model
from vocseg_lib.utils.files import read_json


@pytest.mark.parametrize(("name", "steps"), [("yolact", 150), ("mask_rcnn", 110)])
def test_four_images_are_overfitted(name, steps, some_devkit, tmp_path):
    recipe = get_recipe("quick").with_changes(image_size=192, short_side=112)
    study = Study(recipe=recipe, devkit=some_devkit, results=tmp_path)
    objects = [annotation["image_id"] for annotation in study.ground_truth["annotations"]]
    ids = [image["id"] for image in study.ground_truth["images"]]
    ids = sorted(ids, key=lambda i: abs(objects.count(i) - 2))[:4]  # of about two objects
    dataset = study.dataset("val")
    dataset.names = [dataset.names[i - 1] for i in ids]
    model = overfit(study, name, dataset.names, steps=steps, device="cpu")
    detections = predict(model, dataset, progress=False)["detections"]
    detections = [{**d, "image_id": ids[d["image_id"] - 1]} for d in detections]
    summary = evaluate(subset(study.ground_truth, set(ids)), detections).summary
    assert summary["mask_AP50"] > 90, summary


def test_the_best_weights_are_chosen_on_a_part_of_train_that_is_set_aside(study, monkeypatch):
    recipe = study.recipe.with_changes(selection_share=0.05)
    study = replace(study, recipe=recipe)
    names = split_ids(study.devkit, "train")
    aside = [names[image["id"] - 1] for image in study.selection_ground_truth["images"]]
    assert len(aside) == round(0.05 * len(names))
    assert sorted(aside + study.train_names) == sorted(names)
    seen = []

    def train_and_record(model, dataset, *args, **options):
        seen.extend(dataset.names)
        return train(model, dataset, *args, **options)

    monkeypatch.setattr("vocseg_lib.study.train.train", train_and_record)
    state = train_model(study, "yolact")
    assert seen == study.train_names
    evals = [e for e in read_log(study.run_folder("yolact") / "log.jsonl") if "mask_AP50" in e]
    assert [e["selection_images"] for e in evals] == [len(aside)] * len(evals)
    best = max(evals, key=lambda e: (e["selection_AP50"], -e["selection_loss"]))
    assert state["best"]["iteration"] == best["iteration"]
    with pytest.raises(ValueError, match="selection_share"):
        replace(study, recipe=recipe.with_changes(selection_share=0.999)).train_names  # noqa: B018


def test_a_moved_run_folder_is_all_that_is_needed(trained, tmp_path):
    folder = trained.run_folder("yolact").rename(tmp_path / "elsewhere")
    files = "config.json run.json log.jsonl metrics.json predictions.json predictions_half.json "
    files += "predictions_last.json last.pt previous.pt best.pt running.lock"
    assert {path.name for path in folder.iterdir()} | {"running.lock"} == {*files.split()}
    half, last = (read_json(folder / f"predictions_{name}.json") for name in ("half", "last"))
    assert [part["header"]["iteration"] for part in (half, last)] == [2, 4]
    table = checkpoint_ap(trained, folder)
    assert set(table["checkpoint"]) == {"best", "half", "last"}
    assert (table["low"] <= table["high"]).all()
    metrics = read_json(folder / "metrics.json")
    for row in table[table["checkpoint"] == "best"].itertuples():
        assert row.value == pytest.approx(metrics[f"{row.kind}_{row.metric}"])
    model, config, best = load_run(folder, "cpu")
    assert config["train"] == trained.recipe.train.to_dict()
    assert (model.training, best["iteration"]) == (False, metrics["iterations"])
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_run(tmp_path)
    other_names = {"class_names": config["class_names"][::-1]}
    for change in ({"recipe": 3}, {"class_names": 1}, other_names, {"model": "mask_rcnn"}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=r"config\.json"):
            load_run(folder)


def test_predictions_are_remade_if_weights_or_config_changed_or_a_file_is_damaged(trained):
    def evaluated(**changes):
        study = replace(trained, recipe=trained.recipe.with_changes(**changes))
        state, folder = train_model(study, "yolact"), study.run_folder("yolact")
        files = [folder / "metrics.json", folder / "predictions.json"]
        assert state["best"]["iteration"] == read_json(files[0])["iterations"]
        return [read_json(path) for path in files], [path.stat().st_mtime_ns for path in files]

    contents, times = evaluated()
    assert evaluated() == (contents, times)  # kept
    folder = trained.run_folder("yolact")
    for name in ("metrics.json", "predictions.json"):
        (folder / name).write_text("{")
        assert evaluated()[0] == contents
    for field, value in (("learning_rate", 0.004), ("nms", "standard")):
        for path in [*folder.glob("*.pt"), folder / "config.json"]:
            path.unlink()
        (metrics, predictions), _ = evaluated(**{field: value})
        config = predictions["header"]["config"]
        assert {**config["train"], **config["recipe"]["yolact"]}[field] == value
        assert metrics["checksum"] != contents[0]["checksum"]


def test_two_processes_are_started_and_unreadable_images_listed(study, damageable, capfd):
    bad, val = split_ids(damageable, "train")[:3], split_ids(damageable, "val")
    for name in (*bad, val[1]):
        (damageable / "JPEGImages" / f"{name}.jpg").write_bytes(b"torn")
    recipe = study.recipe.with_changes(batch_size=4, max_bad_fraction=0.5)
    study = replace(study, recipe=recipe, devkit=damageable)
    cpu, folder = Session(device="cpu"), study.run_folder("yolact")
    two = train_model(study, "yolact", processes=2, session=cpu)
    with pytest.warns(UserWarning, match=val[1]):
        one = train_model(replace(study, results=study.results / "one"), "yolact", session=cpu)
    assert two.keys() == one.keys()
    for key in ("iteration", "stopped", "bad_samples", "skipped_updates", "overflows"):
        assert two[key] == one[key]
    listed = {f"JPEGImages/{name}.jpg" for name in bad}
    assert {sample.split(":")[0] for sample in two["bad_samples"]} == listed
    assert read_json(folder / "metrics.json")["bad_samples"] == two["bad_samples"]
    images = read_json(folder / "predictions.json")["header"]["images"]
    assert [(image["id"], image["name"]) for image in images] == [(1, val[0]), (3, val[2])]
    assert read_sessions(folder / "run.json")[0]["processes"] == 2
    assert "train" in capfd.readouterr().err
    for processes, device, number in ((3, "cpu", "4"), (99, "cuda", "99")):
        with pytest.raises(ValueError, match=number):
            train_model(study, "yolact", processes=processes, session=Session(device=device))


def test_runs_and_their_prediction_files_give_the_same_results(trained, tmp_path):
    results = open_or_train(trained.recipe, trained.devkit, tmp_path)
    assert list(results.predictions) == list(MODEL_TITLES.values())
    assert (results.folder, results.images) == (tmp_path, trained.devkit)
    updates = [entry for entry in results.logs()["YOLACT"] if "loss" in entry]
    assert [entry["iteration"] for entry in updates] == [1, 2, 3, 4]
    files = [tmp_path / f"{name}.json" for name in MODEL_TITLES]
    for name, file in zip(MODEL_TITLES, files, strict=True):
        file.write_bytes((trained.run_folder(name) / "predictions.json").read_bytes())
    predictions = ",".join(map(str, files))
    opened = open_or_train("quick", trained.devkit, tmp_path / "files", predictions=predictions)
    assert list(opened.predictions) == list(MODEL_TITLES)
    assert (opened.folder.is_dir(), opened.study, opened.logs()) == (True, None, {})
    pair = (opened.evaluations.values(), results.evaluations.values())
    assert all(a.summary == b.summary for a, b in zip(*pair, strict=True))
