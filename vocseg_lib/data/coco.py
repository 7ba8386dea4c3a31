"""Read COCO ground truth and prediction files; parts of both."""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from operator import itemgetter
from pathlib import Path

import numpy as np

from vocseg_lib.data.classes import check_class_names, name_key
from vocseg_lib.data.coco_cleaning import TEXT_ID, CleaningReport, clean_ground_truth
from vocseg_lib.data.coco_validation import MAX_NAME, find_contradictions, validate_results
from vocseg_lib.data.image_files import without_ending
from vocseg_lib.utils.files import read_json
from vocseg_lib.utils.json_values import MAX_ID, id_key, is_number, shorten

CONTENT = "size_and_crc32"  # of an image: its picture's `file_checksum`
LISTED_CLASSES = 20  # classes in a message


def read_coco(
    path: Path, to_devkit: bool = False, crowds_as_objects: bool = False
) -> tuple[dict, CleaningReport]:
    """COCO ground truth and what was changed in it: see `clean_ground_truth`.

    Raises FileNotFoundError, ValueError.
    """
    content = read_json(path)
    if isinstance(content, dict) and "header" in content:
        raise ValueError(f"{path} holds predictions (a header with a model), not ground truth")
    try:
        ground_truth, report = clean_ground_truth(content, to_devkit, crowds_as_objects)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if to_devkit:
        check_class_names([category["name"] for category in ground_truth["categories"]], path)
    return ground_truth, report


def read_predictions(path: str | Path, ground_truth: dict | None = None) -> dict:
    """A prediction file, of `predict` on pictures, or a list of COCO results (its header is empty).

    With validated `ground_truth`, they are validated and have to be of its images and classes; what
    is unusual is printed. Names go before ids: an entry's `file_name` and `category_name`, or the
    header's for its ids; where an `image_id` is no id, all may be names of files or their numbers,
    as Ultralytics writes them. Raises FileNotFoundError, ValueError.
    """
    content = read_json(Path(path), ("image_id", "category_id", "size"))
    content = content if isinstance(content, dict) else {"detections": content}
    header = content["header"] = content.get("header") or {}
    if isinstance(header, dict) and "model" in header and "annotations" in content:
        header["images"], content["detections"] = content.get("images"), content.pop("annotations")
    detections = content.get("detections")
    if not (isinstance(header, dict) and isinstance(detections, list)):
        expected = "expected COCO results (a list), or header and detections"
        others = [shorten(k) for k, v in content.items() if isinstance(v, list)][:LISTED_CLASSES]
        found = f"; its lists are {', '.join(others)}" if others else ""
        raise ValueError(f"{path} is not a prediction file: {expected}{found}")
    if ground_truth is None:
        return content
    content["detections"] = ()  # changed ones are not kept twice
    try:
        stored, notes = _check_header(header, ground_truth)
        notes += _resolve_images(detections, ground_truth, stored, not header.get("images"))
        notes += _resolve_categories(detections, ground_truth, _class_names(header))
        detections = validate_results(ground_truth, detections)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    notes += _unusual(detections)
    for note in [*notes, *find_contradictions(ground_truth, detections, predicted=True)]:
        print(f"{path}: {note}", file=sys.stderr)
    return {**content, "detections": detections}


def _unusual(detections: list[dict]) -> list[str]:
    """Notes on validated detections: repeated ones, or none at all."""
    if not detections:
        return ["there is no detection"]
    fields = itemgetter("image_id", "category_id", "score")
    codes = (d.get("segmentation", {}).get("counts") for d in detections)
    keys = (
        hash((*fields(d), *d.get("bbox", ()), c)) for d, c in zip(detections, codes, strict=True)
    )
    repeated = len(detections) - len(np.unique(np.fromiter(keys, np.int64, len(detections))))
    return [f"{repeated} detections repeat another one; all are evaluated"] if repeated else []


def name_forms(file_name: str) -> list[str | int]:
    """What may stand for a file: "a/07.jpg", "07.jpg", "a/07", "07" and 7, in this order."""
    name = file_name.replace("\\", "/")
    base = name.rpartition("/")[2]
    stem = without_ending(base)
    number = [int(stem)] if stem.isdecimal() and len(stem) <= MAX_ID else []
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


