import pandas as pd
import torch

from tests.helpers.coco import entry
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.plots.lineage import ap_against_seconds, detections_by_row, proposal_recall_curves


def test_ap_against_seconds_numbers_rows_and_draws_steps():
    names = ["R-CNN", "Fast R-CNN", "HOG, color, texture + linear SVM", "ground truth's boxes, box"]
    kinds = ["two stages", "two stages", "classical ML", "oracle"]
    table = pd.DataFrame({"model": names, "kind": kinds})
    table = table.assign(mask_AP50=30.0, mask_AP50_low=20.0, mask_AP50_high=41.0)
    table["seconds_per_image"] = [0.1, 0.2, 0.3, float("nan")]
    steps = pd.DataFrame({"before": [names[2], names[0]], "after": [names[0], names[1]]})
    ax = ap_against_seconds(table, steps, "a pilot")
    assert ax.get_title(loc="left").endswith("A pilot.")
    written = [text.get_text() for text in ax.texts if text.get_text()]
    assert written == ["1", "2", "3", "1  R-CNN\n2  Fast R-CNN\n3  linear SVM"]
    assert len(ax.texts) - len(written) == 2  # arrows


def test_recall_has_a_panel_per_measure_and_unsure_detections_are_left_out():
    measures = ("recall at IoU 0.5", "average recall")
    recalls = {measure: {"selective search": [10.0, 60.0]} for measure in measures}
    axes = proposal_recall_curves(recalls, [1, 100])
    assert [ax.get_title() for ax in axes] == list(measures)
    assert axes[0].lines[0].get_ydata().tolist() == [10, 60]
    assert "selective search 60 %" in axes[0].figure.get_suptitle()
    box = (1, 2, (5, 5, 4, 4))
    results = {"ground truth": [entry(*box)], "YOLACT": [entry(*box, score=0.1)]}
    axes = detections_by_row(torch.zeros(3, 20, 20), results, CLASS_NAMES)
    assert [len(ax.texts) for ax in axes] == [1, 0]
