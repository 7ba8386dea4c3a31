"""Where a result comes from: the code, the versions and the machine behind it."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
import torchvision

from vocseg_lib import __version__


def git_commit() -> str:
    """The commit of the library, with "-dirty" when its files were changed since; its version where no commit is known."""
    checkout = Path(__file__).parents[2]
    if (checkout / ".git").exists():
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return subprocess.run(
                command, cwd=checkout, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return __version__
    try:
        origin = distribution("vocseg_lib").read_text(
            "direct_url.json"
        )  # pip's note of the repository that it installed from
    except PackageNotFoundError:
        origin = None
    return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id", __version__)


def device_name(device: str | torch.device) -> str:
    """The GPU's name, or the processor's kind."""
    return (
        torch.cuda.get_device_name(device)
        if torch.device(device).type == "cuda"
        else f"{platform.machine()} CPU"
    )


def environment_info(device: str | torch.device) -> dict[str, str | int]:
    """Versions, device and commit."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "vocseg_lib": __version__,
        "commit": git_commit(),
        "device": str(device),
        "device_name": device_name(device),
        "cpu_cores": os.cpu_count(),
    }
