import json
import subprocess
import sys
from dataclasses import replace

import pytest

from vocseg_lib.data.coco import read_predictions
from vocseg_lib.study import lineage
from vocseg_lib.study.lineage import LineageConfig, evaluate_row, prediction_path
from vocseg_lib.study.lineage_table import (
    LINEAGE_COLUMNS,
    PUBLISHED,
    beside_published,
    cache_regions,
    evaluate_pooling,
    example_image,
    lineage_table,
    pooling_by_iterations,
    recall_by_source,
    step_table,
)
from vocseg_lib.study.run import build_model, load_run
from vocseg_lib.utils.files import write_json

ROWS = {row.title: row for row in lineage.LINEAGE_ROWS}
SVM = ROWS["HOG, color, texture + linear SVM"]
CONFIG = LineageConfig(images=6, proposals=30, iterations=2)


def test_the_core_does_without_the_extra_and_names_it(devkit, tmp_path):
    core = "import sys, vocseg_lib.study.run; assert not {'cv2', 'sklearn'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", core], check=True)
    code = "import sys; sys.modules['sklearn'] = None; from vocseg_lib.__main__ import main; main()"
    command = f"train --model fast_rcnn --data {devkit} --results {tmp_path}".split()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'vocseg_lib[lineage]'" in " ".join(done.stderr.split())


def test_rows_are_evaluated_once(study):
    cache, path = study.results / "lineage" / "cache", prediction_path(study, SVM.title)
    cache_regions(study, CONFIG)
    cached = set(cache.rglob("output.pkl"))
    values = evaluate_row(study, CONFIG, SVM)
    assert set(cache.rglob("output.pkl")) == cached
    assert evaluate_row(study, CONFIG, SVM) == values
    assert read_predictions(path)["detections"]
    oracle = evaluate_row(study, CONFIG, ROWS["ground truth's boxes, box"])
    assert oracle["box_AP50"] == 100 > oracle["mask_AP50"]
    of_oracle = prediction_path(study, oracle["model"])
    whole = json.loads(of_oracle.read_text())
    for row in (None, [], {"model": "x"}, {**oracle, "mask_AP50": "many"}):
        write_json(of_oracle, {**whole, "header": {**whole["header"], "row": row}})
        with pytest.raises(ValueError, match=of_oracle.name):
            evaluate_row(study, CONFIG, ROWS[oracle["model"]])
    table = lineage_table(study, CONFIG, [values, oracle])
    assert tuple(table) == LINEAGE_COLUMNS
    assert table["model"].tolist() == [values["model"], oracle["model"]]
    assert (study.results / "lineage.csv").is_file()
    for other in (replace(CONFIG, images=5), replace(CONFIG, proposals=20)):
        assert evaluate_row(study, other, SVM) != values
    first, written = evaluate_row(study, CONFIG, SVM), path.stat().st_mtime_ns
    changed = replace(study, recipe=study.recipe.with_changes(image_size=96))
    assert evaluate_row(changed, CONFIG, SVM)["box_AP50"] == first["box_AP50"]
    assert path.stat().st_mtime_ns > written  # R-CNN's input depends on it


def test_rows_trained_by_gradient(trained):
    values = evaluate_row(trained, CONFIG, ROWS["DeepLabV3"])
    assert values["iterations"] == CONFIG.iterations
    assert values["parameters"] > 100_000
    run = lineage.short_study(trained, CONFIG).run_folder("semantic")
    assert load_run(run)[0].image_size == build_model(trained.recipe, "semantic").image_size == 64
    grabcut = evaluate_row(trained, CONFIG, ROWS["Mask R-CNN, GrabCut in its boxes"])
    assert grabcut["parameters"] == evaluate_row(trained, CONFIG, ROWS["Mask R-CNN"])["parameters"]
    for by_source in recall_by_source(trained, CONFIG, [1, 30]).values():
        assert all(0 <= first <= last <= 100 for first, last in by_source.values())


