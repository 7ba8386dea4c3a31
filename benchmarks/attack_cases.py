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
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.attack_files import damage, read_all
from benchmarks.attack_kinds import KINDS, Case, Loss

OURS = ("vocseg_lib", "tools")
OUTCOMES = ("read", "refused", "unnamed", "traceback", "crash", "hang", "loss")
FAILURES = OUTCOMES[2:]
HANG_SECONDS = 10.0
MEMORY_BYTES = 6 << 30
"""Of a process: more is a MemoryError, instead of the machine's end."""
MAX_MESSAGE, MAX_LINES = 2_000, 12
STACK = "stack.txt"
"""File in a case's folder: where it hung or crashed."""


def classify(error: Exception | None, path: Path, folder: Path) -> tuple[str, str]:
    """What became of a damaged file, one of `OUTCOMES`, and why.

    As for the command line, a refusal is an OSError, a ValueError or an exception of the library;
    it has to name the file or the folder that it was read with, in a few lines.
    """
    if error is None:
        return "read", ""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, Loss):
        return "loss", text[:MAX_MESSAGE]
    of_library = type(error).__module__.startswith("vocseg_lib.")
    frames = traceback.extract_tb(error.__traceback__)
    frames = [f for f in frames if any(f"/{part}/" in f.filename for part in OURS)] or frames
    where = [f"{'/'.join(Path(f.filename).parts[-3:])}:{f.lineno}" for f in frames[-2:]]
    if not of_library and not isinstance(error, OSError | ValueError):
        return "traceback", f"{text[:300]} ({' > '.join(where)})"
    message = str(error)
    problem = "not named" * (path.name not in message and str(folder) not in message)
    problem = problem or "long" * (len(message) > MAX_MESSAGE or message.count("\n") >= MAX_LINES)
    return (
        ("unnamed", f"{problem}: {text[:300]} ({' > '.join(where)})")
        if problem
        else ("refused", text[:300])
    )


def run_case(world: Path, kind_name: str, index: int, seed: int, folder: Path) -> tuple[str, str]:
    """Damage a copy of a file in `folder` and read it."""
    kind, chance = KINDS[kind_name], random.Random(f"{seed} {kind_name} {index}")
    copy = folder / Path(kind.source).name
    shutil.copytree(world / kind.source, copy)
    path = chance.choice(sorted(copy.glob(kind.pattern)))
    others = [p for k in KINDS.values() for p in sorted((world / k.source).glob(k.pattern))[:1]]
    other = chance.choice(others).read_bytes()
    path.write_bytes(damage(chance, path.read_bytes(), path.suffix, [other]))
    error = None
    try:
        with warnings.catch_warnings(action="ignore"):
            kind.read(Case(world=world, folder=copy, path=path, chance=chance))
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
            outcome = run_case(world, kind_name, index, seed, folder)
            faulthandler.unregister(signal.SIGUSR1)
            faulthandler.disable()
        connection.send(outcome)


class Worker:
    """A process for cases, replaced when it hangs or crashes."""

    def __init__(self, world: Path, seed: int):
        self.arguments, self.process = (world, seed), None

    def run(self, kind_name: str, index: int) -> tuple[str, str]:
        """What became of a case."""
        if not self.process:
            context = multiprocessing.get_context("forkserver")
            self.connection, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other, *self.arguments), daemon=True)
            self.process.start()
            other.close()
            self.connection.recv()
        folder = Path(tempfile.mkdtemp(prefix="case_", dir=self.arguments[0].parent))
        try:
            self.connection.send((kind_name, index, folder))
            if self.connection.poll(HANG_SECONDS):
                return self.connection.recv()
            outcome = "hang", f"over {HANG_SECONDS:.0f} s: "
            os.kill(self.process.pid, signal.SIGUSR1)
            self.process.join(1)  # it writes where it is
        except EOFError:
            outcome = "crash", ""
        finally:
            stack = read_all(folder).get(STACK, b"").decode()
            shutil.rmtree(folder, ignore_errors=True)
        self.close()
        lines = [line.strip() for line in stack.splitlines() if "File" in line]
        ours = [line for line in lines if any(f"/{part}/" in line for part in OURS)]
        return outcome[0], outcome[1] + " < ".join(lines[:1] + ours[:2])

    def close(self) -> None:
        """End the process."""
        if self.process:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None
