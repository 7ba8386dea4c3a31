import cv2
import numpy as np
import pandas as pd
import torch

from tests.helpers.coco import entry
from vocseg_lib.data.classes import CLASS_NAMES
from vocseg_lib.plots.lineage import (
    ap_against_seconds,
    detections_by_row,
    differences_by_iteration,
    hog_by_cell,
    hog_glyphs,
    proposal_recall_curves,
    roi_on_cells,
)


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


def test_hog_by_cell_finds_edges_where_they_are():
    """A vertical edge in the lower left corner, a horizontal one in the upper right corner."""
    pixels = np.zeros((48, 48), np.uint8)
    pixels[36:, 4:8] = pixels[4:8, 30:] = 255
    hog = cv2.HOGDescriptor((48, 48), (16, 16), (8, 8), (8, 8), 9).compute(pixels)
    cells = hog_by_cell(np.ravel(hog))
    assert cells.shape == (6, 6, 9)
    assert np.isclose(cells.sum(), hog.sum())
    assert cells[5, 0].argmax() in (0, 8)  # its gradient is horizontal
    assert cells[0, 5].argmax() in (3, 4, 5)
    assert cells[3, 2].sum() == 0


def test_glyphs_lie_along_the_edges_and_values_below_zero_are_left_out():
    values = np.zeros((2, 3, 9))
    values[1, 2, 0], values[0, 0, 3] = 0.5, -1.0
    (line,) = hog_glyphs(values, "one").collections[0].get_segments()
    center, (dx, dy) = line.mean(0), line[1] - line[0]
    assert center.tolist() == [2, 1]
    assert np.isclose(abs(np.degrees(np.arctan2(dy, dx))) % 180, 100)  # gradient: 10 degrees
    assert not hog_glyphs(-np.ones((2, 2, 9)), "none").collections[0].get_segments()


def test_roi_has_its_bins_border_and_points():
    features = np.arange(12.0).reshape(3, 4)
    ax = roi_on_cells(features, (0.5, 0.5, 2, 2), [(0, 0, 2, 2)], [(1, 1), (2, 1)], "region")
    assert [patch.get_bbox().extents.tolist() for patch in ax.patches] == [
        [0, 0, 2, 2],
        [0.5, 0.5, 2, 2],
    ]
    assert len(ax.texts) == 12
    assert ax.lines[0].get_xydata().tolist() == [[1, 1], [2, 1]]


def test_differences_by_iteration_leave_out_the_reference():
    names = ["align", "pool"]
    rows = [
        {"kind": kind, "iterations": n, "variant": name, "difference": -float(n)}
        for kind in ("box", "mask")
        for n in (1, 2)
        for name in names
    ]
    table = pd.DataFrame(rows).assign(difference_low=-3.0, difference_high=0.5)
    axes = differences_by_iteration(table, "align")
    assert [ax.get_title() for ax in axes] == ["box AP50", "mask AP50"]
    for ax in axes:
        assert len(ax.containers) == 1
        assert ax.containers[0].lines[0].get_ydata().tolist() == [-1, -2]
