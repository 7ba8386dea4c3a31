"""Read a VOC devkit: images, instance masks, boxes, labels, void (VOC 2012 devkit, sec. 3)."""

import glob
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision import tv_tensors

from vocseg_lib.data.classes import (
    CLASS_FILE,
    VOID,
    class_colors,
    class_names,
    read_class_map,
    read_lines,
    read_object_map,
)
from vocseg_lib.data.image_files import (
    BadFile,
    Picture,
    fit_as_stored,
    orient,
    read_header,
    read_picture,
    read_stored,
    without_ending,
)
from vocseg_lib.data.sample import Sample
from vocseg_lib.utils.boxes import masks_to_boxes
from vocseg_lib.utils.files import file_crc32

FOLDERS = {"JPEGImages": ".jpg", "SegmentationObject": ".png", "SegmentationClass": ".png"}
DEVKIT_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")  # in any case; the first one counts
DEVKIT_FOLDERS = (*FOLDERS, "ImageSets/Segmentation")
MIN_AGREEMENT = 0.95  # of an object's pixels with one class, and of those with an object


def paths_to_write(devkit: Path, name: str) -> list[Path]:
    """The files of a new sample: image, object map, class map."""
    return [devkit / folder / f"{name}{suffix}" for folder, suffix in FOLDERS.items()]


def sample_paths(devkit: Path, name: str) -> list[Path]:
    """The files of a sample, with the endings that they have: image, object map, class map."""
    picture, *maps = paths_to_write(devkit, name)
    return [_existing(picture, DEVKIT_ENDINGS), *(_existing(path, (".png",)) for path in maps)]


def _existing(path: Path, endings: tuple[str, ...]) -> Path:
    """The file `path` or, with another of the endings in any case, of its name; without: `path`."""
    if path.is_file():
        return path
    usual = [path.with_name(path.stem + e) for ending in endings for e in (ending, ending.upper())]
    if found := next((other for other in usual if other.is_file()), None):
        return found
    others = path.parent.glob(f"{glob.escape(path.stem)}.*")  # searches the folder
    found = [p for p in others if p.stem == path.stem and p.suffix.lower() in endings]
    return min(found, key=lambda p: endings.index(p.suffix.lower()), default=path)


def pictures_by_name(devkit: Path) -> dict[str, list[Path]]:
    """The pictures in JPEGImages and its subfolders by the name that a split list has."""
    folder, pictures = devkit / "JPEGImages", defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in DEVKIT_ENDINGS:
            pictures[path.relative_to(folder).as_posix().removesuffix(path.suffix)].append(path)
    return pictures


def is_devkit(folder: Path) -> bool:
    """Whether a folder has JPEGImages and both maps."""
    return all((folder / part).is_dir() for part in FOLDERS)


def find_devkit(folder: str | Path) -> Path:
    """`folder` itself, or the latest VOC* or VOCdevkit/VOC* in it. Raises FileNotFoundError."""
    folder = Path(folder)
    years = (sorted(folder.glob(p), reverse=True) for p in ("VOC20*", "VOCdevkit/VOC20*"))
    folders = [folder, *chain(*years)]
    if devkit := next(filter(is_devkit, folders), None):
        return devkit
    missing = {f: [part for part in FOLDERS if not (f / part).is_dir()] for f in folders}
    nearest = min(folders, key=lambda f: len(missing[f]))
    expected = f"expected {', '.join(FOLDERS)} in it or in VOCdevkit/VOC20*"
    if len(missing[nearest]) < len(FOLDERS):
        expected = f"{nearest} has no {' and no '.join(missing[nearest])}; {expected}"
    raise FileNotFoundError(f"{folder} is not a VOC devkit: {expected}")


def split_ids(devkit: Path, split: str) -> list[str]:
    """Image names of `ImageSets/Segmentation/<split>.txt`, in order. Raises FileNotFoundError."""
    lists = devkit / "ImageSets" / "Segmentation"
    path = lists / f"{split}.txt"
    if not path.is_file():
        splits = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        reason = f"is missing; splits in this devkit: {splits}"
        if split in ("train", "val"):
            reason += " (write train.txt and val.txt there, one image name per line)"
        raise FileNotFoundError(f"{path} {reason}")
    names = read_lines(path)
    if any(" " in name or name.lower().endswith(DEVKIT_ENDINGS) for name in names):
        pictures = pictures_by_name(devkit)
        names = [next((n for n in _meanings(name) if n in pictures), name) for name in names]
    return names


