"""COCO's annotations of one's own images, written as a devkit: after that, they are data like any other."""

import shutil
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from tqdm import tqdm

from vocseg_lib.data.classes import VOID, save_map
from vocseg_lib.data.coco import validate_ground_truth
from vocseg_lib.data.voc import CLASS_FILE, BadSample, VocDataset, read_image, read_sample
from vocseg_lib.utils.files import read_json, reuse_or_clear
from vocseg_lib.utils.rle import encode_rle

STAMP = "from_coco.txt"
"""File in a written devkit that says what it was written from."""
VAL_EVERY = 5
"""Without annotations for val, each image of this number is kept for it."""
JPEG_QUALITY = 95
MOST_BAD = 0.05
"""Largest share of images that may be missing or broken."""


def coco_to_voc(
    annotations: str | Path,
    out: str | Path,
    val: str | Path | None = None,
    images: str | Path | None = None,
) -> Path:
    """Write COCO annotations with masks, and their images, as a devkit with their class names; returns its folder.

    `val` has the annotations to judge by; it defaults to the file whose name has "val" for "train", and without one every
    fifth image is kept. `images` is the folder of `file_name`s; it defaults to those where they usually are (see
    `image_folder`). Where masks overlap, the smaller object is in front; crowds become void. Images that are missing, broken
    or of another size are passed over and named, up to a share of 5 %. A devkit that was written from the same files is
    used as it is.

    Raises FileNotFoundError, ValueError naming the file and the entry, and FileExistsError when `out` holds other data.
    """
    annotations, out = Path(annotations), Path(out)
    val = Path(val) if val else _validation_file(annotations)
    files = [annotations] + ([val] if val else [])
    truths = [_read(file) for file in files]
    names = _category_names(truths[0], annotations)
    for file, truth in zip(files[1:], truths[1:], strict=True):
        if _category_names(truth, file) != names:
            raise ValueError(f"{file} has other categories than {annotations}")
    stamp = (
        " ".join(f"{file.name}:{zlib.crc32(file.read_bytes()):08x}" for file in files)
        + f" images={images or ''}\n"
    )
    made = out / STAMP
    if reuse_or_clear(made, stamp):
        return out
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (out / part).mkdir(parents=True)
    (out / CLASS_FILE).write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")
    written, bad = [], []
    for file, truth in zip(files, truths, strict=True):
        folder = Path(images) if images else image_folder(file, truth)
        written.append(_write_images(truth, folder, list(names), out, bad))
    total = sum(len(truth["images"]) for truth in truths)
    if bad:
        listed = f"{len(bad)} of {total} images cannot be used:\n  " + "\n  ".join(bad)
        if len(bad) > MOST_BAD * total:
            shutil.rmtree(out)
            raise ValueError(
                f"{listed}\nThat is more than {MOST_BAD:.0%}: is {folder} the folder of the images?"
            )
        print(listed)
    train, judged = written if val else (written[0][:], written[0][VAL_EVERY - 1 :: VAL_EVERY])
    train = [name for name in train if name not in set(judged)]
    for split, members in (("train", train), ("val", judged), ("trainval", train + judged)):
        if not members:
            raise ValueError(
                f"{annotations} leaves no image for {split}: at least {VAL_EVERY} are needed, or annotations for val"
            )
        (out / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(
            "".join(f"{n}\n" for n in members), encoding="utf-8"
        )
    made.write_text(stamp)
    return out


def image_folder(annotations: Path, truth: dict) -> Path:
    """Where the images of a COCO file lie: beside it, in `images/` or in a folder named as its split, there or one above.

    Raises FileNotFoundError, naming all places, when the first image is in none of them.
    """
    split = annotations.stem.removeprefix("instances_")
    places = [
        base / sub
        for base in (annotations.parent, annotations.parent.parent)
        for sub in ("", "images", split, f"images/{split}")
    ]
    first = truth["images"][0]["file_name"]
    for place in places:
        if (place / first).is_file():
            return place
    listed = ", ".join(str(place) for place in places)
    raise FileNotFoundError(
        f"{first}, the first image of {annotations}, is in none of {listed}: say where the images are"
    )


def _validation_file(annotations: Path) -> Path | None:
    """The file beside these annotations, or beside their folder, whose name has "val" or "valid" where theirs has "train"."""
    for word in ("val", "valid"):
        named = annotations.with_name(annotations.name.replace("train", word))
        beside = (
            annotations.parent.with_name(annotations.parent.name.replace("train", word))
            / annotations.name
        )
        for other in (named, beside):
            if other != annotations and other.is_file():
                return other
    return None


def read_coco(file: Path) -> dict:
    """COCO ground truth from a file, checked: see `coco.checked_ground_truth`. Raises ValueError, naming the file."""
    try:
        return validate_ground_truth(read_json(file))
    except ValueError as error:
        raise ValueError(f"{file}: {error}".replace(f"{file}: {file}", str(file))) from None


def _read(file: Path) -> dict:
    """Ground truth that images can be written from."""
    truth = read_coco(file)
    for index, image in enumerate(truth["images"]):
        if not isinstance(image.get("file_name"), str):
            raise ValueError(f"{file}: images[{index}] has no file_name")
    for annotation in truth["annotations"]:
        if "segmentation" not in annotation:
            raise ValueError(
                f"{file} has boxes without masks: instance segmentation needs a segmentation for each annotation"
            )
    return truth


def _category_names(truth: dict, file: Path) -> dict[int, str]:
    """Category id to name, those with annotations or without, in the order of ids: labels 1, 2, ..."""
    names = {
        c["id"]: " ".join(c["name"].split())
        for c in sorted(truth["categories"], key=lambda c: c["id"])
    }
    if not 0 < len(names) < VOID:
        raise ValueError(f"{file} has {len(names)} categories: 1 to {VOID - 1} are possible")
    return names


def _write_images(
    truth: dict, folder: Path, category_ids: list[int], out: Path, bad: list[str]
) -> list[str]:
    """Write each image with its maps; the names written. What cannot be used is added to `bad`."""
    of_image, labels = defaultdict(list), {c: k for k, c in enumerate(category_ids, 1)}
    for annotation in truth["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    written = []
    for image in tqdm(truth["images"], f"write {out.name}", unit="image"):
        name = "_".join(
            Path(image["file_name"]).with_suffix("").as_posix().replace("/", " ").split()
        )
        try:
            if (out / "JPEGImages" / f"{name}.jpg").exists():
                raise BadSample(image["file_name"], "duplicate", "has the name of another image")
            object_map, class_map = draw_maps(
                of_image[image["id"]], labels, image["height"], image["width"], image["file_name"]
            )
            _write_picture(
                folder / image["file_name"],
                out / "JPEGImages" / f"{name}.jpg",
                image["height"],
                image["width"],
            )
        except BadSample as error:
            bad.append(str(error))
            continue
        for part, pixels in (("SegmentationObject", object_map), ("SegmentationClass", class_map)):
            save_map(out / part / f"{name}.png", pixels)
        written.append(name)
    return written


def draw_maps(
    annotations: list[dict], labels: dict[int, int], height: int, width: int, name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Object map and class map, uint8 [h, w], of an image's annotations: crowds void, then objects, the smallest last.

    Raises BadSample for more objects than a map of bytes can tell apart.
    """
    crowds, objects = ([a for a in annotations if a["iscrowd"] == crowd] for crowd in (1, 0))
    if len(objects) >= VOID:
        raise BadSample(
            name, "too many objects", f"has {len(objects)} objects; a VOC map holds {VOID - 1}"
        )
    object_map, class_map = np.zeros((2, height, width), dtype=np.uint8)
    for crowd in crowds:
        object_map[coco_mask.decode(crowd["segmentation"]) > 0] = VOID
    class_map[object_map == VOID] = VOID
    masks = [coco_mask.decode(a["segmentation"]) > 0 for a in objects]
    for k in sorted(range(len(objects)), key=lambda k: -masks[k].sum()):
        object_map[masks[k]], class_map[masks[k]] = k + 1, labels[objects[k]["category_id"]]
    return object_map, class_map


def _write_picture(source: Path, target: Path, height: int, width: int) -> None:
    """Copy a JPEG, or make one; an image that lies on its side by its EXIF alone is turned. Raises BadSample."""
    pixels = read_image(source, "RGB")
    turned = pixels.shape[:2] != (height, width)
    if turned:
        with Image.open(source) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if pixels.shape[:2] != (height, width):
        sizes = f"{pixels.shape[1]} x {pixels.shape[0]}", f"{width} x {height}"
        raise BadSample(
            source, "size mismatch", f"is {sizes[0]} pixels, but its annotations say {sizes[1]}"
        )
    if not turned and source.suffix.lower() in (".jpg", ".jpeg"):
        shutil.copyfile(source, target)
    else:
        Image.fromarray(pixels).save(target, quality=JPEG_QUALITY)


def voc_to_coco(devkit: str | Path, split: str, skip_bad: bool = False) -> dict:
    """A split's instances in COCO's format: image ids from 1 in list order, annotation ids from 1, `area` of the mask.

    Void pixels belong to no instance; an image that has some has their mask as `void`. Raises BadSample, unless with `skip_bad`:
    then `info` names them as `skipped`.
    """
    dataset = VocDataset(devkit, split)
    images, annotations, skipped = [], [], []
    for image_id, name in enumerate(dataset.names, 1):
        try:
            sample = read_sample(dataset.devkit, name)
        except BadSample as bad:
            if not skip_bad:
                raise
            skipped.append(bad.said_within(dataset.devkit))
            continue
        height, width = sample.image.shape[1:]
        images.append(
            {"id": image_id, "file_name": f"{name}.jpg", "height": height, "width": width}
        )
        if sample.void.any():
            (images[-1]["void"],) = encode_rle(sample.void[None])
        rles = encode_rle(sample.masks)
        for rle, box, label, mask in zip(
            rles, sample.boxes.tolist(), sample.labels.tolist(), sample.masks, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": int(mask.sum()),
                    "segmentation": rle,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(dataset.class_names, 1)]
    return {
        "info": {"devkit": dataset.devkit.name, "split": split}
        | ({"skipped": skipped} if skipped else {}),
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
