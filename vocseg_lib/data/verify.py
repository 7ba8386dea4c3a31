"""Walk a devkit and report every file that training or evaluation would fail on."""

import re
from collections import Counter
from itertools import chain
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from vocseg_lib.data import voc
from vocseg_lib.data.image_files import BadFile

PNG_END = b"IEND\xaeB`\x82"
JPEG_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # but for restarts, inside of scans


def verify(devkit: str | Path, splits: list[str] | None = None) -> list[BadFile]:
    """The bad files of the splits (default: train, val and any trainval), in list order.

    Missing, truncated and undecodable files, sizes that differ, maps that contradict each other in
    any pixel, images without an instance, unknown class values, ids without files, ids listed twice
    or in both train and val. Raises FileNotFoundError when `devkit` is not a devkit.
    """
    devkit = voc.find_devkit(devkit)
    lists = devkit / "ImageSets" / "Segmentation"
    if splits is None:
        splits = ["train", "val"] + ["trainval"] * (lists / "trainval.txt").is_file()
    problems, listed = [], {"train": Counter(), "val": Counter()}
    for split in splits:
        path = lists / f"{split}.txt"
        listed[split] = Counter(voc.split_ids(devkit, split) if path.is_file() else [])
        if not listed[split]:
            problems.append(BadFile(path, "missing split list", "is missing or lists no image"))
        for name, count in listed[split].items():
            if count > 1:
                problems.append(BadFile(path, "duplicate id", f"{name} is listed {count} times"))
    for name in sorted(listed["train"] & listed["val"]):
        problems.append(BadFile(lists / "val.txt", "id in train and val", f"{name} is in both"))
    names = dict.fromkeys(chain(*listed.values()))
    for name in tqdm(names, desc="verify", unit="image"):
        problems += _verify_sample(devkit, name)
    return problems


def _verify_sample(devkit: Path, name: str) -> list[BadFile]:
    """Its files that cannot be decoded or, without any, all that contradict each other."""
    paths = voc.sample_paths(devkit, name)
    if not any(path.exists() for path in paths):
        reason = f"{name} is in a split list, but has no file"
        return [BadFile(paths[0], "id without files", reason)]
    problems, files = [], []
    for path, read in zip(paths, voc.READERS, strict=True):
        try:
            files.append(read(path))
            # Damage that a decoder forgives: a missing file end, wrong checksums.
            with Image.open(path) as image:
                if not _has_end(path.read_bytes(), image.format):
                    raise BadFile(path, "truncated", "the end of the image is missing")
                image.verify()
        except BadFile as bad:
            problems.append(bad)
        except (OSError, SyntaxError, ValueError) as error:
            problems.append(BadFile(path, "undecodable", f"damaged image ({error})"))
    if problems:
        return problems
    ids, _, problems = voc.compare_files(paths, files, len(voc.class_names(devkit)), strict=True)
    return problems if problems or len(ids) else [BadFile(paths[1], "no instance", "has no object")]


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
