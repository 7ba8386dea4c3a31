"""Read a VOC devkit: images, instance masks, boxes, labels and void, from palette PNGs (VOC 2012 devkit, sec. 3)."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import tv_tensors

from vocseg_lib.data.classes import CLASS_NAMES, VOID
from vocseg_lib.utils.boxes import masks_to_boxes

CLASS_FILE = "class_names.txt"
"""In a devkit with classes other than VOC's: their names, line k that of class value k."""
NOT_CLASSES = ("__ignore__", "_background_", "background")
"""Lines of such a file that stand for no class, as labelme writes them."""
PARTS = ("JPEGImages", "SegmentationObject", "SegmentationClass")
AGREEMENT = 0.95
"""Share of an object's pixels that must carry one class, and of a class's pixels that must belong to an object, for the
sample to be readable; `verify` reports every pixel."""


class BadSample(Exception):
    """A file of a sample cannot be used. `path` is the file, `kind` one of `verify`'s kinds, `reason` a sentence."""

    def __init__(self, path: Path | str, kind: str = "", reason: str = ""):
        # A DataLoader's worker hands on its message alone, as the first argument.
        super().__init__(path, kind, reason)
        self.path, self.kind, self.reason = path, kind, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.reason else str(self.path)

    def said_within(self, devkit: Path) -> str:
        """The same with the file's path in its devkit, wherever that lies."""
        path = Path(self.path)
        return f"{path.relative_to(devkit) if path.is_relative_to(devkit) else path}: {self.reason}"


@dataclass(frozen=True)
class Sample:
    """One image of a devkit. Boxes are pixels, x2 and y2 exclusive; labels count from 1; void pixels are judged by nobody."""

    name: str
    image: UInt8[Tensor, "3 h w"]
    masks: UInt8[Tensor, "n h w"]
    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    void: Bool[Tensor, "h w"]


def find_devkit(folder: str | Path) -> Path:
    """The folder that holds JPEGImages and the maps: `folder` itself, or the latest VOC* or VOCdevkit/VOC* in it.

    Raises FileNotFoundError when there is none.
    """
    folder = Path(folder)
    years = (
        sorted(folder.glob(pattern), reverse=True) for pattern in ("VOC20*", "VOCdevkit/VOC20*")
    )
    for candidate in [folder, *chain(*years)]:
        if all((candidate / part).is_dir() for part in PARTS):
            return candidate
    raise FileNotFoundError(
        f"{folder} is not a VOC devkit: expected JPEGImages/, SegmentationObject/, SegmentationClass/ and "
        "ImageSets/Segmentation/ in it, or in VOCdevkit/VOC2012/ below it"
    )


def class_names(devkit: Path) -> tuple[str, ...]:
    """The names of a devkit's classes, label 1 first: the lines of its `class_names.txt`, or VOC's when it has none.

    Raises ValueError, naming the file, when there is no name in it, one twice, or more than a map of bytes can tell apart.
    """
    path = devkit / CLASS_FILE
    if not path.is_file():
        return CLASS_NAMES
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file of class names: {error}") from None
    names = tuple(line for line in lines if line and line not in NOT_CLASSES)
    if not 0 < len(names) < VOID:
        raise ValueError(
            f"{path} has {len(names)} class names: 1 to {VOID - 1} are expected, one a line"
        )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path} has the class {name!r} twice")
    if "all" in names:
        raise ValueError(
            f"{path} has a class 'all', which is what tables call all classes together: rename it"
        )
    return names


def split_ids(devkit: Path, split: str) -> list[str]:
    """Image names of `ImageSets/Segmentation/<split>.txt`, in order. Raises FileNotFoundError, naming the splits there are."""
    lists = devkit / "ImageSets" / "Segmentation"
    path = lists / f"{split}.txt"
    if not path.is_file():
        found = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{path}: no such split list; splits in this devkit: {found}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file of image names: {error}") from None
    # VOC's own lists of a class have a flag after the name; a name may have blanks, too.
    whole = (devkit / "JPEGImages").joinpath
    return [
        line if " " in line and whole(f"{line}.jpg").is_file() else line.split()[0]
        for line in lines
        if line
    ]


def read_image(path: Path, mode: str) -> np.ndarray:
    """Decode an image file. `mode` "RGB" converts, "P" wants palette indices and keeps them. Raises BadSample."""
    try:
        with Image.open(path) as image:
            if mode == "P" and image.mode not in ("P", "L"):
                raise BadSample(
                    path,
                    "not a palette image",
                    f"is a {image.mode} image, not a palette PNG with class numbers",
                )
            image.load()
            return np.array(image.convert("RGB") if mode == "RGB" else image)
    except FileNotFoundError:
        raise BadSample(path, "missing", "file is missing") from None
    except UnidentifiedImageError:
        raise BadSample(path, "undecodable", "is not an image that can be decoded") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        kind = "truncated" if "truncated" in str(error).lower() else "undecodable"
        raise BadSample(path, kind, f"{kind} image ({error})") from None


def contingency(object_map: np.ndarray, class_map: np.ndarray) -> np.ndarray:
    """Pixel counts [256, 256]: row = value in the object map, column = value in the class map."""
    pairs = object_map.astype(np.int64) * 256 + class_map
    return np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)


