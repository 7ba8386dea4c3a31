"""Damaged files for the attack: random changes of bytes, of JSON values, lines and tensors."""

import io
import json
import math
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vocseg_lib.engine.checkpoint import checksum

MARK = "@@JSON@@"
"""Stands for JSON that Python's encoder cannot write."""
DEEP, DIGITS = 100_000, 5_000
JSON_VALUES = (
    *'null true false 0 -1 1.5 "" "x" [] {} [[]] NaN Infinity -Infinity 1e400 1e308 1e-320'.split(),
    *'[null] {"a":1} "1" "nan" 0.5 2147483648 18446744073709551616 [1e400] "../../x" "/"'.split(),
    "[1,2,3,4]",
    '["a",1]',
    '"a\\nb"',
    '"\\ud800"',
    '"\\u0000"',
    "9" * 400,
    "9" * DIGITS,
    "-" + "9" * DIGITS,
    f'"{"a" * DEEP}"',
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
    "[" * DEEP,
)
LINES = ("", " ", "x", "../../x", "/x", "a\0b", "a b", "a 1", "*", "?", "[", "x" * 300, "x" * DEEP)
LINES += ("é", "\ufeffx", "x.jpg", "..", ".", "~", "%s", "background", "a:1,2,3::", "a:999,0,0::")
LINES += (f"a:{'9' * DIGITS},0,0::", "a:-1,0,0::", ":::", "a:::", "a:1,2::", "\x85", "\u2028", "-")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "PA", "LAB")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "JPEG2000", "PCX", "TGA")
BINARY = (".pt", ".pth", ".jpg", ".png", ".tar")


