"""Which notebooks are run, and what the runner refuses."""

import pytest

from tools.run_notebooks import RUNS, main, select_runs


@pytest.mark.parametrize("arguments", [("--only", "04,99"), ("--set", "IMAGES=few")])
def test_wrong_arguments_are_reported_before_anything_is_written(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--results", str(tmp_path / "results"), *arguments])
    assert exit_info.value.code == 2
    assert arguments[1].split(",")[-1] in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_runs_by_number():
    assert select_runs("") == list(RUNS)
    assert [own for _, own in select_runs("03")] == [{"MODEL": "yolact"}, {"MODEL": "mask_rcnn"}]
    assert [name[:2] for name, _ in select_runs("06 04")] == ["04", "06"]
