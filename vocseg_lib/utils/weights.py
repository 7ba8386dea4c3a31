"""Read files of weights, and say what is wrong with those that are none or do not fit."""

import io
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vocseg_lib.utils.files import open_file, read_bytes
from vocseg_lib.utils.json_values import shorten

MAX_DEPTH, MAX_VALUES = 50, 300_000
"""Nested dicts, lists and tuples in a file of weights, and values in them, each as often as it is
referred to; a model's are 6 deep and some thousand."""
MAX_PICKLE = 1 << 23  # bytes, of all but the numbers in tensors
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool)
DTYPES += (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
SHOWN_BYTES = 23  # of a file that is not one of weights
MAX_SHOWN = 200  # letters of a key
SAVE_ADVICE = "save model.state_dict() with torch.save"
LOOKS_LIKE = {
    b"version https://git-lfs": "a git-lfs pointer; run `git lfs pull` to get the file",
    b"<": "a web page; download the file that it links to",
    b"{": "JSON",
    b"\xff\xd8": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"\x80": f"a pickle that is damaged or holds more than tensors; {SAVE_ADVICE}",
}


def read_weights(path: str | Path) -> Any:
    """What `torch.save` wrote of tensors and plain values, on the CPU; code is never run.

    Raises OSError; ValueError naming the file and what it is instead.
    """
    data = read_bytes(path)
    try:
        _check_archive(data)
        with warnings.catch_warnings(action="ignore"):  # about what is refused
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle may raise anything
        raise ValueError(f"{path} is not a file of weights: {_describe(data)}") from None
    check_plain(content, path)
    return content


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as one of safetensors: with the length of a JSON header."""
    with open_file(path) as file:
        return file.read(9)[8:] == b"{"


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata in a file of safetensors. Raises OSError, ValueError."""
    try:
        with safe_open(str(path), "pt") as file:
            tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None
    check_plain(tensors, path)
    return tensors, metadata or {}


def _check_archive(data: bytes) -> None:
    """Raise ValueError for an archive that would grow in memory, or of a long list of values."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        is_long = any(n.endswith(".pkl") and size > MAX_PICKLE for n, size in sizes.items())
        if is_long or sum(sizes.values()) > len(data):
            raise ValueError("more than tensors")


def check_plain(content: Any, path: object) -> None:
    """Raise ValueError, naming `path`, for content without end, or with other than dense tensors.

    Lists in themselves, values that are referred to again and again, long texts, tensors without
    memory or far larger than it. All that passes can be walked, printed and compared at once.
    """
    left, size, storages = MAX_VALUES, 0, {}
    remaining = [(content, "content", 0)]
    while remaining:
        value, key, depth = remaining.pop()
        if isinstance(value, dict | list | tuple | set):
            left -= len(value) * (2 if isinstance(value, dict) else 1)
            if left >= 0 and isinstance(value, dict):
                remaining += ((item, name, depth + 1) for name, item in value.items())
                remaining += ((name, "a key", depth + 1) for name in value)
            elif left >= 0:
                remaining += ((item, key, depth + 1) for item in value)
        elif isinstance(value, Tensor):
            _check_dense(value, f"{path}: {shorten(key) if isinstance(key, str) else type(key)}")
            storage = value.untyped_storage()
            size += value.numel() * value.element_size()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, str | bytes | bytearray):
            left -= len(value) // 64
        if depth > MAX_DEPTH or left < 0 or size > 1e9 + 8 * sum(storages.values()):
            problem = "its values are in themselves, or are referred to without end"
            raise ValueError(f"{path} is not a file of weights: {problem}; {SAVE_ADVICE}")


def _check_dense(tensor: Tensor, name: str) -> None:
    kind = str(tensor.dtype) * (tensor.dtype not in DTYPES)
    kind += str(tensor.layout) * (tensor.layout != torch.strided)
    kind += "nested" * tensor.is_nested + tensor.device.type * (tensor.device.type != "cpu")
    if kind:
        raise ValueError(f"{name} is a tensor of kind {kind}; expected dense ones; {SAVE_ADVICE}")


def _describe(data: bytes) -> str:
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return "it is empty; download or copy it again"
    begin = f"it begins with {repr(text[:SHOWN_BYTES])[1:]}"
    if data.startswith(b"PK"):
        is_whole = False
        with suppress(zipfile.BadZipFile):  # its end is that of several
            is_whole = zipfile.is_zipfile(io.BytesIO(data))
        if is_whole:
            return f"{begin}, an archive of more than tensors, or of none; {SAVE_ADVICE}"
        return f"{begin}, an archive that is cut off or damaged; download or copy it again"
    if data[8:9] == b"{":
        return f"{begin}, a safetensors file; load it and {SAVE_ADVICE}"
    kind = next((kind for start, kind in LOOKS_LIKE.items() if text.startswith(start)), "")
    return f"{begin}, {kind}" if kind else begin


def load_weights(model: nn.Module, state: Any, source: object) -> None:
    """Load a state dict into a model. Raises ValueError, naming `source` and what does not fit."""
    differences = _differences(model.state_dict(), state)
    try:
        if not differences:
            model.load_state_dict(state)
    except (AttributeError, RuntimeError, TypeError) as error:
        differences = f"PyTorch cannot load it ({error})"
    if differences:
        raise ValueError(f"{source} is not of this model: {differences}")


def _differences(own: dict[str, Tensor], state: Any) -> str:
    """What keeps a state dict from being loaded where another one is; empty if nothing does."""
    if not isinstance(state, Mapping):
        return f"it holds a {type(state).__name__}, expected a dict of tensors"
    both = {k: (own[k], v) for k, v in state.items() if k in own and isinstance(v, Tensor)}
    same = {key: other for key, (o, other) in both.items() if o.shape == other.shape}
    kinds = {
        # PyTorch does not need the counts of batches.
        "missing": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        "unexpected": [k if isinstance(k, str) else shorten(k) for k in state if k not in own],
        "of another shape": [
            f"{k} {[*other.shape]}, expected {[*o.shape]}"
            for k, (o, other) in both.items()
            if k not in same
        ],
        "of another type": [
            f"{k} {other.dtype}"
            for k, other in same.items()
            if other.is_floating_point() != own[k].is_floating_point()
        ],
        "not finite": [k for k, other in same.items() if not other.isfinite().all()],
        "not a tensor": [k for k in state if k in own and k not in both],
    }
    listed = (f"{len(v)} keys {kind}, as {v[0][:MAX_SHOWN]}" for kind, v in kinds.items() if v)
    return "; ".join(listed)
