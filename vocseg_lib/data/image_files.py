"""Read pictures as they are shown, and maps of class or object numbers."""

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from vocseg_lib.data.coco_validation import MAX_PIXELS
from vocseg_lib.utils.files import open_file

DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
DECODING_ERRORS += (struct.error, KeyError)
PICTURE_ENDINGS = tuple(
    "jpg jpeg jpe jfif png webp bmp dib gif tif tiff ppm pgm pnm jp2 heic heif avif".split()
)
MAX_PICTURE_BYTES = 1 << 30
INVERSE_TURNS = {6: 8, 8: 6}  # EXIF orientations; the others are their own inverse
Picture = UInt8[np.ndarray, "h w 3"]
Color = tuple[int, int, int]  # RGB


@dataclass(eq=False)
class BadFile(Exception):
    """A file of a devkit cannot be used."""

    path: Path | str
    kind: str = ""  # of problem; a DataLoader's worker passes on the message alone, as `path`
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.reason else str(self.path)


def read_picture(path: Path) -> Picture:
    """A picture in RGB as it is shown: turned by its EXIF orientation. Raises BadFile."""
    return np.ascontiguousarray(orient(*read_stored(path)))


def read_fitting(path: Path, size: tuple[int, int], prefers_stored: Callable[[], bool]) -> Picture:
    """A picture turned as its annotations, of a size (height, width): as shown, or as stored.

    `prefers_stored` decides where both fit. Raises BadFile if neither does.
    """
    stored, orientation = read_stored(path)
    shown = np.ascontiguousarray(orient(stored, orientation))
    fitting = [pixels for pixels in (shown, stored) if pixels.shape[:2] == size]
    if not fitting:
        reason = f"is {shown.shape[:2]} (height, width), the ground truth {size}: another picture"
        raise BadFile(path, "size mismatch", reason)
    return fitting[-1] if orientation > 1 and len(fitting) == 2 and prefers_stored() else fitting[0]


def read_stored(path: Path) -> tuple[Picture, int]:
    """A picture in RGB as it is stored, and its EXIF orientation. Raises BadFile."""
    with _open(path) as image:
        before = _orientation(image)
        image.load()  # by Pillow before 11, the size of a turned TIFF is known only then
        pixels = _to_rgb(path, image)
        if image.format == "TIFF":  # which Pillow turns while it decodes
            return orient(pixels, INVERSE_TURNS.get(before, before)), before
        return pixels, _orientation(image)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """An image file; what fails until it is closed raises BadFile."""
    try:
        # Of a path, Pillow maps some TIFFs into memory, with the sides of turned ones exchanged.
        with open_file(path, MAX_PICTURE_BYTES) as file, Image.open(file) as image:
            yield image
    except FileNotFoundError:
        raise BadFile(path, "missing", "file is missing") from None
    except DECODING_ERRORS as error:
        kind = "truncated" if "truncated" in str(error).lower() else "undecodable"
        reason = str(error).removeprefix(f"{path} ")
        raise BadFile(path, kind, f"{kind} image ({reason})") from None


