"""Images of a COCO data set: their pictures, names in a devkit, and which way they are turned."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import chain, count
from os.path import realpath  # Path.resolve raises for links in a loop
from pathlib import Path, PurePosixPath

from vocseg_lib.data.coco_import.files import PictureFinder, find_val_file, path_key
from vocseg_lib.data.coco_validation import check_lists
from vocseg_lib.data.image_files import BadFile, check_pixels, read_header, without_ending
from vocseg_lib.utils.files import read_json
from vocseg_lib.utils.json_values import as_number, id_key, is_number, shorten
from vocseg_lib.utils.rle import usable_polygons

HELD_OUT = "in train and val"  # an image of train that val lists, too: no damage
MAX_NAME_BYTES = 200  # of a sample; file systems allow 255 with suffixes
MIN_VOTES = 0.2  # share of images whose polygons contradict the size in the file
OVERHANG = 0.05  # share of a side by which polygons may leave their image


@dataclass(eq=False)
class CocoImage:
    """An image of a COCO file, its picture, and its name in a devkit."""

    entry: dict
    id: str  # in the file, as text
    source: Path
    name: str
    masks: list  # segmentations of its annotations, as in the file
    problem: BadFile | None = None
    orientation: int = 1  # EXIF
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # (h, w): "shown", "stored"
    frame: str | None = None  # which of them its annotations are of
    misfit: str = ""  # how the size in the file contradicts its masks
    ambiguous: bool = False  # nothing decided that
    leaves: bool = False  # its masks fit only the other size

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
    def usable_images(self) -> list[CocoImage]:
        return [image for image in self.images if image.problem is None]

    @property
    def usable(self) -> dict:
        """The content without images that have a problem, and their annotations."""
        entries = [image.entry for image in self.usable_images]
        dropped = {i.id for i in self.images} - {i.id for i in self.usable_images}
        annotations = [a for a in self.content["annotations"] if _image_id(a) not in dropped]
        return self.content | {"images": entries, "annotations": annotations}


def read_coco_files(
    annotations: str | Path, val: str | Path = "", images: str | Path = ""
) -> list[CocoFile]:
    """Annotations of train and, if there are any, of val; pictures are found, but not opened.

    Default of `val`: see `find_val_file`, of `images`: see `PictureFinder`. An image that a file
    lists twice is merged, one of val is left out of train. Raises FileNotFoundError, ValueError.
    """
    files, paths = [], [Path(annotations)]
    if val or (beside := find_val_file(paths[0])):
        paths.append(Path(val or beside))
    for path in paths:
        content = read_json(path)
        try:
            check_lists(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        for index, entry in enumerate(content["annotations"]):
            if isinstance(entry, dict):  # validated ground truth counts from 1
                entry["listed_id"] = f"[{index}]" if entry.get("id") is None else entry["id"]
        try:  # a val that was found in another folder may have its pictures there
            is_apart = not val and path.absolute().parent != paths[0].absolute().parent
            found = _find_images(path, content, "" if is_apart else images)
        except FileNotFoundError:
            found = _find_images(path, content, images)
        files.append(CocoFile(path, content, found))
        _merge_repeated(files[-1])
    held_out = {realpath(image.source): image for file in files[1:] for image in file.images}
    for image in files[0].usable_images:
        other = held_out.get(realpath(image.source))
        names = [i.entry["file_name"].replace("\\", "/") for i in (image, other) if i]
        if len({*map(PurePosixPath, names)}) > 1:
            reason = f"may be {' or '.join(names)}, of train and val: which one is not clear"
            image.problem = other.problem = BadFile(image.source, "ambiguous file name", reason)
        elif other:
            reason = f"is also listed in {files[-1].path}: left out of train"
            image.problem = BadFile(image.source, HELD_OUT, reason)
    return files


def _merge_repeated(file: CocoFile) -> None:
    """Give the annotations of an image that is listed again to its first entry."""
    first, ids, kept = {}, {}, []
    for image in file.images:
        original = first.setdefault(realpath(image.source), image)
        sizes = _given_size(image), _given_size(original)
        if None not in chain(*sizes) and sizes[0] != sizes[1]:
            reason = "is listed again, of another size"
            image.problem = image.problem or BadFile(image.source, "size mismatch", reason)
        if original is image or image.problem:
            kept.append(image)
            continue
        ids[image.id] = original.entry.get("id")
        original.masks += image.masks
        file.notes.append(f"{image.source} is listed again in {file.path.name}: merged")
    for image in kept:
        ids.pop(image.id, None)
    for annotation in file.content["annotations"]:
        if (image_id := _image_id(annotation)) in ids:
            annotation["image_id"] = ids[image_id]
    file.content["images"], file.images = [image.entry for image in kept], kept


def _image_id(annotation: object) -> str | None:
    """The `image_id` of an annotation as text; None for what is not a list of fields."""
    return id_key(annotation.get("image_id")) if isinstance(annotation, dict) else None


def _find_images(annotations: Path, content: dict, images: str | Path) -> list[CocoImage]:
    """The images of a COCO file, with their pictures. Raises ValueError, FileNotFoundError."""
    masks = defaultdict(list)
    for entry in content["annotations"]:
        if isinstance(entry, dict) and (mask := entry.get("segmentation")):
            masks[_image_id(entry)].append(mask)
    finder, found, by_source = PictureFinder(annotations, images), [], defaultdict(set)
    for index, entry in enumerate(content["images"]):
        file_name = entry.get("file_name") if isinstance(entry, dict) else None
        if is_number(file_name):
            file_name = entry["file_name"] = str(file_name)
        if not (isinstance(file_name, str) and file_name.strip()):
            raise ValueError(f"{annotations}: images[{index}] has no file_name: {shorten(entry)}")
        if re.search("[\0\ud800-\udfff]", file_name):
            problem = f"images[{index}] has file_name {file_name!r}, which no file can have"
            raise ValueError(f"{annotations}: {problem}")
        source, part = finder.find(file_name) or (Path(file_name), file_name)
        outside = part.startswith("/") or ".." in PurePosixPath(part).parts
        stem = without_ending(PurePosixPath(part).name if outside else part)
        name = re.sub(r"[\s/\\]+", "_", stem.strip("/. "))
        name = name.encode()[-MAX_NAME_BYTES:].decode(errors="ignore")
        image_id = id_key(entry.get("id"))
        problem = None if source.is_file() else BadFile(file_name, "missing", "file is missing")
        found.append(CocoImage(entry, image_id, source, name, masks[image_id], problem))
        by_source[source].add(str(PurePosixPath(file_name)))
    if found and all(image.problem for image in found):
        missing = f"{found[0].entry['file_name']} of {annotations} and all others"
        searched = ", ".join(map(str, finder.folders)) or images
        raise FileNotFoundError(f"{missing} are in none of {searched}: pass the images' folder")
    for image in found:
        if image.problem is None and len(names := by_source[image.source]) > 1:
            reason = f"may be any of {', '.join(sorted(names)[:3])}: which one is not clear"
            image.problem = BadFile(image.source, "ambiguous file name", reason)
    return found


def name_samples(images: list[CocoImage]) -> list[str]:
    """Give a suffix to names that another image has, in any case; what was renamed."""
    taken, used, renamed = {path_key(image.name) for image in images}, set(), []
    for image in images:
        if path_key(image.name) in used:
            names = (f"{image.name}_{number}" for number in count(2))
            image.name = next(name for name in names if path_key(name) not in taken)
            renamed.append(f"{image.source} is {image.name}")
            taken.add(path_key(image.name))
        used.add(path_key(image.name))
    return renamed


def read_sizes(images: list[CocoImage]) -> None:
    """Decide whether annotations are of the picture as shown or as stored; set height and width.

    Run-length codes of one size decide; then polygons that fit only one of both, if they do in more
    images than for the other one, and in enough; then the size in the file. What is left follows
    the other images of the data set, or is as shown.
    """
    by_size, by_masks, votes, counts = {}, {}, defaultdict(Counter), Counter()
    for image in images:
        try:
            by_size[image], by_masks[image] = _read_size(image)
        except BadFile as bad:
            image.problem = bad
    contested = {image for image in by_size if len({*image.sizes.values()}) > 1}
    for image in contested:
        counts[by_size[image]] += 1
        votes[by_size[image]].update(by_masks[image])
    for image, frame in by_size.items():
        (winner, won), (_, lost) = [*votes[frame].most_common(2), (None, 0), (None, 0)][:2]
        enough = max(min(2, counts[frame]), MIN_VOTES * counts[frame])
        is_outvoted = image in contested and won > lost and won >= enough
        image.frame = image.frame or (winner if is_outvoted else frame)
    turned = {image.frame for image in by_size if image.orientation != 1 and image.frame}
    for image in by_size:
        if image.frame is None:
            image.ambiguous = bool(image.masks) and image.orientation != 1
            image.frame = "stored" if turned == {"stored"} else "shown"
        shape, given = image.sizes[image.frame], _given_size(image)
        image.leaves = image.frame not in (by_masks[image] or [image.frame])
        if None not in given and given != shape:
            image.misfit = f"is {given} (height, width) in the file, but masks fit {shape}"
        image.entry |= dict(zip(("height", "width"), shape, strict=True))


def _read_size(image: CocoImage) -> tuple[str | None, list[str]]:
    """Read the header; set the frame, if codes decide it; frames by the size in the file, by masks.

    None or empty where both are possible. Raises BadFile.
    """
    stored, image.orientation = read_header(image.source)
    check_pixels(image.source, stored)
    image.sizes = {"shown": stored[::-1] if image.orientation >= 5 else stored}
    if image.orientation != 1:
        image.sizes["stored"] = stored
    else:
        image.frame = "shown"
    given = _given_size(image)
    by_size = [frame for frame, size in image.sizes.items() if size == given]
    by_masks = [frame for frame, size in image.sizes.items() if _fits(size, image.masks)]
    is_wrong = None not in given and not by_size
    if is_wrong and (
        not by_masks
        or _fits(given, image.masks)
        or any(_is_scaled(given, size) for size in image.sizes.values())
    ):
        reason = f"has (height, width) {image.sizes['shown']}, but {given} in its annotations"
        raise BadFile(image.source, "size mismatch", reason)
    if len(by_masks) == 1 and any(isinstance(mask, dict) for mask in image.masks):
        (image.frame,) = by_masks
    return by_size[0] if len(by_size) == 1 else None, by_masks if len(by_masks) == 1 else []


def _is_scaled(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a size (h, w) is another one in the same proportions, up to rounding."""
    (h, w), (other_h, other_w) = size, other
    return abs(h * other_w - w * other_h) <= max(other_h, other_w)


def _given_size(image: CocoImage) -> tuple[int | None, int | None]:
    """Height and width of an image in the file; None without a usable number."""
    sides = [image.entry.get(key) for key in ("height", "width")]
    return tuple(int(s) if is_number(s) and s >= 1 else None for s in map(as_number, sides))


def _fits(size: tuple[int, int], masks: list) -> bool:
    """Whether a size (h, w) is that of all run-length codes, and no polygon leaves it by far."""
    given = (m.get("size") for m in masks if isinstance(m, dict))
    coded = {tuple(s) for s in given if isinstance(s, list | tuple) and all(map(is_number, s))}
    polygons = [*chain(*(usable_polygons(m) for m in masks))]
    reach = [max(filter(is_number, chain(*(p[k::2] for p in polygons))), default=0) for k in (1, 0)]
    inside = (r <= s * (1 + OVERHANG) + 1 for r, s in zip(reach, size, strict=True))
    return coded <= {size} and all(inside)
