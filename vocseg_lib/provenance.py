"""Where a result comes from: the code, the versions and the machine behind it."""

import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
import torchvision

from vocseg_lib import __version__


def code_version() -> str:
    """The commit of the checkout that the library runs from; its version where there is none, or no git."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return __version__
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return asked.stdout.strip()


def device_name(device: str | torch.device) -> str:
    """The GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else f"{platform.machine()} CPU"


def surroundings(device: str | torch.device) -> dict[str, str]:
    """Versions, device and commit."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "vocseg_lib": __version__,
        "commit": code_version(),
        "device": str(device),
        "device_name": device_name(device),
    }
