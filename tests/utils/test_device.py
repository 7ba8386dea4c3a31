import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from tests.helpers.models import small, target
from vocseg_lib.models.config import MODELS
from vocseg_lib.utils import device


def test_native_half_precision_only(monkeypatch):
    for capability in ((6, 1), (7, 5), (8, 0), (9, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        dtype = torch.bfloat16 if capability >= (8, 0) else torch.float16
        assert device.half_precision("cuda") is dtype
    for supported in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda s=supported: s)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert device.half_precision("cpu") is (torch.bfloat16 if supported else None)
    assert device.half_precision("mps") is None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_work_in_half_precision(name, dtype, monkeypatch):
    monkeypatch.setattr(device, "half_precision", lambda device: dtype)
    model = small(name, score_threshold=0.0)
    images, targets = [torch.rand(3, 50, 70)] * 2, [target(50, 70)] * 2
    torch.manual_seed(1)
    expected = sum(model.train()(images, targets).values())
    torch.manual_seed(1)
    with device.autocast("cpu", True):
        losses = model(images, targets)
    total = sum(losses.values())
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=0.05)
    total.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    with device.autocast("cpu", False):
        assert not torch.is_autocast_enabled("cpu")
    with torch.inference_mode(), device.autocast("cpu", True):
        (detections,) = model.eval()(images[:1])
    assert detections["masks"].dtype == torch.bool
    assert detections["boxes"].dtype == detections["scores"].dtype == torch.float32


COMPILED = """
from functools import partial
import torch
from tests.helpers.models import small

# Traced and differentiated as for a GPU, without generating code, which takes minutes here.
torch.compile = partial(torch.compile, backend="aot_eager")
models = [small("yolact", channels=16, image_size=64, compile=c) for c in (False, True)]
images, results = [torch.rand(3, 50, 70)], []
for model in models:
    with torch.inference_mode():
        evaluated = model.eval().network(images)
    trained = model.train().network(images)
    (trained["class_logits"].square().mean() + trained["prototypes"].square().mean()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None and p.grad.any()]
    results.append([evaluated["class_logits"], evaluated["prototypes"], *gradients])
for a, b in zip(*results, strict=True):
    assert (a - b).norm() <= 1e-3 * b.norm() + 1e-6, (a - b).norm() / b.norm()
print("equal")
"""


def test_compiled_equals_plain():
    # In a process of its own, where shapes are not checked: torch.compile does not trace checks.
    command = [sys.executable, "-W", "ignore", "-c", COMPILED]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16, None])
def test_predictions_are_never_in_bf16(half, monkeypatch):
    monkeypatch.setattr(device, "half_precision", lambda _: half)
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: nullcontext(dtype))
    for kind, instead in (("cpu", None), ("cuda", torch.float16)):
        with device.autocast(kind, True, predicting=True) as dtype:
            assert dtype is (instead if half is torch.bfloat16 else half)
