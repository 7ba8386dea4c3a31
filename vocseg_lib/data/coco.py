"""Read COCO ground truth and prediction files; parts of both."""

import sys
from collections import Counter, defaultdict
from collections.abc import Collection
from operator import itemgetter
from pathlib import Path

from pycocotools import mask as coco_mask

from vocseg_lib.data.classes import check_class_names
from vocseg_lib.data.coco_cleaning import CleaningReport, clean_ground_truth
from vocseg_lib.data.coco_validation import validate_results
from vocseg_lib.data.image_files import without_ending
from vocseg_lib.utils.files import read_json
from vocseg_lib.utils.rle import is_number, shorten

LISTED_CLASSES = 20  # classes in a message


def bbox_xywh(entry: dict) -> list[float]:
    """The box (xywh, pixels) of a validated entry: its own, or its mask's."""
    return entry["bbox"] if "bbox" in entry else coco_mask.toBbox(entry["segmentation"]).tolist()


def subset(ground_truth: dict, image_ids: Collection[int]) -> dict:
    """The images of some ids and their annotations."""
    ids = set(image_ids)
    images = [image for image in ground_truth["images"] if image["id"] in ids]
    annotations = [a for a in ground_truth["annotations"] if a["image_id"] in ids]
    return {**ground_truth, "images": images, "annotations": annotations}


def read_coco(
    path: Path, to_devkit: bool = False, crowds_as_objects: bool = False
) -> tuple[dict, CleaningReport]:
    """COCO ground truth and what was changed in it: see `clean_ground_truth`.

    Raises FileNotFoundError, ValueError.
    """
    content = read_json(path)
    try:
        ground_truth, report = clean_ground_truth(content, to_devkit, crowds_as_objects)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if to_devkit:
        check_class_names([category["name"] for category in ground_truth["categories"]], path)
    return ground_truth, report


def read_predictions(path: str | Path, ground_truth: dict | None = None) -> dict:
    """A prediction file, or a bare list of COCO results (its header is empty): header, detections.

    With validated `ground_truth`, they are validated and have to be of its images and classes; what
    is unusual is printed. A `file_name` or `category_name` goes before the id; where an `image_id`
    is no id, all may be names of files or their numbers, as Ultralytics writes them.
    Raises FileNotFoundError, ValueError.
    """
    content = read_json(Path(path))
    content = content if isinstance(content, dict) else {"detections": content}
    header, detections = content.setdefault("header", {}), content.get("detections")
    if not (isinstance(header, dict) and isinstance(detections, list)):
        expected = "expected COCO results (a list), or header and detections"
        raise ValueError(f"{path} is not a prediction file: {expected}")
    if ground_truth is None:
        return content
    try:
        _resolve_header(header, detections, ground_truth)
        notes = _check_header(header, ground_truth)
        _name_files(detections, header)
        notes += _resolve_images(detections, ground_truth, may_be_names=not header.get("images"))
        notes += _resolve_categories(detections, ground_truth)
        detections = validate_results(ground_truth, detections)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for note in notes + _unusual(detections):
        print(f"{path}: {note}", file=sys.stderr)
    return {**content, "detections": detections}


def _unusual(detections: list[dict]) -> list[str]:
    """Notes on validated detections: repeated ones, or none at all."""
    if not detections:
        return ["there is no detection"]
    seen, fields = set(), itemgetter("image_id", "category_id", "score")
    for d in detections:
        seen.add((*fields(d), *d.get("bbox", ()), d.get("segmentation", {}).get("counts")))
    repeated = len(detections) - len(seen)
    return [f"{repeated} detections repeat another one; all are evaluated"] if repeated else []


def name_forms(file_name: str) -> list[str | int]:
    """What may stand for a file: "a/07.jpg", "07.jpg", "a/07", "07" and 7, in this order."""
    name = file_name.replace("\\", "/")
    base = name.rpartition("/")[2]
    stem = without_ending(base)
    number = [int(stem)] if stem.isdecimal() else []
    return [form for form in (name, base, without_ending(name), stem, *number) if form != ""]


def image_keys(images: Collection[dict]) -> dict[str, dict]:
    """Images by file name: without its ending or, if that is not unique, with it, or by id."""
    forms = [(without_ending(i.get("file_name") or ""), i.get("file_name") or "") for i in images]
    counts, keys = Counter(form for both in forms for form in {*both}), {}
    for image, both in zip(images, forms, strict=True):
        unique = (form for form in both if form and counts[form] == 1)
        keys[next(unique, f"image {image['id']}")] = image
    return keys


def _ids_by_name(ground_truth: dict) -> dict[str | int, set]:
    """Ids of the images by all that may stand for their files."""
    ids = defaultdict(set)
    for image in ground_truth["images"]:
        for form in name_forms(image.get("file_name") or ""):
            ids[form].add(image["id"])
    return ids


def _resolve_header(header: dict, detections: list, ground_truth: dict) -> None:
    """Replace the ids of a header's images that have a file_name by the ground truth's, if any."""
    images, by_name, ids = header.get("images"), _ids_by_name(ground_truth), {}
    for image in images if isinstance(images, list) else []:
        name, given = _key(image, "file_name"), _key(image, "id")
        forms = name_forms(name) if isinstance(name, str) else []
        named = next((by_name[form] for form in forms if form in by_name), ())
        if len(named) == 1 and given is not None:
            (ids[given],) = (image["id"],) = named
    if len({*ids.values()}) < len(ids):
        raise ValueError(
            "header: several images are the same one of the ground truth, by file_name"
        )
    for entry in detections:
        if _key(entry, "image_id") in ids:
            entry["image_id"] = ids[_key(entry, "image_id")]


