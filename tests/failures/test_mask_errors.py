"""Failures that are measured on pixels, on masks drawn by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.shapes import SIDE, ground_truth, mask_of, shape
from vocseg_lib.data.coco import validate_ground_truth, validate_results
from vocseg_lib.failures.mask_errors import LOSSES, Thresholds, measure_masks
from vocseg_lib.metrics.matching import evaluate_images
from vocseg_lib.utils.rle import decode_rle


def measured(objects, found, void=None, **changes):
    content = ground_truth(*objects, void=void)
    return measure_masks(
        evaluate_images(content, validate_results(content, found)), Thresholds(**changes)
    )


LEFT, RIGHT = mask_of((10, 10, 20, 30)), mask_of((30, 10, 20, 30))


def test_foreground_of_two_neighbours():
    both, left = shape(LEFT | RIGHT, score=0.9), shape(LEFT, score=0.8)
    rows = measured([shape(LEFT), shape(RIGHT)], [both, left])
    assert rows["failure"].tolist() == ["localization failure", ""]
    assert rows.loc[0, ["union_iou", "single_iou"]].tolist() == [1.0, 0.5]
    assert rows["covered_objects"].tolist() == [(0, 1), (0,)]


@pytest.mark.parametrize(("width", "failure"), [(12, "localization failure"), (9, "leakage")])
def test_half_of_a_neighbour_is_what_unites(width, failure):
    # Of the right one 20 columns wide, `width` are covered; the box says the left one.
    mask = mask_of((10, 10, 20 + width, 30))
    rows = measured([shape(LEFT), shape(RIGHT)], [shape(mask, score=0.9, box=(10, 10, 20, 30))])
    assert rows["failure"].tolist() == [failure]
    assert (
        rows["leakage"].item()
        == rows["leaked_on_others"].item()
        == pytest.approx(width / (20 + width))
    )


def test_three_neighbours_whatever_their_class():
    objects = [
        shape(mask_of((x, 10, 15, 30)), category) for x, category in ((5, 15), (20, 13), (35, 15))
    ]
    rows = measured(objects, [shape(mask_of((5, 10, 45, 30)), score=0.9)])
    assert rows["failure"].tolist() == ["localization failure"]
    assert rows["covered_objects"].tolist() == [(0, 1, 2)]
    assert rows["single_iou"].item() == pytest.approx(1 / 3)


def test_a_blob_that_matches_nothing_is_none():
    small = [shape(mask_of((x, 30, 5, 5))) for x in (20, 25)]
    assert measured(small, [shape(mask_of((0, 0, 60, 60)), score=0.9)])["failure"].tolist() == [""]


def test_a_crumb_of_a_neighbour_is_none_unless_asked():
    crumb = mask_of((30, 10, 2, 8))
    found = [shape(LEFT | crumb, score=0.9)]
    assert measured([shape(LEFT), shape(crumb)], found)["failure"].tolist() == [""]
    assert measured([shape(LEFT), shape(crumb)], found, min_iou_gain=0.0)["failure"].tolist() == [
        "localization failure"
    ]


def test_leak_on_the_ground_and_on_an_object():
    # 20 x 30 pixels of its own, 4 columns on its neighbor, 6 rows on the ground.
    mask = mask_of((10, 10, 24, 30), (10, 40, 20, 6))
    rows = measured([shape(LEFT), shape(RIGHT)], [shape(mask, score=0.9, box=(10, 10, 20, 30))])
    assert rows["failure"].item() == "leakage"
    assert rows["leakage"].item() == pytest.approx(240 / 840)
    assert rows["leaked_on_others"].item() == pytest.approx(120 / 840)
    assert (
        measured([shape(LEFT)], [shape(mask, score=0.9)], min_leakage=0.4)["failure"].item() == ""
    )


def test_leak_before_the_crop():
    everything = torch.ones(SIDE, SIDE, dtype=torch.bool)
    rows = measured(
        [shape(LEFT), shape(RIGHT)],
        [shape(LEFT, score=0.9, uncropped=everything), shape(RIGHT, score=0.8)],
    )
    assert rows["leakage"].tolist() == [0, 0]
    assert rows["leakage_before_crop"].tolist() == pytest.approx([3000 / 3600, np.nan], nan_ok=True)
    assert rows["leaked_on_others_before_crop"].tolist() == pytest.approx(
        [600 / 3600, np.nan], nan_ok=True
    )


def test_a_wrong_box_leaks_nothing():
    rows = measured(
        [shape(LEFT)], [shape(mask_of((10, 10, 20, 50)), score=0.9, box=(10, 35, 20, 25))]
    )
    assert rows["failure"].item() == ""
    assert rows["object"].item() == -1
    assert np.isnan(rows["leakage"].item())


def test_coarse_contour_and_hole_and_leak_share_what_is_lost():
    square = mask_of((10, 10, 40, 40))
    coarse, holed, leaking = (
        mask_of((12, 12, 36, 36)),
        mask_of((10, 10, 40, 40), minus=[(20, 20, 20, 20)]),
        mask_of((10, 0, 40, 60)),
    )
    rows = measured(
        [shape(square)], [shape(m, score=0.9) for m in (coarse, holed, leaking)], min_iou_loss=0.15
    )
    assert rows["failure"].tolist() == ["boundary", "incomplete", "leakage"]
    assert rows.loc[0, "lost_at_boundary"] == pytest.approx(1 - 36**2 / 40**2)
    assert rows.loc[1, "lost_inside"] == pytest.approx(0.25)
    assert rows.loc[2, "lost_at_boundary"] == pytest.approx(
        2 * 2 * 40 / 2400
    )  # two rows above and two below
    assert rows.loc[2, "lost_outside"] == pytest.approx(2 * 8 * 40 / 2400)
    assert rows["object_iou"].tolist() == pytest.approx(
        (1 - rows[list(LOSSES.values())].sum(1)).tolist()
    )


def test_a_mask_off_its_object_is_no_coarse_contour():
    pole = mask_of((20, 5, 4, 50))
    some, nothing, flood = mask_of((20, 5, 4, 7)), pole & False, mask_of((14, 5, 16, 50))
    box = (20, 5, 4, 50)
    rows = measured([shape(pole)], [shape(m, score=0.9, box=box) for m in (some, nothing, flood)])
    assert rows["failure"].tolist() == ["incomplete", "incomplete", "leakage"]
    assert rows["missing"].tolist() == pytest.approx([43 / 50, 1, 0])


def test_the_images_edge_is_no_contour():
    square, smaller = mask_of((0, 10, 40, 40)), mask_of((2, 10, 38, 40))
    rows = measured([shape(square)], [shape(smaller, score=0.9)])
    assert rows["lost_inside"].item() == pytest.approx(
        (36 * 2) / 1600
    )  # its first two columns, but for the band's corners


def test_void_counts_for_nobody():
    square, grown = mask_of((20, 20, 20, 20)), mask_of((10, 10, 40, 40))
    void = grown & ~square
    found = [shape(grown, score=0.9, box=(20, 20, 20, 20))]
    assert measured([shape(square)], found)["leakage"].item() == 0.75
    assert measured([shape(square)], found, void=void)["leakage"].item() == 0
    only_void = measured([shape(square)], [shape(void, score=0.9, box=(20, 20, 20, 20))], void=void)
    assert only_void["leakage"].item() == 0
    assert only_void["lost_inside"].item() == pytest.approx(256 / 400)


def test_no_objects_and_no_detections():
    assert measured([], [shape(LEFT, score=0.9)])["failure"].tolist() == [""]
    assert measured([shape(LEFT)], []).empty


def test_a_threshold_that_cannot_be_is_named():
    with pytest.raises(ValueError, match="min_leakage is 20"):
        Thresholds(min_leakage=20)


def test_parts_equal_pixels_counted_one_by_one(shared):
    content = validate_ground_truth(
        json.loads((shared / "predictions" / "voc2012_val_gt.json").read_text())
    )
    found = json.loads(
        (shared / "predictions" / "mask_rcnn_torchvision_mobilenet320.json").read_text()
    )
    dataset_eval = evaluate_images(content, validate_results(content, found[:400]))
    rows = measure_masks(dataset_eval)
    thresholds = replace(Thresholds())
    right = rows[rows["object"] >= 0]
    assert len(right) > 20
    for row in right.itertuples():
        image_eval = dataset_eval.image_evals[row.image]
        objects = decode_rle(
            [content["annotations"][j]["segmentation"] for j in image_eval.objects]
        )
        (mask,), own = (
            decode_rle([dataset_eval.detections[row.detection]["segmentation"]]),
            objects[row.object],
        )
        others = np.delete(objects, row.object, 0).any(0)
        assert row.leakage == pytest.approx((mask & ~own).sum() / mask.sum())
        assert row.leaked_on_others == pytest.approx((mask & others & ~own).sum() / mask.sum())
        reach = max(thresholds.min_band_px, round(thresholds.band_width * own.sum() ** 0.5))
        near = [distance_within(area, reach) for area in (own, ~own)]
        union = (mask | own).sum()
        assert row.lost_outside == pytest.approx((mask & ~near[0]).sum() / union)
        assert row.lost_inside == pytest.approx((own & ~near[1] & ~mask).sum() / union)
        assert row.lost_at_boundary == pytest.approx(
            1 - row.object_iou - row.lost_outside - row.lost_inside
        )


def distance_within(area, reach):
    """Pixels that have one of an area within `reach` rows and columns."""
    padded = np.pad(area, reach)
    height, width = area.shape
    steps = range(2 * reach + 1)
    return np.any([padded[y : y + height, x : x + width] for y in steps for x in steps], axis=0)
