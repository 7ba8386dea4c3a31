"""COCO annotations to a devkit, and a devkit to COCO ground truth."""

from collections.abc import Collection
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from vocseg_lib.data import voc
from vocseg_lib.data.classes import VOID, save_map
from vocseg_lib.data.coco import CONTENT, read_coco
from vocseg_lib.data.coco_cleaning import BadAnnotation, CleaningReport, first_of
from vocseg_lib.data.coco_import.dataset import CocoData, check_images, clean_files
from vocseg_lib.data.coco_import.images import CocoFile, CocoImage, read_coco_files
from vocseg_lib.data.coco_validation import validate_ground_truth
from vocseg_lib.data.image_files import BadFile, Picture, orient, read_picture
from vocseg_lib.utils.distributed import rank
from vocseg_lib.utils.files import file_checksum, is_current, read_record, rebuild_folder
from vocseg_lib.utils.rle import encode_rle, paint_masks

COCO_RECORD = "from_coco.json"  # file in a devkit: what it was made from, report, written files
IMPORT_VERSION = 2  # of the rules: an import by others is written again
VAL_EVERY = 5  # without annotations for val, every fifth image is held out
TOO_FEW = f"has too few usable images for train and val: {VAL_EVERY}, or a file for val, are needed"
JPEG_START = b"\xff\xd8\xff"


def coco_to_voc(
    annotations: str | Path,
    out: str | Path,
    val: str | Path = "",
    images: str | Path = "",
    crowds_as_objects: bool = False,
) -> Path:
    """Write COCO instance annotations and their images as a devkit with class names in `out`.

    `val`: annotations for val; default: see `find_val_file`, without one every fifth image is held
    out. `images`: the folder of the `file_name`s; default: see `PictureFinder`. Where masks
    overlap, the smaller object is in front; crowds become void. Unusable images are skipped, up to
    5 %. Prints a report. A devkit of the same files is reused.

    Raises FileNotFoundError, ValueError, and FileExistsError when `out` holds other files.
    """
    out, files = Path(out), read_coco_files(annotations, val, images)
    record = read_record(out / COCO_RECORD)
    known = _recorded_sources(record)
    sources = _sources(files, crowds_as_objects, known)
    if not is_current(out, COCO_RECORD, {}) or _contents(sources) != _contents(known):
        record = {"sources": sources}
        with rebuild_folder(out, COCO_RECORD, record) as folder:
            if folder:
                data = clean_files(files, crowds_as_objects)
                voc.make_devkit_folders(folder)
                _convert(data, folder)
                record["report"] = _write_lists(data, folder)
        record = read_record(out / COCO_RECORD)
    if rank() == 0 and isinstance(record.get("report"), list):
        print(*record["report"], sep="\n")
    return out


def _recorded_sources(record: dict) -> dict:
    """What `_sources` returned for a devkit, by its record; empty if that is damaged."""
    sources = record.get("sources")
    pictures = sources.get("pictures") if isinstance(sources, dict) else None
    is_whole = isinstance(pictures, list) and all(
        isinstance(p, list) and [*map(type, p)] == [str, str, str] for p in pictures
    )
    return sources if is_whole else {}


def verify_coco(
    annotations: str | Path, val: str | Path = "", images: str | Path = ""
) -> tuple[list[BadFile | BadAnnotation], list[str]]:
    """Problems that an import would meet, and its notes. Raises FileNotFoundError, ValueError."""
    found, notes = [], []
    try:
        files = read_coco_files(annotations, val, images)
    except FileNotFoundError as error:
        _, report = read_coco(Path(annotations))
        return [BadFile(annotations, "missing images", str(error)), *_odd(annotations, report)], []
    try:
        data = clean_files(files, max_bad_images=1.0)
    except ValueError as error:
        found.append(BadFile(str(error), "unusable annotations"))
    else:
        _convert(data)
        notes = data.notes
        for file, report in zip(files, data.reports, strict=True):
            notes += [f"category {c['name']!r} is left out: {why}" for c, why in report.left_out]
            found += _odd(file.path, report)
        found += data.hidden
        if len(files) == 1 and len(data.annotations) < VAL_EVERY:
            notes.append(f"{annotations} {TOO_FEW}")
    for image in chain(*(file.images for file in files)):
        if image.problem:
            found.append(image.problem)
        if image.misfit:
            found.append(BadFile(image.source, "other size", image.misfit))
        if image.ambiguous:
            reason = f"EXIF orientation {image.orientation}: nothing tells if masks have it, too"
            found.append(BadFile(image.source, "ambiguous orientation", reason))
    return found, notes


