"""Updates that are skipped, and half precision."""

import pytest
import torch

from tests.helpers.trainings import Explodes, run
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.engine.train import NonFiniteLoss


@pytest.mark.parametrize("problem", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_skipped(problem, devkit, tmp_path):
    model = Explodes(3, 5, backward=problem == "gradient")
    _, state = run(model, devkit, tmp_path, checkpoint_every=1)
    assert (state["skipped_updates"], state["overflows"], state["iteration"]) == (2, 0, 6)
    assert torch.isfinite(model.weight)
    assert torch.isfinite(model.norm.running_mean).all()
    assert model.norm.num_batches_tracked == 4
    entries = [e for e in read_log(tmp_path / "log.jsonl") if "skipped_update" in e]
    assert [entry["iteration"] for entry in entries] == [3, 5]
    for entry in entries:
        assert set(entry["images"]) <= set(VocDataset(devkit, "train").names)
        assert entry["skipped_update"].startswith(problem)
        assert ("loss" in entry) == (problem == "gradient")


def test_too_many_consecutive_skips_end_a_training_with_a_good_checkpoint(devkit, tmp_path):
    options = {"iterations": 9, "checkpoint_every": 1, "max_skipped_updates": 3}
    with pytest.raises(NonFiniteLoss) as caught:
        run(Explodes(2, 4, 5, 6), devkit, tmp_path, **options)
    assert sum(name in str(caught.value) for name in VocDataset(devkit, "train").names) == 2
    last = load_checkpoint(tmp_path / "last.pt")
    assert (last["iteration"], last["consecutive_skips"]) == (3, 0)
    assert torch.isfinite(last["model"]["weight"])


def in_half(monkeypatch, dtype):
    for module in ("utils.device", "engine.train_state"):
        monkeypatch.setattr(f"vocseg_lib.{module}.half_precision", lambda device: dtype)


def test_fp16_gradients_are_clipped_and_logged_without_the_scale(devkit, tmp_path, monkeypatch):
    norms = {}
    for dtype in (torch.float16, torch.float32):
        in_half(monkeypatch, dtype)
        folder, mixed = tmp_path / str(dtype), dtype is torch.float16
        options = {"iterations": 12, "learning_rate": 1e-12, "max_grad_norm": 1.0}
        run("yolact", devkit, folder, mixed_precision=mixed, **options)
        norms[dtype] = [entry.get("gradient_norm") for entry in read_log(folder / "log.jsonl")]
    pairs = [pair for pair in zip(*norms.values(), strict=True) if pair[0]]  # others overflowed
    assert len(pairs) > 2
    for half, full in pairs:
        assert half == pytest.approx(full, rel=0.05)


def test_an_overflow_in_fp16_is_skipped(devkit, tmp_path, monkeypatch):
    """The scale starts at 65,536, more than fp16 holds here."""
    in_half(monkeypatch, torch.float16)
    options = {"iterations": 3, "learning_rate": 1e-4, "mixed_precision": True}
    _, state = run("yolact", devkit, tmp_path, **options)
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint["overflows"] == state["overflows"] > 0
    assert state["skipped_updates"] == 0
    assert checkpoint["scaler"]["scale"] < 65_536
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())


def test_bf16_has_no_scaler(devkit, tmp_path, monkeypatch):
    in_half(monkeypatch, torch.bfloat16)
    run("yolact", devkit, tmp_path, iterations=1, mixed_precision=True)
    assert load_checkpoint(tmp_path / "last.pt")["scaler"] == {}
