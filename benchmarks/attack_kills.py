"""Kills and full disks for the attack: what is on disk is whole at any moment."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.attack_kinds import Case, Loss
from benchmarks.attack_seeds import SHORT, numbers, small_training
from vocseg_lib.data import synthetic
from vocseg_lib.data.coco_convert import coco_to_voc
from vocseg_lib.engine.checkpoint import checksum, load_checkpoint
from vocseg_lib.engine.predict import save_predictions
from vocseg_lib.engine.run_folder import read_log
from vocseg_lib.models.lineage.proposals import DiskCache
from vocseg_lib.utils.files import file_checksum, read_record, write_json

ROUNDS = 24
"""Of a writer that is killed: iterations, files or devkits."""
FINISH_SECONDS = 120.0
"""For a training that was killed to end."""
LOST_EXIT_CODE = 255
"""Of a dead process whose exit code another thread has read, while it started one."""
VARYING = ("seconds", "_gb", "hours_left")
"""Endings of what differs between the logs of equal trainings."""


def run_training(world: Path, folder: Path, rounds: int, start: int) -> None:
    config = replace(SHORT, iterations=rounds, eval_every=max(2, rounds // 4))
    small_training(world / "devkit", folder / "run", folder / "mirror", config)


def write_results(world: Path, folder: Path, rounds: int, start: int) -> None:
    predictions = json.loads((world / "coco" / "predictions.json").read_text())
    predictions["detections"] *= 20
    for index in range(rounds):
        save_predictions(folder / "predictions.json", predictions)
        write_json(folder / "metrics.json", {"index": index, "values": list(range(20_000))})


def fill_cache(world: Path, folder: Path, rounds: int, start: int) -> None:
    cached = DiskCache(numbers, folder / "cache")
    for index in range(start, start + rounds):
        cached(index)


def write_devkits(world: Path, folder: Path, rounds: int, start: int) -> None:
    for index in range(start, start + rounds):
        synthetic.write(folder / "data", train=2, val=1, seed=index)


def import_devkits(world: Path, folder: Path, rounds: int, start: int) -> None:
    file = world / "coco" / "instances_train.json"
    for index in range(start, start + rounds):
        coco_to_voc(file, folder / "imported", crowds_as_objects=bool(index % 2))


WRITERS: dict[str, Callable[[Path, Path, int, int], None]] = {
    "training": run_training,
    "results": write_results,
    "cache": fill_cache,
    "devkit": write_devkits,
    "import": import_devkits,
}


def check_whole(folder: Path, cached_starts: Iterable[int] = range(3)) -> None:
    """Raise Loss for a file that is torn; temporary ones have other endings."""
    for path in folder.rglob("*"):
        try:
            if path.suffix == ".pt":
                load_checkpoint(path)
            elif path.suffix == ".json" and "cache" not in path.parts:
                json.loads(path.read_bytes())
        except ValueError as error:
            raise Loss(f"torn: {error}") from error
    for name in (synthetic.STAMP_NAME, "from_coco.json"):
        for record in folder.rglob(name):
            files = read_record(record).get("files", {})
            for file, expected in files.items() if not record.parts[-2].startswith(".") else ():
                if file_checksum(record.parent / file) != expected:
                    raise Loss(f"{record.parent / file} is not what its record says")
    with warnings.catch_warnings(action="ignore"):
        cached = DiskCache(numbers, folder / "cache")
        for start in cached_starts if (folder / "cache").is_dir() else ():
            if (cached(start) != numbers(start)).any():
                raise Loss("the cache has other numbers")


def compare_runs(folder: Path, whole: Path) -> None:
    """Raise Loss unless run and mirror have log and weights of an uninterrupted training."""
    for part in ("run", "mirror"):
        _compare_run(folder / part, whole / "run")


def _compare_run(folder: Path, whole: Path) -> None:
    logs = [
        [{k: v for k, v in e.items() if not k.endswith(VARYING)} for e in read_log(f / "log.jsonl")]
        for f in (folder, whole)
    ]
    if logs[0] != logs[1]:
        raise Loss(f"{folder}: the log differs from an uninterrupted training's")
    for name in ("last.pt", "best.pt"):
        contents = [load_checkpoint(f / name) | {"seconds": 0} for f in (folder, whole)]
        if checksum(contents[0]) != checksum(contents[1]):
            raise Loss(f"{folder / name} differs from an uninterrupted training's")


def _start(name: str, world: Path, folder: Path, start: int = 0) -> BaseProcess:
    arguments = (name, world, folder, start)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_write_quietly, args=arguments, daemon=True)
    process.start()
    return process


def _write_quietly(name: str, world: Path, folder: Path, start: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    WRITERS[name](world, folder, ROUNDS, start)


def kill(name: str, kills: int, world: Path, folder: Path, seed: int) -> Iterator[tuple[str, str]]:
    """Kill a writer at random moments: after each kill the outcome, and why."""
    chance, begin = random.Random(f"{seed} {folder.name}"), time.monotonic()
    whole, killed, is_training = folder / "whole", folder / "killed", name == "training"
    _start(name, world, whole).join()
    duration, done, start = time.monotonic() - begin, 0, 0
    while done < kills:
        process = _start(name, world, killed, start)
        process.join(chance.uniform(0.05, duration))
        process.kill()
        process.join()
        outcome = "read", ""
        try:
            check_whole(killed, range(start, start + ROUNDS))
            if process.exitcode == 0 and is_training:  # done before it could be killed
                compare_runs(killed, whole)
                shutil.rmtree(killed)
        except (Loss, OSError, ValueError) as error:
            outcome = "loss", str(error)
        if process.exitcode not in (0, -signal.SIGKILL, LOST_EXIT_CODE):
            outcome = "traceback", f"exit code {process.exitcode}"
        start += ROUNDS
        if process.exitcode:
            done += 1
            yield outcome
    if is_training:
        process = _start(name, world, killed)
        process.join(FINISH_SECONDS)
        try:
            compare_runs(killed, whole)
        except (Loss, OSError, ValueError) as error:
            yield "hang" if process.is_alive() else "loss", str(error)
        process.kill()


def fill_disk(case: Case) -> None:
    """A disk that is full after some bytes of a file: a limit of file sizes stands in for it."""
    name, folder = [*WRITERS][case.index % len(WRITERS)], case.folder / "full"
    write, rounds = WRITERS[name], SHORT.iterations if name == "training" else 2
    if case.index // len(WRITERS) % 2:
        write(case.world, folder, rounds // 2, 0)
    none, at_most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        limit = case.chance.choice((0, 1, 100, 1_000, 4_096, 10_000, 50_000, 300_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, at_most))
        write(case.world, folder, rounds, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (none, at_most))
        check_whole(folder)
        write(case.world, folder, rounds, 1)
        check_whole(folder)
        if name == "training":
            compare_runs(folder, case.world / "whole")