def _odd(path: str | Path, report: CleaningReport) -> list[BadFile]:
    """What is odd in the annotations of a file; that crowds become void is not."""
    notes = [note for note in report.notes if not note.endswith("become void")]
    found = [BadFile(path, bad.kind, str(bad)) for bad in report.passed_over]
    found += [BadFile(path, "odd annotations", note) for note in notes]
    if not report.objects:
        found.append(BadFile(path, "no object", "has no object to learn from or to evaluate"))
    return found


def _sources(files: list[CocoFile], crowds_as_objects: bool, known: dict) -> dict:
    """Names and checksums of all files; pictures of known size and time are not read again."""
    checksums = {(p, time, c.split(":")[0]): c for p, time, c in known.get("pictures", ())}
    pictures = []
    for image in chain(*(file.images for file in files)):
        path, time, checksum = image.source.absolute(), "", "missing"
        if path.is_file():
            stat = path.stat()
            time = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"  # changed, or replaced by an old one
            checksum = checksums.get((str(path), time, str(stat.st_size))) or file_checksum(path)
        pictures.append([str(path), time, checksum])
    return {
        "version": IMPORT_VERSION,
        "crowds_as_objects": crowds_as_objects,
        "annotations": [[file.path.name, file_checksum(file.path)] for file in files],
        "pictures": pictures,
    }


def _contents(sources: dict) -> dict:
    """What decides whether a devkit is up to date: contents, not paths and times of pictures."""
    return sources | {"pictures": [picture[-1] for picture in sources.get("pictures", [])]}


def _convert(data: CocoData, folder: Path | None = None) -> None:
    """Decode each picture and paint its maps; write them to `folder`, if given."""
    for image, annotations in tqdm(data.annotations.items(), "import", unit="image"):
        objects = [a for a in annotations if not a["iscrowd"]]
        crowds = [a["segmentation"] for a in annotations if a["iscrowd"]]
        try:
            if len(objects) >= VOID:
                raise BadFile(image.source, "too many objects", f"has more than {VOID - 1} objects")
            pixels = read_picture(image.source)
            maps = paint_maps(image.sizes[image.frame], objects, data.void[image] + crowds)
            if folder:
                _write_sample(image, pixels, maps, voc.paths_to_write(folder, image.name))
        except BadFile as bad:
            image.problem = bad
            continue
        pixel_counts = Image.fromarray(maps[0]).histogram()[1 : len(objects) + 1]
        hidden = [a["listed_id"] for a, n in zip(objects, pixel_counts, strict=True) if not n]
        why = image.entry["file_name"], "hidden", "smaller objects cover all of it"
        data.hidden += [BadAnnotation(listed_id, *why) for listed_id in hidden]
        data.written += len(objects) - len(hidden)
        data.crowds += len(crowds)


def paint_maps(
    size: tuple[int, int], objects: list[dict], void: list[dict]
) -> UInt8[np.ndarray, "2 h w"]:
    """Object map and class map. Void is behind the objects, of which the smallest is in front."""
    height, width = size
    layers = [(number, a["segmentation"]) for number, a in enumerate(objects, 1)]
    layers.sort(key=lambda layer: coco_mask.area(layer[1]), reverse=True)
    columns = np.zeros(height * width, dtype=np.uint8)  # column by column, as the codes are
    layers = [*((VOID, rle) for rle in void), *layers]
    paint_masks(columns, [rle for _, rle in layers], [number for number, _ in layers])
    labels = bytearray(range(256))  # void stays
    labels[1 : len(objects) + 1] = bytes(a["label"] for a in objects)
    class_columns = np.frombuffer(columns.tobytes().translate(labels), np.uint8)
    return np.stack([values.reshape(width, height).T for values in (columns, class_columns)])


def _write_sample(image: CocoImage, pixels: Picture, maps: np.ndarray, targets: list[Path]) -> None:
    """Write a picture, as a JPEG without EXIF orientation, and its maps, turned as it is shown."""
    (jpeg, *map_paths), content = targets, image.source.read_bytes()
    if image.orientation == 1 and content.startswith(JPEG_START):
        jpeg.write_bytes(content)
    else:
        Image.fromarray(pixels).save(jpeg, quality=95)
    for path, values in zip(map_paths, maps, strict=True):
        save_map(path, np.ascontiguousarray(orient(values, image.turn)))


