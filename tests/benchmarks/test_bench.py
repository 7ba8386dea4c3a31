import json
from unittest.mock import Mock

import pytest
import torch

from benchmarks import bench, gpu_check
from benchmarks.cases import measure_large_evaluation, synthetic_results
from tests.helpers.trainings import QUICK
from vocseg_lib.study.study import Study
from vocseg_lib.utils.device import peak_memory_gb
from vocseg_lib.utils.files import read_json


def test_times_are_medians_of_alternating_runs():
    calls = []
    bench.time_alternating(lambda: calls.append("a"), lambda: calls.append("b"), repeats=7)
    assert calls == ["a", "b"] * 9  # two turns of warm-up


def test_rows_of_the_data_path_and_of_pasting(devkit):
    torch.manual_seed(0)
    data, paste = "data_images_per_second_per_core", "mask_rcnn_paste_speedup"
    rows = {data: bench.measure_data(devkit, repeats=1), paste: bench.measure_paste(1)}
    assert rows[data]["value"] > 1
    assert rows[paste]["error"] <= bench.TOLERANCE
    content = json.loads(json.dumps(bench.report(rows)))
    assert content[paste] == rows[paste]["value"]
    table = bench.markdown(content).splitlines()
    assert len(table) == 4
    assert "| at least 10.0 |" in table[3]


def test_a_failed_check_stops_the_bench(monkeypatch, devkit):
    bad = ("yolact_forward", {"value": 1.0, "check": "outputs equal", "error": 0.5})
    monkeypatch.setattr(bench, "measure_inference", lambda body, repeats: [bad])
    with pytest.raises(RuntimeError, match="yolact_forward"):
        bench.measure_rows(devkit, 1, only="inference")


def test_synthetic_results_are_of_the_size_of_val(devkit, monkeypatch):
    monkeypatch.setattr("benchmarks.cases.EVALUATED_IMAGES", 20)
    monkeypatch.setattr("benchmarks.cases.EVALUATED_DETECTIONS", 70)
    ground_truth, detections = synthetic_results(devkit)
    assert (len(ground_truth["images"]), len(detections)) == (20, 70)
    assert {d["image_id"] for d in detections} == set(range(1, 21))


def test_the_large_evaluation_measures_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr("benchmarks.cases.LARGE_IMAGES", 6)
    row = measure_large_evaluation()
    assert 0.1 < row["value"] < max(2, 1.1 * peak_memory_gb())  # Linux counts the parent's
    assert row["seconds"] > 0
    assert "600 detections" in row["check"]
    monkeypatch.setattr("benchmarks.cases.LARGE_DETECTIONS", -1)
    with pytest.raises((RuntimeError, ValueError)):
        measure_large_evaluation()


def test_both_models_train_resume_and_predict_in_each_precision(devkit, tmp_path):
    # Not 64 pixels: in bfloat16, oneDNN's gradient of a 3x3 stride-2 convolution of one pixel (P7)
    # is at times not finite.
    recipe = QUICK.with_changes(batch_size=2, image_size=96, short_side=96)
    study = Study(recipe=recipe, devkit=devkit, results=tmp_path)
    out, modes = tmp_path / "gpu_check.json", ("fp32", "mixed")
    table = gpu_check.check(study, 4, "cpu", out, modes)
    runs = [(model, mode) for model in ("yolact", "mask_rcnn") for mode in modes]
    assert list(zip(table["model"], table["mode"], strict=True)) == runs
    assert (table["iterations_per_second"] > 0).all()
    assert table["data_wait_fraction"].between(0, 1).all()
    assert (table["resumed_from"] == 2).all()
    # On the CPU, trainings are bit-exact in float32; in bfloat16 a few of the same one differ.
    assert (table["resumed_loss_change"] <= table["mode"].map({"fp32": 0, "mixed": 0.05})).all()
    assert (table["detections"] >= 0).all()
    written = read_json(out)
    assert [len(run["losses"]) for run in written["runs"]] == [4] * 4
    fp32, mixed = (run["losses"][0] for run in written["runs"][:2])
    assert abs(fp32 - mixed) < 0.02 * fp32
    assert {"device_name", "commit", "torch", "batch_size"} <= written.keys()


def test_a_run_that_fails_is_written_and_the_others_follow(devkit, tmp_path, monkeypatch):
    train = Mock(side_effect=RuntimeError("CUDA out of memory\nand more"))
    monkeypatch.setattr(gpu_check, "train", train)
    out = tmp_path / "gpu_check.json"
    gpu_check.check(Study(recipe=QUICK, devkit=devkit, results=tmp_path), 2, "cpu", out, ("fp32",))
    assert [run["error"] for run in read_json(out)["runs"]] == ["CUDA out of memory"] * 2
