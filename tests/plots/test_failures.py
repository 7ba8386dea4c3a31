import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers.shapes import one_mask_for_pairs
from vocseg_lib.failures.crowding import by_crowding
from vocseg_lib.failures.oracles import gap_parts, single_oracles
from vocseg_lib.failures.scene_text import Description
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.plots import failures


@pytest.fixture(scope="module")
def evals():
    return {title: analysis.dataset_eval for title, analysis in one_mask_for_pairs().items()}


def check(axes, *in_title):
    """Labels, legend, and values in the title."""
    title = axes[0].figure.get_suptitle() or axes[0].get_title(loc="left")
    assert all(text in title.replace("\n", " ") for text in in_title)
    assert all(
        ax.get_xlabel() and ax.get_ylabel() and (ax.get_legend() or ax.figure.legends)
        for ax in axes
    )


def test_dap_and_crowding(evals):
    tables = {title: analysis.table for title, analysis in one_mask_for_pairs().items()}
    axes = failures.failure_dap(tables, "pixels")
    check(axes, "YOLACT, localization failure")
    rows = tables["YOLACT"]
    rows = rows[(rows["family"] == "pixels") & (rows["class"] == "all") & (rows["size"] == "all")]
    heights = [bar.get_height() for bar in axes[1].containers[0]]
    assert heights == pytest.approx(rows["dAP"].tolist())
    check(failures.failure_dap(tables), "YOLACT, missed")
    check(failures.dap_by_size(tables), "small: localization failure")
    table = by_crowding(evals, 0.25, bootstrap_weights(20, 10))
    check(failures.crowding_bars(table), "alone +0 [0, 0]", "overlapping -50")
    assert len(failures.crowding_bars(by_crowding({"a": evals["YOLACT"]}, 0.25), "AP50")) == 2


def test_oracles_and_a_waterfall_that_ends_at_the_second_models_ap(evals):
    tables = {title: single_oracles(evaluation) for title, evaluation in evals.items()}
    check([failures.oracle_bars(tables)], "YOLACT: true boxes")
    baselines = [table.loc["baseline", "mask AP"] for table in tables.values()]
    ax = failures.waterfall(gap_parts(*evals.values()), *evals, tuple(baselines))
    check([ax], f"{baselines[1] - baselines[0]:+.1f}")
    bars = [(bar.get_y(), bar.get_height()) for bar in ax.patches]
    assert [bars[0][1], bars[1][1]] == pytest.approx(baselines)
    assert sum(bars[-1]) == pytest.approx(baselines[1])


def test_ablation():
    values = {"value": 20.0, "low": 15.0, "high": 25.0}
    values |= {"difference": -3.0, "difference_low": -5.0, "difference_high": -1.0}
    table = pd.DataFrame({"variant": ["both"] * 2 + ["none"] * 2, "size": ["all", "large"] * 2})
    ax = failures.ablation_bars(table.assign(objects=[30, 2] * 2, **values))
    check([ax], "none -3.0 [-5.0, -1.0]")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["all (30)"]


def test_scene_description():
    rows = [("as predicted", "A person. " * 12, "class"), ("as predicted", "A bus.", "")]
    rows += [("as annotated", "Two buses.", "")]
    sentences = pd.DataFrame(rows, columns=["source", "sentence", "failures"])
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 2:9, 1:9], masks[1, 5:30, 5:50] = True, True
    graph, nothing = {"objects": []}, {"sentences": ["Two buses."], "mentions": [[]]}
    scene = {"sentences": [row[1] for row in rows[:2]], "mentions": [[7, 3], [3]]}
    described = {"as predicted": Description(**scene, graph=graph, masks=masks)}
    described["as annotated"] = Description(**nothing, graph=graph, masks=masks[:0])
    picture = np.zeros((40, 60, 3), np.uint8)
    axes = failures.scene_description(picture, described, sentences, "a scene")
    assert [ax.get_title(loc="left") for ax in axes[::2]] == list(described)
    assert {text.get_text() for text in axes[0].texts} == {"A", "B"}
    assert axes[0].images[0].get_array()[masks.any(0)].any(1).all()  # tints, no boxes
    assert not axes[0].patches
    assert axes[1].texts[1].get_text() == "B: A bus."
    assert [text.get_text() for text in axes[3].texts] == ["Two buses."]
    assert [text.get_color() != "black" for text in axes[1].texts] == [True, False]
    assert axes[1].texts[0].get_text().endswith("[class]")
    assert "1 of 3" in axes[0].figure.get_suptitle()
