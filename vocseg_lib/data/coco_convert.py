"""COCO annotations to a devkit, and a devkit to COCO ground truth."""

import shutil
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from tqdm import tqdm

from vocseg_lib.data.classes import VOID, save_map
from vocseg_lib.data.coco import validate_ground_truth
from vocseg_lib.data.voc import (
    CLASS_FILE,
    BadSample,
    VocDataset,
    make_folders,
    read_image,
    read_sample,
    write_splits,
)
from vocseg_lib.utils.files import read_json, reuse_or_clear
from vocseg_lib.utils.rle import encode_rle

COCO_STAMP_NAME = "from_coco.txt"  # file in a devkit with the files that it was made from
VAL_EVERY = 5  # without annotations for val, every fifth image is held out
MAX_BAD_FRACTION = 0.05  # of images


def coco_to_voc(
    annotations: str | Path,
    out: str | Path,
    val: str | Path | None = None,
    images: str | Path | None = None,
) -> Path:
    """Write COCO instance annotations and their images as a devkit with class names in `out`.

    `val`: annotations for val; default: the file named "val" or "valid" where this one is named
    "train", otherwise every fifth image is held out. `images`: the folder of the `file_name`s;
    default: see `find_images`. Where masks overlap, the smaller object is in front; crowds become
    void. Unusable images are reported and skipped, up to 5 %. An up-to-date devkit is reused.

    Raises FileNotFoundError, ValueError, and FileExistsError when `out` holds other data.
    """
    annotations, out = Path(annotations), Path(out)
    val = Path(val) if val else _find_val_file(annotations)
    contents = {file: _read_with_masks(file) for file in [annotations] + ([val] if val else [])}
    names = _class_names(contents[annotations], annotations)
    for file, content in contents.items():
        if _class_names(content, file) != names:
            raise ValueError(f"{file} has other categories than {annotations}")
    checksums = (f"{file.name}:{zlib.crc32(file.read_bytes()):08x}" for file in contents)
    stamp = f"{' '.join(checksums)} images={images or ''}\n"
    if reuse_or_clear(out / COCO_STAMP_NAME, stamp):
        return out
    make_folders(out)
    (out / CLASS_FILE).write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")
    written, bad = [], []
    for file, content in contents.items():
        folder = Path(images) if images else find_images(file, content)
        written.append(_write_images(content, folder, list(names), out, bad))
    if bad:
        total = sum(len(content["images"]) for content in contents.values())
        report = f"{len(bad)} of {total} images cannot be used:\n  " + "\n  ".join(bad)
        if len(bad) > MAX_BAD_FRACTION * total:
            shutil.rmtree(out)
            raise ValueError(f"{report}\nIs {folder} the folder of the images?")
        print(report)
    held_out = written[1] if val else written[0][VAL_EVERY - 1 :: VAL_EVERY]
    train = [name for name in written[0] if name not in set(held_out)]
    for split, members in (("train", train), ("val", held_out)):
        if not members:
            raise ValueError(f"{annotations} has no usable image for {split}: give more, or `val`")
    write_splits(out, train, held_out)
    (out / COCO_STAMP_NAME).write_text(stamp)
    return out


def find_images(annotations: Path, content: dict) -> Path:
    """The image folder of a COCO file: beside it or one above, there in `images/` or `<split>/`.

    Raises FileNotFoundError when the first image is in none of them.
    """
    split = annotations.stem.removeprefix("instances_")
    subfolders = ("", "images", split, f"images/{split}")
    folders = [base / sub for base in annotations.parents[:2] for sub in subfolders]
    first = content["images"][0]["file_name"]
    if folder := next((f for f in folders if (f / first).is_file()), None):
        return folder
    searched = ", ".join(map(str, folders))
    raise FileNotFoundError(f"{first} of {annotations} is in none of {searched}: pass its folder")


def _find_val_file(annotations: Path) -> Path | None:
    """The file, here or in a sibling folder, named "val" or "valid" instead of "train"."""
    folder, name = annotations.parent, annotations.name
    for word in ("val", "valid"):
        sibling = folder.with_name(folder.name.replace("train", word))
        for other in (folder / name.replace("train", word), sibling / name):
            if other != annotations and other.is_file():
                return other
    return None


