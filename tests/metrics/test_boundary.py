import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from tests.helpers.random_sets import on_random_sets, random_ellipse
from vocseg_lib.metrics.average_precision import coco_metrics
from vocseg_lib.metrics.boundary import mask_boundaries
from vocseg_lib.metrics.coco_eval import evaluate
from vocseg_lib.utils.rle import encode_rle

instance = pytest.importorskip("vernier.instance")


def boundary_ap(ground_truth, detections):
    """AP, AP50, AP75 by small, medium and large ones, as vernier lists them; None: no object."""
    matches = evaluate(ground_truth, detections).matches_on_boundaries
    return [
        np.nanmean(values) if len(values) else np.nan for values in coco_metrics(matches).values()
    ]


def by_vernier(ground_truth, detections):
    content = {**ground_truth, "images": [{**i, "void": None} for i in ground_truth["images"]]}
    encoded = (json.dumps(part).encode() for part in (content, detections))
    evaluator = instance.Evaluator(iou=instance.Boundary(), parity_mode="strict")
    return [100 * value for value in evaluator.evaluate(*encoded).stats[:3]]


@on_random_sets(40)
def test_boundary_ap_equals_vernier_on_random_sets(pair):
    if any(not annotation["iscrowd"] for annotation in pair[0]["annotations"]):
        assert boundary_ap(*pair) == pytest.approx(by_vernier(*pair), abs=1e-9)


@pytest.mark.parametrize("model", ["yolact", "mask_rcnn"])
def test_boundary_ap_equals_vernier_on_real_predictions(model, real_predictions):
    ground_truth, models = real_predictions
    expected = by_vernier(ground_truth, models[model])
    assert boundary_ap(ground_truth, models[model]) == pytest.approx(expected, abs=1e-9)
    assert expected[0] > 0 or model == "mask_rcnn"


def test_the_boundary_is_a_band_inside_the_mask():
    pixels = torch.zeros(100, 200, dtype=torch.bool)
    pixels[10:90, :60] = True  # touches the border of the image on the left
    (code,) = mask_boundaries(encode_rle(pixels[None]))
    expected = pixels.clone()
    width = round(0.02 * 50_000**0.5)
    expected[10 + width : 90 - width, width : 60 - width] = False
    assert np.array_equal(coco_mask.decode(code), expected.numpy())
    assert mask_boundaries([]) == []


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_boundary_by_brute_force(seed):
    mask = random_ellipse(np.random.default_rng(seed)).numpy()
    width = round(0.02 * (2 * mask.shape[0] ** 2) ** 0.5)
    padded = np.pad(mask, width)
    near = range(2 * width + 1)
    sides = [padded[y : y + len(mask), x : x + len(mask)] for y in near for x in near]
    (code,) = mask_boundaries(encode_rle(torch.from_numpy(mask)[None]))
    assert np.array_equal(coco_mask.decode(code).astype(bool), mask & ~np.all(sides, axis=0))
