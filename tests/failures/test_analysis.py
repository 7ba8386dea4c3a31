"""The whole analysis: counts, dAP, cases and sentences."""

import numpy as np
import pandas as pd
import pytest

from tests.helpers.random_sets import on_random_sets
from tests.helpers.shapes import FAR, LEFT, RIGHT, analysis_of, ground_truth, mask_of, shape
from vocseg_lib.failures.analysis import analyze
from vocseg_lib.failures.explain import explain_failure
from vocseg_lib.failures.tables import CASE_TYPES, DETECTED, LOST, OBJECT_FAILURES, overall_rows
from vocseg_lib.metrics.average_precision import mean_ap
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.metrics.matching import AREA_RANGES, match_coco

PERSON, HORSE, COW = 15, 13, 10
COARSE, LARGE = mask_of((7, 7, 16, 16)), mask_of((5, 5, 50, 50))
HALF = 100 * 51 / 101
"""AP of one object of two."""


def column(analysis, family="pixels", name="count", **scope):
    """A column of the table by type, over all classes and sizes, or of one."""
    scope, rows = {"class": "all", "size": "all"} | scope, analysis.table
    kept = (rows["class"] == scope["class"]) & (rows["size"] == scope["size"])
    return rows[kept & (rows["family"] == family)].set_index("type")[name].to_dict()


@pytest.fixture(scope="module")
def hand_made():
    """Ground truth and detections with each failure a known number of times."""
    objects = [
        # 1: one mask covers both; 2: the left one leaks on the right; 5: the right one missed.
        *(shape(m, PERSON, image=k) for k in (1, 2, 5) for m in (LEFT, RIGHT)),
        # 3: coarse; 4: a hole; 6: another missed alone; 8: detected twice, a background error.
        *(shape(LEFT, PERSON, image=k) for k in (3, 4, 6, 8)),
        *(shape(FAR, HORSE, image=6), shape(LEFT, HORSE, image=7)),  # 7: called a cow
    ]
    hole = mask_of((5, 5, 20, 20), minus=[(9, 9, 12, 12)])
    detections = [
        shape(mask_of((5, 5, 29, 20)), PERSON, 0.9, box=(5, 5, 20, 20), image=2),
        *(
            shape(mask, PERSON, 0.9, image=k)
            for k, mask in enumerate((LEFT | RIGHT, RIGHT, COARSE, hole, LEFT, LEFT), 1)
        ),
        shape(LEFT, COW, 0.9, image=7),
        *(shape(m, PERSON, s, image=8) for m, s in ((LEFT, 0.9), (LEFT, 0.8), (FAR, 0.7))),
        shape(FAR, PERSON, 0.05, image=3),
    ]
    return ground_truth(*objects, images=8), detections


def test_each_failure_is_counted_once(hand_made):
    analysis = analysis_of(*hand_made, 0.1)
    mask_failures = dict.fromkeys(("localization failure", "leakage", "boundary", "incomplete"), 1)
    others = {LOST: 1, "missed in a crowd": 1, "missed alone": 1}
    assert column(analysis) == mask_failures | others
    errors = {"class": 1, "localization": 0, "both": 0, "duplicate": 1, "background": 1}
    for family in ("TIDE, masks", "TIDE, boxes"):
        assert column(analysis, family) == errors | {"missed": 3}
    assert column(analysis_of(*hand_made), "TIDE, masks")["background"] == 2
    assert column(analysis, **{"class": "horse"})["missed alone"] == 1
    sizes = [column(analysis, size=size)["localization failure"] for size in AREA_RANGES]
    assert sizes == [1, 1, 0, 0]
    rates = column(analysis, name="rate")
    assert [rates["leakage"], rates["missed alone"]] == pytest.approx([100 / 11, 100 / 12])


