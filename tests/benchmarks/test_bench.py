import json

import pytest
import torch

from benchmarks.bench import (
    TOLERANCE,
    measure,
    measure_data,
    measure_paste,
    report,
    table,
    time_alternating,
)
from benchmarks.cases import plain_path, relative_error
from vocseg_lib.models.speedups import BatchNorm2d, FoldingConv2d
from vocseg_lib.models.yolact import Yolact


def test_alternate_gives_medians_in_turn():
    calls = []
    time_alternating(lambda: calls.append("a"), lambda: calls.append("b"), repeats=7)
    assert calls == ["a", "b"] * 9  # two turns to warm up


def test_plain_path_keeps_each_convolution_and_batch_norm_apart():
    model = Yolact(backbone="tiny", weights=None, channels=16, image_size=64).eval()
    plain = plain_path(model)
    assert not any(isinstance(m, FoldingConv2d | BatchNorm2d) for m in plain.modules())
    image = [torch.rand(3, 40, 50)]
    with torch.inference_mode():
        ours, theirs = model.network(image)["class_logits"], plain.network(image)["class_logits"]
    assert relative_error(ours, theirs) < 1e-5


def test_data_figures(devkit):
    figures = dict(measure_data(devkit, repeats=1))
    assert figures["data_images_per_second_per_core"]["value"] > 1


def test_paste_figure_and_report():
    figures = {"mask_rcnn_paste_speedup": measure_paste(1)}
    assert figures["mask_rcnn_paste_speedup"]["error"] <= TOLERANCE
    written = json.loads(json.dumps(report(figures)))
    assert written["mask_rcnn_paste_speedup"] == figures["mask_rcnn_paste_speedup"]["value"]
    assert table(figures)["target"].tolist() == ["at least 10.0"]


def test_a_failed_output_check_stops(monkeypatch, devkit):
    bad = ("yolact_forward", {"value": 1.0, "check": "outputs equal", "error": 0.5})
    monkeypatch.setattr("benchmarks.bench.measure_peak", lambda: {"value": 1.0})
    monkeypatch.setattr("benchmarks.bench.measure_paste", lambda repeats: {"value": 1.0})
    monkeypatch.setattr("benchmarks.bench.measure_inference", lambda body, repeats: [bad])
    with pytest.raises(RuntimeError, match="yolact_forward: outputs equal"):
        measure(devkit, 1)