def test_steps_by_hand(study):
    """R-CNN detects nothing, Fast R-CNN every object, in a quarter of the time."""
    annotations, rows = study.ground_truth["annotations"], []
    every = [{**annotation, "score": 1.0} for annotation in annotations]
    of_val = {"images": study.val_images, "config": {"data_fingerprint": study.fingerprint}}
    for title, results, seconds in (("R-CNN", [], 0.4), ("Fast R-CNN", every, 0.1)):
        write_json(prediction_path(study, title), {"header": of_val, "detections": results})
        rows.append({"model": title, "kind": "two stages", "seconds_per_image": seconds})
    (step,) = step_table(study, rows).to_dict("records")
    assert (step["before"], step["after"]) == ("R-CNN", "Fast R-CNN")
    assert step["seconds_ratio"] == 0.25
    for name in ("box_AP50", "mask_AP50"):
        assert [step[name + end] for end in ("", "_low", "_high")] == pytest.approx([100] * 3)
    # The image for examples has two to four objects.
    image_id = example_image(study.ground_truth)
    assert 2 <= sum(annotation["image_id"] == image_id for annotation in annotations) <= 4


def test_roi_poolings_are_compared_at_three_iterations_of_one_training(study):
    config = replace(CONFIG, iterations=4)
    assert lineage.compared_iterations(config) == [1, 2, 4]
    assert lineage.compared_iterations(CONFIG) == [1, 2]
    assert lineage.compared_iterations(replace(CONFIG, iterations=1)) == [1]
    rows = [evaluate_row(study, config, ROWS[title]) for title in lineage.POOLING_ROWS]
    evaluations = evaluate_pooling(study, config)
    for row in rows:  # the row is the last of the three, and its weights are the run's best
        summary = evaluations[4][row["model"]].summary
        assert {n: row[n] for n in ("box_AP50", "mask_AP50")}.items() <= summary.items()
    run = lineage.short_study(study, config).run_folder("mask_rcnn")
    assert load_run(run)[2]["iteration"] == 4
    # A shorter training has the same weights as the longer one had then.
    evaluate_row(study, replace(config, iterations=2), ROWS[lineage.SHORT])
    shorter = lineage.short_study(study, replace(config, iterations=2)).run_folder("mask_rcnn")
    files = (read_predictions(folder / "predictions_2.json") for folder in (run, shorter))
    first, second = (file["detections"] for file in files)
    assert first == second
    # Differences by hand.
    table = pooling_by_iterations(study, evaluations)
    assert len(table) == 3 * 2 * 3
    by_row = table.set_index(["kind", "iterations", "variant"]).sort_index()
    value = by_row["value"]["box", 4]
    difference = by_row["difference"]["box", 4]
    assert difference[lineage.SHORT] == 0
    expected = value[lineage.POOLED] - value[lineage.SHORT]
    assert difference[lineage.POOLED] == pytest.approx(expected)
    assert (table["difference_low"] <= table["difference_high"]).all()
    assert (study.results / "lineage_iterations.csv").is_file()


def test_predictions_that_were_deleted_are_made_again(study):
    row = evaluate_row(study, CONFIG, ROWS["DeepLabV3"])
    run = lineage.short_study(study, CONFIG).run_folder("semantic")
    for path in (run / "predictions_2.json", prediction_path(study, "DeepLabV3")):
        path.unlink()
    assert evaluate_row(study, CONFIG, ROWS["DeepLabV3"])["mask_AP50"] == row["mask_AP50"]


def test_published_values_have_rows_sources_and_plausible_numbers():
    for model, measure, value, data, backbone, source in PUBLISHED:
        assert model in ROWS
        assert measure in LINEAGE_COLUMNS
        assert 0 < value < 100
        assert all((data, backbone, source))
    ours = beside_published([{"model": "YOLACT", "mask_AP50": 12.5}]).set_index("model")["ours"]
    assert ours["YOLACT"] == 12.5
    assert ours.drop("YOLACT").isna().all()
