"""Start a training in several processes with torchrun."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.resume import RESTORED_KEYS
from vocseg_lib.engine.run_folder import CONFIG, LAST, LOG
from vocseg_lib.engine.train import Session
from vocseg_lib.engine.train_state import stop_reason
from vocseg_lib.study.study import Study
from vocseg_lib.utils.files import write_json


def launch_torchrun(
    study: Study,
    model_name: str,
    processes: int,
    skip_bad: bool,
    on_log: Callable[[Path], None] | None,
    session: Session,
) -> dict:
    """Train in several processes of this machine, started by torchrun; returns what `train` does.

    Raises:
        ValueError: for more processes than GPUs, or a batch that they cannot share evenly.
        RuntimeError: when the training fails, with its last output.
    """
    if str(session.device).startswith("cuda") and torch.cuda.device_count() < processes:
        raise ValueError(f"processes is {processes}: there are {torch.cuda.device_count()} GPUs")
    study.recipe.train.check_processes(processes)
    folder = study.run_folder(model_name)
    flags = {"--device": session.device, "--max-hours": session.max_hours}
    flags |= {"--mirror": session.mirror, "--stop-on-bad": not skip_bad}
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / CONFIG
        recipe, train = study.recipe.for_model(model_name), study.recipe.train.to_dict()
        write_json(config, {"model": model_name, "recipe": recipe, "train": train})
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", processes, "-m", "vocseg_lib", "train"]
        command += ["--from", config, "--data", study.devkit, "--results", study.results]
        for flag, value in flags.items():
            if value:
                command += [flag] if value is True else [flag, value]
        log = folder / LOG
        run_subprocess(
            [str(part) for part in command],
            lambda: on_log(log) if on_log and log.is_file() else None,
        )
    state = load_checkpoint(folder / LAST)
    progress = {key: value for key, value in state.items() if key not in RESTORED_KEYS}
    return {**progress, "stopped": stop_reason(study.recipe.train, progress)}


def run_subprocess(command: list[str], on_output: Callable[[], None]) -> None:
    """Run a command and pass on its output to stderr; `on_output` is called for each part of it.

    Raises:
        RuntimeError: when it fails, with its last output.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        tail = b""
        while chunk := process.stdout.read1():
            tail = (tail + chunk)[-2_000:]
            sys.stderr.write(chunk.decode(errors="replace"))
            on_output()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{tail.decode(errors='replace')}")
