from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.shapes import ground_truth, mask_of, shape
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import AREA_RANGES
from vocseg_lib.study import ablation
from vocseg_lib.study.ablation import VARIANTS, ablation_table, train_variants


def test_four_losses_from_one_start(trained, monkeypatch):
    evaluations = train_variants(trained, fraction=0.5)
    assert list(evaluations) == list(VARIANTS)
    logs = sorted(trained.results.glob("ablation/*/log.jsonl"))
    losses = [[entry for entry in read_log(log) if "loss" in entry] for log in logs]
    assert [len(steps) for steps in losses] == [2] * 4
    for term, different in (("class", 1), ("box", 1), ("mask", 4)):  # the same images and start
        assert len({steps[0][term] for steps in losses}) == different
    again = train_variants(trained, fraction=0.5)
    for name, evaluation in evaluations.items():
        assert again[name].detections == evaluation.detections
    # Trained again from other weights.
    monkeypatch.setattr(ablation, "checksum", lambda content: "another")
    train_variants(trained, fraction=0.5)
    assert sum("loss" in entry for entry in read_log(logs[0])) == 2
    with pytest.raises(FileNotFoundError):  # without a trained YOLACT
        train_variants(replace(trained, results=trained.results / "none"))


def test_ap_by_size_and_paired_differences():
    small, medium = mask_of((0, 0, 10, 10)), mask_of((15, 15, 40, 40))
    content = ground_truth(shape(small), shape(medium))
    detections = [shape(small, score=0.9), shape(medium, score=0.8)]
    evaluations = {"all": evaluate(content, detections)}
    evaluations["no small ones"] = evaluate(content, detections[1:])
    table = ablation_table(evaluations, bootstrap_weights(1, 10)).set_index(["variant", "size"])
    assert list(table["objects"]["all"].items()) == [*zip(AREA_RANGES, (2, 1, 1, 0), strict=True)]
    columns = ["value", "low", "high", "difference", "difference_low"]
    assert table.loc[("no small ones", "small"), columns].tolist() == [0, 0, 0, -100, -100]
    assert table.loc[("no small ones", "medium"), columns].tolist() == [100, 100, 100, 0, 0]
    assert table.loc[("all", "all"), "value"] == 100
    assert np.isnan(table["value"]["all"]["large"])
    assert table["empty"].unique().tolist() == [0]
    empty = shape(medium & False, score=0.8, box=(15, 15, 40, 40))
    half = {"one of two": evaluate(content, [detections[0], empty])}
    assert ablation_table(half, bootstrap_weights(1, 2))["empty"].unique().tolist() == [50]
