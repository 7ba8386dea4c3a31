"""Selective search, its cache, and recall of proposals worked by hand."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.helpers.models import small
from vocseg_lib.models.lineage import proposals
from vocseg_lib.models.lineage.proposals import AR_IOUS, DiskCache, SelectiveSearch, proposal_recall
from vocseg_lib.utils.boxes import box_iou


def test_selective_search_is_a_function_of_image_and_seed(image):
    boxes = SelectiveSearch(seed=1)(image)
    assert torch.equal(SelectiveSearch(seed=1)(image), boxes)
    assert torch.equal(SelectiveSearch(5, seed=1)(image), boxes[:5])
    other = SelectiveSearch(seed=2)(image)
    assert not torch.equal(other, boxes)
    assert {tuple(b) for b in other.tolist()} == {tuple(b) for b in boxes.tolist()}
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2:] <= torch.tensor(image.shape[:0:-1])).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (8, 8)])
def test_images_without_regions_have_no_proposals(size):
    assert SelectiveSearch()(torch.zeros(3, *size)).shape[1] == 4


def test_cached_proposals_equal_computed_ones(image, tmp_path):
    expected, search = SelectiveSearch()(image), SelectiveSearch(cache=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(boxes, expected) for boxes in pool.map(search, [image] * 16))
    (output,) = tmp_path.rglob("*.npz")
    whole = output.read_bytes()
    changed = whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]
    for damaged in (whole[:50], changed, b"", pickle.dumps([1])):
        output.write_bytes(damaged)
        assert torch.equal(search(image), expected)
        assert output.read_bytes() == whole
    assert torch.equal(SelectiveSearch(cache=tmp_path)(image), expected)
    assert len(list(tmp_path.rglob("*.npz"))) == 1


def test_a_disabled_cache_computes(tmp_path, monkeypatch):
    counted, pixels = DiskCache(np.copy, tmp_path), np.zeros(3)
    for function in (counted.function, lambda pixels: pixels + 7):
        counted.function = function
        assert counted(pixels).tolist() == [0, 0, 0]
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    monkeypatch.setattr(DiskCache, "enabled", False)
    assert counted(pixels).tolist() == [7, 7, 7]


def test_recall_by_hand():
    """Two objects; the first proposal covers one by 0.6, the third the other whole."""
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[0.0, 0, 10, 6], [50, 50, 60, 60], [20, 20, 30, 30]])
    assert proposal_recall([boxes], [objects], [1, 2, 3, 9], [0.5]).tolist() == [50, 50, 100, 100]
    assert proposal_recall([boxes], [objects], [1, 3], [0.7]).tolist() == [0, 50]
    assert proposal_recall([torch.zeros(0, 4)], [objects], [1], [0.5]).tolist() == [0]
    # IoU 0.5, 0.55, 0.6: three of ten
    assert proposal_recall([boxes], [objects], [1, 3], AR_IOUS) == pytest.approx([15, 65])


@pytest.mark.parametrize("name", ["mask_rcnn", "yolact"])
def test_proposals_of_the_two_models(name, image):
    propose = {"mask_rcnn": proposals.rpn_proposals, "yolact": proposals.scored_priors}[name]
    boxes = propose(small(name).eval(), image)
    assert len(boxes) > 10
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor(image.shape[:0:-1]) + 1e-3).all()
    assert box_iou(boxes, boxes).triu(1).max() <= 0.7 + 1e-5