def read_coco(file: Path) -> dict:
    """Validated COCO ground truth (`coco.validate_ground_truth`) of a file. Raises ValueError."""
    content = read_json(file)
    try:
        return validate_ground_truth(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _read_with_masks(file: Path) -> dict:
    """Ground truth with a mask for each annotation and a file name for each image."""
    content = read_coco(file)
    for index, image in enumerate(content["images"]):
        if not isinstance(image.get("file_name"), str):
            raise ValueError(f"{file}: images[{index}] has no file_name")
    if not all("segmentation" in annotation for annotation in content["annotations"]):
        raise ValueError(f"{file} has boxes without masks: each annotation needs a segmentation")
    return content


def _class_names(content: dict, file: Path) -> dict[int, str]:
    """Category id to name, in the order of ids: labels 1, 2, ..."""
    categories = sorted(content["categories"], key=lambda c: c["id"])
    names = {c["id"]: " ".join(c["name"].split()) for c in categories}
    if not 0 < len(names) < VOID:
        raise ValueError(f"{file} has {len(names)} categories; expected 1 to {VOID - 1}")
    return names


def _write_images(
    content: dict, folder: Path, category_ids: list[int], out: Path, bad: list[str]
) -> list[str]:
    """Write each image with its maps and return the names; unusable images are added to `bad`."""
    by_image, labels = defaultdict(list), {c: k for k, c in enumerate(category_ids, 1)}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    names = []
    for image in tqdm(content["images"], f"write {out.name}", unit="image"):
        file_name, size = image["file_name"], (image["height"], image["width"])
        name = "_".join(Path(file_name).with_suffix("").as_posix().replace("/", " ").split())
        target = out / "JPEGImages" / f"{name}.jpg"
        try:
            if target.exists():
                raise BadSample(file_name, "duplicate", "has the name of another image")
            annotations = by_image[image["id"]]
            if sum(not a["iscrowd"] for a in annotations) >= VOID:
                raise BadSample(file_name, "too many objects", f"has more than {VOID - 1} objects")
            _write_jpeg(folder / file_name, target, size)
        except BadSample as error:
            bad.append(str(error))
            continue
        object_map, class_map = _paint_maps(annotations, labels, size)
        save_map(out / "SegmentationObject" / f"{name}.png", object_map)
        save_map(out / "SegmentationClass" / f"{name}.png", class_map)
        names.append(name)
    return names


def _paint_maps(
    annotations: list[dict], labels: dict[int, int], size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h w"], UInt8[np.ndarray, "h w"]]:
    """Object map and class map: crowds as void, then objects, the smallest last."""
    object_map, class_map = np.zeros((2, *size), dtype=np.uint8)
    objects = []
    for annotation in annotations:
        mask = coco_mask.decode(annotation["segmentation"]) > 0
        if annotation["iscrowd"]:
            object_map[mask] = class_map[mask] = VOID
        else:
            objects.append((len(objects) + 1, labels[annotation["category_id"]], mask))
    for k, label, mask in sorted(objects, key=lambda item: -item[2].sum()):
        object_map[mask], class_map[mask] = k, label
    return object_map, class_map


def _write_jpeg(source: Path, target: Path, size: tuple[int, int]) -> None:
    """Copy a JPEG or convert to one; rotate it if only then it has `size`. Raises BadSample."""
    pixels = read_image(source, "RGB")
    rotated = pixels.shape[:2] != size
    if rotated:
        with Image.open(source) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if pixels.shape[:2] != size:
        reason = f"has (height, width) {pixels.shape[:2]}, but {size} in its annotations"
        raise BadSample(source, "size mismatch", reason)
    if rotated or source.suffix.lower() not in (".jpg", ".jpeg"):
        Image.fromarray(pixels).save(target, quality=95)
    else:
        shutil.copyfile(source, target)


def voc_to_coco(devkit: str | Path, split: str, skip_bad: bool = False) -> dict:
    """A split as COCO ground truth: image ids from 1 in list order, annotation ids from 1.

    `area` is the mask's. Void pixels belong to no instance; an image with some has their mask as
    `void`. Raises BadSample, or with `skip_bad` lists bad samples in `info`.
    """
    dataset = VocDataset(devkit, split)
    images, annotations, bad_samples = [], [], []
    for image_id, name in enumerate(dataset.names, 1):
        try:
            sample = read_sample(dataset.devkit, name)
        except BadSample as bad:
            if not skip_bad:
                raise
            bad_samples.append(bad.relative_to(dataset.devkit))
            continue
        height, width = sample.image.shape[1:]
        image = {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
        void = {"void": encode_rle(sample.void[None])[0]} if sample.void.any() else {}
        images.append(image | void)
        areas = sample.masks.sum((1, 2)).tolist()
        columns = sample.labels.tolist(), sample.boxes.tolist(), areas, encode_rle(sample.masks)
        for label, (x1, y1, x2, y2), area, rle in zip(*columns, strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label}
            annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
            annotations.append(annotation | {"segmentation": rle, "iscrowd": 0})
    info = {"devkit": dataset.devkit.name, "split": split}
    info |= {"bad_samples": bad_samples} if bad_samples else {}
    categories = [{"id": k, "name": name} for k, name in enumerate(dataset.class_names, 1)]
    content = {"info": info, "images": images, "annotations": annotations}
    return content | {"categories": categories}