def _to_rgb(path: Path, image: Image.Image) -> Picture:
    """The pixels in RGB; more than 8 bits are scaled by the range of their type."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        gray = np.asarray(image) >> 8
    elif image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            reason = f"has float values from {values.min():g} to {values.max():g}; expected 0 to 1"
            raise BadFile(path, "unknown range", f"{reason}, or integers of 8 or 16 bits")
        gray = np.rint(values * 255)
    elif image.mode == "I":
        reason = "has integers that are signed or of 32 bits; expected 8 or 16 bits, unsigned"
        raise BadFile(path, "unknown range", reason)
    else:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def without_ending(file_name: str) -> str:
    """A file name, with its folders, without the ending of a picture, if it has one."""
    stem, _, ending = file_name.rpartition(".")
    return stem if stem and ending.lower() in PICTURE_ENDINGS else file_name


@dataclass(frozen=True)
class StoredMap:
    """A map as it is stored."""

    values: UInt8[np.ndarray, "h w"]
    colors: UInt8[np.ndarray, "k 3"] | None  # by value; None: a gray image, of plain numbers
    is_palette: bool = False  # without one, values number the colors of an RGB image, sorted


def read_map(path: Path) -> StoredMap:
    """A map of numbers or flat colors; transparent pixels are black, 0. Raises BadFile."""
    with _open(path) as image:
        return _to_map(path, image)


def _to_map(path: Path, image: Image.Image) -> StoredMap:
    check_pixels(path, image.size)
    if image.mode == "P":
        values, colors = np.array(image), np.array(image.getpalette(), np.uint8)
        return StoredMap(values, colors.reshape(-1, 3), is_palette=True)
    if image.mode in ("1", "L", "I") or image.mode.startswith("I;16"):
        values = np.array(image)
        if not (values.min() >= 0 and values.max() <= 255):
            reason = f"has values from {values.min()} to {values.max()}; expected 0 to 255"
            raise BadFile(path, "not a map", reason)
        return StoredMap(values.astype(np.uint8), None)
    pixels = np.array(image.convert("LA" if image.mode == "LA" else "RGBA"))
    pixels[pixels[..., -1] == 0] = 0
    if image.mode == "LA":
        return StoredMap(pixels[..., 0].copy(), None)
    counts = Image.fromarray(pixels[..., :3].copy()).getcolors(256)
    if counts is None:
        reason = "has more than 256 colors: expected a flat color for each class or object, of at"
        raise BadFile(path, "not a map", f"{reason} most 254 (PNG; 0 background, 255 void)")
    colors = sorted(color for _, color in counts)
    numbers = np.zeros(1 << 24, np.uint8)
    numbers[[r << 16 | g << 8 | b for r, g, b in colors]] = range(len(colors))
    values = np.empty(pixels.shape[:2], np.uint8)
    rows = max(1, (1 << 20) // pixels.shape[1])  # at a time, to bound memory
    for start in range(0, len(pixels), rows):
        r, g, b, _ = np.moveaxis(pixels[start : start + rows].astype(np.int32), -1, 0)
        values[start : start + rows] = numbers[r << 16 | g << 8 | b]
    return StoredMap(values, np.array(colors, np.uint8))


def check_pixels(path: Path, size: tuple[int, int]) -> None:
    """Raise BadFile for a map, or a picture of one, of more pixels than ground truth may have."""
    if size[0] * size[1] > MAX_PIXELS:
        reason = f"has {size[0] * size[1]:,} pixels; expected at most {MAX_PIXELS:,}: make it and"
        raise BadFile(path, "too large", f"{reason} its picture smaller, or cut them into parts")


def read_header(path: Path) -> tuple[tuple[int, int], int]:
    """The stored size (height, width) of a picture and its EXIF orientation. Raises BadFile."""
    with _open(path) as image:
        size, orientation = (image.height, image.width), _orientation(image)
        if image.format == "TIFF":  # whose tags have the stored size, also where Pillow turns it
            return (image.tag_v2[257], image.tag_v2[256]), orientation
        if image.format == "PNG" and orientation == 1 and b"eXIf" in path.read_bytes():
            image.load()  # EXIF after the pixels
        return size, _orientation(image)


def fit_as_stored(sizes: Iterable[tuple[Path, Callable[[], tuple[int, int]]]]) -> bool:
    """Whether sizes (height, width) are those of pictures as stored, for all that EXIF turns.

    Pictures that cannot be read, and sizes that are not theirs, do not count.
    """
    fits = set()
    for path, read_size in sizes:
        with suppress(BadFile):
            stored, orientation = read_header(path)
            if orientation >= 5 and stored[0] != stored[1]:
                fits.add({stored: True, stored[::-1]: False}.get(read_size()))
    return fits - {None} == {True}


def _orientation(image: Image.Image) -> int:
    """1 without EXIF, or with EXIF that cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (*DECODING_ERRORS, TypeError):
        return 1
    return orientation if orientation in range(2, 9) else 1


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An array [h, w, ...] as stored, turned and mirrored to how it is shown."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1) if orientation in (3, 4, 7, 8) else slice(None)
    columns = slice(None, None, -1) if orientation in (2, 3, 6, 7) else slice(None)
    return pixels[rows, columns]
