"""Weights of detectors with other classes: what is kept, by class name."""

from dataclasses import replace

import pytest
import torch

from tests.helpers.models import TINY
from vocseg_lib.models.config import MaskRCNNConfig, YolactConfig
from vocseg_lib.models.mask_rcnn import MaskRCNN
from vocseg_lib.models.transfer import Pretrained, check_network, transfer
from vocseg_lib.models.yolact import Yolact

BUILD = {
    "yolact": lambda n: Yolact(YolactConfig(**TINY, semantic_loss=True), n + 1),
    "mask_rcnn": lambda n: MaskRCNN(MaskRCNNConfig(**TINY), n + 1),
}
BEFORE, AFTER = ("cat", "airplane", "Dining Table"), ("diningtable", "zebra", "cat", "aeroplane")
PAIRS = {0: 0, 1: 3, 3: 1, 4: 2}  # label after, label before
ROWS = {  # of each layer, as [repeats, classes, values] and the first class's label
    "yolact": {"head.classes.0": (3, 1, 0), "semantic.0": (1, 1, 1)},
    "mask_rcnn": {
        "roi_heads.box_predictor.cls_score": (1, 1, 0),
        "roi_heads.box_predictor.bbox_pred": (1, 4, 0),
        "roi_heads.mask_predictor.mask_fcn_logits": (1, 1, 0),
    },
}


def pretrained(name, names=BEFORE, **changes):
    torch.manual_seed(1)
    state = BUILD[name](len(BEFORE)).state_dict()
    weights = Pretrained(
        source="w.pth", model=name, state=state, outputs=4, class_names=names, config={}
    )
    return replace(weights, **changes)


@pytest.mark.parametrize("name", BUILD)
def test_outputs_go_to_the_class_of_the_same_name(name):
    weights, model = pretrained(name), BUILD[name](len(AFTER))
    start = {k: v.clone() for k, v in model.state_dict().items()}
    done = transfer(model, weights, AFTER)
    assert (list(done.kept), list(done.new)) == (["diningtable", "cat", "aeroplane"], ["zebra"])
    assert (done.unfit, list(done.unused)) == ({}, [])
    layers = ROWS[name]
    for key, value in model.state_dict().items():
        layer = key.rpartition(".")[0]
        if layer not in layers:
            assert torch.equal(value, weights.state[key]), key
            continue
        repeats, values, first = layers[layer]
        for label in range(first, len(AFTER) + 1):
            for repeat in range(repeats):
                now, was = (
                    (repeat * n + k - first) * values
                    for k, n in ((label, len(AFTER) + 1 - first), (PAIRS.get(label, 0), 4 - first))
                )
                got = value[now : now + values]
                if label in PAIRS:
                    assert torch.equal(got, weights.state[key][was : was + values]), key
                else:
                    assert torch.equal(got, start[key][now : now + values]), key


@pytest.mark.parametrize("name", BUILD)
def test_weights_without_names_are_taken_in_order_or_not(name):
    weights = pretrained(name, names=None)
    logits = f"{next(iter(ROWS[name]))}.bias"
    same = BUILD[name](3)
    assert list(transfer(same, weights, ("x", "y", "z")).kept) == ["x", "y", "z"]
    assert torch.equal(same.state_dict()[logits], weights.state[logits])
    assert list(transfer(BUILD[name](2), weights, ("x", "y")).new) == ["x", "y"]


@pytest.mark.parametrize("name", BUILD)
def test_what_does_not_fit_is_reported(name):
    weights = pretrained(name)
    body = next(k for k in weights.state if "running" not in k and k.endswith("weight"))
    other = next(k for k in weights.state if k.endswith("bias") and ("protonet" in k or "rpn" in k))
    small = {**weights.state, other: torch.zeros(7), "extra": torch.zeros(1)}
    done = transfer(BUILD[name](4), replace(weights, state=small), AFTER)
    assert (list(done.unfit), list(done.unused)) == ([other], ["extra"])
    assert other in str(done)
    for wrong in (
        {"state": {**weights.state, body: torch.zeros(1)}},
        {"state": {k: v for k, v in weights.state.items() if k != body}},
        {"state": {**weights.state, other: torch.full_like(weights.state[other], torch.nan)}},
        {"class_names": BEFORE[:2]},
    ):
        with pytest.raises(ValueError, match=r"w\.pth"):
            transfer(BUILD[name](4), replace(weights, **wrong), AFTER)
    check_network(YolactConfig(), weights)
    with pytest.raises(ValueError, match="square_priors"):
        check_network(YolactConfig(), replace(weights, config={"square_priors": True}))