def _check_header(header: dict, ground_truth: dict) -> tuple[dict[str, tuple], list[str]]:
    """Name and ids in the ground truth of a header's images by their `id_key`, and notes.

    Images without a `file_name` are those of a split: they have to be all of the ground truth's.
    Of others, some have to be in it. Raises ValueError.
    """
    images, by_name, stored = header.get("images") or [], _ids_by_name(ground_truth), {}
    by_id, seen, are_of_split = {i["id"]: i for i in ground_truth["images"]}, Counter(), False
    for image in images if isinstance(images, list) else [images]:
        entry = image if isinstance(image, dict) else {}
        image_id, file_name = _key(image, "id"), _key(image, "file_name")
        name = str(file_name or _key(image, "name"))
        ids = _ids_of(name, by_name) if by_name else {image_id} & {*by_id}
        if file_name is None:
            are_of_split = True
            size = [entry.get("height"), entry.get("width")]
            ids = {i for i in ids if [by_id[i]["height"], by_id[i]["width"]] == size}
            ids = ids & {image_id} or ids
            if len(ids) != 1 or image_id is None:
                problem = f"{shorten(image)} is not in the ground truth: other data or split?"
                raise ValueError(f"header: image {problem}")
        for i in ids if len(ids) == 1 else ():
            seen[i] += 1
            known = by_id[i].get(CONTENT)
            if known and entry.get(CONTENT, known) != known:
                what = f"header: the picture {shorten(name)}"
                raise ValueError(f"{what} has changed since: predict it again")
        stored[id_key(image_id)] = name, ids
    if any(count > 1 for count in seen.values()):
        raise ValueError("header: several images are the same one of the ground truth, by name")
    missing = [image.get("file_name") or i for i, image in by_id.items() if i not in seen]
    if not (images and missing):
        return stored, []
    problem = f"the header lists {len(seen)} of {len(by_id)} images, and not {missing[0]}"
    if are_of_split:
        raise ValueError(f"{problem}: other data or split?")
    return stored, [problem]


def _ids_of(name: str | int, by_name: dict[str | int, set]) -> set:
    """Ids of the images that a name stands for."""
    forms = name_forms(name) if isinstance(name, str) else [name]
    return next((by_name[form] for form in forms if form in by_name), set())


def _resolve_images(
    detections: list, ground_truth: dict, stored: dict[str, tuple], may_be_names: bool
) -> list[str]:
    """Set each `image_id` to an id of the ground truth; notes. Raises ValueError.

    `stored`: name and ids in the ground truth of the images of a header.
    """
    by_id, by_name = _ids_by_text(ground_truth), _ids_by_name(ground_truth)
    find, unnamed, counts = cache(partial(_ids_of, by_name=by_name)), defaultdict(list), Counter()
    elsewhere = []  # detections on pictures of a header that the ground truth does not have
    for index, entry in enumerate(detections):
        given, name = _key(entry, "image_id"), _key(entry, "file_name")
        if by_name and name not in (None, ""):
            listed, all_ids = {by_id.get(id_key(given))}, find(str(name))
            ids = all_ids & listed or all_ids
            counts["another image_id than their file_name"] += not (ids & listed or None in listed)
            counts["the file_name of several images: image_id decides"] += ids < all_ids
        elif stored and given is not None:
            if id_key(given) not in stored:
                problem = f"has image_id {shorten(given)}, which the header does not list"
                raise ValueError(f"detections[{index}] {problem}")
            name, ids = stored[id_key(given)]
            if not ids and any(known for _, known in stored.values()):
                elsewhere.append(index)
                continue
        elif given is not None:
            unnamed[given].append(index)
            continue
        else:
            continue
        if len(ids) != 1:
            problem = (
                f"has file_name {shorten(name)}, which {len(ids)} images of the ground truth have"
            )
            way = "give it with its folder" if ids else "other data or split?"
            raise ValueError(f"detections[{index}] {problem}: {way}")
        (entry["image_id"],) = ids
    notes = [f"{n} detections have {what}" for what, n in counts.items() if n]
    notes += _resolve_unnamed(detections, unnamed, by_id, find if may_be_names else None)
    if elsewhere:
        left_out = {*elsewhere}
        detections[:] = [d for index, d in enumerate(detections) if index not in left_out]
        notes.append(f"{len(elsewhere)} detections on pictures of no image are left out")
    return notes


