import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from vocseg_lib.utils.json_values import shorten
from vocseg_lib.utils.rle import (
    as_rle,
    decode_rle,
    encode_rle,
    mask_areas,
    paint_masks,
    pixel_counts,
)

RANDOM = np.random.default_rng(0)


def test_round_trip():
    masks = torch.rand(4, 13, 7) > 0.6
    assert np.array_equal(decode_rle(encode_rle(masks)), masks.numpy())
    assert encode_rle(masks[:0]) == []
    assert len(decode_rle([])) == 0


def test_areas_of_more_masks_than_pycocotools_takes_at_once():
    masks = torch.zeros(300, 9, 9, dtype=torch.bool)
    for k in range(300):
        masks[k, : k % 9, :3] = True
    assert mask_areas(encode_rle(masks)).tolist() == [3 * (k % 9) for k in range(300)]
    assert mask_areas([]).shape == (0,)


def test_codes_of_random_masks_are_valid_and_parts_of_them_are_not():
    for _ in range(200):
        height, width = RANDOM.integers(1, 90, 2).tolist()
        mask = RANDOM.random((height, width)) < RANDOM.random()
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert as_rle(rle, height, width, "it")["counts"].encode() == rle["counts"]
        for cut in range(1, min(9, len(rle["counts"]))):
            with pytest.raises(ValueError, match=r"^it "):
                as_rle({**rle, "counts": rle["counts"][:-cut]}, height, width, "it")


def test_every_form_of_a_mask_is_read():
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:20, 5:20] = 1
    ends = np.flatnonzero(np.diff(mask.T.ravel().astype(int))) + 1
    runs = np.diff(np.r_[0, ends, mask.size]).tolist()
    code = coco_mask.encode(np.asfortranarray(mask))["counts"]
    forms = [{"size": [30, 40], "counts": counts} for counts in (runs, code, code.decode())]
    for form in [*forms, [[5, 5, 20, 5, 20, 20, 5, 20]]]:
        rle = as_rle(form, 30, 40, "it")
        assert isinstance(rle["counts"], str)
        assert np.array_equal(decode_rle([rle])[0], mask), form


def far_zigzag(corners):
    """A polygon across all of what is allowed around an image of 40 x 30, again and again."""
    return [v for k in range(corners) for v in ((-400, -300) if k % 2 else (400, 300))]


def test_polygons_of_endless_edges_are_refused_and_many_small_ones_are_not():
    assert decode_rle([as_rle([far_zigzag(60)], 30, 40, "it")]).shape == (1, 30, 40)
    for polygons in ([far_zigzag(200_000)], [far_zigzag(20)] * 1_000):
        with pytest.raises(ValueError, match=r"^it .*1200"):
            as_rle(polygons, 30, 40, "it")
    square = [3, 4, 9, 4, 9, 8, 3, 8]
    many = as_rle([square] * 3_000, 30, 40, "it")
    assert many == as_rle([square], 30, 40, "it")
    with pytest.raises(ValueError, match=r"^it "):
        as_rle([[v + 9 * 10**8 for v in square]], 1, 10**8, "it")


def test_codes_checked_together_are_as_when_checked_alone():
    codes = [r["counts"] for r in encode_rle(torch.rand(40, 9, 7) > 0.5)]
    codes += ["", "~", "0o", codes[0][:-1], "o" * 30, "é", codes[1] + "\x00"]
    counts = pixel_counts(codes)
    assert counts.tolist() == [pixel_counts([code])[0] for code in codes]
    assert (counts[:40] == 63).all()
    assert (counts[40:43] == -1).all()
    assert pixel_counts([]).shape == (0,)


def test_painted_masks_are_those_that_are_decoded():
    masks = torch.rand(3, 13, 7) > 0.6
    columns, expected = np.zeros(13 * 7, dtype=np.uint16), np.zeros((13, 7))
    paint_masks(columns, encode_rle(masks), [4, 300, 2])
    for mask, value in zip(masks.numpy(), [4, 300, 2], strict=True):
        expected[mask] = value
    assert np.array_equal(columns.reshape(7, 13).T, expected)


@pytest.mark.parametrize("value", ["x" * 10**7, ["x" * 10**7] * 10, {"k": "x" * 10**7}, 10**400])
def test_long_values_are_shortened(value):
    assert len(shorten(value)) <= 60


COUNTS = ("", "\ud800", b"\x00", b"~~~", "oooooooooooo0", [1, 2], [10**400])
FORMS = ("x", [[1, 2, 3]], [[0, 0, 10**9, 0, 10**9, 10**9]], {"size": [40, 30], "counts": "0"})


@pytest.mark.parametrize("form", [*FORMS, *({"size": [30, 40], "counts": c} for c in COUNTS)])
def test_invalid_masks_are_refused(form):
    with pytest.raises(ValueError, match=r"^detection 7 "):
        as_rle(form, 30, 40, "detection 7")
