import json

import pytest
import torch

from benchmarks import bench, peers
from benchmarks.cases import measure_large, synthetic_results, time_alternating
from vocseg_lib.utils.device import peak_memory_gb


def test_times_are_medians_of_alternating_runs():
    calls = []
    time_alternating(lambda: calls.append("a"), lambda: calls.append("b"), repeats=7)
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


def test_codes_and_prediction_are_measured(devkit, monkeypatch):
    monkeypatch.setattr(peers, "EFFICIENCIES", {"tiny": ("tiny", 32, 96)})
    rows = dict([*peers.measure_codes(1), *peers.measure_prediction(devkit, 1)])
    for name in ("yolact", "mask_rcnn"):
        row = rows[f"{name}_masks_to_rle_speedup"]
        assert (row["error"], row["value"] > 1) == (0, True)
    assert 0 < rows["predict_efficiency_tiny"]["value"] < 1.5


def test_a_failed_check_stops_the_bench(monkeypatch, devkit):
    bad = ("yolact_forward", {"value": 1.0, "check": "outputs equal", "error": 0.5})
    monkeypatch.setattr(bench, "measure_inference", lambda body, repeats: [bad])
    with pytest.raises(RuntimeError, match="yolact_forward"):
        bench.measure_rows(devkit, 1, "inference")


def test_synthetic_results_are_of_the_size_of_val(devkit, monkeypatch):
    monkeypatch.setattr("benchmarks.cases.EVALUATED_IMAGES", 20)
    monkeypatch.setattr("benchmarks.cases.EVALUATED_DETECTIONS", 70)
    ground_truth, detections = synthetic_results(devkit)
    assert (len(ground_truth["images"]), len(detections)) == (20, 70)
    assert {d["image_id"] for d in detections} == set(range(1, 21))


@pytest.mark.parametrize("command", ["evaluate", "failures"])
def test_large_files_are_measured_in_a_process_of_their_own(command, monkeypatch):
    monkeypatch.setattr("benchmarks.cases.LARGE_IMAGES", 6)
    name, row = measure_large(command)
    assert name == f"{command}_large_peak_gb"
    assert 0.1 < row["value"] < max(2, 1.1 * peak_memory_gb())  # Linux counts the parent's
    assert row["seconds"] > 0
    assert "600 detections" in row["check"]
    monkeypatch.setattr("benchmarks.cases.LARGE_DETECTIONS", -1)
    with pytest.raises((RuntimeError, ValueError)):
        measure_large(command)