def read_files(devkit: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGB image, object map and class map of a sample, sizes checked. Raises BadSample."""
    image_path = devkit / "JPEGImages" / f"{name}.jpg"
    paths = [
        devkit / folder / f"{name}.png" for folder in ("SegmentationObject", "SegmentationClass")
    ]
    image = read_image(image_path, "RGB")
    maps = [read_image(path, "P") for path in paths]
    for path, pixels in zip(paths, maps, strict=True):
        if pixels.shape != image.shape[:2]:
            sizes = f"{pixels.shape[1]} x {pixels.shape[0]}", f"{image.shape[1]} x {image.shape[0]}"
            raise BadSample(
                path, "size mismatch", f"is {sizes[0]} pixels, but {image_path.name} is {sizes[1]}"
            )
    return image, *maps


def unknown_class(devkit: Path, value: int) -> str:
    """What to say of a pixel whose class value is that of no class."""
    classes = len(class_names(devkit))
    whose = f"those of {CLASS_FILE}" if (devkit / CLASS_FILE).is_file() else "VOC's"
    return f"has class value {value}, but {whose} are 0 to {classes} and {VOID} (other classes go into {devkit / CLASS_FILE})"


def read_sample(devkit: Path, name: str) -> Sample:
    """Read one sample; the class of an instance is the class map's value on its pixels. Raises BadSample."""
    image, object_map, class_map = read_files(devkit, name)
    counts, classes = contingency(object_map, class_map), len(class_names(devkit))
    path = devkit / "SegmentationClass" / f"{name}.png"
    unknown = np.flatnonzero(counts[:, classes + 1 : VOID].sum(0)) + classes + 1
    if len(unknown):
        raise BadSample(path, "unknown class", unknown_class(devkit, int(unknown[0])))
    ids = np.flatnonzero(counts[1:VOID].sum(1)) + 1
    known = counts[ids, 1 : classes + 1]
    labels = known.argmax(1) + 1
    judged = counts[ids, :VOID].sum(1)
    agreeing = counts[ids, labels]
    for object_id in ids[(agreeing < AGREEMENT * judged) | (agreeing == 0)]:
        raise BadSample(
            path, "contradiction", f"gives object {object_id} of SegmentationObject no single class"
        )
    with_class, orphans = (c[..., 1 : classes + 1].sum() for c in (counts, counts[[0, VOID]]))
    if orphans > (1 - AGREEMENT) * with_class:
        raise BadSample(
            path,
            "contradiction",
            f"has {orphans} pixels with a class that are no object's in SegmentationObject",
        )
    objects = torch.from_numpy(object_map)
    masks = (objects[None] == torch.from_numpy(ids.astype(np.uint8))[:, None, None]).to(torch.uint8)
    return Sample(
        name=name,
        image=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
        masks=masks,
        boxes=masks_to_boxes(masks),
        labels=torch.from_numpy(labels.astype(np.int64)),
        void=torch.from_numpy((object_map == VOID) | (class_map == VOID)),
    )


def fingerprint(devkit: Path) -> str:
    """A checksum of the train and val lists, their images and maps, and of classes that are not VOC's: tells data sets apart."""
    checksum = (
        zlib.crc32("\n".join(names).encode())
        if (names := class_names(devkit)) != CLASS_NAMES
        else 0
    )
    for name in (name for split in ("train", "val") for name in split_ids(devkit, split)):
        paths = (
            devkit / part / f"{name}{'.jpg' if part == 'JPEGImages' else '.png'}" for part in PARTS
        )
        for part in [name.encode(), *(path.read_bytes() for path in paths if path.is_file())]:
            checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"


class VocDataset(torch.utils.data.Dataset):
    """A split of a devkit as `(image, target)` pairs of tv_tensors.

    image: uint8 [3, H, W]. target: boxes float [n, 4] (pixels), labels int64 [n] (from 1), masks uint8 [n, H, W],
    image_id (line number in the split list, from 1), name, bad_samples (list of str: bad samples passed over).

    With `skip_bad`, a bad sample is replaced by the next good one of the list and named in `bad_samples`; without it,
    reading one raises BadSample.
    """

    def __init__(
        self,
        devkit: str | Path,
        split: str,
        transform: Callable | None = None,
        skip_bad: bool = False,
    ):
        self.devkit = find_devkit(devkit)
        self.split = split
        self.names = split_ids(self.devkit, split)
        self.class_names = class_names(self.devkit)
        self.transform = transform
        self.skip_bad = skip_bad
        if not self.names:
            raise ValueError(f"{self.devkit / 'ImageSets/Segmentation' / split}.txt lists no image")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        bad_samples = []
        for step in range(len(self)):
            index_read = (index + step) % len(self)
            try:
                sample = read_sample(self.devkit, self.names[index_read])
                break
            except BadSample as bad:
                if not self.skip_bad:
                    raise
                bad_samples.append(bad.said_within(self.devkit))
        else:
            path = self.devkit / "ImageSets" / "Segmentation" / f"{self.split}.txt"
            raise BadSample(
                path,
                "no readable sample",
                f"not one of its samples can be read; first: {bad_samples[0]}",
            )
        size = sample.image.shape[1:]
        target = {
            "boxes": tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=size),
            "labels": sample.labels,
            "masks": tv_tensors.Mask(sample.masks),
            "image_id": index_read + 1,
            "name": sample.name,
            "bad_samples": bad_samples,
        }
        image = tv_tensors.Image(sample.image)
        return self.transform(image, target) if self.transform else (image, target)
