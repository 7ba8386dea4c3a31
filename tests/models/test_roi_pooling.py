import torch

from vocseg_lib.models.roi_pooling import POOLING


def test_pooling_rounds_and_align_does_not():
    """Two bins on a map whose value is its column, in cells of 4 pixels."""
    features = {"0": torch.arange(10.0).expand(1, 1, 10, 10).clone()}
    boxes = torch.tensor([[8.0, 8, 24, 24], [9.0, 9, 25, 25]])  # columns 2 to 6, and a pixel on
    pooled = {}
    for name, kind in POOLING.items():
        pool = kind(["0"], 2, 2)
        pool.scales, pool.map_levels = [0.25], lambda boxes: torch.zeros(len(boxes[0])).long()
        pooled[name] = pool(features, [boxes], [(40, 40)])[:, 0, 0].tolist()
    assert pooled["pool"] == [[4, 6], [4, 6]]  # the maxima of columns 2 to 4 and 4 to 6
    assert pooled["align"] == [[3, 5], [3.25, 5.25]]  # means; a pixel is a quarter of a cell
    assert pooled["round"] == [[3, 5], [3, 5]]
