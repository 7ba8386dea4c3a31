import pytest
import torch
from torch import nn

from tests.helpers.trainings import QUICK, short_config
from vocseg_lib.engine.optim import build_optimizer, lr_factor
from vocseg_lib.study.run import build_model


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({"lr_milestones": (4, 8)}, {0: 1, 3: 1, 4: 0.1, 7: 0.1, 8: 0.01}),
        ({"schedule": "cosine"}, {0: 1, 5: 0.5, 10: 0}),
        ({"warmup_iterations": 4}, {0: 0.1, 2: 0.55, 4: 1}),
    ],
)
def test_schedules_by_hand(options, factors):
    config = short_config(iterations=10, **options)
    assert {i: lr_factor(config, i) for i in factors} == pytest.approx(factors)


def test_the_backbone_has_its_own_learning_rate():
    model = build_model(QUICK, "yolact")
    config = short_config(learning_rate=0.1, backbone_lr_mult=0.5, momentum=0.7, weight_decay=0.2)
    optimizer = build_optimizer(model, config)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.05]
    body = {id(p) for name, p in model.named_parameters() if ".body." in f".{name}."}
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == body
    for group in optimizer.param_groups:
        assert (group["momentum"], group["weight_decay"]) == (0.7, 0.2)


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, short_config(optimizer="adamw"))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]