def test_cases_and_their_sentences(hand_made):
    analysis = analysis_of(*hand_made, 0.1)
    cases = analysis.cases[analysis.cases["family"] != "TIDE, boxes"]
    assert set(CASE_TYPES) - {"localization", "both"} <= set(cases["type"])
    by_type = {case["type"]: case for _, case in cases.iterrows()}
    images = {"localization failure": 1, "leakage": 2, "missed alone": 6, "class": 7}
    assert {kind: by_type[kind]["image_id"] for kind in images} == images
    numbers = {
        "localization failure": ("0.90", "2 objects", "IoU 1.00", "0.50", "1 of them"),
        "leakage": ("31 % of", "31 % on"),
        "boundary": ("0.64", "36 % lost", "36 % are"),
        "incomplete": ("36 % lost", "36 % are", "0.64"),
        "class": ("horse", "1.00"),
        "duplicate": ("person", "1.00"),
        "background": ("0.00",),
        "missed alone": ("horse", "144"),
        "missed in a crowd": ("person", "400"),
        LOST: ("person", "400"),
    }
    for kind, parts in numbers.items():
        sentence = explain_failure(analysis, by_type[kind])
        assert all(part in sentence for part in parts), sentence


def test_the_worst_come_first():
    leaks = [mask_of((5, 5, 20 + more, 20)) for more in (8, 16, 12)]
    content = ground_truth(*(shape(LEFT, image=k) for k in (1, 2, 3)), images=3)
    for scores, order in (((0.9, 0.9, 0.9), [2, 3, 1]), ((0.9, 0.1, 0.2), [1, 3, 2])):
        detections = [
            shape(leak, PERSON, score, box=(5, 5, 20, 20), image=k)
            for k, (leak, score) in enumerate(zip(leaks, scores, strict=True), 1)
        ]
        cases = analysis_of(content, detections).cases
        assert cases[cases["type"] == "leakage"]["image_id"].tolist() == order
    objects = shape(FAR), shape(LEFT, HORSE), shape(RIGHT, COW, image=2)
    cases = analysis_of(ground_truth(*objects, images=2), []).cases
    assert cases[cases["type"] == "missed alone"]["class"].iloc[-1] == "person"  # the smallest


def test_a_fix_gains_what_it_should():
    pair = analysis_of(ground_truth(shape(LEFT), shape(RIGHT)), [shape(LEFT | RIGHT, score=0.9)])
    before = mean_ap(match_coco(pair.dataset_eval))[0, 0]
    assert before == pytest.approx(HALF / 10)  # a true positive at IoU .5 only, of one of the two
    dap = column(pair, name="dAP")
    assert dap["localization failure"] == pytest.approx(100 - before)
    # Without the lost object, all there is was detected at IoU .5.
    assert dap[LOST] == pytest.approx(10 - before)
    coarse = analysis_of(ground_truth(shape(LEFT)), [shape(COARSE, score=0.9)])
    for size in ("all", "small"):  # IoU .64: a true positive at three of ten thresholds
        assert column(coarse, name="dAP", size=size)["boundary"] == pytest.approx(100 - 30)
    assert column(coarse, name="dAP")["leakage"] == 0


def test_dap_by_class_and_size():
    objects = shape(LEFT, PERSON), shape(LEFT, HORSE, image=2), shape(LARGE, HORSE, image=3)
    content, first = ground_truth(*objects, images=3), shape(LEFT, PERSON, 0.9)

    def dap(detections, family, error):
        analysis = analysis_of(content, detections)
        scopes = [{"class": name} for name in ("person", "horse", "all")]
        scopes += [{"size": name} for name in ("small", "medium")]
        return [column(analysis, family, "dAP", **scope)[error] for scope in scopes]

    # A small horse called a person, after the person: of the small ones, one of two is detected.
    called = [first, shape(LEFT, PERSON, 0.5, image=2), shape(LARGE, HORSE, 0.9, image=3)]
    expected = [0, 100 - HALF, (100 - HALF) / 2, 50, 0]
    assert dap(called, "TIDE, masks", "class") == pytest.approx(expected)
    coarse = [first, shape(COARSE, HORSE, 0.9, image=2), shape(LARGE, HORSE, 0.8, image=3)]
    person, horse, overall, small, medium = dap(coarse, "pixels", "boundary")
    assert (person, medium) == (0, 0)
    assert horse > 20
    assert [overall, small] == pytest.approx([horse / 2, 70 / 2])


