"""Best weights that are lost, damaged, of something else, or only in the mirror."""

import json
import shutil

import pytest

from tests.helpers.trainings import NoisyModel, Stopped, run
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.train import Session


@pytest.mark.parametrize("where", ["run folder", "mirror"])
def test_best_weights_without_a_checkpoint_are_kept(where, devkit, tmp_path):
    options, sign = {"eval_every": 2}, 1
    options["evaluate"] = lambda model, iteration: {"mask_AP50": sign * iteration}
    here, drive = tmp_path / "here", tmp_path / "drive"
    folder = here if where == "run folder" else drive
    run(NoisyModel(), devkit, folder, **options)
    best = (folder / "best.pt").read_bytes()
    for name in ("last.pt", "previous.pt"):
        (folder / name).unlink()
    sign = -1  # others are the best
    with pytest.warns(UserWarning, match="kept"):
        run(NoisyModel(), devkit, here, **options, session=Session(mirror=drive))
    assert load_checkpoint(folder / "best.pt")["iteration"] == 2
    assert best in [path.read_bytes() for path in folder.rglob("best.pt*")]


@pytest.mark.parametrize("damage", ["gone", "torn", "of another training"])
def test_best_weights_that_are_lost_here_come_from_the_mirror(damage, devkit, tmp_path):
    options = {"evaluate": lambda model, iteration: {"mask_AP50": -iteration}, "eval_every": 2}
    here, drive = tmp_path / "here", tmp_path / "drive"
    options["session"] = Session(mirror=drive)
    run(NoisyModel(), devkit, here, **options)
    best = (drive / "best.pt").read_bytes()
    (here / "best.pt").unlink()
    if damage == "of another training":
        run(NoisyModel(), devkit, tmp_path / "other", **options | {"session": None}, seed=9)
        shutil.copy(tmp_path / "other" / "best.pt", here)
    elif damage == "torn":
        (here / "best.pt").write_bytes(best[:500])
    with pytest.warns(UserWarning, match=r"best\.pt.*drive"):
        _, state = run(NoisyModel(), devkit, here, **options)
    assert state["best"]["iteration"] == 2
    assert [(folder / "best.pt").read_bytes() for folder in (here, drive)] == [best, best]


@pytest.mark.parametrize("damage", ["torn", "of another kind", "of another training"])
def test_lost_best_weights_are_replaced(damage, devkit, tmp_path):
    options = {"evaluate": lambda model, iteration: {"mask_AP50": 1.0}, "eval_every": 2}
    run(NoisyModel(), devkit, tmp_path / "run", **options)
    best = tmp_path / "run" / "best.pt"
    if damage == "of another training":
        run(NoisyModel(), devkit, tmp_path / "other", **options, seed=9)
        shutil.copy(tmp_path / "other" / "best.pt", best)
    elif damage == "of another kind":
        shutil.copy(tmp_path / "run" / "last.pt", best)
    else:
        best.write_text(damage)
    lost = best.read_bytes()
    with pytest.warns(UserWarning, match=r"best\.pt"):
        _, state = run(NoisyModel(), devkit, tmp_path / "run", **options)
    assert best.with_name("best.pt.unusable").read_bytes() == lost
    content = load_checkpoint(best)
    assert state["best"]["iteration"] == content["iteration"] == 6
    assert content["config"] == json.loads((tmp_path / "run" / "config.json").read_text())


def test_best_weights_older_than_the_checkpoint_knows_are_used(devkit, tmp_path):
    """As in a mirror that was cut off before its `best.pt` came."""
    aps, best = {2: 2.0, 4: 4.0, 6: 3.0}, tmp_path / "best.pt"
    options = {"evaluate": lambda model, iteration: {"mask_AP50": aps[iteration]}, "eval_every": 2}
    for _ in range(2):
        older = best.read_bytes() if best.is_file() else None
        with pytest.raises(Stopped):
            run(NoisyModel(), devkit, tmp_path, **options, stop_after=2)
    best.write_bytes(older)
    with pytest.warns(UserWarning, match=r"best\.pt.* 2.* 4"):
        _, state = run(NoisyModel(), devkit, tmp_path, **options)
    assert state["best"]["iteration"] == load_checkpoint(best)["iteration"] == 6
