import pytest
import torch
from torch import nn

from tests.helpers.trainings import run
from vocseg_lib.data.voc import VocDataset
from vocseg_lib.engine.batch_norm import batch_norm_layers, precise_statistics, set_train_mode
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.predict import predict, validation_loss
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.study.run import build_model


def statistics(model):
    return [
        value.clone()
        for norm in batch_norm_layers(model)
        for value in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    ]


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_precise_statistics_are_those_of_all_the_data_and_then_gone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3))
    batches = [torch.randn(2, 3, 20, 20) * (k + 1) + 5 * k for k in range(6)]
    for batch in batches:
        model(batch)
    before = statistics(model)
    with precise_statistics(model.eval(), batches, model):
        pixels = torch.cat(batches).transpose(0, 1).flatten(1)
        torch.testing.assert_close(model[0].running_mean, pixels.mean(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model[0].running_var, pixels.var(1), rtol=1e-2, atol=0)
        assert not model.training
        assert not torch.allclose(
            model[0].running_mean, before[0]
        )  # the running ones remember the last batches most
    assert equal(statistics(model), before)
    assert model[0].momentum == 0.1


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_evaluation_never_changes_running_statistics(name, devkit):
    from tests.helpers.trainings import QUICK

    model = build_model(QUICK, name).train()
    val = VocDataset(devkit, "val")
    before = statistics(model)
    first = validation_loss(model, val, 2)
    predict(model, val, progress=False)
    assert equal(statistics(model), before)
    assert model.training
    torch.rand(5)
    assert validation_loss(model, val, 2) == first  # random choices and all
    terms = [value for key, value in first.items() if key != "val_loss"]
    assert first["val_loss"] == pytest.approx(sum(terms))
    assert len(terms) == (3 if name == "yolact" else 5)


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_one_argument_freezes_batch_norm(name, devkit, tmp_path):
    from tests.helpers.trainings import QUICK

    model, _ = run(name, devkit, tmp_path, iterations=2, batch_norm="frozen")
    untouched = build_model(QUICK, name)
    assert equal(statistics(model), statistics(untouched))
    for norm, other in zip(batch_norm_layers(model), batch_norm_layers(untouched), strict=True):
        assert torch.equal(norm.weight, other.weight)
        assert torch.equal(norm.bias, other.bias)
    assert not equal(list(model.parameters()), list(untouched.parameters()))
    assert all(not norm.training for norm in batch_norm_layers(set_train_mode(model, frozen=True)))


def test_precise_weights_are_judged_and_kept_and_training_does_not_notice(devkit, tmp_path):
    seen = {}

    def score_into(name):
        def score(model, iteration):
            seen.setdefault(name, []).append(statistics(model))
            return {"mask_AP50": float(len(seen[name]))}

        return score

    for mode in ("unfrozen", "precise"):
        run(
            "yolact", devkit, tmp_path / mode, batch_norm=mode, score=score_into(mode), eval_every=3
        )
    losses = [
        [e["loss"] for e in read_log(tmp_path / mode / "log.jsonl") if "loss" in e]
        for mode in ("unfrozen", "precise")
    ]
    assert losses[0] == losses[1]
    lasts = [
        load_checkpoint(tmp_path / mode / "last.pt")["model"] for mode in ("unfrozen", "precise")
    ]
    assert equal(lasts[0].values(), lasts[1].values())
    best = load_checkpoint(tmp_path / "precise" / "best.pt")["model"]
    kept = [
        value
        for key, value in best.items()
        if key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    assert equal(kept, seen["precise"][-1])
    assert not equal(seen["precise"][-1], seen["unfrozen"][-1])


def test_another_word_is_refused(devkit, tmp_path):
    with pytest.raises(ValueError, match="choose one of unfrozen, frozen, precise"):
        run("yolact", devkit, tmp_path, batch_norm="half")