def _check_header(header: dict, ground_truth: dict) -> list[str]:
    """Notes on the images that a header lists; ValueError if one is not in the ground truth.

    Those with a `file_name` have ids of their own: see `_name_files`.
    """
    images, by_name = header.get("images", []), _ids_by_name(ground_truth)
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    for image in images if isinstance(images, list) else [images]:
        entry = image if isinstance(image, dict) else {}
        named = by_name.get(str(entry.get("name")), ()) if by_name else sizes
        size = entry.get("height"), entry.get("width")
        same = (entry.get("id") == i and sizes[i] == size for i in named)
        if not isinstance(entry.get("file_name"), str) and not any(same):
            problem = f"{shorten(image)} is not in the ground truth: other data or split?"
            raise ValueError(f"header: image {problem}")
    missing = len(sizes) - len(images) if images else 0
    return [f"the header does not list {missing} of the {len(sizes)} images"] if missing > 0 else []


def _name_files(detections: list, header: dict) -> None:
    """Give detections the `file_name` that the header has for their `image_id`."""
    images = header.get("images", [])
    names = {i["id"]: i["file_name"] for i in images if "file_name" in i and "id" in i}
    for entry in detections if names else ():
        if _key(entry, "image_id") in names:
            entry.setdefault("file_name", names[entry["image_id"]])


def _resolve_images(detections: list, ground_truth: dict, may_be_names: bool) -> list[str]:
    """Set each `image_id` to an id of the ground truth; notes. Raises ValueError."""
    by_id = {str(image["id"]): image["id"] for image in ground_truth["images"]}
    by_name, found, unnamed = _ids_by_name(ground_truth), {}, defaultdict(list)

    def find(name: str | int) -> set:
        if name not in found:
            forms = name_forms(name) if isinstance(name, str) else [name]
            found[name] = next((by_name[form] for form in forms if form in by_name), set())
        return found[name]

    for index, entry in enumerate(detections):
        given, name = _key(entry, "image_id"), _key(entry, "file_name")
        if by_name and name and isinstance(name, str):
            ids = find(name) & {by_id.get(str(given))} or find(name)
            if len(ids) != 1:
                problem = (
                    f"has file_name {name!r}, which {len(ids)} images of the ground truth have"
                )
                raise ValueError(f"detections[{index}] {problem}: other data or split?")
            (entry["image_id"],) = ids
        elif given is not None:
            unnamed[given].append(index)
    # All others are ids or, if some are none, names.
    as_ids = {given: by_id.get(str(given)) for given in unnamed}
    names = {given: find(given) for given in unnamed} if may_be_names else {}
    as_names = {given: next(iter(ids)) for given, ids in names.items() if len(ids) == 1}
    notes, used = [], as_ids
    if len(as_names) == len(as_ids) and as_names != as_ids:
        differing = next(given for given in as_ids if as_ids[given] != as_names[given])
        problem = f"image_id {differing!r} is an id, and the name of another image's file"
        if None in as_ids.values():
            notes, used = ["each image_id is taken as the name of a file"], as_names
        elif any(isinstance(given, str) for given in unnamed):
            raise ValueError(f"{problem}: give each detection its file_name")
        else:
            notes = [f"{problem}; ids are used: if names are meant, give file_name as well"]
    for given, indices in unnamed.items():
        if used[given] is None:
            expected = "an id in the ground truth (of a devkit: the line in its list of the split, "
            expected += "from 1; see export-coco), or the file_name must be given"
            problem = f"detections[{indices[0]}] has image_id {shorten(given)}: must be {expected}"
            raise ValueError(problem)
        for index in indices:
            detections[index]["image_id"] = used[given]
    return notes


def _resolve_categories(detections: list, ground_truth: dict) -> list[str]:
    """Set each `category_id` to an id of the ground truth; notes. Raises ValueError."""
    categories = ground_truth["categories"]
    ids = *(c["id"] for c in categories), *ground_truth.get("categories_left_out", ())
    by_id = {str(category_id): category_id for category_id in ids}
    by_name = {"".join(c["name"].lower().split()): c["id"] for c in categories}
    contradictions = 0
    for index, entry in enumerate(detections):
        given, name = _key(entry, "category_id"), _key(entry, "category_name")
        if given is None and name is None:
            continue
        category_id = by_id.get(str(given))
        if isinstance(name, str) and name and not name.isdecimal():
            named = by_name.get("".join(name.lower().split()))
            contradictions += named != category_id and None not in (named, given)
            category_id, given = named, name
        if category_id is None:
            listed = ", ".join(f"{c['id']} {c['name']}" for c in categories[:LISTED_CLASSES])
            problem = f"detections[{index}] is of category {given!r}; the ground truth has {listed}"
            hint = ": ids from 0? Add 1 to each" if given == 0 and 1 in by_id.values() else ""
            raise ValueError(problem + hint)
        entry["category_id"] = category_id
    if contradictions:
        return [f"{contradictions} detections have another category_id than their category_name"]
    return []


def _key(entry: object, field: str) -> str | int | None:
    """A field of an entry: a stripped text or an integer, None for all else."""
    value = entry.get(field) if isinstance(entry, dict) else None
    if is_number(value) and value == int(value):
        return int(value)
    return value.strip() if isinstance(value, str) else None
