"""The kinds of damaged input of the attack, and the library's functions that read each."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt

from benchmarks.attack_files import read_all
from benchmarks.attack_seeds import RECIPE, RUN, SHORT, numbers, small_training
from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import coco_to_voc, verify_coco, voc_to_coco
from vocseg_lib.data.download import fetch
from vocseg_lib.data.image_files import BadFile
from vocseg_lib.data.verify import verify
from vocseg_lib.data.voc import VocDataset, find_devkit, fingerprint
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.resume import ChangedConfig, resume
from vocseg_lib.engine.run_folder import append_session, read_log, truncate_log
from vocseg_lib.metrics.table import metrics_table
from vocseg_lib.models.lineage.proposals import DiskCache
from vocseg_lib.plots.training import overfitting, training_curves
from vocseg_lib.study.recipes import Recipe
from vocseg_lib.study.results import open_files, run_predictions
from vocseg_lib.study.run import cached_metrics, load_run
from vocseg_lib.study.study import Study, reproduce
from vocseg_lib.utils.files import read_json

CONFIG = {**RUN, "train": SHORT.to_dict()}
"""All of the small training's `config.json`."""


class Loss(Exception):
    """Something whole was lost, overwritten or not used."""


@dataclass(frozen=True)
class Case:
    """A copy of a world's folder with a damaged file."""

    world: Path
    folder: Path
    path: Path
    chance: random.Random
    index: int


@dataclass(frozen=True)
class Kind:
    """Damaged files, or whole ones in a hostile world: where they come from, what reads them."""

    source: str  # folder of a world that each case has a copy of
    pattern: str  # of the files in it that are damaged
    read: Callable[[Case], object]
    weight: int = 0  # of all damaged files
    count: int = 0  # of cases, which are not damaged


def resume_checkpoint(case: Case) -> None:
    """A damaged `last.pt` or `previous.pt` costs at most what is in it."""
    run, other, mirror = case.folder, "previous.pt", None
    if case.path.name == "previous.pt":
        other = case.chance.choice(("last.pt", ""))
        if not other:  # killed between two renamings
            (run / "last.pt").unlink()
    if not other or case.chance.random() < 0.3:
        mirror = case.folder / "mirror"
        shutil.copytree(case.world / "small", mirror)
    before, finish = read_all(run), other and not mirror and case.chance.random() < 0.4
    forged = case.path.name in before and _is_whole(before[case.path.name])  # of other content
    try:
        if finish:
            return finish_training(case)
        checkpoint = resume(run, mirror, CONFIG)
    except (ChangedConfig, OSError, ValueError) as error:
        if not forged:
            raise Loss(f"not resumed: {error}") from error
        raise
    if not forged and (not checkpoint or checkpoint["iteration"] not in (4, 6)):
        raise Loss(f"resumed from {checkpoint and checkpoint['iteration']}")
    _check_kept(before, run)


def _is_whole(content: bytes) -> bool:
    """Whether a checkpoint has the checksum of its content, however strange."""
    with tempfile.NamedTemporaryFile() as file, suppress(Exception):
        Path(file.name).write_bytes(content)
        load_checkpoint(Path(file.name))
        return True
    return False


def _check_kept(before: dict[str, bytes], folder: Path) -> None:
    """Raise Loss unless each file's bytes are still there, under any name."""
    after = {*read_all(folder).values()}
    if lost := [name for name, content in before.items() if content not in after]:
        raise Loss(f"{', '.join(lost)} overwritten or deleted")


def finish_training(case: Case) -> None:
    """Resume a training of which a file is damaged: it ends with the weights of the whole one."""
    damaged = case.path.read_bytes()
    small_training(case.world / "devkit", case.folder)
    last, whole = (load_checkpoint(f / "last.pt") for f in (case.folder, case.world / "small"))
    if checksum(last["model"]) != checksum(whole["model"]) or last["iteration"] != 6:
        raise Loss("the resumed training has other weights")
    for path in case.folder.glob("*.pt"):
        if path.name != "previous.pt":
            load_checkpoint(path)
    if case.path.name == "last.pt" and damaged not in read_all(case.folder).values():
        raise Loss("the damaged file is gone")


def resume_by_mirror(case: Case) -> None:
    """A damaged file in a mirror that is ahead of its run folder, or all that there is."""
    run, mirror, damaged = case.folder / "run", case.folder, case.path.read_bytes()
    whole = case.world / "small"
    if case.chance.random() < 0.5:
        shutil.copytree(whole, run)
        shutil.copyfile(run / "previous.pt", run / "last.pt")
    small_training(case.world / "devkit", run, mirror)
    for folder in (run, mirror):
        last = load_checkpoint(folder / "last.pt")
        if checksum(last["model"]) != checksum(load_checkpoint(whole / "last.pt")["model"]):
            raise Loss(f"{folder} has other weights")
        load_checkpoint(folder / "best.pt")
    if case.path.name == "last.pt" and damaged not in read_all(mirror).values():
        raise Loss("the damaged file of the mirror is gone")


