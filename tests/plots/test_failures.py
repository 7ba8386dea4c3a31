"""Figures of notebooks 05 and 06, and the paper's claims, from hand-made predictions."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from tests.helpers.shapes import mask_of, shape, truth
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.crowding import by_crowding
from vocseg_lib.failures.oracles import gap_parts, single_oracles
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.plots import failures
from vocseg_lib.study.claims import NO, OPEN, YES, gap_claims


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def analyses():
    """Pairs that touch, 15 images of them: the first model unites each pair, the second one does not. 5 images of one alone."""
    left, right = mask_of((5, 5, 20, 20)), mask_of((24, 5, 20, 20), minus=[(24, 5, 1, 20)])
    pairs = [
        (shape(left, image=k), shape(right, box=(24, 5, 21, 20), image=k)) for k in range(1, 16)
    ]
    alone = [shape(left, image=k) for k in range(16, 21)]
    content = truth(*(one for pair in pairs for one in pair), *alone, images=20)
    united = [shape(left | right, score=0.9, image=k) for k in range(1, 16)] + [
        {**a, "score": 0.9} for a in alone
    ]
    apart = [{**a, "score": 0.9} for a in content["annotations"]]
    return {"YOLACT": analyze(content, united), "Mask R-CNN": analyze(content, apart)}


def asked(analyses, weights=None):
    dataset_eval = {title: analysis.dataset_eval for title, analysis in analyses.items()}
    oracles = {title: single_oracles(of_model) for title, of_model in dataset_eval.items()}
    return (
        oracles,
        gap_parts(*dataset_eval.values(), weights),
        by_crowding(dataset_eval, 0.25, weights),
    )


def test_figures_have_labels_and_a_reading(analyses):
    tables = {title: analysis.table for title, analysis in analyses.items()}
    oracles, parts, crowding = asked(analyses, bootstrap_weights(20, 10))
    ablation = pd.DataFrame(
        [
            (v, s, n, 20.0, 15.0, 25.0, -3.0, -5.0, -1.0)
            for v in ("both", "none")
            for s, n in (("all", 30), ("large", 2))
        ],
        columns=[
            "variant",
            "size",
            "objects",
            "value",
            "low",
            "high",
            "difference",
            "difference_low",
            "difference_high",
        ],
    )
    figures = {
        "Dearest: YOLACT: localization failure": failures.failure_costs(tables, "pixels"),
        "Dearest: YOLACT: missed": failures.failure_costs(tables),
        "small: localization failure": failures.costs_by_size(tables),
        "YOLACT - Mask R-CNN, by neighbors: alone +0 [0, 0]; overlapping -50": failures.crowding(
            crowding
        ),
        "The parts add up.": [failures.waterfall(parts, *analyses, (5.0, 100.0))],
        "What helps most alone: YOLACT: true boxes": [failures.oracles(oracles)],
        "Against both: none -3.0 [-5.0, -1.0] points": [failures.ablation(ablation)],
    }
    for reading, axes in figures.items():
        said = axes[0].figure.get_suptitle() or axes[0].get_title(loc="left")
        assert reading in said.replace("\n", " "), said
        for ax in axes:
            assert ax.get_xlabel()
            assert ax.get_ylabel()
            assert ax.get_legend()
    assert [
        text.get_text()
        for text in figures["Against both: none -3.0 [-5.0, -1.0] points"][0].get_xticklabels()
    ] == ["all (30)"]


def test_waterfall_ends_where_the_second_model_is(analyses):
    _, parts, _ = asked(analyses)
    ap = tuple(
        single_oracles(analysis.dataset_eval).loc["baseline", "mask AP"]
        for analysis in analyses.values()
    )
    ax = failures.waterfall(parts, *analyses, ap)
    bars = [(bar.get_y(), bar.get_height()) for bar in ax.patches]
    assert bars[0][1] == pytest.approx(ap[0])
    assert sum(bars[-2]) == pytest.approx(bars[-1][1]) == pytest.approx(ap[1])


def test_claims_are_answered_from_the_figures(analyses):
    weights = bootstrap_weights(20, 10)
    claims = gap_claims(analyses, *asked(analyses, weights))
    assert list(claims) == ["the paper says", "our figures", "answer", "by"]
    assert claims["by"].tolist().count("interval") == 3
    answers = dict(zip(claims["the paper says"].str.split().str[0], claims["answer"], strict=True))
    assert answers["Localization"] == YES
    assert answers["Misclassification"] == answers["Object"] == OPEN  # there was none
    assert answers["Leakage:"] == YES
    assert "-50 [-50, -50] where boxes of a class overlap" in claims["our figures"][0]
    assert answers["Even"] == NO  # true masks in the predicted boxes win more than a few points
    swapped = dict(reversed(analyses.items()))
    assert gap_claims(swapped, *asked(swapped, weights))["answer"][0] == NO


def answers_of(first, second, images=20):
    """Answers, by the claim's first word, for models that find some objects, take some for horses, and see the rest not at all."""
    square = mask_of((5, 5, 20, 20))
    content = truth(*(shape(square, image=k) for k in range(1, images + 1)), images=images)
    analyses = {
        title: analyze(
            content,
            [shape(square, label, 0.9, image=k) for k, label in enumerate(labels, 1) if label],
        )
        for title, labels in (("YOLACT", first), ("Mask R-CNN", second))
    }
    claims = gap_claims(analyses, *asked(analyses, bootstrap_weights(images, 50)))
    return dict(zip(claims["the paper says"].str.split().str[0], claims["answer"], strict=True))


def test_each_answer_can_come_out_either_way():
    person, horse = 15, 13
    worse_by_class = answers_of([person] * 10 + [horse] * 10, [person] * 20)
    assert (worse_by_class["Misclassification"], worse_by_class["These"]) == (YES, NO)
    better_but_for_class = answers_of([person] * 14 + [horse] * 6, [person] * 6 + [None] * 14)
    assert (better_but_for_class["Misclassification"], better_but_for_class["These"]) == (NO, YES)
    finds_less = answers_of([person] * 8 + [None] * 12, [person] * 20)
    assert (finds_less["Misclassification"], finds_less["These"]) == (OPEN, YES)
    assert (finds_less["Even"], finds_less["The"]) == (YES, YES)


def test_a_gap_of_masks_is_no_gap_of_the_detector(analyses):
    square, coarse = mask_of((5, 5, 20, 20)), mask_of((7, 7, 16, 16))
    content = truth(*(shape(square, image=k) for k in range(1, 11)), images=10)
    found = [shape(square, score=0.9, image=k) for k in range(1, 11)]
    blurred = [shape(coarse, score=0.9, box=(5, 5, 20, 20), image=k) for k in range(1, 11)]
    pair = {"YOLACT": analyze(content, blurred), "Mask R-CNN": analyze(content, found)}
    claims = gap_claims(pair, *asked(pair))
    assert claims["answer"].tolist()[-2:] == [NO, NO]
