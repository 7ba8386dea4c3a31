import pytest
import torch
from torch import nn

from tests.helpers.models import small
from vocseg_lib.study.table1 import count_gflop, measure_speed


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_parts_of_the_latency_add_up(name):
    model = small(name).train()
    speed = measure_speed(model, [torch.rand(3, 60, 80), torch.rand(3, 50, 50)], repeats=5)
    assert model.training
    assert speed["fps"] == pytest.approx(1 / speed["seconds_per_image"])
    assert 0 < speed["network_seconds"] < speed["seconds_per_image"]
    assert 0 < speed["postprocess_seconds"] < speed["seconds_per_image"]


class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def forward(self, images):
        return [{"masks": self.layer(image[None])} for image in images]


def test_operations_by_hand():
    model = OneConvolution().train()
    assert count_gflop(model, torch.rand(3, 32, 40)) == 2 * 32 * 40 * 8 * 3 * 9 / 1e9
    assert model.training