def resume_forged(case: Case) -> None:
    """The same without another checkpoint: nothing is resumed, and the damaged file stays."""
    for name in ("last.pt", "previous.pt"):
        if case.path.name != name:
            (case.folder / name).unlink(missing_ok=True)
    before = case.path.read_bytes()
    if case.path.name != "last.pt":
        case.path.rename(case.folder / "last.pt")
    try:
        small_training(case.world / "devkit", case.folder)
    except ValueError:
        if before not in read_all(case.folder).values():
            raise Loss("the damaged file is gone") from None
        raise


def read_run(case: Case) -> None:
    """A run folder by its config, sessions, best weights, metrics and predictions."""
    run, devkit = case.folder, str(case.world / "synthetic")
    config = read_json(case.world / "run" / "config.json")

    def open_study(recipe: Recipe = RECIPE, data: str = "", *_: object, **__) -> Study:
        """Without the data sets that recipes make or download."""
        return Study(recipe=recipe, devkit=find_devkit(data or devkit), results=run / "results")

    def reproduce_run() -> None:
        with patch("vocseg_lib.study.study.open_study", open_study):
            reproduce(run)

    functions, errors = [reproduce_run, lambda: load_run(run)], []
    functions.append(lambda: append_session(run / "run.json", {"devkit": devkit}))
    functions.append(lambda: run_predictions(open_study(), run))
    functions.append(lambda: cached_metrics(open_study(), run, "x", config))
    for function in case.chance.sample(functions, len(functions)):
        try:
            function()
        except (OSError, ValueError) as error:
            errors.append(error)
    if errors:
        raise errors[0]


def resume_config(case: Case) -> None:
    """A damaged `config.json`, `run.json` or `best.pt` of a training that is resumed."""
    shutil.copyfile(case.folder / "previous.pt", case.folder / "last.pt")
    if case.path.name == "config.json" and case.chance.random() < 0.5:
        (case.folder / "last.pt").unlink()
        (case.folder / "previous.pt").unlink()
        resume(case.folder, None, CONFIG)  # by config.json: no checkpoint has one
    else:
        finish_training(case)


def read_training_log(case: Case) -> None:
    """A log, what is said and plotted of it, and its good lines after a resume."""
    log = read_log(case.path)
    overfitting(log)
    if case.chance.random() < 0.3:
        training_curves(log, "title", 6)
        plt.close("all")
    damaged = {*case.path.read_bytes().splitlines()}
    whole = (case.world / case.folder.name / "log.jsonl").read_bytes().splitlines()
    good = [entry for line in whole if line in damaged and (entry := json.loads(line))]
    truncate_log(case.path, 4)
    kept = read_log(case.path)
    if any(entry not in kept for entry in good if entry["iteration"] <= 4):
        raise Loss("good lines of the log are gone")


def evaluate_predictions(case: Case) -> None:
    """Prediction files and ground truth, evaluated and analyzed."""
    files = ("predictions.json", "results.json")
    file = case.path if case.path.name in files else case.folder / case.chance.choice(files)
    data = case.world / "synthetic"
    if case.path.name not in files or case.chance.random() < 0.3:
        data = case.folder / "instances_val.json"
    results = open_files([file], data)
    (evaluation,) = results.evaluations.values()
    metrics_table(evaluation)
    results.analyses()


def import_annotations(case: Case) -> None:
    """COCO annotations and pictures to a devkit."""
    with suppress(OSError, ValueError):
        verify_coco(case.folder / "instances_train.json")
    devkit = coco_to_voc(case.folder / "instances_train.json", case.folder / "out")
    VocDataset(devkit, "train")[0]


def read_devkit(case: Case) -> None:
    """A devkit as training, evaluation and verify read it."""
    with suppress(OSError, ValueError):
        verify(case.folder)
    fingerprint(case.folder)
    for split in ("train", "val"):
        voc_to_coco(case.folder, split, skip_bad=True)
        with suppress(BadFile):  # skipped, unless all are bad
            VocDataset(case.folder, split, skip_bad=True)[0]
        dataset = VocDataset(case.folder, split)
        for index in range(len(dataset)):
            dataset[index]
        voc_to_coco(case.folder, split)


def unpack(case: Case) -> None:
    """An archive that has the expected checksum."""
    from hashlib import md5

    fetch(case.folder, [], md5(case.path.read_bytes()).hexdigest())


def read_cache(case: Case) -> None:
    """What is damaged in a cache is computed again."""
    cached = DiskCache(numbers, case.folder)
    if any((cached(start) != numbers(start)).any() for start in range(3)):
        raise Loss("the cache has other numbers")


def write_devkit_again(case: Case) -> None:
    """Devkits whose record is damaged are not taken for others; own files in them stay."""
    own = case.path.with_name("own.txt")
    if case.chance.random() < 0.5:
        own.write_text("own")
    before = {
        name: data for name, data in read_all(case.folder).items() if name.endswith("own.txt")
    }
    try:
        if case.path.name == synthetic.STAMP_NAME:
            synthetic.write(case.folder, train=1, val=1)
        else:
            coco_to_voc(case.world / "coco" / "instances_train.json", case.folder)
    finally:
        _check_kept(before, case.folder)
