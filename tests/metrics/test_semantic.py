import numpy as np
import pytest

from tests.helpers.coco import entry, ground_truth_of, rectangle
from vocseg_lib.metrics.semantic import count_pixels, mean_iou
from vocseg_lib.utils.rle import encode_rle


def by_class(ground_truth, detections):
    """IoU by class, and their mean."""
    (mean,), (values,) = mean_iou(count_pixels(ground_truth, detections))
    names = ["background", *(c["name"] for c in ground_truth["categories"])]
    known = {n: v for n, v in zip(names, values, strict=True) if not np.isnan(v)}
    return {"all": mean, **known}


def test_mean_iou_by_hand():
    ground_truth = ground_truth_of(entry(1, 3, (0, 0, 10, 10)), images=1)
    detections = [
        entry(1, 3, (0, 0, 10, 5), 0.9),
        entry(1, 7, (0, 0, 10, 10), 0.6),
        entry(1, 5, (0, 0, 20, 20), 0.4),
    ]
    values = by_class(ground_truth, detections)
    # The bird keeps its half, the other half becomes a car; scores below .5 are left out.
    assert values == pytest.approx({"all": 50, "background": 100, "bird": 50, "car": 0})
    (ground_truth["images"][0]["void"],) = encode_rle(rectangle(0, 5, 10, 5))
    values = by_class(ground_truth, detections)
    assert values == pytest.approx({"all": 100, "background": 100, "bird": 100})
