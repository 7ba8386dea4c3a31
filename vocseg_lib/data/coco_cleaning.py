"""Clean parsed COCO ground truth: pass over what cannot be used, mend what is sure, report both."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_mask

from vocseg_lib.data.classes import is_background
from vocseg_lib.data.coco_validation import BOX, check_lists, validate_ground_truth
from vocseg_lib.utils.rle import as_rle, is_number, shorten

MAX_BAD_FRACTION = 0.05  # of annotations, or of images: an import stops beyond it
MAX_EMPTY_FRACTION = 0.5  # of masks without a pixel in their image
MIN_CONTRADICTIONS = 0.01  # of annotations; fewer are not reported
MAX_LISTED = 10  # annotations in one message
NO_PARENT = (None, "", "none")  # `supercategory` of a root
TRUTH_WORDS = {"true": True, "yes": True, "false": False, "no": False, "": False}
XYWH = Float[np.ndarray, "n 4"]


@dataclass(eq=False)
class BadAnnotation(Exception):
    """An annotation that is passed over."""

    id: object
    image: str  # file name
    kind: str  # unusable, no pixels, background
    reason: str

    def __str__(self) -> str:
        return f"annotation {self.id} of {self.image}: {self.reason}"


@dataclass
class CleaningReport:
    """What was read, and changed: annotations = objects + crowds + duplicates + passed over."""

    annotations: int
    objects: int = 0
    crowds: int = 0
    duplicates: int = 0  # objects listed again with the same class and mask
    passed_over: list[BadAnnotation] = field(default_factory=list)
    left_out: list[tuple[dict, str]] = field(default_factory=list)  # categories, and why
    notes: list[str] = field(default_factory=list)  # what was mended or contradicts itself

    @property
    def lines(self) -> list[str]:
        """All of it, one line each, long lists cut; nothing for clean ground truth."""
        lines = [f"category {c['name']!r} is left out: {why}" for c, why in self.left_out]
        if self.passed_over:
            count = f"{len(self.passed_over)} of {self.annotations}"
            lines.append(_listed(f"{count} annotations are passed over", self.passed_over))
        return lines + self.notes


def clean_ground_truth(
    content: object, to_devkit: bool = False, crowds_as_objects: bool = False
) -> tuple[dict, CleaningReport]:
    """Validated ground truth of what exporters write, and what had to be changed.

    Up to 5 % of the annotations, or one, may be unusable. `to_devkit`: images need a `file_name`,
    annotations a mask. Annotations have their ids from the source. Raises ValueError.
    """
    check_lists(content)
    raw = content["annotations"]
    report, images = CleaningReport(len(raw)), [*map(_with_numbers, content["images"])]
    used = Counter(str(_with_numbers(a).get("category_id")) for a in raw if isinstance(a, dict))
    categories, report.left_out = _clean_categories(content["categories"], used)
    content = {**content, "images": images, "categories": categories, "annotations": []}
    content = validate_ground_truth(content)
    for index, image in enumerate(content["images"]):
        name = image.get("file_name")
        if to_devkit and not (isinstance(name, str) and name.strip()):
            raise ValueError(f"images[{index}] has no file_name: {shorten(image)}")
    with_masks = to_devkit or any(isinstance(a, dict) and a.get("segmentation") for a in raw)
    annotations = _clean_annotations(content, raw, with_masks, report)
    if crowds_as_objects:
        annotations = [a | {"iscrowd": 0} for a in annotations]
    report.crowds = sum(a["iscrowd"] for a in annotations)
    report.objects = len(annotations) - report.crowds
    if annotations and not report.objects:
        raise ValueError(
            f"all {report.crowds} annotations are crowds, which evaluation ignores. CVAT's brush "
            "masks are written so: set iscrowd to 0, or import-coco --crowds-as-objects"
        )
    return validate_ground_truth({**content, "annotations": annotations}), report


def _clean_categories(categories: list, used: Counter) -> tuple[list, list[tuple[dict, str]]]:
    """The categories that are classes, and those left out with the reason."""
    entries = []
    for category in map(_with_numbers, categories):
        if category not in entries:
            entries.append(category)
    if not all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in entries):
        return entries, []  # the validation reports it
    parents = {c.get("supercategory") for c in entries if c.get("supercategory") != c["name"]}
    orphans = [c for c in entries if c.get("supercategory") in NO_PARENT]
    reasons = {}
    for index, c in enumerate(entries):
        # Roboflow's root has id 0 and the project's name, and the classes may have another parent.
        lone_root = c.get("id") == 0 and orphans == [c] and len(entries) > 1
        is_root = lone_root or (c["name"] in parents and c.get("supercategory") != c["name"])
        if is_background(c["name"]):
            reasons[index] = "it stands for background"
        elif is_root and not used[str(c.get("id"))]:
            reasons[index] = "no annotation has it, and it is the root of the others"
    classes = [c for index, c in enumerate(entries) if index not in reasons]
    return classes, [(entries[index], reason) for index, reason in reasons.items()]


def _clean_annotations(
    content: dict, raw: list, with_masks: bool, report: CleaningReport
) -> list[dict]:
    """The usable annotations, each listed once; the others go into `report`."""
    images = {image["id"]: image for image in content["images"]}
    background = {c["id"] for c, _ in report.left_out}
    categories = background.union(c["id"] for c in content["categories"])
    kept, mended = {}, defaultdict(list)
    for index, entry in enumerate(raw):
        entry = _with_numbers(entry) if isinstance(entry, dict) else {}
        entry.setdefault("id", f"[{index}]")
        image = images.get(entry.get("image_id")) if is_number(entry.get("image_id")) else None
        name = str(image.get("file_name", image["id"])) if image else "an unlisted image"
        try:
            annotation, changes = _clean_annotation(entry, image, categories, with_masks)
            kind, reason = "", ""
        except ValueError as error:
            kind, reason = "unusable", str(error)
        if not kind and annotation["category_id"] in background:
            kind, reason = "background", "its category stands for background"
        elif not kind and with_masks and not coco_mask.area(annotation["segmentation"]):
            kind, reason = "no pixels", "its mask has no pixel in the image"
        if kind:
            report.passed_over.append(BadAnnotation(entry["id"], name, kind, reason))
            continue
        for change in changes:
            mended[change].append(entry["id"])
        shape = annotation["segmentation"]["counts"] if with_masks else str(annotation["bbox"])
        key = (image["id"], annotation["category_id"], shape, annotation["iscrowd"] and index)
        report.duplicates += key in kept
        kept.setdefault(key, annotation)
    for change, ids in mended.items():
        report.notes.append(_listed(f"{len(ids)} of {len(raw)} annotations: {change}", ids))
    _check_passed_over(report, len(kept))
    return [*kept.values()]


def _check_passed_over(report: CleaningReport, kept: int) -> None:
    """Raise ValueError if too many annotations cannot be used, or none is left."""
    total, by_kind = report.annotations, defaultdict(list)
    for bad in report.passed_over:
        by_kind[bad.kind].append(bad)
    unusable, empty = by_kind["unusable"], by_kind["no pixels"]
    if len(unusable) > max(1, MAX_BAD_FRACTION * total):
        raise ValueError(_listed(f"{len(unusable)} of {total} annotations are unusable", unusable))
    if len(empty) > MAX_EMPTY_FRACTION * total:
        raise ValueError(_listed(f"{len(empty)} of {total} masks are empty", empty))
    if total and not kept:
        bad = report.passed_over
        raise ValueError(_listed(f"none of {total} annotations can be used", bad))


def _clean_annotation(
    entry: dict, image: dict | None, categories: set, with_masks: bool
) -> tuple[dict, list[str]]:
    """An annotation with valid fields, and what was mended. Raises ValueError: unusable."""
    entry, changes, category = dict(entry), [], entry.get("category_id")
    if image is None:
        raise ValueError(f"image_id {shorten(entry.get('image_id'))} is not in images")
    if not is_number(category) or category not in categories:
        raise ValueError(f"category_id {shorten(category)} is not in categories")
    crowd = entry.get("iscrowd") or 0
    crowd = TRUTH_WORDS.get(crowd.strip().lower(), crowd) if isinstance(crowd, str) else crowd
    if not isinstance(crowd, int | float):
        raise ValueError(f"iscrowd {shorten(crowd)} must be 0 or 1")
    entry["iscrowd"] = int(bool(crowd))
    box, segmentation = entry.pop("bbox", None), entry.pop("segmentation", None)
    box = [*map(_as_number, box)] if isinstance(box, list | tuple) else box
    if BOX[0](box):
        entry["bbox"] = box
    elif not with_masks:
        raise ValueError(f"bbox {shorten(box)} must be {BOX[1]}")
    elif box:
        changes.append(f"bbox is not {BOX[1]}; the mask's is used")
    if with_masks:
        size = image["height"], image["width"]
        entry["segmentation"], change = _clean_mask(segmentation, size, entry.get("bbox"))
        changes += change
    area = entry.pop("area", None)
    if is_number(area) and area > 0:
        entry["area"] = area
    elif area is not None:
        changes.append("area is not a number above 0; the mask's is used")
    return entry, changes


def _clean_mask(
    segmentation: object, size: tuple[int, int], box: list | None
) -> tuple[dict, list[str]]:
    """A mask as a compressed code, and what was mended. Raises ValueError: not a mask."""
    try:
        return as_rle(segmentation, *size, "segmentation"), []
    except ValueError:
        if not isinstance(segmentation, list):
            raise
    return as_rle(segmentation, *size, "segmentation"), []


def _with_numbers(entry: object) -> object:
    """A copy of an entry with numbers that are written as text read as numbers."""
    if not isinstance(entry, dict):
        return entry
    keys = ("id", "image_id", "category_id", "height", "width", "area", "iscrowd")
    return entry | {k: _as_number(entry[k]) for k in keys if isinstance(entry.get(k), str)}


def _as_number(value: object) -> object:
    try:
        number = float(value) if isinstance(value, str) else value
        return int(number) if isinstance(value, str) and number == int(number) else number
    except (ValueError, OverflowError):
        return value


def _listed(title: str, entries: list) -> str:
    """A title and the first entries, in one line if they are short."""
    entries = [str(e) for e in entries]
    more = [f"and {len(entries) - MAX_LISTED} more"] if len(entries) > MAX_LISTED else []
    return "\n  ".join([f"{title}:", *entries[:MAX_LISTED], *more])
