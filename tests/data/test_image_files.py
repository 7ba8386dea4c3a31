import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vocseg_lib.data.classes import read_lines
from vocseg_lib.data.image_files import BadFile, read_header, read_map, read_picture, read_stored
from vocseg_lib.utils.files import read_json, write_json
from vocseg_lib.utils.weights import read_weights

VALUES = np.array([[0, 255, 256, 4095], [32768, 40000, 65534, 65535]], np.uint16)


def write_png16(path, values):
    """A PNG of 16 bits, which Pillow does not write in color: uint16 [h, w] or [h, w, 2 to 4]."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    form = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, form, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data for kind, data in chunks]
    ends = [struct.pack(">I", zlib.crc32(part[4:])) for part in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(bytes.__add__, parts, ends)))


@pytest.mark.parametrize("channels", [0, 2, 3, 4])
def test_pngs_of_16_bits_are_scaled_by_their_range(tmp_path, channels):
    path = tmp_path / "a.png"
    write_png16(path, VALUES if channels == 0 else np.stack([VALUES] * channels, 2))
    picture = read_picture(path)
    assert picture.shape == (2, 4, 3)
    assert np.abs(picture - VALUES[..., None] / 257).max() <= 1


@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "jp2"])
def test_gray_of_16_bits_is_scaled_in_each_format(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    gray = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    if ending == "pgm":  # which Pillow before 11 does not write
        path.write_bytes(b"P5 32 32 65535\n" + gray.astype(">u2").tobytes())
    else:
        Image.fromarray(gray).save(path, **({"irreversible": False} if ending == "jp2" else {}))
    assert np.abs(read_picture(path) - gray[..., None] / 257).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P"])
@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_turned_tiffs(tmp_path, mode, orientation):
    turns = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE}
    turns |= {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    shown = np.arange(0, 192, 2, dtype=np.uint8).reshape(8, 12)
    stored = Image.fromarray(shown).transpose(turns[orientation]).convert(mode)
    path = tmp_path / "a.tif"
    stored.save(path, tiffinfo={0x0112: orientation})
    assert np.abs(read_picture(path)[..., 0].astype(int) - shown).max() <= 1
    pixels, found = read_stored(path)
    assert (pixels.shape[:2], orientation) == read_header(path) == (stored.size[::-1], found)


@pytest.mark.parametrize("values", [[-0.1, 0.5], [0, 1.5], [0, 255], [0, np.nan], [0, np.inf]])
def test_floats_of_unknown_range_are_refused(tmp_path, values):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([values], np.float32)).save(path)
    with pytest.raises(BadFile, match="0 to 1") as caught:
        read_picture(path)
    assert (caught.value.kind, caught.value.path) == ("unknown range", path)


def test_floats_from_0_to_1_and_wide_integers(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 0.25, 0.5, 1]], np.float32)).save(path)
    assert read_picture(path)[0, :, 0].tolist() == [0, 64, 128, 255]
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(path)
    with pytest.raises(BadFile, match="32 bits"):
        read_picture(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    gray = mode in ("1", "L", "LA")
    color = (255, 255, 255) if gray else (255, 0, 0)
    image = Image.new("RGB", (3, 2), color)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "PA") else "a.png")
    image.save(path, compression="tiff_lzw" if mode == "YCbCr" else None)
    assert np.abs(read_picture(path).astype(int) - color).max() <= 2


@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_pillows(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as image:
        shown = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(read_picture(path), shown)
    stored, found = read_stored(path)
    assert np.array_equal(stored, pixels)
    assert found == (orientation if 1 <= orientation <= 8 else 1)


def test_exif_that_cannot_be_read_is_none(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (3, 2)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff torn")
    assert read_picture(path).shape == (2, 3, 3)


ODD_FILES = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "folder": Path.mkdir,
    "empty": Path.touch,
    "sparse": lambda path: (path.touch(), os.truncate(path, 3 << 30)),
}


@pytest.mark.parametrize("kind", ODD_FILES)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "odd.png"
    ODD_FILES[kind](path)
    for read in (read_picture, read_map, read_header):
        with pytest.raises(BadFile, match=r"odd\.png"):
            read(path)
    readers = {read_lines: OSError, read_json: (OSError, ValueError)}
    for read, errors in (readers | {read_weights: (OSError, ValueError)}).items():
        if kind == "empty" and read == read_lines:
            assert read(path) == []
            continue
        with pytest.raises(errors, match=r"odd\.png"):
            read(path)


@pytest.mark.parametrize("text", ["a\nb\0c", f"a\n{'long' * 999}"])
def test_lists_of_other_things_than_names_are_refused(tmp_path, text):
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(ValueError, match=r"val\.txt") as caught:
        read_lines(tmp_path / "val.txt")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "out.json"
    ODD_FILES[kind](path)
    with pytest.raises(OSError, match=r"out\.json"):
        write_json(path, {})
    assert not path.is_file()
    assert [*tmp_path.iterdir()] == [path]
