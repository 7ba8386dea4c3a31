"""Runs single cases of the attack in processes of their own, with what became of each."""

import faulthandler
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks import attack_kinds as kinds
from benchmarks.attack_files import damage, read_all
from benchmarks.attack_hostile import ARCHIVES, FORMS, PICKLES, read_pickles, unpack_hostile
from benchmarks.attack_kills import WRITERS, fill_disk
from benchmarks.attack_kinds import Case, Kind, Loss
from tools.fill_pages import write_pages
from vocseg_lib.data.image_files import read_picture
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.official_weights import load_official

KINDS = {
    "last.pt": Kind("small", "last.pt", kinds.resume_checkpoint, 12),
    "previous.pt": Kind("small", "previous.pt", kinds.resume_checkpoint, 8),
    "mirror": Kind("small", "*.*", kinds.resume_by_mirror, 8),
    "alone.pt": Kind("small", "*.pt", kinds.resume_forged, 6),
    "best.pt": Kind("small", "best.pt", kinds.resume_config, 4),
    "run/best.pt": Kind("run", "best.pt", kinds.read_run, 6),
    "config.json": Kind("small", "config.json", kinds.resume_config, 4),
    "run/config.json": Kind("run", "config.json", kinds.read_run, 6),
    "run.json": Kind("small", "run.json", kinds.resume_config, 3),
    "run/run.json": Kind("run", "run.json", kinds.read_run, 4),
    "run/metrics.json": Kind("run", "metrics.json", kinds.read_run, 2),
    "run/predictions.json": Kind("run", "predictions.json", kinds.read_run, 3),
    "log.jsonl": Kind("small", "log.jsonl", kinds.read_training_log, 4),
    "run/log.jsonl": Kind("run", "log.jsonl", kinds.read_training_log, 4),
    "predictions": Kind("coco", "[pr]*s.json", kinds.evaluate_predictions, 10),
    "ground truth": Kind("coco", "instances_val.json", kinds.evaluate_predictions, 7),
    "annotations": Kind("coco", "instances_*.json", kinds.import_annotations, 7),
    "imported picture": Kind("coco", "images/*.jpg", kinds.import_annotations, 3),
    "picture": Kind("devkit/JPEGImages", "*.jpg", lambda case: read_picture(case.path), 3),
    "devkit picture": Kind("devkit", "JPEGImages/*.jpg", kinds.read_devkit, 4),
    "map": Kind("devkit", "Segmentation*/*.png", kinds.read_devkit, 8),
    "split list": Kind("devkit", "ImageSets/Segmentation/*.txt", kinds.read_devkit, 4),
    "class names": Kind("named", "class_names.txt", kinds.read_devkit, 4),
    "labelmap": Kind("labelmap", "labelmap.txt", kinds.read_devkit, 4),
    "weights": Kind("weights", "tiny.pth", lambda case: build_backbone("tiny", init=case.path), 6),
    "official weights": Kind("weights", "official.pth", lambda case: load_official(case.path), 4),
    "cache": Kind("cache", "**/*.*", kinds.read_cache, 3),
    "archive": Kind("archive", "*.tar", kinds.unpack, 6),
    "record": Kind("synthetic", "VOCdevkit/VOC2012/synthetic.json", kinds.write_devkit_again, 2),
    "import record": Kind("imported", "from_coco.json", kinds.write_devkit_again, 2),
    "report": Kind("pages", "report.json", lambda case: write_pages(case.folder, case.folder), 3),
    "lineage": Kind(
        "lineage_pages", "lineage.json", lambda case: write_pages(case.folder, case.folder), 3
    ),
    "hostile archive": Kind("archive", "*.tar", unpack_hostile, count=len(ARCHIVES)),
    "pickle": Kind("small", "best.pt", read_pickles, count=PICKLES * FORMS),
    "full disk": Kind("small", "last.pt", fill_disk, count=12 * len(WRITERS)),
}
OURS = ("vocseg_lib", "tools")
OUTCOMES = ("read", "refused", "unnamed", "traceback", "crash", "hang", "loss")
FAILURES = OUTCOMES[2:]
HANG_SECONDS = 10.0
MEMORY_BYTES = 6 << 30
"""Of a process: more is a MemoryError, instead of the machine's end."""
MAX_MESSAGE, MAX_LINES, MAX_SHOWN = 2_000, 12, 300
STACK = "stack.txt"
"""File in a case's folder: where it hung or crashed."""


