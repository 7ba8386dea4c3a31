"""Clean parsed COCO ground truth: pass over what cannot be used, mend what is sure, report both."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain

from pycocotools import mask as coco_mask

from vocseg_lib.data import coco_validation as validation
from vocseg_lib.data.classes import is_background
from vocseg_lib.utils.json_values import as_number, id_key, is_number, shorten
from vocseg_lib.utils.rle import mend_mask, usable_polygons

MAX_BAD_FRACTION = 0.05  # of annotations, or of images: an import stops beyond it
MAX_LOST_FRACTION = 0.5  # of masks without a pixel in their image, or with runs along its rows
MAX_LISTED = 10  # annotations in one message
TEXT_ID = "text_id"  # of an image: its id in the source, where ids are text
NUMERIC_FIELDS = ("height", "width", "area", "iscrowd")  # which some exporters write as text
ID_FIELDS, NO_PARENT = ("id", "image_id", "category_id"), (None, "", "none")  # of a root category
TRUTH_WORDS = {"true": True, "yes": True, "false": False, "no": False, "": False}


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
        lines = [
            f"category {shorten(c['name'])} (id {c['id']}) is left out: {why}"
            for c, why in self.left_out
        ]
        if self.passed_over:
            count = f"{len(self.passed_over)} of {self.annotations}"
            lines += [f"{count} annotations are passed over:", *first_of(self.passed_over)]
        return lines + self.notes


def clean_ground_truth(
    content: object,
    to_devkit: bool = False,
    crowds_as_objects: bool = False,
    used_elsewhere: Collection[int] = (),
) -> tuple[dict, CleaningReport]:
    """Validated ground truth of what exporters write, and what was changed. Raises ValueError.

    Up to 5 % of the annotations, or one, may be unusable. `to_devkit`: images need a `file_name`,
    annotations a mask with pixels, and are kept once; in evaluation all count, as in pycocotools.
    `used_elsewhere`: categories with annotations in other files. Messages have the source's ids.
    """
    validation.check_lists(content)
    flag = {"iscrowd": 0} if crowds_as_objects else {}
    raw = [a | flag if isinstance(a, dict) else a for a in content["annotations"]]
    report = CleaningReport(len(raw))
    images = [*{repr(i): i for i in map(_with_numbers, content["images"])}.values()]
    if any(isinstance(i, dict) and not is_number(i.get("id", 0)) for i in images):
        images, raw = _number_images(images, raw, report)
    used = used_categories(raw) | {*used_elsewhere}
    categories, report.left_out = _clean_categories(content["categories"], used)
    content = {**content, "images": images, "categories": categories, "annotations": []}
    content = validation.validate_ground_truth(content)
    if report.left_out:
        content["categories_left_out"] = [c["id"] for c, _ in report.left_out]
    for index, image in enumerate(content["images"]):
        if to_devkit and not (image.get("file_name") or "").strip():
            raise ValueError(f"images[{index}] has no file_name: {shorten(image)}")
    masks = [a.get("segmentation") for a in raw if isinstance(a, dict)]
    with_masks = to_devkit or any(mask and mask == mask for mask in masks)  # NaN is not equal
    annotations = _clean_annotations(content, raw, with_masks, report, keep_empty=not to_devkit)
    first = _first_of_each(annotations)
    if repeated := len(annotations) - len(first):
        what = f"{repeated} of {len(annotations)} annotations repeat another of the same image, "
        effect = "each counts once" if to_devkit else "all count"
        report.notes.append(f"{what}class and mask: {effect}")
    if to_devkit:
        annotations, report.duplicates = first, repeated
    for text, ids in validation.find_contradictions(content, annotations).items():
        if validation.ROWS in text and len(ids) > MAX_LOST_FRACTION * len(annotations):
            raise ValueError(_named(text, ids))
        report.notes.append(_named(text, ids))
    report.crowds = sum(a["iscrowd"] for a in annotations)
    report.objects = len(annotations) - report.crowds
    if to_devkit and report.crowds:
        count = f"{report.crowds} of {len(annotations)}"
        report.notes.append(f"{count} annotations are crowds and become void")
    if annotations and not report.objects:
        problem = f"all {report.crowds} annotations are crowds, as CVAT's brush masks are"
        raise ValueError(f"{problem}: set iscrowd to 0, or import-coco --crowds-as-objects")
    return {**content, "annotations": validation.complete_annotations(annotations)}, report


def _number_images(images: list, raw: list, report: CleaningReport) -> tuple[list, list]:
    """Images with ids from 1, and their annotations. Raises ValueError if two have the same id."""
    keys = [id_key(i["id"]) if isinstance(i, dict) and "id" in i else None for i in images]
    if None in keys:
        return images, raw  # the validation reports it
    if len(ids := {key: k for k, key in enumerate(keys, 1)}) < len(keys):
        raise ValueError(
            "{1} images have the id {0!r:.60}".format(*Counter(keys).most_common(1)[0])
        )
    report.notes.append("ids of images are text or above 2**53, and numbered from 1")
    annotations = [
        a | {"image_id": ids.get(id_key(key := a.get("image_id")), [key])}
        if isinstance(a, dict)
        else a
        for a in raw
    ]
    return [i | {"id": k, TEXT_ID: i["id"]} for k, i in enumerate(images, 1)], annotations


def used_categories(annotations: Iterable) -> set[int]:
    """Ids of the categories of parsed annotations."""
    ids = [as_number(a.get("category_id")) for a in annotations if isinstance(a, dict)]
    return {category_id for category_id in ids if is_number(category_id)}


def _clean_categories(categories: list, used: set) -> tuple[list, list[tuple[dict, str]]]:
    """The categories that are classes, and those left out with the reason."""
    entries = {}
    for c in map(_with_numbers, categories):
        entries.setdefault(repr((c.get("id"), c.get("name")) if isinstance(c, dict) else c), c)
    entries = [*entries.values()]
    ids = {c.get("id") for c in entries if isinstance(c, dict) and is_number(c.get("id"))}
    if len(ids) < len(entries) or not all(isinstance(c.get("name"), str) for c in entries):
        return entries, []  # the validation reports it
    parents = {str(p) for c in entries if (p := c.get("supercategory")) != c["name"]}
    orphans = [c for c in entries if c.get("supercategory") in NO_PARENT]
    classes, left_out = [], []
    for c in entries:
        # Roboflow's root has id 0 and the project's name, and the classes may have another parent.
        lone_root = c["id"] == 0 and orphans == [c] and len(entries) > 1
        is_root = lone_root or (c["name"] in parents and c.get("supercategory") != c["name"])
        if is_background(c["name"]):
            left_out.append((c, "it stands for background"))
        elif is_root and c["id"] not in used:
            left_out.append((c, "no annotation has it, and it is the root of the others"))
        else:
            classes.append(c)
    return classes, left_out


def _clean_annotations(
    content: dict, raw: list, with_masks: bool, report: CleaningReport, keep_empty: bool
) -> list[dict]:
    """The usable annotations; the others go into `report`."""
    images = {image["id"]: image for image in content["images"]}
    background = {c["id"] for c, _ in report.left_out}
    categories = background.union(c["id"] for c in content["categories"])
    kept, empty, mended, ids = [], [], defaultdict(list), Counter()
    for index, source in enumerate(raw):
        entry = _with_numbers(source) if isinstance(source, dict) else {}
        number = entry.get("listed_id", entry.get("id"))
        if not is_number(number):
            number = " ".join(str(number or f"[{index}]")[:60].split())
        ids[str(number)] += 1
        image = images.get(entry.get("image_id")) if is_number(entry.get("image_id")) else None
        name = image.get("file_name") or f"image {image['id']}" if image else "an unlisted image"
        changes = ["numbers are text, and read"] if entry is not source else []
        try:
            annotation = _clean_annotation(entry, image, categories, with_masks, changes)
            kind, reason = _reason_to_pass_over(annotation, entry, background)
        except ValueError as error:
            kind, reason = "unusable", str(error)
        if kind:
            bad = empty if kind == "no pixels" else report.passed_over
            bad.append(BadAnnotation(number, name, kind, reason))
        if not kind or (keep_empty and kind == "no pixels"):
            kept.append(annotation | {"id": number})
            for change in changes:
                mended[change].append(number)
    for change, numbers in mended.items():
        report.notes.append(_named(f"{change} ({len(numbers)} of {len(raw)})", numbers))
    if repeated := [number for number, count in ids.items() if count > 1]:
        report.notes.append(_named("ids are given more than once, and numbered anew", repeated))
    _check_passed_over(report, empty, len(kept))
    if keep_empty and empty:
        report.notes.append(_named("masks have no pixel in their image", [bad.id for bad in empty]))
    elif empty:
        report.passed_over += empty
    return kept


def _first_of_each(annotations: list[dict]) -> list[dict]:
    """Annotations less the objects that repeat another one."""
    first = {}
    for index, a in enumerate(annotations):
        shape = a["segmentation"]["counts"] if "segmentation" in a else str(a["bbox"])
        key = (a["image_id"], a["category_id"], shape, a["iscrowd"] and index)
        first.setdefault(key, a)
    return [*first.values()]


def _reason_to_pass_over(annotation: dict, source: dict, background: set) -> tuple[str, str]:
    """Kind and reason of a valid annotation that is no object; empty if it is one."""
    if annotation["category_id"] in background:
        return "background", "its category stands for background"
    area = coco_mask.area(annotation["segmentation"]) if "segmentation" in annotation else 2
    if area <= 1 and isinstance(source["segmentation"], list):
        corners = [*chain(*usable_polygons(source["segmentation"]))]
        if min(corners) >= 0 and max(corners) <= 1:
            return "no pixels", "its polygons are in 0..1; expected pixels"
    return ("", "") if area else ("no pixels", "its mask has no pixel in the image")


def _check_passed_over(report: CleaningReport, empty: list[BadAnnotation], kept: int) -> None:
    """Raise ValueError if too many annotations cannot be used, or none is left."""
    total = report.annotations
    unusable = [bad for bad in report.passed_over if bad.kind == "unusable"]
    if len(bad := unusable) > max(1, MAX_BAD_FRACTION * total):
        problem = f"{len(bad)} of {total} annotations cannot be used"
    elif len(bad := empty) > MAX_LOST_FRACTION * total:
        problem = f"{len(bad)} of {total} masks have no pixel in their image"
    elif total and not kept:
        bad, problem = report.passed_over + empty, f"none of {total} annotations can be used"
    else:
        return
    raise ValueError("\n  ".join([f"{problem}:", *first_of(bad)]))


def _clean_annotation(
    entry: dict, image: dict | None, categories: set, with_masks: bool, changes: list[str]
) -> dict:
    """An annotation with valid fields; add to `changes`. Raises ValueError: unusable."""
    entry, category = dict(entry), entry.get("category_id")
    if not entry:
        raise ValueError("it is not a list of fields")
    if image is None:
        raise ValueError(f"image_id {shorten(entry.get('image_id'))} is not in images")
    if not is_number(category) or category not in categories:
        raise ValueError(f"category_id {shorten(category)} is not in categories")
    crowd = entry.get("iscrowd") or 0
    if isinstance(crowd, str) and crowd.strip().lower() in TRUTH_WORDS:
        changes.append("iscrowd is text, and read")
        crowd = TRUTH_WORDS[crowd.strip().lower()]
    if not isinstance(crowd, int | float):
        raise ValueError(f"iscrowd {shorten(crowd)} must be 0 or 1")
    entry["iscrowd"] = int(bool(crowd) and crowd == crowd)  # NaN: a missing value of pandas
    box, segmentation = entry.pop("bbox", None), entry.pop("segmentation", None)
    box = [*map(as_number, box)] if isinstance(box, list | tuple) else box
    if validation.BOX[0](box) and not (with_masks and 0 in box[2:]):
        entry["bbox"] = box
    elif not with_masks:
        raise ValueError(f"bbox {shorten(box)} must be {validation.BOX[1]}")
    elif box:
        changes.append(f"bbox is not {validation.BOX[1]}, and computed")
    if with_masks:
        if not segmentation:
            raise ValueError(f"it has no mask: segmentation is {segmentation}")
        size = image["height"], image["width"]
        entry["segmentation"], change = mend_mask(segmentation, *size, entry.get("bbox"))
        changes += [change] * bool(change)
    if "area" in entry and not (is_number(entry["area"]) and entry["area"] > 0):
        del entry["area"]
        changes.append("area is not a number above 0, and computed")
    return entry


def _with_numbers(entry: object) -> object:
    """An entry, as a copy if it has numbers as text, which are read, or a number as file name."""
    if not isinstance(entry, dict):
        return entry
    texts = {k: as_number(entry[k]) for k in NUMERIC_FIELDS if isinstance(entry.get(k), str)}
    ids = {k: id_key(entry[k]) for k in ID_FIELDS if isinstance(entry.get(k), str)}
    texts |= {k: int(key) for k, key in ids.items() if key.isdecimal()}
    if is_number(entry.get("file_name")):
        texts["file_name"] = str(entry["file_name"])
    return entry | texts if any(texts[k] != entry[k] for k in texts) else entry


def first_of(entries: list) -> list[str]:
    """The first entries as text, and how many more there are."""
    more = [f"and {len(entries) - MAX_LISTED} more"] if len(entries) > MAX_LISTED else []
    return [*map(str, entries[:MAX_LISTED]), *more]


def _named(text: str, ids: list) -> str:
    return f"{text}: annotation{'s' * (len(ids) > 1)} {', '.join(first_of(ids))}"
