"""Walk a devkit and report every file that training or judging would stumble over."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from vocseg_lib.data.classes import VOID
from vocseg_lib.data.voc import (
    BadSample,
    class_names,
    contingency,
    find_devkit,
    read_image,
    split_ids,
)


@dataclass(frozen=True)
class Problem:
    """What is wrong with which file."""

    kind: str
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


def verify(devkit: str | Path, splits: list[str] | None = None) -> list[Problem]:
    """Every problem of the splits' samples, in list order; an empty list means that all is well.

    `splits` defaults to those of train, val and trainval that are there (train and val must be). Reports missing,
    truncated and undecodable files, sizes that differ, maps that contradict each other in any pixel (object without
    class, class without object), images without an instance, unknown class values, ids without files, ids listed twice,
    ids in both train and val.
    Raises FileNotFoundError when `devkit` is no devkit.
    """
    devkit = find_devkit(devkit)
    lists = devkit / "ImageSets" / "Segmentation"
    if splits is None:
        splits = ["train", "val"] + ["trainval"] * (lists / "trainval.txt").is_file()
    problems, ids = [], {}
    for split in splits:
        try:
            ids[split] = split_ids(devkit, split)
        except FileNotFoundError as error:
            problems.append(Problem("missing split list", lists / f"{split}.txt", str(error)))
            continue
        if not ids[split]:
            problems.append(Problem("empty split list", lists / f"{split}.txt", "lists no image"))
        for name, count in Counter(ids[split]).items():
            if count > 1:
                problems.append(
                    Problem(
                        "duplicate id", lists / f"{split}.txt", f"{name} is listed {count} times"
                    )
                )
    for name in sorted(set(ids.get("train", [])) & set(ids.get("val", []))):
        problems.append(
            Problem("id in train and val", lists / "val.txt", f"{name} is in train.txt too")
        )
    names = dict.fromkeys(name for split in ids.values() for name in split)
    for name in tqdm(names, desc="verify", unit="image"):
        problems += verify_sample(devkit, name)
    return problems


def verify_sample(devkit: Path, name: str) -> list[Problem]:
    """All problems of one sample."""
    folders = {"JPEGImages": ".jpg", "SegmentationObject": ".png", "SegmentationClass": ".png"}
    paths = {folder: devkit / folder / f"{name}{ending}" for folder, ending in folders.items()}
    if not any(path.exists() for path in paths.values()):
        return [
            Problem(
                "id without files",
                paths["JPEGImages"],
                f"{name} is in a split list, but has no file",
            )
        ]
    problems, pixels = [], {}
    for folder, path in paths.items():
        try:
            pixels[folder] = read_image(path, "RGB" if folder == "JPEGImages" else "P")
            _check_whole(path)
        except BadSample as bad:
            problems.append(Problem(bad.kind, bad.path, bad.reason))
    sizes = {folder: values.shape[:2] for folder, values in pixels.items()}
    reference = next(iter(sizes.items()), None)
    for folder, size in sizes.items():
        if size != reference[1]:
            detail = f"{size[1]} x {size[0]} pixels, but {reference[0]} has {reference[1][1]} x {reference[1][0]}"
            problems.append(Problem("size mismatch", paths[folder], detail))
    maps = [pixels.get("SegmentationObject"), pixels.get("SegmentationClass")]
    if all(m is not None for m in maps) and maps[0].shape == maps[1].shape:
        problems += [
            Problem(kind, paths[folder], text)
            for kind, folder, text in _check_maps(*maps, class_names(devkit))
        ]
    return problems


def _check_whole(path: Path) -> None:
    """Raise BadSample for damage that a decoder forgives: a PNG's checksums, a JPEG or PNG cut off at its very end."""
    end = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}[path.suffix]
    if end not in path.read_bytes()[-4096:]:
        raise BadSample(path, "truncated", "the end of the image is missing")
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise BadSample(path, "undecodable", f"damaged image ({error})") from None


def _check_maps(
    object_map: np.ndarray, class_map: np.ndarray, classes: tuple[str, ...]
) -> list[tuple[str, str, str]]:
    """(kind, folder, detail) of each disagreement between the two maps."""
    counts = contingency(object_map, class_map)
    known = slice(1, len(classes) + 1)
    found = []
    for value in np.flatnonzero(counts.sum(0)):
        if len(classes) < value < VOID:
            found.append(
                (
                    "unknown class",
                    "SegmentationClass",
                    f"class value {value}, {counts[:, value].sum()} pixels",
                )
            )
    objects = np.flatnonzero(counts[1:VOID].sum(1)) + 1
    if not len(objects):
        found.append(("no instance", "SegmentationObject", "has no object"))
    for k in objects:
        label = counts[k, known].argmax() + 1
        wrong = counts[k].sum() - counts[k, label]
        if wrong or not counts[k, label]:
            detail = f"object {k} covers {wrong} pixels that are not {classes[label - 1]} in SegmentationClass"
            if not counts[k, label]:
                detail = f"object {k} has no class in SegmentationClass"
            found.append(("contradiction", "SegmentationObject", detail))
    orphans = counts[[0, VOID], known].sum()
    if orphans:
        found.append(
            ("contradiction", "SegmentationClass", f"{orphans} pixels have a class, but no object")
        )
    return found
