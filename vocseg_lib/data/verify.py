"""Walk a devkit and report every file that training or evaluation would fail on."""

import glob
import re
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from vocseg_lib.data import voc
from vocseg_lib.data.classes import LABELMAP, VOID, class_colors, class_files, class_names
from vocseg_lib.data.image_files import (
    DECODING_ERRORS,
    BadFile,
    Picture,
    orient,
    read_map,
)
from vocseg_lib.data.sample import read_object_sides
from vocseg_lib.data.transforms import MIN_MASK_SIDE

PNG_END = b"IEND\xaeB`\x82"
JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # but for restarts, inside of scans


def verify(devkit: str | Path, splits: list[str] | None = None) -> list[BadFile]:
    """The bad files of the splits (default: train, val and any trainval), in list order.

    Missing, truncated and undecodable files, sizes that differ, maps that contradict each other in
    any pixel, images without an instance, unknown class values, class maps read by color although
    they have a palette, ids without files, ids listed twice or in both train and val; no object to
    learn from. Raises FileNotFoundError when `devkit` is not a devkit, ValueError for bad lists.
    """
    devkit = voc.find_devkit(devkit)
    lists = devkit / "ImageSets" / "Segmentation"
    existing = sorted(path.stem for path in lists.glob("*.txt"))
    if splits is None:
        splits = ["train", "val"] + ["trainval"] * ("trainval" in existing)
        # Lists of other names, as CVAT's default.txt, are checked where they are all that is there.
        splits += [] if set(splits) & set(existing) else existing
    elif not set(splits) & set(existing):
        voc.split_ids(devkit, splits[0])
    class_colors(devkit)  # raises ValueError for bad lists of classes and colors
    problems, listed = [], {"train": Counter(), "val": Counter()}
    for split in splits:
        path = lists / f"{split}.txt"
        listed[split] = Counter(voc.split_ids(devkit, split) if path.is_file() else [])
        if not listed[split]:
            reason = f"is missing or lists no image (lists here: {', '.join(existing) or 'none'};"
            reason += " train.txt and val.txt are needed to train: one image name per line)"
            problems.append(BadFile(path, "missing split list", reason))
        for name, count in listed[split].items():
            if count > 1:
                problems.append(BadFile(path, "duplicate id", f"{name} is listed {count} times"))
    for name in sorted(listed["train"] & listed["val"]):
        problems.append(BadFile(lists / "val.txt", "id in train and val", f"{name} is in both"))
    names = dict.fromkeys(chain(*listed.values()))
    for name, paths in voc.pictures_by_name(devkit).items():
        if name in names and len(paths) > 1:
            used = voc.sample_paths(devkit, name)[0]
            others = ", ".join(path.name for path in paths if path != used)
            problems.append(BadFile(used, "two pictures", f"is used, not {others}: remove one"))
    for name in tqdm(names, desc="verify", unit="image"):
        problems += _verify_sample(devkit, name)
    if listed["train"] and not any(_can_be_learned(devkit, name) for name in listed["train"]):
        reason = f"has no object of at least {MIN_MASK_SIDE} pixels in height and width"
        problems.append(BadFile(lists / "train.txt", "nothing to learn", reason))
    return problems


def _can_be_learned(devkit: Path, name: str) -> bool:
    """Whether a sample has an object that augmentation keeps."""
    try:
        _, sides = read_object_sides(voc.sample_paths(devkit, name)[1])
    except BadFile:
        return False
    return bool((sides >= MIN_MASK_SIDE).all(1).any())


def _verify_sample(devkit: Path, name: str) -> list[BadFile]:
    """Its files that cannot be decoded or, without any, all that contradict each other."""
    paths = voc.sample_paths(devkit, name)
    if not any(path.exists() for path in paths):
        reason = f"{name} is in a split list, but has no file"
        return [BadFile(paths[0], "id without files", reason)]
    problems, files = [], []
    for path, read in zip(paths, voc.readers(devkit), strict=True):
        try:
            files.append(read(path))
            # Damage that a decoder forgives: a missing file end, wrong checksums.
            with Image.open(path) as image:
                if not _has_end(path.read_bytes(), image.format):
                    raise BadFile(path, "truncated", "the end of the image is missing")
                image.verify()
        except BadFile as bad:
            problems.append(_with_neighbors(bad))
        except DECODING_ERRORS as error:
            problems.append(BadFile(path, "undecodable", f"damaged image ({error})"))
    if problems:
        return problems
    shown, classes = voc.turn_maps(devkit, *files), len(class_names(devkit))
    ids, _, problems = voc.compare_files(paths, shown, classes, strict=True)
    if not problems and not len(ids):
        problems = [BadFile(paths[1], "no instance", "has no object")]
    problems += _check_palette(devkit, paths[2], files[2])
    return _check_orientation(devkit, paths[0], *files) + problems


def _with_neighbors(bad: BadFile) -> BadFile:
    """A missing file's problem, with the files of its name that have another ending."""
    others = sorted(bad.path.parent.glob(f"{glob.escape(bad.path.stem)}.*"))
    if bad.kind != "missing" or not others:
        return bad
    endings = " ".join(voc.DEVKIT_ENDINGS if bad.path.suffix == ".jpg" else [".png"])
    found = ", ".join(path.name for path in others)
    return replace(bad, reason=f"{bad.reason}; {found} is there: expected one of {endings}")


def _check_palette(devkit: Path, path: Path, values: np.ndarray) -> list[BadFile]:
    """Report a palette with VOC's colors at other numbers, and the classes that are read."""
    stored = read_map(path)
    if not stored.is_palette or LABELMAP in class_files(devkit) or (stored.values == values).all():
        return []
    pairs = np.unique(np.stack([stored.values, values]).reshape(2, -1), axis=1).T.tolist()
    names = {0: "background", VOID: "void", **dict(enumerate(class_names(devkit), 1))}
    listed = ", ".join(f"{number} is {names[value]}" for number, value in pairs)
    reason = f"its palette has the colors of other numbers; it is read by color: {listed}"
    return [BadFile(path, "palette", reason)]


def _check_orientation(
    devkit: Path, path: Path, picture: tuple[Picture, int], *maps: np.ndarray
) -> list[BadFile]:
    """Report an EXIF orientation that the size of the maps does not decide."""
    pixels, orientation = picture
    sizes = {pixels.shape[:2], orient(pixels, orientation).shape[:2], *(m.shape for m in maps)}
    if orientation == 1 or len(sizes) > 1:
        return []
    state = "stored" if voc.maps_are_stored(devkit) else "shown"
    reason = f"has EXIF orientation {orientation} at the same size: its maps are taken as of the"
    return [BadFile(path, "ambiguous orientation", f"{reason} picture as it is {state}")]


def _has_end(data: bytes, image_format: str) -> bool:
    """Whether a PNG or JPEG has the end of its (first) picture; decoders need that of others."""
    if image_format not in ("JPEG", "MPO"):
        return image_format != "PNG" or PNG_END in data
    position = 2
    while marker := JPEG_MARKER.search(data, position):
        if marker[1] == b"\xd9":
            return True
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return False
