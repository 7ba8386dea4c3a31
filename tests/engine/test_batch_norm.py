import pytest
import torch

from tests.helpers.trainings import QUICK, run
from vocseg_lib.engine.batch_norm import batch_norm_layers, set_train_mode
from vocseg_lib.engine.config import TrainConfig
from vocseg_lib.study.run import build_model


def test_the_official_rule():
    configs = [TrainConfig(batch_norm="official", batch_size=size) for size in (5, 6)]
    assert [config.freeze_batch_norm for config in configs] == [True, False]


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_frozen_layers_do_not_change(name, devkit, tmp_path):
    model, _ = run(name, devkit, tmp_path, iterations=2, batch_norm="frozen")
    before = build_model(QUICK, name)
    for layer, other in zip(batch_norm_layers(model), batch_norm_layers(before), strict=True):
        for key, value in layer.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])
    pairs = zip(model.parameters(), before.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
    for frozen in (True, False):
        layers = batch_norm_layers(set_train_mode(model, freeze_bn=frozen))
        assert {layer.training for layer in layers} == {not frozen}
