"""Hostile archives and pickles for the attack: nothing is written outside, and no code runs."""

import bz2
import functools
import gzip
import io
import operator
import os
import pickle
import posix
import shutil
import subprocess
import tarfile
import types
import zipfile
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import torch

from benchmarks.attack_files import read_all
from benchmarks.attack_kinds import CONFIG, Case, Loss
from vocseg_lib.data.download import fetch
from vocseg_lib.engine.checkpoint import load_checkpoint
from vocseg_lib.engine.resume import resume
from vocseg_lib.models.backbones import build_backbone
from vocseg_lib.models.official_weights import load_official
from vocseg_lib.study.run import load_run
from vocseg_lib.utils.weights import read_weights

KIT = "VOCdevkit/VOC2012/"
OUT = "../../outside"
"""From where an archive is unpacked to a folder that it must not reach."""
OWN = f"{OUT}/own.txt"
ABSOLUTE = Path("/tmp/vocseg_attack_outside")
TYPES = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}
TYPES |= {"hard": tarfile.LNKTYPE, "chr": tarfile.CHRTYPE, "blk": tarfile.BLKTYPE}
TYPES |= {"fifo": tarfile.FIFOTYPE, "cont": tarfile.CONTTYPE, "new": b"Z"}
Member = tuple
"""Type, name, target of a link or content, attributes of its TarInfo."""


def add(data: bytes, *members: Member, first: bool = False) -> bytes:
    """An archive with more members, after its own or before them."""
    buffer = io.BytesIO() if first else io.BytesIO(data)
    with tarfile.open(fileobj=buffer, mode="w" if first else "a") as tar:
        for kind, name, value, *attributes in members:
            info, content = tarfile.TarInfo(name), value.encode() if kind == "file" else b""
            info.type, info.size, info.mtime = TYPES[kind], len(content), 1_000_000_000
            info.linkname = value if kind in ("link", "hard") else ""
            for key, attribute in (attributes[0] if attributes else {}).items():
                setattr(info, key, attribute)
            tar.addfile(info, io.BytesIO(content))
        if first:
            with tarfile.open(fileobj=io.BytesIO(data)) as own:
                for info in own:
                    tar.addfile(info, own.extractfile(info) if info.isfile() else None)
    return buffer.getvalue()


def long_chain(data: bytes) -> bytes:
    """Links whose resolved path is longer than the system's paths can be (CVE-2025-4517)."""
    members, path, long = [], "", "d" * 247
    for step in "abcdefghijklmnop":
        members += [("dir", f"{path}{long}", ""), ("link", f"{path}{step}", long)]
        path += f"{step}/"
    members += [("link", f"{path}{'l' * 254}", "../" * 16)]
    members += [("link", "escape", f"{path}{'l' * 254}/{OUT}"), ("hard", "flag", "escape/own.txt")]
    return add(data, *members, ("file", "flag", "hostile"), ("file", "escape/own.txt", "hostile"))


def with_header(data: bytes, start: int, value: bytes) -> bytes:
    """An archive whose first header has other bytes and a checksum that fits them."""
    header = bytearray(data[:512])
    header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


