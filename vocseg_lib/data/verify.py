"""Walk a devkit and report every file that training or evaluation would fail on."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from vocseg_lib.data import voc
from vocseg_lib.data.classes import VOID

FILE_ENDS = {".jpg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class Problem:
    """What is wrong with which file."""

    kind: str
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


def verify(devkit: str | Path, splits: list[str] | None = None) -> list[Problem]:
    """Every problem of the splits (default: train, val and any trainval), in list order.

    Missing, truncated and undecodable files, sizes that differ, maps that contradict each other in
    any pixel, images without an instance, unknown class values, ids without files, ids listed twice
    or in both train and val. Raises FileNotFoundError when `devkit` is not a devkit.
    """
    devkit = voc.find_devkit(devkit)
    lists = devkit / "ImageSets" / "Segmentation"
    if splits is None:
        splits = ["train", "val"] + ["trainval"] * (lists / "trainval.txt").is_file()
    problems, ids = [], {}
    for split in splits:
        path = lists / f"{split}.txt"
        try:
            ids[split] = voc.split_ids(devkit, split)
        except FileNotFoundError as error:
            problems.append(Problem("missing split list", path, str(error)))
            continue
        if not ids[split]:
            problems.append(Problem("empty split list", path, "lists no image"))
        for name, count in Counter(ids[split]).items():
            if count > 1:
                problems.append(Problem("duplicate id", path, f"{name} is listed {count} times"))
    for name in sorted({*ids.get("train", [])} & {*ids.get("val", [])}):
        problems.append(Problem("id in train and val", lists / "val.txt", f"{name} is in both"))
    names = dict.fromkeys(name for split in ids.values() for name in split)
    for name in tqdm(names, desc="verify", unit="image"):
        problems += _verify_sample(devkit, name)
    return problems


def _verify_sample(devkit: Path, name: str) -> list[Problem]:
    """All problems of one sample."""
    paths = voc.sample_paths(devkit, name)
    if not any(path.exists() for path in paths.values()):
        detail = f"{name} is in a split list, but has no file"
        return [Problem("id without files", paths["JPEGImages"], detail)]
    problems, pixels = [], {}
    for folder, path in paths.items():
        try:
            pixels[folder] = voc.read_image(path, "RGB" if folder == "JPEGImages" else "P")
            _check_whole(path)
        except voc.BadSample as bad:
            problems.append(Problem(bad.kind, bad.path, bad.reason))
    sizes = {folder: values.shape[:2] for folder, values in pixels.items()}
    first = next(iter(sizes), None)
    for folder, size in sizes.items():
        if size != sizes[first]:
            detail = f"(height, width) is {size}, but {sizes[first]} in {first}"
            problems.append(Problem("size mismatch", paths[folder], detail))
    maps = [pixels[folder] for folder in list(voc.FOLDERS)[1:] if folder in pixels]
    if len(maps) == 2 and maps[0].shape == maps[1].shape:
        for kind, folder, detail in _compare_maps(*maps, voc.class_names(devkit)):
            problems.append(Problem(kind, paths[folder], detail))
    return problems


def _check_whole(path: Path) -> None:
    """Raise BadSample for damage that a decoder forgives: wrong checksums, a missing file end."""
    if FILE_ENDS[path.suffix] not in path.read_bytes()[-4096:]:
        raise voc.BadSample(path, "truncated", "the end of the image is missing")
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise voc.BadSample(path, "undecodable", f"damaged image ({error})") from None


def _compare_maps(
    object_map: np.ndarray, class_map: np.ndarray, names: tuple[str, ...]
) -> list[tuple[str, str, str]]:
    """(kind, folder, detail) of each disagreement between the two maps."""
    counts = voc.contingency(object_map, class_map)
    known = slice(1, len(names) + 1)
    problems = []
    for value in np.flatnonzero(counts[:, len(names) + 1 : VOID].sum(0)) + len(names) + 1:
        detail = f"class value {value}, {counts[:, value].sum()} pixels"
        problems.append(("unknown class", "SegmentationClass", detail))
    objects = np.flatnonzero(counts[1:VOID].sum(1)) + 1
    if not len(objects):
        problems.append(("no instance", "SegmentationObject", "has no object"))
    for k in objects:
        label = counts[k, known].argmax() + 1
        agreeing, pixels = counts[k, label], counts[k].sum()
        if agreeing < pixels:
            detail = f"object {k} has no class in SegmentationClass"
            if agreeing:
                detail = f"object {k}: {pixels - agreeing} pixels are not {names[label - 1]}"
            problems.append(("contradiction", "SegmentationObject", detail))
    if orphans := counts[[0, VOID], known].sum():
        detail = f"{orphans} pixels have a class, but no object"
        problems.append(("contradiction", "SegmentationClass", detail))
    return problems
