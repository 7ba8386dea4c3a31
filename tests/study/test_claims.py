"""The paper's claims, answered from hand-made predictions."""

import pytest

from tests.helpers.shapes import (
    LEFT,
    analysis_of,
    ground_truth,
    mask_of,
    one_mask_for_pairs,
    perfect,
    shape,
)
from vocseg_lib.failures.crowding import by_crowding
from vocseg_lib.failures.oracles import gap_parts, single_oracles
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.study.claims import NO, OPEN, YES, gap_claims

PERSON, HORSE = 15, 13


def claims_of(analyses, resamples=50):
    evals = {title: analysis.dataset_eval for title, analysis in analyses.items()}
    weights = bootstrap_weights(len(next(iter(evals.values())).images), resamples)
    oracles = {title: single_oracles(evaluation) for title, evaluation in evals.items()}
    parts = gap_parts(*evals.values(), weights)
    table = gap_claims(analyses, oracles, parts, by_crowding(evals, 0.25, weights))
    return table.set_index(table["the paper says"].str.split().str[0].str.strip(":"))


def test_claims_about_masks_that_cover_pairs():
    analyses = one_mask_for_pairs()
    claims = claims_of(analyses)
    assert list(claims) == ["the paper says", "measured", "answer", "by"]
    assert claims["by"].value_counts().to_dict() == {"values": 4, "interval": 3}
    answers = claims["answer"]
    assert answers[["Localization", "Leakage"]].tolist() == [YES, YES]
    assert answers[["Misclassification", "Object"]].tolist() == [OPEN, OPEN]  # there are none
    assert answers["Even"] == NO  # true masks in the predicted boxes gain more than a few points
    assert "-50 [-50, -50]" in claims["measured"]["Localization"]
    assert claims_of(dict(reversed(analyses.items())))["answer"]["Localization"] == NO


@pytest.mark.parametrize(
    ("first", "second", "answers"),
    [
        ([PERSON] * 10 + [HORSE] * 10, [PERSON] * 20, {"Misclassification": YES, "These": NO}),
        (
            [PERSON] * 14 + [HORSE] * 6,
            [PERSON] * 6 + [None] * 14,
            {"Misclassification": NO, "These": YES},
        ),
        (
            [PERSON] * 8 + [None] * 12,
            [PERSON] * 20,
            {"Misclassification": OPEN, "These": YES, "Even": YES, "The": YES},
        ),
    ],
)
def test_each_answer_can_come_out_either_way(first, second, answers):
    """Persons that are detected, called horses, or missed."""
    content = ground_truth(*(shape(LEFT, image=k) for k in range(1, 21)), images=20)
    analyses = {}
    for title, labels in (("YOLACT", first), ("Mask R-CNN", second)):
        persons = enumerate(labels, 1)
        detections = [shape(LEFT, label, 0.9, image=k) for k, label in persons if label]
        analyses[title] = analysis_of(content, detections)
    claims = claims_of(analyses)
    assert {name: claims["answer"][name] for name in answers} == answers


def test_a_gap_of_masks_is_not_a_gap_of_the_detector():
    content = ground_truth(*(shape(LEFT, image=k) for k in range(1, 11)), images=10)
    coarse, box = mask_of((7, 7, 16, 16)), (5, 5, 20, 20)
    blurred = [shape(coarse, score=0.9, box=box, image=k) for k in range(1, 11)]
    pair = {"YOLACT": blurred, "Mask R-CNN": perfect(content)}
    claims = claims_of({title: analysis_of(content, d) for title, d in pair.items()})
    assert claims["answer"].tolist()[-2:] == [NO, NO]
