"""Code, versions and machine behind a result."""

import json
import platform
from importlib.metadata import distributions
from pathlib import Path
from subprocess import DEVNULL, CalledProcessError, check_output

import numpy as np
import torch
import torchvision

from vocseg_lib import __version__
from vocseg_lib.utils.device import half_precision


def git_commit() -> str:
    """The library's commit, with "-dirty" if files were changed; its version if that is unknown."""
    checkout = Path(__file__).parents[2]
    if (checkout / ".git").exists():
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return check_output(command, cwd=checkout, stderr=DEVNULL, text=True).strip()
        except (OSError, CalledProcessError):
            return __version__
    # pip's note of the repository that it installed from
    notes = (d.read_text("direct_url.json") for d in distributions(name="vocseg_lib"))
    origin = json.loads(next(notes, None) or "{}")
    return origin.get("vcs_info", {}).get("commit_id", __version__)


def repository_url() -> str:
    """The project's public address, as the installed package has it; "" if it is not installed."""
    of_package = (d.metadata.get_all("Project-URL", []) for d in distributions(name="vocseg_lib"))
    urls = dict(url.split(", ", 1) for url in next(of_package, []))
    return urls.get("Repository", "")


def environment_info(device: str | torch.device) -> dict[str, str | int]:
    """Versions, commit and device."""
    cuda = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "vocseg_lib": __version__,
        "commit": git_commit(),
        "device": str(device),
        "device_name": name,
        "cpu_cores": torch.get_num_threads(),  # that compute
        "half_precision": str(half_precision(device)),  # what `mixed_precision` means here
    }
