"""The ablation of YOLACT's mask loss: the same detector and start, only the loss differs."""

import numpy as np
import pytest

from tests.helpers.shapes import ground_truth, mask_of, shape
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import AREA_RANGES
from vocseg_lib.study import ablation
from vocseg_lib.study.ablation import VARIANTS, ablation_table, train_variants
from vocseg_lib.study.train import train_model


def losses_of(study, name):
    log = read_log(study.results / "ablation" / name.replace(" ", "_") / "log.jsonl")
    return [entry for entry in log if "loss" in entry]


def test_four_losses_from_one_start(study, monkeypatch):
    with pytest.raises(FileNotFoundError):
        train_variants(study)
    train_model(study, "yolact")
    evaluations = train_variants(study, fraction=0.5)
    assert list(evaluations) == list(VARIANTS)
    losses = {name: losses_of(study, name) for name in VARIANTS}
    assert {len(steps) for steps in losses.values()} == {3}
    for term, different in (("class", 1), ("box", 1), ("mask", 4)):  # the same images and start
        assert len({steps[0][term] for steps in losses.values()}) == different

    again = train_variants(study, fraction=0.5)
    for name, evaluation in evaluations.items():
        assert again[name].detections == evaluation.detections

    # Trained again from other weights.
    monkeypatch.setattr(ablation, "checksum", lambda content: "another")
    train_variants(study, fraction=0.5)
    assert len(losses_of(study, "neither")) == 3


def test_variant_recipes_differ_in_the_mask_loss_alone(study):
    options = set()
    for changes in VARIANTS.values():
        recipe = ablation.variant_recipe(study.recipe, 0.5, changes)
        assert recipe.train.iterations == study.recipe.train.iterations // 2
        options.add((recipe.yolact.crop_in_training, recipe.yolact.normalize_by_area))
    assert len(options) == 4


def test_ap_by_size_and_paired_differences():
    small, medium = mask_of((0, 0, 10, 10)), mask_of((15, 15, 40, 40))
    content = ground_truth(shape(small), shape(medium))
    evaluations = {
        "all": evaluate(content, [shape(small, score=0.9), shape(medium, score=0.8)]),
        "no small ones": evaluate(content, [shape(medium, score=0.8)]),
    }
    table = ablation_table(evaluations, bootstrap_weights(1, 10)).set_index(["variant", "size"])
    objects = {"all": 2, "small": 1, "medium": 1, "large": 0}
    assert table["objects"].loc["all"].to_dict() == objects
    columns = ["value", "difference", "difference_low"]
    assert table.loc[("no small ones", "small"), columns].tolist() == [0, -100, -100]
    columns = ["value", "low", "high", "difference"]
    assert table.loc[("no small ones", "medium"), columns].tolist() == [100, 100, 100, 0]
    assert table.loc[("all", "all"), "value"] == 100
    assert np.isnan(table["value"]["all"]["large"])
    assert set(table.index.get_level_values("size")) == set(AREA_RANGES)
    assert table["empty"].unique().tolist() == [0]
    empty = shape(medium & False, score=0.8, box=(15, 15, 40, 40))
    half = {"one of two": evaluate(content, [shape(small, score=0.9), empty])}
    assert ablation_table(half, bootstrap_weights(1, 2))["empty"].unique().tolist() == [50]
