import numpy as np
import pytest

from tests.helpers.figures import is_labeled
from vocseg_lib.data.coco_convert import voc_to_coco
from vocseg_lib.metrics.bootstrap import bootstrap_weights, paired_differences, sample
from vocseg_lib.metrics.coco_eval import HEADLINE, evaluate
from vocseg_lib.plots import precision_recall as pr

FIGURES = (pr.pr_curves, pr.pr_masks_and_boxes, pr.pr_by_iou, pr.pr_by_class)
FIGURES += (pr.reliability_diagram,)


@pytest.fixture
def ground_truth(devkit):
    return voc_to_coco(devkit, "val")


@pytest.fixture
def evaluations(ground_truth):
    """Per model of a random part of the ground truth, some with another class."""
    rng, evaluations = np.random.default_rng(0), {}
    for title in ("YOLACT", "Mask R-CNN"):
        found = [dict(entry) for entry in ground_truth["annotations"] if rng.random() < 0.7]
        for entry in found:
            entry["category_id"] = int(rng.choice([entry["category_id"], 5]))
            entry["score"] = rng.uniform(0.4, 1)
        evaluations[title] = evaluate(ground_truth, found)
    return evaluations


def test_figures_have_labels_captions_panels_and_legends(evaluations):
    for figure in FIGURES:
        axes = figure(evaluations)
        assert axes[0].get_ylabel()
        assert axes[-1].get_xlabel()
        assert all(title in axes[0].figure.get_suptitle() for title in evaluations)
    axes = pr.pr_curves(evaluations)
    assert [ax.get_title() for ax in axes] == ["IoU 0.5", "IoU 0.75"]
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    values = {title: e.summary["mask_AP50"] for title, e in evaluations.items()}
    assert legend == [f"{title}: AP {value:.1f} %" for title, value in values.items()]
    assert len(pr.pr_by_class(evaluations)) == len(evaluations["YOLACT"].category_index)


def test_classes_are_compared(evaluations):
    assert is_labeled(pr.per_class_ap({title: e.per_class for title, e in evaluations.items()}))
    weights = bootstrap_weights(6, 20)
    gaps = paired_differences(*(sample([e], weights, HEADLINE) for e in evaluations.values()))
    ax = pr.ap_differences(gaps, *evaluations)
    rows = gaps[(gaps["kind"] == "mask") & (gaps["metric"] == "AP50")]
    significant = int(rows.loc[rows["class"] != "all", "jointly_significant"].sum())
    assert f"{significant} of {len(rows) - 1} classes" in ax.get_title(loc="left")


def test_no_detections_scores_above_1_and_no_classes_can_be_drawn(ground_truth):
    none, no_class = evaluate(ground_truth, []), evaluate({**ground_truth, "annotations": []}, [])
    high = evaluate(ground_truth, [{**a, "score": 7.0} for a in ground_truth["annotations"]])
    assert pr.per_class_ap({"no class": no_class.per_class}).get_title(loc="left")
    assert len(pr.pr_by_class({"no class": no_class})) == 1
    for figure in FIGURES:
        assert len(figure({"none": none} | {f"high {i}": high for i in range(9)}))