def _write_lists(data: CocoData, folder: Path) -> list[str]:
    """Write class names and split lists; the import's report. Raises ValueError without any val."""
    bad, path = check_images(data.files), data.files[-1].path
    train, *others = ([image.name for image in file.usable_images] for file in data.files)
    if others:
        (val,), origin = others, f" of {_with_folder(path)}"
    else:
        beside = [p.name for p in sorted(path.parent.glob("*.json")) if p.name != path.name][:5]
        origin = f", every {VAL_EVERY}th image of {path.name}, as no file is named like it for val"
        origin += f" (beside it: {', '.join(beside)}; give one as --val to use it)" * bool(beside)
        val = train[VAL_EVERY - 1 :: VAL_EVERY]
        del train[VAL_EVERY - 1 :: VAL_EVERY]
    if not (train and val):
        raise ValueError(f"{data.files[0].path} {TOO_FEW}")
    voc.write_splits(folder, train, val)
    lines = "".join(f"{name}\n" for name in data.class_names)
    (folder / voc.CLASS_FILE).write_text(lines, encoding="utf-8")
    counts = {
        "objects written": data.written,
        "crowds made void": data.crowds,
        "listed twice": sum(report.duplicates for report in data.reports),
        "passed over": sum(len(report.passed_over) for report in data.reports),
        "hidden by smaller objects": len(data.hidden),
    }
    total = sum(len(file.content["annotations"]) for file in data.files)
    counts["of unusable images"] = total - sum(counts.values())
    listed = [f"{n} {what}" for what, n in counts.items() if n]
    classes = f"{len(data.class_names)} classes: {', '.join(data.class_names)}"
    return [
        *bad,
        *data.notes,
        *(
            f"{_with_folder(file.path)}: {line}" if others else line
            for file, report in zip(data.files, data.reports, strict=True)
            for line in report.lines
        ),
        *first_of(data.hidden),
        f"{len(train) + len(val)} images, {classes}",
        f"{total} annotations: {', '.join(listed) or 'nothing to learn from'}",
        f"val: {len(val)} images{origin}",
    ]


def _with_folder(path: Path) -> str:
    return f"{path.absolute().parent.name}/{path.name}"


def voc_to_coco(
    devkit: str | Path, split: str, skip_bad: bool = False, image_ids: Collection[int] = ()
) -> dict:
    """A split as COCO ground truth: image ids from 1 in list order, annotation ids from 1.

    `image_ids`: of these images alone.

    `area` is the mask's. Void pixels belong to no instance; an image with some has their mask as
    `void`. Raises BadFile, or with `skip_bad` lists bad samples in `info`.
    """
    dataset, images, annotations, bad_samples = voc.VocDataset(devkit, split), [], [], []
    pictures = dataset.devkit / "JPEGImages"
    for image_id in sorted(image_ids) or range(1, len(dataset) + 1):
        name = dataset.names[image_id - 1]
        try:
            sample = voc.read_sample(dataset.devkit, name)
        except BadFile as bad:
            if not skip_bad:
                raise
            bad_samples.append(f"{bad.path.relative_to(dataset.devkit)}: {bad.reason}")
            continue
        height, width = sample.void.shape
        picture = voc.sample_paths(dataset.devkit, name)[0]
        image = {"id": image_id, "file_name": picture.relative_to(pictures).as_posix()}
        image |= {"height": height, "width": width, CONTENT: file_checksum(picture)}
        void = {"void": encode_rle(sample.void[None])[0]} if sample.void.any() else {}
        images.append(image | void)
        for label, rle in zip(sample.labels.tolist(), sample.rles, strict=True):
            annotations.append({"image_id": image_id, "category_id": label, "segmentation": rle})
    info = {"devkit": dataset.devkit.name, "split": split}
    info |= {"bad_samples": bad_samples} if bad_samples else {}
    categories = [{"id": k, "name": n} for k, n in enumerate(dataset.class_names, 1)]
    lists = {"images": images, "annotations": annotations, "categories": categories}
    try:
        return validate_ground_truth({"info": info, **lists})
    except ValueError as error:
        raise ValueError(f"{split} of {dataset.devkit}: {error}") from None