def classify(error: Exception | None, path: Path, folder: Path) -> tuple[str, str]:
    """What became of a damaged file, one of `OUTCOMES`, and why.

    As for the command line, a refusal is an OSError, a ValueError or an exception of the library;
    it has to name the file, or the folder that it was read with, in a few lines.
    """
    if error is None:
        return "read", ""
    text = f"{type(error).__name__}: {error}"
    text = ": ".join([*getattr(error, "__notes__", ()), text])
    if isinstance(error, Loss):
        return "loss", text[:MAX_SHOWN]
    of_library = type(error).__module__.startswith("vocseg_lib.")
    frames = traceback.extract_tb(error.__traceback__)
    frames = [f for f in frames if any(f"/{part}/" in f.filename for part in OURS)] or frames
    where = [f"{'/'.join(Path(f.filename).parts[-3:])}:{f.lineno}" for f in frames[-2:]]
    why, message = f"{text[:MAX_SHOWN]} ({' > '.join(where)})", str(error)
    if not of_library and not isinstance(error, OSError | ValueError):
        return "traceback", why
    if path.name not in message and str(folder) not in message:
        return "unnamed", why
    if len(message) > MAX_MESSAGE or message.count("\n") >= MAX_LINES:
        return "unnamed", f"long: {why}"
    return "refused", why


def run_case(world: Path, kind_name: str, index: int, seed: int, folder: Path) -> tuple[str, str]:
    """Damage a copy of a file in `folder` and read it; with index -1, it stays whole."""
    kind, chance = KINDS[kind_name], random.Random(f"{seed} {kind_name} {index}")
    copy = folder / Path(kind.source).name
    shutil.copytree(world / kind.source, copy)
    path = chance.choice(sorted(copy.glob(kind.pattern)))
    if kind.weight and index >= 0:
        others = [p for k in KINDS.values() for p in sorted((world / k.source).glob(k.pattern))[:1]]
        other = chance.choice(others).read_bytes()
        path.write_bytes(damage(chance, path.read_bytes(), path.suffix, [other]))
    case, error = Case(world, copy, path, chance, index), None
    try:
        with warnings.catch_warnings(action="ignore"):
            kind.read(case)
    except Exception as raised:
        error = raised
    return classify(error, path, copy)


def serve(connection: Connection, world: Path, seed: int) -> None:
    """Run the cases that come in, until None does."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    torch.set_num_threads(1)
    connection.send("ready")
    while request := connection.recv():
        kind_name, index, folder = request
        os.chdir(folder)
        with open(folder / STACK, "w") as stack:
            faulthandler.enable(stack, all_threads=False)
            faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
            try:
                outcome = run_case(world, kind_name, index, seed, folder)
            except Exception as error:
                outcome = "crash", f"the attack itself failed: {error!r}"
            faulthandler.unregister(signal.SIGUSR1)
            faulthandler.disable()
        connection.send(outcome)


class Worker:
    """A process for cases, replaced when it hangs or crashes."""

    def __init__(self, world: Path, seed: int, target: Callable = serve):
        self.world, self.seed, self.target, self.process = world, seed, target, None

    def run(self, kind_name: str, index: int) -> tuple[str, str]:
        """What became of a case."""
        if not self.process:
            context = multiprocessing.get_context("forkserver")
            self.connection, other = context.Pipe()
            arguments = other, self.world, self.seed
            self.process = context.Process(target=self.target, args=arguments, daemon=True)
            self.process.start()
            other.close()
            self.connection.recv()
        folder = Path(tempfile.mkdtemp(prefix="case_", dir=self.world.parent))
        try:
            self.connection.send((kind_name, index, folder))
            if self.connection.poll(HANG_SECONDS):
                return self.connection.recv()
            outcome, why = "hang", f"over {HANG_SECONDS:g} s: "
            os.kill(self.process.pid, signal.SIGUSR1)
            self.process.join(1)  # it writes where it is
        except EOFError:
            outcome, why = "crash", ""
        finally:
            stack = read_all(folder).get(STACK, b"").decode()
            shutil.rmtree(folder, ignore_errors=True)
        self.close()
        lines = [line.strip() for line in stack.splitlines() if "File" in line]
        ours = [line for line in lines if any(f"/{part}/" in line for part in OURS)]
        return outcome, why + " < ".join(lines[:1] + ours[:2])

    def close(self) -> None:
        """End the process."""
        if self.process:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None
