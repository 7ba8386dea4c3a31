"""Images of a COCO data set: their pictures, names in a devkit, and which way they are turned."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath

from vocseg_lib.data.coco_import.files import PictureFinder, path_key
from vocseg_lib.data.coco_validation import check_lists
from vocseg_lib.data.image_files import BadFile, read_header, without_ending
from vocseg_lib.utils.files import read_json
from vocseg_lib.utils.rle import id_key, is_number, shorten, usable_polygons

HELD_OUT = "in train and val"  # an image of train that val lists, too: no damage
MAX_NAME_BYTES = 200  # of a sample; file systems allow 255 with suffixes
OVERHANG = 0.05  # share of a side by which polygons may leave their image


@dataclass(eq=False)
class CocoImage:
    """An image of a COCO file, its picture, and its name in a devkit."""

    entry: dict
    source: Path
    name: str
    masks: list  # segmentations of its annotations, as in the file
    problem: BadFile | None = None
    orientation: int = 1  # EXIF
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # (h, w): "shown", "stored"
    frame: str | None = None  # which of them its annotations are of
    misfit: str = ""  # how the size in the file contradicts its masks
    ambiguous: bool = False  # nothing decided that

    @property
    def turn(self) -> int:
        """The EXIF orientation by which its annotations have to be turned."""
        return self.orientation if self.frame == "stored" else 1


@dataclass(eq=False)
class CocoFile:
    """Parsed COCO annotations and their images."""

    path: Path
    content: dict
    images: list[CocoImage]
    notes: list[str] = field(default_factory=list)

    @property
    def usable(self) -> dict:
        """The content without images that have a problem, and their annotations."""
        bad = {
            id(image.entry): id_key(image.entry.get("id")) for image in self.images if image.problem
        }
        entries, annotations = self.content["images"], self.content["annotations"]
        dropped = {*bad.values()} - {
            id_key(entry.get("id"))
            for entry in entries
            if isinstance(entry, dict) and id(entry) not in bad
        }
        return self.content | {
            "images": [entry for entry in entries if id(entry) not in bad],
            "annotations": [
                a
                for a in annotations
                if not (isinstance(a, dict) and id_key(a.get("image_id")) in dropped)
            ],
        }


def read_coco_files(paths: list[Path], images: str | Path = "") -> list[CocoFile]:
    """Annotations of train and, if there are any, of val; pictures are found, but not opened.

    An image that a file lists twice is merged, one of val is left out of train.
    Raises FileNotFoundError, ValueError.
    """
    files = []
    for path in paths:
        content = read_json(path)
        try:
            check_lists(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        for index, entry in enumerate(content["annotations"]):
            if isinstance(entry, dict):  # validated ground truth counts from 1
                entry["listed_id"] = f"[{index}]" if entry.get("id") is None else entry["id"]
        files.append(CocoFile(path, content, _find_images(path, content, images)))
        _merge_repeated(files[-1])
    held_out = {image.source.resolve() for image in files[-1].images} if len(files) > 1 else ()
    for image in files[0].images:
        if image.source.resolve() in held_out and image.problem is None:
            reason = f"is also listed in {files[-1].path}: left out of train"
            image.problem = BadFile(image.source, HELD_OUT, reason)
    return files


def _merge_repeated(file: CocoFile) -> None:
    """Give the annotations of an image that is listed again to its first entry."""
    first, ids, kept = {}, {}, []
    for image in file.images:
        original = first.setdefault(image.source.resolve(), image)
        if original is image or image.problem:
            kept.append(image)
            continue
        if any(image.entry.get(side) != original.entry.get(side) for side in ("height", "width")):
            image.problem = BadFile(
                image.source, "size mismatch", "is listed again, of another size"
            )
            kept.append(image)
            continue
        ids[id_key(image.entry.get("id"))] = original.entry.get("id")
        original.masks += image.masks
        file.notes.append(f"{image.source} is listed again in {file.path.name}: merged")
    repeated = [id_key(image.entry.get("id")) for image in kept]
    ids = {key: value for key, value in ids.items() if key not in repeated}
    for entry in file.content["annotations"]:
        if isinstance(entry, dict) and id_key(entry.get("image_id")) in ids:
            entry["image_id"] = ids[id_key(entry["image_id"])]
    dropped = {id(image.entry) for image in file.images} - {id(image.entry) for image in kept}
    entries = file.content["images"]
    file.content["images"] = [entry for entry in entries if id(entry) not in dropped]
    file.images = kept


def _find_images(annotations: Path, content: dict, images: str | Path) -> list[CocoImage]:
    """The images of a COCO file, with their pictures. Raises ValueError, FileNotFoundError."""
    masks = defaultdict(list)
    for entry in content["annotations"]:
        if isinstance(entry, dict) and (mask := entry.get("segmentation")):
            masks[id_key(entry.get("image_id"))].append(mask)
    finder, found, by_source = PictureFinder(annotations, images), [], defaultdict(set)
    for index, entry in enumerate(content["images"]):
        file_name = entry.get("file_name") if isinstance(entry, dict) else None
        if is_number(file_name):
            file_name = entry["file_name"] = str(file_name)
        if not (isinstance(file_name, str) and file_name.strip()):
            problem = f"images[{index}] has no file_name: {shorten(entry)}"
            raise ValueError(f"{annotations}: {problem}")
        source, part = finder.find(file_name) or (Path(file_name), file_name)
        outside = part.startswith("/") or ".." in PurePosixPath(part).parts
        stem = without_ending(PurePosixPath(part).name if outside else part)
        name = "_".join(re.split(r"[\s/\\]+", stem.strip("/. ")))
        name = name.encode()[-MAX_NAME_BYTES:].decode(errors="ignore")
        found.append(CocoImage(entry, source, name, masks[id_key(entry.get("id"))]))
        if not source.is_file():
            found[-1].problem = BadFile(file_name, "missing", "file is missing")
        by_source[source].add(str(PurePosixPath(file_name)))
    for image in found:
        if image.problem is None and len(names := by_source[image.source]) > 1:
            reason = f"may be any of {', '.join(sorted(names)[:3])}: which one is not clear"
            image.problem = BadFile(image.source, "ambiguous file name", reason)
    if found and not any(image.source.is_file() for image in found):
        missing = f"{found[0].entry['file_name']} of {annotations} and all others"
        searched = ", ".join(map(str, finder.folders))
        raise FileNotFoundError(f"{missing} are in none of {searched}: pass the images' folder")
    return found


def name_samples(images: list[CocoImage]) -> list[str]:
    """Give a suffix to names that another image has, in any case; what was renamed."""
    taken, used, renamed = {path_key(image.name) for image in images}, set(), []
    for image in images:
        name, number = image.name, 1
        while path_key(name) in (taken if number > 1 else used):
            number += 1
            name = f"{image.name}_{number}"
        if number > 1:
            renamed.append(f"{image.source} is {name}")
        image.name = name
        taken.add(path_key(name))
        used.add(path_key(name))
    return renamed


def read_sizes(images: list[CocoImage]) -> None:
    """Read sizes and EXIF orientations; decide which way annotations are turned."""
    for image in images:
        try:
            stored, orientation = read_header(image.source)
        except BadFile as bad:
            image.problem = bad
            continue
        shown = stored[::-1] if orientation >= 5 else stored
        image.orientation, image.sizes = orientation, {"shown": shown}
        if orientation != 1:
            image.sizes["stored"] = stored
    _decide_frames([image for image in images if image.problem is None])


def _decide_frames(images: list[CocoImage]) -> None:
    """Decide whether annotations are of the picture as shown or as stored; set height and width.

    Run-length codes of one size decide; then the size in the file, unless polygons leave it in more
    images than they leave the other one. What is left follows the other images of the data set, or
    is as shown.
    """
    fitting, given, votes = {}, {}, defaultdict(Counter)
    for image in images:
        size = given[image] = tuple(_side(image.entry.get(key)) for key in ("height", "width"))
        fitting[image] = tuple(frame for frame, value in image.sizes.items() if value == size)
        by_masks = _frames_that_fit(image.sizes, image.masks)
        is_wrong = None not in size and not fitting[image]
        if is_wrong and (
            not by_masks
            or _frames_that_fit({"given": size}, image.masks)
            or any(_is_scaled(size, other) for other in image.sizes.values())
        ):
            reason = f"has (height, width) {image.sizes['shown']}, but {size} in its annotations"
            image.problem = BadFile(image.source, "size mismatch", reason)
        elif len(by_masks) == 1:
            votes[fitting[image]][by_masks[0]] += 1
            if any(isinstance(mask, dict) for mask in image.masks):
                (image.frame,) = by_masks
    images = [image for image in images if image.problem is None]
    counts = Counter(fitting.values())
    for image in images:
        frames = fitting[image]
        (winner, won), (_, lost) = (*votes[frames].most_common(2), (None, 0), (None, 0))[:2]
        if image.frame is None and won > lost and (won >= min(2, counts[frames]) or not frames):
            image.frame = winner
        elif image.frame is None and len(frames) == 1:
            (image.frame,) = frames
    turned = {image.frame for image in images if image.orientation != 1 and image.frame}
    for image in images:
        if image.frame is None:
            image.ambiguous = bool(image.masks) and image.orientation != 1
            image.frame = "stored" if turned == {"stored"} else "shown"
        shape = image.sizes[image.frame]
        if None not in given[image] and given[image] != shape:
            image.misfit = f"is {given[image]} (height, width) in the file, but masks fit {shape}"
        image.entry |= dict(zip(("height", "width"), shape, strict=True))


def _is_scaled(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a size (h, w) is another one in the same proportions, up to rounding."""
    (h, w), (other_h, other_w) = size, other
    return abs(h * other_w - w * other_h) <= max(other_h, other_w)


def _side(value: object) -> int | None:
    """Pixels of a side, or None without a usable number."""
    value = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    return int(value) if is_number(value) and value >= 1 else None


def _frames_that_fit(sizes: dict[str, tuple[int, int]], masks: list) -> list[str]:
    """The frames with the size (h, w) of all run-length codes, which no polygon leaves by far."""
    coded = {tuple(m["size"]) for m in masks if isinstance(m, dict) and _is_size(m.get("size"))}
    polygons = [*chain(*(usable_polygons(m) for m in masks))]
    reach = [max(filter(is_number, chain(*(p[k::2] for p in polygons))), default=0) for k in (1, 0)]
    return [
        frame
        for frame, size in sizes.items()
        if coded <= {size}
        and all(r <= s * (1 + OVERHANG) + 1 for r, s in zip(reach, size, strict=True))
    ]


def _is_size(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(is_number, value))
