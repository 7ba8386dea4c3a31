"""TIDE's errors, compared with its toolbox (tidecv)."""

import matplotlib.pyplot as plt
import pytest
from tidecv import TIDE, Data

from tests.helpers.coco import entry, ground_truth_of
from tests.helpers.random_sets import on_random_sets
from tests.helpers.shapes import dataset_eval
from vocseg_lib.data.coco_validation import bbox_xywh, validate_ground_truth, validate_results
from vocseg_lib.failures.tide import ERRORS, tide

SHORT_NAMES = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), ERRORS, strict=True))
MODES = {"mask": TIDE.MASK, "box": TIDE.BOX}


def tidecv(content, detections, kind):
    """(dAP, number of errors) by error."""
    objects, results = Data("objects", 100), Data("results", 100)
    for image in content["images"]:
        objects.add_image(image["id"], str(image["id"]))
    for a in content["annotations"]:
        add = objects.add_ignore_region if a["iscrowd"] else objects.add_ground_truth
        add(a["image_id"], a["category_id"], a["bbox"], a["segmentation"])
    for d in detections:
        shape = bbox_xywh(d), d["segmentation"]
        results.add_detection(d["image_id"], d["category_id"], d["score"], *shape)
    with plt.rc_context():  # it sets seaborn's style
        toolbox = TIDE(mode=MODES[kind])
    run = toolbox.evaluate(objects, results, name="run")
    counts = {error.short_name: count for error, count in run.count_errors().items()}
    dap = toolbox.get_main_errors()["run"]
    return ({name: v[short] for short, name in SHORT_NAMES.items()} for v in (dap, counts))


def check(content, detections):
    content = validate_ground_truth(content)
    detections = validate_results(content, detections)
    evaluation = dataset_eval(content, detections)
    with_objects = {a["category_id"] for a in content["annotations"] if not a["iscrowd"]}
    for kind in MODES:
        try:
            dap, counts = tidecv(content, detections, kind)
        except ZeroDivisionError:  # the toolbox has no AP without classes
            continue
        result = tide(evaluation, kind)
        for as_tidecv in (True, False):
            if as_tidecv or {d["category_id"] for d in detections} <= with_objects:
                over_classes = {k: v[0, 0] for k, v in result.dap(as_tidecv=as_tidecv).items()}
                assert over_classes == pytest.approx(dap, abs=1e-9)
        codes = result.detections["code"]
        counted = {name: (codes == k).sum() for k, name in enumerate(ERRORS)}
        assert counted | {"missed": result.objects["missed"].sum()} == counts


@on_random_sets(40)
def test_equals_tidecv_on_random_sets(pair):
    content, detections = pair
    if content["annotations"] and detections:
        check(content, detections)


def test_equals_tidecv_on_real_predictions(real_predictions):
    content, models = real_predictions
    for detections in models.values():
        check(content, detections)


def test_each_error_by_hand():
    content = ground_truth_of(
        entry(1, 3, (0, 0, 10, 10)),  # detected twice
        entry(1, 5, (10, 10, 8, 8)),  # called another class
        entry(2, 3, (0, 0, 10, 10)),  # with half its mask
        entry(2, 4, (12, 12, 6, 6)),  # missed: the detection has another class and too little of it
    )
    detections = [
        entry(1, 3, (0, 0, 10, 9), 0.8),
        entry(1, 3, (0, 0, 10, 10), 0.9),
        entry(1, 6, (10, 10, 8, 8), 0.7),
        entry(2, 3, (0, 0, 10, 4), 0.9),
        entry(2, 3, (12, 0, 6, 6), 0.6),
        entry(2, 7, (12, 12, 6, 2), 0.5),
    ]
    result = tide(dataset_eval(content, detections))
    correct, *errors = result.detections["code"]
    assert correct == -1
    names = ["duplicate", "class", "localization", "background", "both"]
    assert [ERRORS[code] for code in errors] == names
    assert result.objects["missed"].tolist() == [False, False, False, True]


def test_a_class_without_objects_does_not_count():
    content = ground_truth_of(entry(1, 3, (0, 0, 10, 10)), entry(1, 3, (10, 10, 8, 8)))
    # The second has another class and too little of its object.
    detections = [entry(1, 3, (0, 0, 10, 10), 0.9), entry(1, 7, (10, 10, 8, 3), 0.8)]
    result = tide(dataset_eval(content, detections))
    assert result.dap()["both"][0, 0] == 0
    # In the toolbox, the fix drops its class, and with it a 0 from the mean.
    assert result.dap(as_tidecv=True)["both"][0, 0] == pytest.approx(100 * 51 / 101 / 2)
