"""Mask failures measured on pixels, on hand-made masks."""

import numpy as np
import pytest

from tests.helpers.shapes import EVERYWHERE, dataset_eval, ground_truth, mask_of, shape
from vocseg_lib.failures.config import Thresholds
from vocseg_lib.failures.mask_errors import LOSSES, measure_masks
from vocseg_lib.utils.rle import decode_rle

LEFT, RIGHT = mask_of((10, 10, 20, 30)), mask_of((30, 10, 20, 30))


def measured(objects, detections, void=None, **thresholds):
    content = ground_truth(*objects, void=void)
    return measure_masks(dataset_eval(content, detections), Thresholds(**thresholds))


def test_foreground_of_two_neighbors():
    detections = [shape(LEFT | RIGHT, score=0.9), shape(LEFT, score=0.8)]
    rows = measured([shape(LEFT), shape(RIGHT)], detections)
    assert rows["failure"].tolist() == ["localization failure", ""]
    assert rows.loc[0, ["union_iou", "single_iou"]].tolist() == [1.0, 0.5]
    assert rows["covered_objects"].tolist() == [(0, 1), (0,)]


@pytest.mark.parametrize(("width", "failure"), [(12, "localization failure"), (9, "leakage")])
def test_a_mask_covers_what_it_has_half_of(width, failure):
    # `width` of the right one's 20 columns are covered; the box is the left one's.
    detection = shape(mask_of((10, 10, 20 + width, 30)), score=0.9, box=(10, 10, 20, 30))
    rows = measured([shape(LEFT), shape(RIGHT)], [detection])
    assert rows["failure"].tolist() == [failure]
    leakage = rows["leakage"].item(), rows["leaked_on_others"].item()
    assert leakage == pytest.approx([width / (20 + width)] * 2)


def test_three_neighbors_of_any_class():
    columns = ((5, 15), (20, 13), (35, 15))
    objects = [shape(mask_of((x, 10, 15, 30)), category) for x, category in columns]
    rows = measured(objects, [shape(mask_of((5, 10, 45, 30)), score=0.9)])
    assert rows["failure"].tolist() == ["localization failure"]
    assert rows["covered_objects"].tolist() == [(0, 1, 2)]
    assert rows["single_iou"].item() == pytest.approx(1 / 3)


def test_no_localization_failure_with_little_union_iou_or_gain():
    small = [shape(mask_of((x, 30, 5, 5))) for x in (20, 25)]
    assert measured(small, [shape(EVERYWHERE, score=0.9)])["failure"].tolist() == [""]
    crumb = mask_of((30, 10, 2, 8))
    detections, objects = [shape(LEFT | crumb, score=0.9)], [shape(LEFT), shape(crumb)]
    assert measured(objects, detections)["failure"].tolist() == [""]
    rows = measured(objects, detections, min_iou_gain=0.0)
    assert rows["failure"].tolist() == ["localization failure"]


def test_leakage_on_the_background_and_on_an_object():
    # 20 x 30 pixels of its own, 4 columns on its neighbor, 6 rows on the background.
    mask = mask_of((10, 10, 24, 30), (10, 40, 20, 6))
    rows = measured([shape(LEFT), shape(RIGHT)], [shape(mask, score=0.9, box=(10, 10, 20, 30))])
    assert rows["failure"].item() == "leakage"
    assert rows["leakage"].item() == pytest.approx(240 / 840)
    assert rows["leaked_on_others"].item() == pytest.approx(120 / 840)
    rows = measured([shape(LEFT)], [shape(mask, score=0.9)], min_leakage=0.4)
    assert rows["failure"].item() == ""


def test_leakage_before_the_crop():
    detections = [shape(LEFT, score=0.9, uncropped=EVERYWHERE), shape(RIGHT, score=0.8)]
    rows = measured([shape(LEFT), shape(RIGHT)], detections)
    assert rows["leakage"].tolist() == [0, 0]
    before = {"leakage_before_crop": 3000, "leaked_on_others_before_crop": 600}
    for name, pixels in before.items():
        assert rows[name].tolist() == pytest.approx([pixels / 3600, np.nan], nan_ok=True)


def test_no_leakage_with_a_wrong_box():
    detection = shape(mask_of((10, 10, 20, 50)), score=0.9, box=(10, 35, 20, 25))
    rows = measured([shape(LEFT)], [detection])
    assert rows["failure"].item() == ""
    assert rows["object"].item() == -1
    assert np.isnan(rows["leakage"].item())


