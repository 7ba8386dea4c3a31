import pytest

from tests.helpers import shapes
from tests.helpers.shapes import LEFT, analysis_of, shape
from vocseg_lib.failures.crowding import by_crowding
from vocseg_lib.failures.oracles import gap_parts, single_oracles
from vocseg_lib.metrics.bootstrap import bootstrap_weights
from vocseg_lib.study.claims import HALF, NO, OPEN, YES, gap_claims

PERSON, HORSE = 15, 13


def claims_of(analyses):
    """The claims by their first word."""
    evals = {title: analysis.dataset_eval for title, analysis in analyses.items()}
    weights = bootstrap_weights(len(next(iter(evals.values())).images), 50)
    oracles = {title: single_oracles(evaluation) for title, evaluation in evals.items()}
    parts = gap_parts(*evals.values(), weights)
    table = gap_claims(analyses, oracles, parts, by_crowding(evals, 0.25, weights))
    return table.set_index(table["the paper says"].str.extract(r"(\w+)", expand=False))


def test_claims_about_masks_that_cover_pairs():
    analyses = shapes.one_mask_for_pairs()
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
        ((10, 10), (20, 0), {"Misclassification": YES, "These": NO}),
        ((14, 6), (6, 0), {"Misclassification": NO, "These": YES}),
        ((8, 0), (20, 0), {"Misclassification": OPEN, "These": YES, "Even": YES, "The": YES}),
    ],
)
def test_each_answer_can_come_out_either_way(first, second, answers):
    """Of 20 persons, each model detects some and calls others horses."""
    content = shapes.ground_truth(*(shape(LEFT, image=k) for k in range(1, 21)), images=20)
    analyses = {}
    for title, (persons, horses) in (("YOLACT", first), ("Mask R-CNN", second)):
        labels = enumerate([PERSON] * persons + [HORSE] * horses, 1)
        detections = [shape(LEFT, label, 0.9, image=k) for k, label in labels]
        analyses[title] = analysis_of(content, detections)
    assert claims_of(analyses)["answer"][list(answers)].to_dict() == answers


def test_a_gap_of_masks_is_not_a_gap_of_the_detector():
    content = shapes.ground_truth(*(shape(LEFT, image=k) for k in range(1, 11)), images=10)
    coarse, box = shapes.mask_of((7, 7, 16, 16)), (5, 5, 20, 20)
    blurred = [shape(coarse, score=0.9, box=box, image=k) for k in range(1, 11)]
    pair = {"YOLACT": blurred, "Mask R-CNN": shapes.perfect(content)}
    claims = claims_of({title: analysis_of(content, d) for title, d in pair.items()})
    assert claims["answer"].tolist()[-2:] == [NO, NO]
    # It misses most objects, too: most of the gap is the detector's, but masks differ.
    pair["YOLACT"] = blurred[:2]
    claims = claims_of({title: analysis_of(content, d) for title, d in pair.items()})
    assert claims["answer"].tolist()[-1] == HALF
