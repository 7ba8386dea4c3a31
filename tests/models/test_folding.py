import copy

import pytest
import torch
from torch import nn

from benchmarks.cases import plain_path
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.speedups import BatchNorm2d


def backbone(name, frozen):
    """A backbone whose batch norm is not the identity."""
    torch.manual_seed(0)
    body = build_backbone(name, None, frozen).body
    for norm in (m for m in body.modules() if isinstance(m, BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return body.to(memory_format=torch.channels_last)


def run(body, x):
    return (body.features if hasattr(body, "features") else body)(x)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "tiny"])
@pytest.mark.parametrize("frozen", [False, True])
def test_folded_equals_plain(name, frozen):
    body, x = backbone(name, frozen), torch.rand(2, 3, 64, 64)
    reference = plain_path(body)
    assert body.state_dict().keys() == reference.state_dict().keys()
    with torch.inference_mode():
        expected = run(reference.eval(), x)
        for _ in range(2):  # folded anew, and kept
            assert (run(body.eval(), x) - expected).norm() < 1e-4 * expected.norm()
    body.train()
    mode = reference.eval() if frozen else reference.train()
    theirs, ours = run(mode, x), run(body, x)
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    theirs.sum().backward()
    ours.sum().backward()
    a, b = next(body.parameters()).grad, next(reference.parameters()).grad
    assert (a - b).norm() < 1e-3 * b.norm()


def test_folded_weights_follow_their_sources():
    body, x = backbone("tiny", False).eval(), torch.rand(1, 3, 64, 64)
    other = backbone("tiny", False)
    with torch.no_grad():
        for change in (
            lambda: next(body.parameters()).mul_(2),
            lambda: next(m for m in body.modules() if isinstance(m, BatchNorm2d)).running_mean.add_(
                1
            ),
            lambda: body.load_state_dict({k: v * 1.5 for k, v in other.state_dict().items()}),
        ):
            before = body(x)
            change()
            after = body(x)
            assert not torch.equal(before, after)
            expected = plain_path(body).eval()(x)
            assert (after - expected).norm() < 1e-4 * expected.norm()


def test_a_copy_folds_its_own_batch_norm():
    body = backbone("tiny", False).eval()
    twin = copy.deepcopy(body)
    with torch.no_grad():
        before = twin(torch.ones(1, 3, 64, 64))
        for p in body.parameters():
            p.zero_()
        assert torch.equal(twin(torch.ones(1, 3, 64, 64)), before)
    norm = twin[1].conv1._norm[0]
    assert norm is twin[1].bn1


def test_frozen_batch_norm_never_moves():
    body = backbone("tiny", True).train()
    before = {
        k: v.clone() for k, v in body.state_dict().items() if "running" in k or "num_batches" in k
    }
    body(torch.rand(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(v, body.state_dict()[k]) for k, v in before.items())