X = "hostile"
ARCHIVES: dict[str, Callable[[bytes], bytes]] = {
    "absolute": lambda d: add(d, ("file", str(ABSOLUTE), X)),
    "absolute link": lambda d: add(d, ("link", "l", "/tmp"), ("file", f"l/{ABSOLUTE.name}", X)),
    "climbing": lambda d: add(d, ("file", OWN, X)),
    "climbing first": lambda d: add(d, ("file", OWN, X), first=True),
    "climbing from inside": lambda d: add(d, ("file", f"{KIT}../../{OWN}", X)),
    "link": lambda d: add(d, ("link", "l", OUT), ("file", "l/own.txt", X)),
    "link first": lambda d: add(d, ("link", "l", OUT), ("file", "l/own.txt", X), first=True),
    "hard link": lambda d: add(d, ("hard", "h", OWN), ("file", "h", X)),
    "hard link to a link": lambda d: add(
        d, ("link", "l", OWN), ("hard", "h", "l"), ("file", "h", X)
    ),
    "chain of links": lambda d: add(
        d, ("dir", "a", ""), ("link", "a/b", ".."), ("link", "c", "a/b/.."), ("file", "c/x", X)
    ),
    "long chain of links": long_chain,
    "loop of links": lambda d: add(d, ("link", "a", "b"), ("link", "b", "a"), ("file", "a/x", X)),
    "character device": lambda d: add(d, ("chr", KIT + "c", "", {"devmajor": 1, "devminor": 3})),
    "block device": lambda d: add(d, ("blk", KIT + "b", "", {"devmajor": 8})),
    "fifo": lambda d: add(d, ("fifo", KIT + "JPEGImages/f.jpg", "")),
    "unknown type": lambda d: add(d, ("new", KIT + "JPEGImages/z.jpg", "")),
    "backslash": lambda d: add(d, ("file", OWN.replace("/", "\\"), X)),
    "drive": lambda d: add(d, ("file", "C:\\own.txt", X), ("file", "C:/own.txt", X)),
    "nul": lambda d: add(d, ("file", "x", X, {"pax_headers": {"path": KIT + "a\0b.jpg"}})),
    "pax path": lambda d: add(d, ("file", "x", X, {"pax_headers": {"path": OWN}})),
    "pax link": lambda d: add(
        d, ("link", "l", ".", {"pax_headers": {"linkpath": OUT}}), ("file", "l/own.txt", X)
    ),
    "pax size": lambda d: add(d, ("file", KIT + "x", X, {"pax_headers": {"size": "9" * 30}})),
    "pax number": lambda d: add(d, ("file", KIT + "x", X, {"pax_headers": {"mtime": "x"}})),
    "surrogate": lambda d: add(d, ("file", KIT + "\udcff.jpg", X)),
    "long name": lambda d: add(d, ("file", KIT + "x" * 300, X)),
    "long path": lambda d: add(d, ("file", KIT + "x/" * 20_000 + "x", X)),
    "long climbing": lambda d: add(d, ("file", "x/../" * 5_000 + OWN, X)),
    "sparse": lambda d: add(
        d,
        (
            *("file", KIT + "x", X),
            {"pax_headers": {"GNU.sparse.size": str(1 << 60), "GNU.sparse.map": "0,7"}},
        ),
    ),
    "directory to a link": lambda d: add(
        d, ("link", KIT + "JPEGImages", "../../" + OUT), ("file", KIT + "JPEGImages/own.txt", X)
    ),
    "link to a directory": lambda d: add(
        d, ("link", KIT + "JPEGImages", "../../" + OUT), first=True
    ),
    "devkit is a link": lambda d: add(d, ("link", "VOCdevkit", OUT), first=True),
    "huge size": lambda d: with_header(d, 124, b"\x80" + bytes(3) + b"\xff" * 8),
    "negative size": lambda d: with_header(d, 124, b"\xff" * 12),
    "size is text": lambda d: with_header(d, 124, b"size is text"),
    "time out of range": lambda d: with_header(d, 136, b"\x80" + b"\x7f" * 11),
    "no permissions": lambda d: with_header(d, 100, b"0000000\0"),
    "wrong checksum": lambda d: d[:148] + b"000000\0 " + d[156:],
    "gzip": gzip.compress,
    "bzip2, cut off": lambda d: bz2.compress(d)[:-5_000],
    "gzip of no archive": lambda d: gzip.compress(b"x" * 5_000),
    "empty": lambda d: b"",
    "nothing in it": lambda d: bytes(10_240),
    "cut off": lambda d: d[: len(d) // 2],
    "cut off in a header": lambda d: d[: len(d) // 2 // 512 * 512 + 100],
    "web page": lambda d: b"<!DOCTYPE html><html></html>",
    "no devkit": lambda d: add(bytes(1_024), ("file", "readme.txt", X)),
    "file for a folder": lambda d: add(d, ("file", KIT + "JPEGImages", X)),
    "file for a folder, first": lambda d: add(d, ("file", KIT + "JPEGImages", X), first=True),
    "file for the devkit": lambda d: add(d, ("file", "VOCdevkit", X), first=True),
    "case collision": lambda d: add(d, ("dir", "vocdevkit", ""), ("file", KIT + "jpegimages", X)),
    "no name": lambda d: add(d, ("file", "", X)),
    "dots": lambda d: add(d, ("file", ".", X), ("file", "..", X)),
    "wrong MD5": lambda d: d,
}


def unpack_hostile(case: Case) -> None:
    """An archive that leads outside, or is none: refused, or a whole devkit and nothing else."""
    name = [*ARCHIVES][case.index % len(ARCHIVES)]
    good, outside = case.path.read_bytes(), case.folder.parent / "outside"
    hostile = ARCHIVES[name](good)
    case.path.write_bytes(hostile)
    outside.mkdir()
    (outside / "own.txt").write_text("own")
    around = {path.name for path in case.folder.parent.iterdir()}
    target = case.folder / "VOCdevkit" / "VOC2012"
    checksum = "0" * 32 if name == "wrong MD5" else md5(hostile).hexdigest()
    error = None
    try:
        fetch(case.folder, [], checksum)
    except Exception as raised:
        error = raised
    written = {p.name for p in case.folder.parent.iterdir()} - {f".{case.folder.name}.lock"}
    inside = written == around and not ABSOLUTE.exists()
    if not inside or read_all(outside) != {"own.txt": b"own"}:
        raise Loss(f"{name}: something is written outside")
    if error and os.path.lexists(target):
        raise Loss(f"{name}: something is left as {target.name}")
    if error:  # a good archive can be unpacked after it
        case.path.write_bytes(good)
        fetch(case.folder, [], md5(good).hexdigest())
    expected, unpacked = read_all(case.world / "devkit"), read_all(target)
    if missing := [file for file, data in expected.items() if unpacked.get(file) != data]:
        raise Loss(f"{name}: the devkit is not whole: {missing[0]}")
    for path in case.folder.rglob("*"):
        if not path.resolve().is_relative_to(case.folder.resolve()):
            raise Loss(f"{name}: {path} leads outside")
    if error:
        error.add_note(name)
        raise error


class Call:
    """What is pickled as a call of a function."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self) -> None:
        """Pickle calls only what is callable: the result of a call may be called in turn."""


def _payloads(marker: Path) -> list[object]:
    """Objects that write the marker when they are unpickled."""
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    system, buffer, legacy = Call(os.system, command), io.BytesIO(), io.BytesIO()
    torch.save(system, buffer)
    torch.save(system, legacy, _use_new_zipfile_serialization=False)
    objects = np.empty(1, object)
    objects[0] = system
    return [
        system,
        Call(eval, code),
        Call(exec, code),
        Call(posix.system, command),
        Call(subprocess.call, ["touch", str(marker)]),
        Call(functools.partial(os.system, command)),
        Call(operator.methodcaller("touch"), marker),
        Call(open, str(marker), "w"),
        Call(marker.touch),
        Call(torch.storage._load_from_bytes, buffer.getvalue()),
        Call(torch.storage._load_from_bytes, legacy.getvalue()),
        Call(pickle.loads, pickle.dumps(system)),
        Call(Call(eval, f"lambda: {code}")),
        Call(shutil.copyfile, "/dev/null", str(marker)),
        objects,
        {"model": {"weight": system}},
        {system: 1},
        [torch.nn.Parameter(torch.ones(1)), (system,)],
        torch.utils.data.TensorDataset(torch.ones(1)),
        types.SimpleNamespace(weight=system),
    ]


FORMS, PICKLES = 8, 20
"""Kinds of file that `_write_pickle` writes, and of payload."""


def _write_pickle(path: Path, content: object, form: int) -> None:
    """A pickle as `torch.save` writes it, as it did, or in other archives."""
    if form < 2:
        torch.save(content, path, _use_new_zipfile_serialization=form == 0)
        return
    data = pickle.dumps(content, protocol=(0, 2, 4)[form % 3])
    if form < 5:
        path.write_bytes(data)
    elif form == 5:  # PyTorch before 0.1.10
        with tarfile.open(path, "w") as tar:
            for name in ("sys_info", "storages", "tensors", "pickle"):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("data.pkl", "version", "byteorder", *["constants.pkl"] * (form == 7)):
                archive.writestr(f"archive/{name}", data if name.endswith("pkl") else b"3\n")


def read_pickles(case: Case) -> None:
    """A pickle of code in place of weights and checkpoints: all that read them refuse it."""
    marker = case.folder / "marker"
    payloads = _payloads(marker)
    payload = payloads[case.index // FORMS % PICKLES]
    _write_pickle(case.path, payload, case.index % FORMS)
    marker.unlink(missing_ok=True)
    shutil.copyfile(case.path, case.folder / "last.pt")
    shutil.copyfile(case.path, case.folder / "previous.pt")
    readers = [
        lambda: read_weights(case.path),
        lambda: load_checkpoint(case.path),
        lambda: build_backbone("tiny", init=case.path),
        lambda: load_official(case.path),
        lambda: load_run(case.folder),
        lambda: resume(case.folder, None, CONFIG),
    ]
    errors = []
    for read in readers:
        try:
            read()
        except Exception as error:
            errors.append(error)
        if marker.exists():
            raise Loss("code of a pickle ran")
    if len(errors) < len(readers):
        raise Loss("a pickle of code was read")
    raise max(errors, key=lambda error: not isinstance(error, OSError | ValueError))
