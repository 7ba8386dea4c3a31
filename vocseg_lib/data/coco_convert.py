"""COCO annotations to a devkit, and a devkit to COCO ground truth."""

import shutil
import zlib
from collections import defaultdict
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from vocseg_lib.data import voc
from vocseg_lib.data.classes import VOID, save_map
from vocseg_lib.data.coco import read_coco
from vocseg_lib.data.coco_cleaning import MAX_BAD_FRACTION
from vocseg_lib.data.coco_validation import validate_ground_truth
from vocseg_lib.data.image_files import BadFile, read_picture
from vocseg_lib.utils.files import reuse_or_clear
from vocseg_lib.utils.rle import encode_rle

COCO_STAMP_NAME = "from_coco.txt"  # file in a devkit with the files that it was made from
VAL_EVERY = 5  # without annotations for val, every fifth image is held out


def coco_to_voc(
    annotations: str | Path, out: str | Path, val: str | Path = "", images: str | Path = ""
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
    files = [annotations, val] if val else [annotations]
    contents = [read_coco(file, to_devkit=True)[0] for file in files]
    names, val_names = _class_names(contents[0]), _class_names(contents[-1])
    if val_names != names:
        raise ValueError(f"{val} has other categories than {annotations}")
    if not 0 < len(names) < VOID:
        raise ValueError(f"{annotations} has {len(names)} categories; expected 1 to {VOID - 1}")
    checksums = (f"{file.name}:{zlib.crc32(file.read_bytes()):08x}" for file in files)
    stamp = f"{' '.join(checksums)} images={images}\n"
    if reuse_or_clear(out / COCO_STAMP_NAME, stamp, voc.DEVKIT_FOLDERS):
        return out
    lines = "".join(f"{name}\n" for name in names.values())
    (out / voc.CLASS_FILE).write_text(lines, encoding="utf-8")
    written, bad = [], []
    for file, content in zip(files, contents, strict=True):
        folder = Path(images) if images else find_images(file, content)
        written.append(_write_samples(content, folder, out, bad))
    if bad:
        total = sum(len(content["images"]) for content in contents)
        report = f"{len(bad)} of {total} images cannot be used:\n  " + "\n  ".join(map(str, bad))
        if len(bad) > MAX_BAD_FRACTION * total:
            shutil.rmtree(out)
            raise ValueError(f"{report}\nIs {folder} the folder of the images?")
        print(report)
    held_out = written[1] if val else written[0][VAL_EVERY - 1 :: VAL_EVERY]
    train = [name for name in written[0] if name not in set(held_out)]
    if not (train and held_out):
        raise ValueError(f"{annotations} has too few usable images for train and val")
    voc.write_splits(out, train, held_out)
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
        sibling = folder.with_name(folder.name.replace("train", word)) / name
        for other in (folder / name.replace("train", word), sibling):
            if other != annotations and other.is_file():
                return other
    return None


def _class_names(content: dict) -> dict[int, str]:
    """Category id to name, in the order of ids: labels 1, 2, ..."""
    categories = sorted(content["categories"], key=itemgetter("id"))
    return {c["id"]: " ".join(c["name"].split()) for c in categories}


def _write_samples(content: dict, folder: Path, out: Path, bad: list[BadFile]) -> list[str]:
    """Write each image with its maps and return the names; unusable images are added to `bad`."""
    labels = {category_id: label for label, category_id in enumerate(_class_names(content), 1)}
    by_image, names = defaultdict(list), []
    for a in content["annotations"]:
        by_image[a["image_id"]].append(a | {"label": labels[a["category_id"]]})
    for image in tqdm(content["images"], f"write {out.name}", unit="image"):
        source = folder / image["file_name"]
        stem = Path(image["file_name"]).with_suffix("").as_posix()
        name = "_".join(stem.replace("/", " ").split())
        try:
            _write_sample(image, by_image[image["id"]], source, voc.paths_to_write(out, name))
            names.append(name)
        except BadFile as error:
            bad.append(error)
    return names


def _write_sample(image: dict, annotations: list[dict], source: Path, targets: list[Path]) -> None:
    """Write an image, as a JPEG, and its maps. Raises BadFile."""
    size = image["height"], image["width"]
    jpeg, *map_paths = targets
    objects = [a for a in annotations if not a["iscrowd"]]
    if jpeg.exists():
        raise BadFile(source, "duplicate", "has the name of another image")
    if len(objects) >= VOID:
        raise BadFile(source, "too many objects", f"has more than {VOID - 1} objects")
    pixels = read_picture(source, as_shown=False)
    if pixels.shape[:2] == size and source.suffix.lower() in (".jpg", ".jpeg"):
        shutil.copyfile(source, jpeg)
    else:
        if pixels.shape[:2] != size:  # rotated as EXIF says, it may be
            pixels = read_picture(source)
        if pixels.shape[:2] != size:
            reason = f"has (height, width) {pixels.shape[:2]}, but {size} in its annotations"
            raise BadFile(source, "size mismatch", reason)
        Image.fromarray(pixels).save(jpeg, quality=95)
    # Crowds are void, behind the objects, of which the smallest is in front.
    layers = [(number, a["label"], a["segmentation"]) for number, a in enumerate(objects, 1)]
    layers.sort(key=lambda layer: coco_mask.area(layer[2]), reverse=True)
    crowds = [(VOID, VOID, a["segmentation"]) for a in annotations if a["iscrowd"]]
    maps = np.zeros((2, *size), dtype=np.uint8)
    for number, label, rle in crowds + layers:
        maps[:, coco_mask.decode(rle) > 0] = [[number], [label]]
    for path, values in zip(map_paths, maps, strict=True):
        save_map(path, values)


def voc_to_coco(devkit: str | Path, split: str, skip_bad: bool = False) -> dict:
    """A split as COCO ground truth: image ids from 1 in list order, annotation ids from 1.

    `area` is the mask's. Void pixels belong to no instance; an image with some has their mask as
    `void`. Raises BadFile, or with `skip_bad` lists bad samples in `info`.
    """
    dataset, images, annotations, bad_samples = voc.VocDataset(devkit, split), [], [], []
    pictures = dataset.devkit / "JPEGImages"
    for image_id, name in enumerate(dataset.names, 1):
        try:
            sample = voc.read_sample(dataset.devkit, name)
        except BadFile as bad:
            if not skip_bad:
                raise
            bad_samples.append(f"{bad.path.relative_to(dataset.devkit)}: {bad.reason}")
            continue
        height, width = sample.void.shape
        picture = voc.sample_paths(dataset.devkit, name)[0].relative_to(pictures).as_posix()
        image = {"id": image_id, "file_name": picture, "height": height, "width": width}
        void = {"void": encode_rle(sample.void[None])[0]} if sample.void.any() else {}
        images.append(image | void)
        for label, rle in zip(sample.labels.tolist(), sample.rles, strict=True):
            annotations.append({"image_id": image_id, "category_id": label, "segmentation": rle})
    info = {"devkit": dataset.devkit.name, "split": split}
    info |= {"bad_samples": bad_samples} if bad_samples else {}
    categories = [{"id": k, "name": n} for k, n in enumerate(dataset.class_names, 1)]
    lists = {"images": images, "annotations": annotations, "categories": categories}
    return validate_ground_truth({"info": info, **lists})
