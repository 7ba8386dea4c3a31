"""The ablation of YOLACT's mask loss: the same detector and start, only the loss differs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.shapes import mask_of, shape, truth
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import AREA_RANGES
from vocseg_lib.study.ablation import VARIANTS, ablation_table, train_variants, variant_model
from vocseg_lib.study.recipes import PROFILES
from vocseg_lib.study.study import Study


@pytest.fixture
def study(devkit, tmp_path):
    small = {"image_size": 64, "short_side": 64, "channels": 16, "batch_size": 2}
    recipe = replace(PROFILES["quick"], **small, iterations=6, eval_every=6, checkpoint_every=6)
    return Study(recipe, devkit, tmp_path)


def test_four_losses_from_one_start(study, monkeypatch):
    with pytest.raises(FileNotFoundError, match="run 03_train"):
        train_variants(study)
    study.train("yolact")
    trained = load_checkpoint(study.run_folder("yolact") / "best.pt")["model"]
    models = {name: variant_model(study, changes) for name, changes in VARIANTS.items()}
    for name, model in models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, trained[key]), (name, key)
    options = {name: tuple(model.loss_options.values()) for name, model in models.items()}
    assert options == {
        "crop and area": (True, True),
        "no crop": (False, True),
        "no area": (True, False),
        "neither": (False, False),
    }

    judged = train_variants(study, share=0.5)
    assert list(judged) == list(VARIANTS)
    logs = {
        name: read_log(study.results / "ablation" / name.replace(" ", "_") / "log.jsonl")
        for name in VARIANTS
    }
    losses = {name: [entry for entry in log if "loss" in entry] for name, log in logs.items()}
    assert {len(steps) for steps in losses.values()} == {3}
    assert len({steps[0]["class"] for steps in losses.values()}) == 1  # the same images
    assert len({steps[0]["mask"] for steps in losses.values()}) == 4
    again = {
        name: evaluation.detections for name, evaluation in train_variants(study, share=0.5).items()
    }
    assert again == {name: evaluation.detections for name, evaluation in judged.items()}

    # Of another detector than before: trained anew.
    monkeypatch.setattr("vocseg_lib.study.ablation.checksum", lambda content: "another")
    train_variants(study, share=0.5)
    assert (
        len(
            [
                e
                for e in read_log(study.results / "ablation" / "neither" / "log.jsonl")
                if "loss" in e
            ]
        )
        == 3
    )


def test_table_by_hand():
    small, medium = mask_of((0, 0, 10, 10)), mask_of((15, 15, 40, 40))
    content = truth(shape(small), shape(medium))
    judged = {
        "all of it": evaluate(content, [shape(small, score=0.9), shape(medium, score=0.8)]),
        "no small ones": evaluate(content, [shape(medium, score=0.8)]),
    }
    table = ablation_table(judged, bootstrap_weights(1, 10)).set_index(["variant", "size"])
    assert table["objects"].loc["all of it"].to_dict() == {
        "all": 2,
        "small": 1,
        "medium": 1,
        "large": 0,
    }
    assert table.loc[
        ("no small ones", "small"), ["value", "difference", "difference_low"]
    ].tolist() == [0, -100, -100]
    assert table.loc[
        ("no small ones", "medium"), ["value", "low", "high", "difference"]
    ].tolist() == [100, 100, 100, 0]
    assert table.loc[("all of it", "all"), "value"] == 100
    assert table["empty"].unique().tolist() == [0]
    hollow = {
        "one of two": evaluate(
            content,
            [shape(small, score=0.9), shape(medium & False, score=0.8, box=(15, 15, 40, 40))],
        )
    }
    assert ablation_table(hollow, bootstrap_weights(1, 2))["empty"].unique().tolist() == [50]
    assert np.isnan(table["value"]["all of it"]["large"])
    assert set(table.index.get_level_values("size")) == set(AREA_RANGES)