def _meanings(line: str) -> Iterator[str]:
    """The names that a line of a split list may mean: all of it, or less an ending, or a flag."""
    for name in (line, re.sub(r"\s+-?[01]$", "", line)):  # VOC's lists per class have flags
        yield from (name, without_ending(name))


def read_sample(devkit: Path, name: str) -> Sample:
    """Read a sample; an instance's class is the class map's on its pixels. Raises BadFile."""
    paths = sample_paths(devkit, name)
    stored = [read(path) for read, path in zip(readers(devkit), paths, strict=True)]
    files = image, object_map, class_map = turn_maps(devkit, *stored)
    ids, labels, problems = compare_files(paths, files, len(class_names(devkit)))
    if problems:
        raise problems[0]
    return Sample(
        name=name,
        path=paths[1],
        image=_to_tensor(image),
        object_map=object_map,
        ids=ids.astype(np.uint8),
        labels=torch.from_numpy(labels.astype(np.int64)),
        void=torch.from_numpy((object_map == VOID) | (class_map == VOID)),
    )


def readers(devkit: Path) -> tuple[Callable, ...]:
    """The functions that read the files of a sample: picture with orientation, maps."""
    return read_stored, read_object_map, partial(read_class_map, devkit=devkit)


def turn_maps(devkit: Path, picture: tuple[Picture, int], *maps: np.ndarray) -> list[np.ndarray]:
    """The picture as it is shown, and its maps, turned with it where they fit it as stored.

    Maps that fit both are turned if `maps_are_stored`.
    """
    pixels, orientation = picture
    if orientation == 1:
        return [pixels, *maps]
    shown, files = np.ascontiguousarray(orient(pixels, orientation)), []
    for values in maps:
        fits = values.shape == pixels.shape[:2]
        if fits and values.shape == shown.shape[:2]:
            fits = maps_are_stored(devkit)
        files.append(np.ascontiguousarray(orient(values, orientation)) if fits else values)
    return [shown, *files]


def maps_are_stored(devkit: Path) -> bool:
    """Whether the maps of pictures whose size EXIF changes all fit these as stored."""
    folders = (devkit / "JPEGImages", devkit / "SegmentationObject")
    return _maps_are_stored(devkit, *(folder.stat().st_mtime_ns for folder in folders))


@lru_cache
def _maps_are_stored(devkit: Path, *_times: int) -> bool:
    paths = (sample_paths(devkit, name) for name in pictures_by_name(devkit))
    return fit_as_stored(
        (path, lambda m=object_map: read_header(m)[0]) for path, object_map, _ in paths
    )


def _to_tensor(image: Picture) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def compare_files(
    paths: list[Path], files: list[np.ndarray], classes: int, strict: bool = False
) -> tuple[np.ndarray, np.ndarray, list[BadFile]]:
    """Objects (values in their map), their labels, and how the decoded files contradict each other.

    `strict`: in any pixel; otherwise in more than 5 % of the pixels of an object, void apart, or of
    the pixels with a class.
    """
    (image, *maps), problems, contradictions = files, [], []
    for path, values in zip(paths[1:], maps, strict=True):
        if values.shape != image.shape[:2]:
            reason = f"is {values.shape} (height, width), {paths[0].name} {image.shape[:2]}"
            problems.append(BadFile(path, "size mismatch", reason))
    if problems:
        return np.zeros(0), np.zeros(0), problems
    # Pixel counts by value in the object map (row) and in the class map (column).
    pairs = maps[0] * np.uint16(256) + maps[1]
    counts = np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)
    for value in np.flatnonzero(counts[:, classes + 1 : VOID].sum(0)) + classes + 1:
        reason = f"has class value {value}; expected 0 to {classes} or {VOID}"
        reason += f" (other classes: write {CLASS_FILE})"
        problems.append(BadFile(paths[2], "unknown class", reason))
    # Each object has the class of most of its pixels.
    known, ids = counts[:, 1 : classes + 1], np.flatnonzero(counts[1:VOID].sum(1)) + 1
    labels = known[ids].argmax(1) + 1
    agreeing, pixels = counts[ids, labels], counts[ids, : None if strict else VOID].sum(1)
    min_agreement = 1.0 if strict else MIN_AGREEMENT
    for k in np.flatnonzero((agreeing < min_agreement * pixels) | (agreeing == 0)):
        reason = f"has {pixels[k] - agreeing[k]} pixels of object {ids[k]} of another class or none"
        contradictions.append(BadFile(paths[1], "contradiction", reason))
    orphans = known[[0, VOID]].sum()
    if orphans > (1 - min_agreement) * known.sum():
        reason = f"has {orphans} pixels with a class and no object in SegmentationObject"
        contradictions.append(BadFile(paths[2], "contradiction", reason))
    return ids, labels, problems or contradictions


