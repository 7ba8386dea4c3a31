from dataclasses import replace

from benchmarks import gpu_check
from tests.helpers.trainings import QUICK
from vocseg_lib.study.study import Study
from vocseg_lib.utils.files import read_json


def test_both_models_in_each_precision(devkit, tmp_path):
    study = Study(replace(QUICK, batch_size=2), devkit, tmp_path)
    table = gpu_check.measure(study, 6, "cpu", tmp_path / "gpu_check.json", modes=("fp32", "mixed"))
    assert table[["model", "mode"]].to_numpy().tolist() == [
        [m, k] for m in ("yolact", "mask_rcnn") for k in ("fp32", "mixed")
    ]
    assert (table["iterations_per_second"] > 0).all()
    assert table["data_wait_share"].between(0, 1).all()
    written = read_json(tmp_path / "gpu_check.json")
    assert [len(run["losses"]) for run in written["runs"]] == [6] * 4
    fp32, mixed = (run["losses"][0] for run in written["runs"][:2])
    assert abs(fp32 - mixed) < 0.02 * fp32
    assert {"device_name", "commit", "torch", "batch_size"} <= written.keys()


def test_a_run_that_fails_is_written_down_and_the_others_go_on(devkit, tmp_path, monkeypatch):
    def train(model, *arguments, **options):
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(gpu_check, "train", train)
    gpu_check.measure(
        Study(QUICK, devkit, tmp_path), 2, "cpu", tmp_path / "gpu_check.json", modes=("fp32",)
    )
    assert [run["error"] for run in read_json(tmp_path / "gpu_check.json")["runs"]] == [
        "CUDA out of memory"
    ] * 2
