"""Writing files so that a kill at any moment leaves the old one or the new one, whole."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; on success it is flushed to disk and takes `path`'s place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".writing")
    yield beside
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def read_json(path: Path) -> Any:
    """Read JSON. Raises FileNotFoundError, and ValueError naming the file when it is torn or no JSON."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON; non-finite numbers raise ValueError."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, allow_nan=False))