def make_devkit_folders(devkit: Path) -> None:
    """Make the empty folders of a new devkit."""
    for folder in DEVKIT_FOLDERS:
        (devkit / folder).mkdir(parents=True, exist_ok=True)


def write_splits(devkit: Path, train: list[str], val: list[str]) -> None:
    """Write the image names of train, val and trainval."""
    for split, names in (("train", train), ("val", val), ("trainval", train + val)):
        path = devkit / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def fingerprint(devkit: Path, splits: Sequence[str] = ("train", "val")) -> str:
    """A checksum of the lists of splits, their images and maps, class names and colors."""
    checksum = zlib.crc32(repr((class_names(devkit), class_colors(devkit))).encode())
    for split in splits:
        names = split_ids(devkit, split)
        checksum = zlib.crc32(f"{len(names)} images:\n".encode(), checksum)
        for name in names:
            for path in sample_paths(devkit, name):
                file = path.relative_to(devkit).as_posix()
                checksum = zlib.crc32(f"{file}\n".encode(), checksum)
                if path.is_file():
                    checksum = file_crc32(path, checksum)
    return f"{checksum:08x}"


class VocDataset(torch.utils.data.Dataset):
    """A split of a devkit as `(image, target)` pairs of tv_tensors.

    image: uint8 [3, h, w]. target: boxes float [n, 4] (xyxy pixels), labels int64 [n] (from 1),
    masks uint8 [n, h, w], image_id (index in the split list, from 1), name, bad_samples (list of
    str). Large pictures of many objects are shrunk: see `Sample.shrunk`. With `skip_bad`, a bad
    sample is replaced by the next good one and listed in `bad_samples`; without it or without a
    good one, BadFile is raised. Without `masks`, for prediction: pictures of full size, maps are
    not read, and targets have no boxes, labels and masks.
    """

    def __init__(
        self,
        devkit: str | Path,
        split: str,
        transform: Callable | None = None,
        skip_bad: bool = False,
        masks: bool = True,
    ):
        self.devkit, self.split = find_devkit(devkit), split
        self.names, self.class_names = split_ids(self.devkit, split), class_names(self.devkit)
        self.transform, self.skip_bad, self.masks = transform, skip_bad, masks
        if not self.names:
            raise ValueError(f"the split {split!r} of {self.devkit} lists no image")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")
        bad_samples = []
        for step in range(len(self)):
            position = (index + step) % len(self)
            try:
                image, target = self._read(self.names[position])
                break
            except BadFile as bad:
                if not self.skip_bad or step == len(self) - 1:
                    raise
                bad_samples.append(f"{bad.path.relative_to(self.devkit)}: {bad.reason}")
        target |= {"image_id": position + 1, "bad_samples": bad_samples}
        return self.transform(image, target) if self.transform else (image, target)

    def _read(self, name: str) -> tuple[Tensor, dict]:
        if not self.masks:
            image = read_picture(sample_paths(self.devkit, name)[0])
            return tv_tensors.Image(_to_tensor(image)), {"name": name}
        sample = read_sample(self.devkit, name).shrunk()
        masks, size = sample.masks, sample.image.shape[1:]
        boxes = tv_tensors.BoundingBoxes(masks_to_boxes(masks), format="XYXY", canvas_size=size)
        target = {"boxes": boxes, "labels": sample.labels, "masks": tv_tensors.Mask(masks)}
        return tv_tensors.Image(sample.image), {**target, "name": name}