def test_coarse_contour_hole_and_leak_in_parts_of_the_iou_loss():
    coarse, leak = mask_of((12, 12, 36, 36)), mask_of((10, 0, 40, 60))
    hole = mask_of((10, 10, 40, 40), minus=[(20, 20, 20, 20)])
    detections = [shape(m, score=0.9) for m in (coarse, hole, leak)]
    rows = measured([shape(mask_of((10, 10, 40, 40)))], detections)
    assert rows["failure"].tolist() == ["boundary", "incomplete", "leakage"]
    assert rows.loc[0, "lost_at_boundary"] == pytest.approx(1 - 36**2 / 40**2)
    assert rows.loc[1, "lost_inside"] == pytest.approx(0.25)
    # Two rows above and two below are in the band.
    assert rows.loc[2, "lost_at_boundary"] == pytest.approx(2 * 2 * 40 / 2400)
    assert rows.loc[2, "lost_outside"] == pytest.approx(2 * 8 * 40 / 2400)
    iou = 1 - rows[list(LOSSES.values())].sum(1)
    assert rows["object_iou"].tolist() == pytest.approx(iou.tolist())


def test_a_mask_off_its_object_is_not_a_coarse_contour():
    pole, box = mask_of((20, 5, 4, 50)), (20, 5, 4, 50)
    masks = mask_of((20, 5, 4, 7)), pole & False, mask_of((14, 5, 16, 50))
    rows = measured([shape(pole)], [shape(mask, score=0.9, box=box) for mask in masks])
    assert rows["failure"].tolist() == ["incomplete", "incomplete", "leakage"]
    assert rows["missing"].tolist() == pytest.approx([43 / 50, 1, 0])


def test_the_edge_of_the_image_is_not_a_contour():
    square, smaller = mask_of((0, 10, 40, 40)), mask_of((2, 10, 38, 40))
    rows = measured([shape(square)], [shape(smaller, score=0.9)])
    # Its first two columns, but for the band's corners.
    assert rows["lost_inside"].item() == pytest.approx(36 * 2 / 1600)


def test_void_is_ignored():
    square, grown, box = mask_of((20, 20, 20, 20)), mask_of((10, 10, 40, 40)), (20, 20, 20, 20)
    void, detection = grown & ~square, shape(grown, score=0.9, box=box)
    assert measured([shape(square)], [detection])["leakage"].item() == 0.75
    assert measured([shape(square)], [detection], void=void)["leakage"].item() == 0
    only_void = measured([shape(square)], [shape(void, score=0.9, box=box)], void=void)
    assert only_void["leakage"].item() == 0
    assert only_void["lost_inside"].item() == pytest.approx(256 / 400)


def test_no_objects_and_no_detections():
    rows = measured([], [shape(LEFT, score=0.9)], min_box_iou=0.0)
    assert rows["failure"].tolist() == [""]
    assert measured([shape(LEFT)], []).empty


def test_parts_equal_pixels_counted_one_by_one(real_predictions):
    content, models = real_predictions
    detections = models["mask_rcnn"][:400]
    data, thresholds = dataset_eval(content, detections), Thresholds()
    rows = measure_masks(data)
    right = rows[rows["object"] >= 0]
    assert len(right) > 20
    for row in right.join(data.detection_rows).itertuples():
        indices = data.image_evals[row.image].objects["annotation"]
        objects = decode_rle([data.annotations[j]["segmentation"] for j in indices])
        (mask,) = decode_rle([data.detections[row.detection]["segmentation"]])
        target = indices.tolist().index(row.object)
        own, others = objects[target], np.delete(objects, target, 0).any(0)
        assert row.leakage == pytest.approx((mask & ~own).sum() / mask.sum())
        assert row.leaked_on_others == pytest.approx((mask & others & ~own).sum() / mask.sum())
        width = round(thresholds.band_width * own.sum() ** 0.5)
        reach = max(thresholds.min_band_px, width)
        near, near_outside = (dilate(area, reach) for area in (own, ~own))
        union = (mask | own).sum()
        assert row.lost_outside == pytest.approx((mask & ~near).sum() / union)
        assert row.lost_inside == pytest.approx((own & ~near_outside & ~mask).sum() / union)
        rest = 1 - row.object_iou - row.lost_outside - row.lost_inside
        assert row.lost_at_boundary == pytest.approx(rest)


def dilate(area, reach):
    """Pixels with one of the area at most `reach` rows and columns away, by shifting it."""
    padded, (height, width) = np.pad(area, reach), area.shape
    steps = range(2 * reach + 1)
    shifted = [padded[y : y + height, x : x + width] for y in steps for x in steps]
    return np.any(shifted, axis=0)