def damage(chance: random.Random, data: bytes, suffix: str, others: list[bytes]) -> bytes:
    """A file's bytes, changed at random in a way of its ending; `others`: of files of its world."""
    ways = {".json": change_json, ".jsonl": change_json_line, ".txt": change_lines}
    ways |= {".pt": change_tensors, ".pth": change_tensors, ".png": change_png, ".jpg": reencode}
    if suffix in ways and chance.random() < (0.35 if suffix in BINARY else 0.7):
        return ways[suffix](chance, data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        data = change_bytes(chance, data, others)
    return data


def change_bytes(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Cut off, flipped, deleted, repeated, zeroed, inserted or another file's bytes."""
    size = max(1, len(data))
    start = chance.randrange(size)
    end = min(size, start + int(size ** chance.random()))
    block, other = data[start:end], chance.choice(others)
    way = chance.randrange(11)
    if way == 0:
        flipped = bytearray(data or b"\0")
        for _ in range(chance.choice((1, 1, 8, 100))):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    at = chance.randrange(max(1, len(other)))
    return {
        1: data[:start],
        2: data[:start] + data[end:],
        3: data[:end] + block + data[end:],
        4: data[:start] + bytes(len(block)) + data[end:],
        5: data[:start] + other[at : at + len(block)] + data[end:],
        6: data[:start] + bytes(chance.choice((1, 7, 4096))) + data[start:],
        7: data[:start] + chance.randbytes(len(block)) + data[end:],
        8: other,
        9: chance.choice((b"", b"\0", b"\n", b"\xef\xbb\xbf" + data, data[::-1], data + data)),
        10: data[end:],
    }[way]


def change_value(chance: random.Random, content: Any, values: tuple) -> Any:
    """Replace, remove or rename a value of nested dicts and lists, at times in all of a list."""
    owners, key, node = [], None, content
    while isinstance(node, dict | list) and node and not (owners and chance.random() < 0.25):
        owners.append(node)
        key = chance.choice([*node] if isinstance(node, dict) else range(len(node)))
        node = node[key]
    if not owners:
        return chance.choice(values)
    alike = [owners[-1]]
    if len(owners) > 1 and isinstance(owners[-2], list) and chance.random() < 0.3:
        alike = [o for o in owners[-2] if isinstance(o, dict) and key in o] or alike
    value, way = chance.choice(values), chance.random()
    for owner in alike:
        if way < 0.75:
            owner[key] = value
        elif way < 0.9 or isinstance(owner, list):
            del owner[key]
        else:
            owner[chance.choice(("x", "", "é" * 50))] = owner.pop(key)
    return content


def change_json(chance: random.Random, data: bytes) -> bytes:
    content, raw = json.loads(data), []
    for _ in range(chance.choice((1, 1, 2, 3))):
        raw.append(chance.choice(JSON_VALUES))
        content = change_value(chance, content, (f"{MARK}{len(raw) - 1}",))
    text = json.dumps(content)
    for index, value in enumerate(raw):
        text = text.replace(f'"{MARK}{index}"', value)
    return text.encode(chance.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig")))


def change_json_line(chance: random.Random, data: bytes) -> bytes:
    lines = data.splitlines()
    for index in chance.sample(range(len(lines)), chance.choice((1, 2, 5))):
        lines[index] = change_json(chance, lines[index])
    return b"\n".join(lines) + b"\n"


def change_lines(chance: random.Random, data: bytes) -> bytes:
    lines = data.decode().split("\n")
    for _ in range(chance.choice((1, 1, 3))):
        line = chance.choice(lines)
        lines[chance.randrange(len(lines))] = chance.choice((*LINES, line, line + " 1", line * 2))
    return "\n".join(lines).encode(chance.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig")))


def change_tensors(chance: random.Random, data: bytes) -> bytes:
    """A checkpoint or state dict with other values, at times with a checksum that fits them."""
    tensors = [torch.zeros(0), torch.zeros(3), torch.zeros(2, 2).long(), torch.tensor(1j)]
    tensors += [torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.ones(3) / 0]
    tensors += [torch.ones(3).bool(), torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)]
    tensors += [torch.zeros(1).expand(1 << 40), torch.nested.nested_tensor([torch.ones(2)] * 2)]
    deep: list = []
    for _ in range(chance.choice((10, 300, 900))):
        deep = [deep]
    values = *tensors, None, 0, -1, 10**30, 0.5, math.nan, "x", "", [], {}, (), deep, b"x", True
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for _ in range(chance.choice((1, 1, 3))):
        content = change_value(chance, content, values)
    if isinstance(content, dict) and "checksum" in content and chance.random() < 0.3:
        del content["checksum"]
        try:
            content["checksum"] = checksum(content)
        except Exception:  # of what no checkpoint holds
            content["checksum"] = "0" * 64
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=chance.random() < 0.7)
    except Exception:  # PyTorch cannot store all of these
        return data[: chance.randrange(len(data))]
    return buffer.getvalue()


def change_png(chance: random.Random, data: bytes) -> bytes:
    """A chunk with other content and its checksum, or another picture."""
    if chance.random() < 0.4:
        return reencode(chance, data)
    chunks, position = [], 8
    while position < len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        kind, content = data[position + 4 : position + 8], data[position + 8 :][:length]
        chunks.append((kind, content))
        position += 12 + length
    index = chance.randrange(len(chunks))
    kind, content = chunks[index]
    if kind == b"IHDR" and chance.random() < 0.7:
        sides = [chance.choice((0, 1, 7, 20_000, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
        content = struct.pack(">II", *sides) + content[8:]
    else:
        content = change_bytes(chance, content, [data])
    way, changed = chance.random(), (kind, content)
    chunks[index : index + 1] = [changed] if way < 0.7 else [changed] * 2 if way < 0.85 else []
    parts = (
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )
    return data[:8] + b"".join(parts)


def reencode(chance: random.Random, data: bytes) -> bytes:
    """A picture of another size, mode, format or EXIF orientation, under the same name."""
    image, buffer = Image.open(io.BytesIO(data)), io.BytesIO()
    size = chance.choice((image.size, image.size, image.size[::-1], (1, 1), (3, 500), (1, 60_000)))
    try:
        picture = image.convert("RGB").resize(size).convert(chance.choice(MODES))
        exif = Image.Exif()
        exif[0x0112] = chance.choice((1, 2, 3, 5, 6, 8, 0, 9, 65_535, "x"))
        options = {"exif": exif} if chance.random() < 0.5 else {}
        if chance.random() < 0.15:
            options |= {"save_all": True, "append_images": [picture.rotate(90, expand=True)]}
        picture.save(buffer, chance.choice(FORMATS), **options)
    except Exception:  # not every format has every mode
        return chance.randbytes(chance.choice((0, 3, 500)))
    return buffer.getvalue()


def read_all(folder: Path) -> dict[str, bytes]:
    """The bytes of the files of a folder by name."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