def test_dap_in_resamples(hand_made):
    content, detections = hand_made
    analysis = analysis_of(content, detections)
    images = [image for image in content["images"] if image["id"] != 1]
    objects = [a for a in content["annotations"] if a["image_id"] != 1]
    fewer = content | {"images": images, "annotations": objects}
    fewer = analysis_of(fewer, [d for d in detections if d["image_id"] != 1])
    without_the_first = np.r_[0.0, np.ones(7)]
    resampled = analysis.resampled_dap(np.array([np.ones(8), without_the_first]))
    for (family, name), values in resampled.items():
        here, there = (column(a, family, "dAP")[name] for a in (analysis, fewer))
        assert values.tolist() == pytest.approx([here, here, there])
    values = resampled["pixels", "localization failure"]
    assert values[0] > values[2] == 0


def test_thresholds(hand_made):
    strict = {"min_leakage": 0.6, "min_iou_loss": 0.5, "min_union_iou": 0.99, "min_iou_gain": 0.5}
    counts = column(analysis_of(*hand_made, 0.1, crowd_distance=0.0, **strict))
    assert set(counts.values()) == {0, 1, 2}
    assert not any(counts[name] for name in ("leakage", "boundary", "incomplete"))
    assert (counts["localization failure"], counts["missed in a crowd"]) == (0, 2)  # they touch
    apart = ground_truth(shape(LEFT), shape(FAR)), [shape(LEFT, score=0.9)]
    assert column(analysis_of(*apart))["missed alone"] == 1
    assert column(analysis_of(*apart, crowd_distance=2.0))["missed in a crowd"] == 1


def test_perfect_predictions_and_none(hand_made):
    content, _ = hand_made
    analysis = analysis_of(content, [{**a, "score": 0.9} for a in content["annotations"]])
    assert analysis.cases.empty
    assert set(analysis.at_threshold.objects["state"]) == {DETECTED}
    assert analysis.table["dAP"].dropna().abs().max() == 0
    nothing = analysis_of(content, [])
    assert nothing.at_threshold.objects["state"].str.startswith("missed").all()
    assert column(nothing, "TIDE, masks")["missed"] == len(content["annotations"])


def test_images_without_objects():
    analysis = analysis_of(ground_truth(images=2), [shape(LEFT, score=0.9)])
    assert column(analysis, "TIDE, masks")["background"] == 1
    assert analysis.at_threshold.objects.empty
    content = ground_truth(shape(LEFT, image=2), images=2)
    assert not analysis_of(content, [shape(LEFT, score=0.9)]).cases.empty


def test_boxes_alone_are_an_error():
    content = ground_truth(shape(LEFT))
    boxes = [{"image_id": 1, "category_id": PERSON, "score": 0.5, "bbox": [0, 0, 5, 5]}]
    with pytest.raises(ValueError, match="segmentation"):
        analyze(evaluate(content, boxes))


def test_hundreds_of_detections_in_one_image():
    content = ground_truth(shape(LEFT), shape(RIGHT, HORSE))
    triple = (LEFT, PERSON), (RIGHT, HORSE), (FAR, COW)
    detections = [shape(m, k, 0.5 + s / 1000) for s in range(99) for m, k in triple]
    analysis = analysis_of(content, detections)
    assert len(analysis.at_threshold.detections) == 297
    assert column(analysis, "TIDE, masks")["duplicate"] == 65  # of the 100 best
    assert analysis.table["count"].sum() > 0


@on_random_sets(20, void=True)
def test_counts_sum_over_classes_and_sizes_on_random_sets(pair):
    content, detections = pair
    analysis = analysis_of(content, detections, 0.3)
    table, tables = analysis.table, analysis.at_threshold
    assert len(tables.detections) <= sum(d["score"] >= 0.3 for d in detections)
    keys, of_class = ["family", "type"], table["class"] != "all"
    overall = overall_rows(table).set_index(keys)["count"]
    for part in (table[of_class], table[~of_class & (table["size"] != "all")]):
        counts = part.groupby(keys)["count"].sum()
        assert counts.reindex(overall.index).tolist() == overall.tolist()
    states = tables.objects["state"].value_counts()
    for name in OBJECT_FAILURES:
        assert states.get(name, 0) == overall["pixels", name]
    for _, case in analysis.cases.head(40).iterrows():
        assert explain_failure(analysis, case).endswith(".")


def test_real_predictions_have_each_failure(real_predictions):
    content, models = real_predictions
    cases = [analysis_of(content, detections, 0.1).cases for detections in models.values()]
    masks = pd.concat(cases).query("family != 'TIDE, boxes'")
    assert masks["type"].value_counts()[list(CASE_TYPES)].min() >= 3
