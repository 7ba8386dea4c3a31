"""Start a training in several processes with torchrun."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.mirror import LAST
from vocseg_lib.engine.resume import LOG
from vocseg_lib.study.recipes import Recipe
from vocseg_lib.utils.files import write_json


def run_subprocess(command: list[str], heard: Callable[[], None]) -> None:
    """Run a command and pass on what it says, as it says it; `heard` is called each time.

    Raises RuntimeError with its last words when it fails.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said = b""
        while chunk := process.stdout.read1():
            said = (said + chunk)[-2_000:]
            sys.stderr.write(chunk.decode(errors="replace"))
            heard()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{said.decode(errors='replace')}")


def launch_torchrun(
    recipe: Recipe,
    model_name: str,
    devkit: Path,
    results: Path,
    run_folder: Path,
    processes: int,
    flags: dict,
    watch: Callable[[Path], None] | None,
) -> dict:
    """Train in several processes of this machine, started by torchrun, with `flags` of the command line; the state at the end."""
    if flags["--device"].startswith("cuda") and torch.cuda.device_count() < processes:
        raise ValueError(
            f"there are {torch.cuda.device_count()} GPUs here, not {processes}: take fewer processes"
        )
    if recipe.batch_size % processes:
        raise ValueError(
            f"{processes} processes cannot share a batch of {recipe.batch_size} images alike"
        )
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "recipe.json"
        write_json(written, {"model": model_name, **asdict(recipe)})
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            processes,
        ]
        command += [
            "-m",
            "vocseg_lib",
            "train",
            "--from",
            written,
            "--data",
            devkit,
            "--results",
            results,
        ]
        command += [
            part
            for flag, value in flags.items()
            if value
            for part in ([flag] if value is True else [flag, value])
        ]
        log = run_folder / LOG
        run_subprocess(
            [str(part) for part in command], lambda: watch(log) if watch and log.is_file() else None
        )
    state = load_checkpoint(run_folder / LAST)
    return {
        key: value
        for key, value in state.items()
        if key not in ("settings", "model", "optimizer", "scaler", "random")
    }
