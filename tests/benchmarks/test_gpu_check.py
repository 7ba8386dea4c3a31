from unittest.mock import Mock

import pytest

from benchmarks import gpu_check
from tests.helpers.trainings import QUICK
from vocseg_lib.study.study import Study
from vocseg_lib.utils.files import read_json

MODELS = ("yolact", "mask_rcnn")


@pytest.fixture
def study(devkit, tmp_path, monkeypatch):
    # Not 64 pixels: in bfloat16, oneDNN's gradient of a 3x3 stride-2 convolution of one pixel (P7)
    # is at times not finite.
    recipe = QUICK.with_changes(batch_size=2, image_size=96, short_side=96)
    monkeypatch.setattr(gpu_check, "PREDICTED_IMAGES", 8)
    return Study(recipe=recipe, devkit=devkit, results=tmp_path)


def test_all_checks_run_on_a_cpu(study, tmp_path):
    out, modes = tmp_path / "gpu_check.json", ("fp32", "bf16")
    table = gpu_check.check(study, 4, "cpu", out, minutes=0.01)
    rows = {name: part.set_index("model") for name, part in table.groupby("check")}
    assert (rows["forward"]["error_sped_up"] < 1e-4).all()
    training = rows["train"]
    assert list(zip(training.index, training["mode"], strict=True)) == [
        (model, mode) for model in MODELS for mode in modes
    ]
    assert (training["iterations_per_second"] > 0).all()
    assert training["data_wait_fraction"].between(0, 1).all()
    assert (training["resumed_from"] == 2).all()
    # On the CPU, trainings are bit-exact in float32; in bfloat16 a few of the same one differ.
    limits = training["mode"].map({"fp32": 0, "bf16": 0.05})
    assert (training["resumed_loss_change"] <= limits).all()
    predicted = rows["predict"]
    for name in ("images_per_second", "network_images_per_second", "evaluated_images_per_second"):
        assert (predicted[name] > 0).all()
    assert (rows["minutes"]["iterations"] >= 1).all()
    written = read_json(out)
    assert [len(r["losses"]) for r in written["runs"] if r["check"] == "train"] == [4] * 4
    fp32, bf16, *_ = (r["losses"][0] for r in written["runs"] if "losses" in r)
    assert abs(fp32 - bf16) < 0.02 * fp32
    assert {"device_name", "commit", "torch", "batch_size"} <= written.keys()


def test_what_failed_is_written_and_is_all_that_is_run_again(study, tmp_path, monkeypatch):
    out, train = tmp_path / "gpu_check.json", gpu_check.train
    monkeypatch.setattr(gpu_check, "train", Mock(side_effect=RuntimeError("out of memory\nmore")))
    table = gpu_check.check(study, 2, "cpu", out, minutes=0)
    assert table["error"].value_counts().to_dict() == {"out of memory": 4}
    monkeypatch.setattr(gpu_check, "train", train)
    for part in ("_forward", "_predict"):
        monkeypatch.setattr(gpu_check, part, Mock(side_effect=AssertionError("again")))
    table = gpu_check.check(study, 2, "cpu", out, minutes=0)
    assert "error" not in table
    assert table["check"].value_counts().to_dict() == {"forward": 2, "predict": 2, "train": 4}


@pytest.mark.parametrize(("iterations", "minutes"), [(1, 0), (4, -1), (4, float("nan"))])
def test_what_cannot_be_checked_is_refused_at_once(study, tmp_path, iterations, minutes):
    with pytest.raises(ValueError, match="iterations of 2 or more"):
        gpu_check.check(study, iterations, "cpu", tmp_path / "out.json", minutes)
    (tmp_path / "out.json").write_text("[]")
    with pytest.raises(ValueError, match="choose another file"):
        gpu_check.check(study, 4, "cpu", tmp_path / "out.json", 0)


@pytest.mark.cuda
def test_a_gpu_computes_the_same(study, tmp_path):
    table = gpu_check.check(study, 4, "cuda", tmp_path / "gpu_check.json", minutes=0)
    assert "error" not in table
    rows = {name: part.set_index("model") for name, part in table.groupby("check")}
    assert (rows["forward"][["error_plain", "error_sped_up"]] < 1e-3).all(axis=None)
    assert rows["predict"].loc["yolact", "synchronizations"] == 0
