from benchmarks import gpu_check
from tests.helpers.trainings import QUICK
from vocseg_lib.study.study import Study
from vocseg_lib.utils.files import read_json


def test_both_models_train_resume_and_predict_in_each_precision(devkit, tmp_path):
    study = Study(QUICK.with_changes(batch_size=2), devkit, tmp_path)
    out, modes = tmp_path / "gpu_check.json", ("fp32", "mixed")
    table = gpu_check.check(study, 4, "cpu", out, modes)
    runs = [(model, mode) for model in ("yolact", "mask_rcnn") for mode in modes]
    assert list(zip(table["model"], table["mode"], strict=True)) == runs
    assert (table["iterations_per_second"] > 0).all()
    assert table["data_wait_fraction"].between(0, 1).all()
    assert (table["resumed_from"] == 2).all()
    assert (table["resumed_loss_change"] == 0).all()  # bit-exact on the CPU
    assert (table["detections"] >= 0).all()
    written = read_json(out)
    assert [len(run["losses"]) for run in written["runs"]] == [4] * 4
    fp32, mixed = (run["losses"][0] for run in written["runs"][:2])
    assert abs(fp32 - mixed) < 0.02 * fp32
    assert {"device_name", "commit", "torch", "batch_size"} <= written.keys()


def test_a_run_that_fails_is_written_and_the_others_follow(devkit, tmp_path, monkeypatch):
    def train(*arguments, **options):
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(gpu_check, "train", train)
    out = tmp_path / "gpu_check.json"
    gpu_check.check(Study(QUICK, devkit, tmp_path), 2, "cpu", out, ("fp32",))
    assert [run["error"] for run in read_json(out)["runs"]] == ["CUDA out of memory"] * 2