def _resolve_unnamed(
    detections: list, unnamed: dict[str | int, list], by_id: dict[str, int], find: Callable | None
) -> list[str]:
    """The same for detections with an `image_id` alone: all are ids or, if some are none, names."""
    as_ids = {given: by_id.get(id_key(given)) for given in unnamed}
    found = {given: find(given) for given in unnamed} if find else {}
    as_names = {given: next(iter(ids)) for given, ids in found.items() if len(ids) == 1}
    notes, used = [], as_ids
    if len(as_names) == len(as_ids) and as_names != as_ids:
        differing = next(given for given in as_ids if as_ids[given] != as_names[given])
        problem = f"image_id {shorten(differing)} is an id, and the name of another image's file"
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


def _ids_by_text(ground_truth: dict) -> dict[str, int]:
    """Ids of the images by the text that stands for them: of ids that were text, by that."""
    return {id_key(i.get(TEXT_ID, i["id"])): i["id"] for i in ground_truth["images"]}


def _class_names(header: dict) -> tuple[str, ...]:
    """Names of the classes that a model was trained on, if a header has them; label 1 first."""
    config = header.get("config")
    names = isinstance(config, dict) and config.get("class_names")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _resolve_categories(
    detections: list, ground_truth: dict, class_names: Sequence[str]
) -> list[str]:
    """Set each `category_id` to an id of the ground truth; notes. Raises ValueError.

    `class_names`: of the ids from 1, where they are not the ground truth's.
    """
    categories = ground_truth["categories"]
    ids = *(c["id"] for c in categories), *ground_truth.get("categories_left_out", ())
    by_id = {str(category_id): category_id for category_id in ids}
    by_name = {name_key(c["name"]): c["id"] for c in categories}
    names, contradictions = dict(enumerate(class_names, 1)), 0
    # Where a model knows some of the classes, what it says of its others is not evaluated.
    others = {name for name in class_names if name_key(name) not in by_name}
    unknown = others if len(others) < len(class_names) else ()
    left_out = set()
    for index, entry in enumerate(detections):
        given, own_name = _key(entry, "category_id"), _key(entry, "category_name")
        if given is None and own_name is None:
            continue
        texts = [n for n in (own_name, given) if isinstance(n, str) and n and not n.isdecimal()]
        name = texts[0] if texts else names.get(given)
        if name in unknown:
            left_out.add(index)
            continue
        category_id = by_id.get(str(given)) if not names else None
        if name:
            named = by_name.get(name_key(name))
            contradictions += named != category_id and None not in (named, category_id)
            category_id, given = named, name
        if category_id is None:
            listed = ", ".join(f"{c['id']} {c['name'][:60]}" for c in categories[:LISTED_CLASSES])
            problem = f"detections[{index}] is of category {shorten(given)}"
            problem += f"; the ground truth has {listed}"
            hint = ": ids from 0? Add 1 to each" if given == 0 and 1 in by_id.values() else ""
            raise ValueError(problem + hint)
        entry["category_id"] = category_id
    detections[:] = [d for index, d in enumerate(detections) if index not in left_out]
    counts = {"have another category_id than their category_name": contradictions}
    counts["are of classes that the ground truth lacks, and left out"] = len(left_out)
    return [f"{count} detections {text}" for text, count in counts.items() if count]


def _key(entry: object, field: str) -> str | int | None:
    """A field of an entry: a stripped text, not too long, or an integer; None for all else."""
    value = entry.get(field) if isinstance(entry, dict) else None
    if isinstance(value, str) and len(value) > MAX_NAME:
        raise ValueError(f"{field} {shorten(value)} has more than {MAX_NAME} characters")
    if (is_number(value) and value == int(value)) or type(value) is int:
        return int(value)
    return value.strip() if isinstance(value, str) else None
