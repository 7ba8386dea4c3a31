import numpy as np
import torch

from vocseg_lib.utils.rle import decode_rle, encode_rle, mask_areas


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
