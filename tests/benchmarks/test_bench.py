import json

import pytest
import torch

from benchmarks import bench
from benchmarks.cases import synthetic_results


def test_times_are_medians_of_alternating_runs():
    calls = []
    bench.time_alternating(lambda: calls.append("a"), lambda: calls.append("b"), repeats=7)
    assert calls == ["a", "b"] * 9  # two turns of warm-up


def test_rows_of_the_data_path_and_of_pasting(devkit):
    torch.manual_seed(0)
    rows = {
        "data_images_per_second_per_core": bench.measure_data(devkit, repeats=1),
        "mask_rcnn_paste_speedup": bench.measure_paste(1),
    }
    assert rows["data_images_per_second_per_core"]["value"] > 1
    assert rows["mask_rcnn_paste_speedup"]["error"] <= bench.TOLERANCE
    content = json.loads(json.dumps(bench.report(rows)))
    assert content["mask_rcnn_paste_speedup"] == rows["mask_rcnn_paste_speedup"]["value"]
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
