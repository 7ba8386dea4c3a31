"""A cleaned COCO data set, ready to be written: annotations by image, labels, notes, counts."""

from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter

from vocseg_lib.data import coco_cleaning as cleaning
from vocseg_lib.data.classes import check_class_names
from vocseg_lib.data.coco_cleaning import MAX_BAD_FRACTION
from vocseg_lib.data.coco_import.images import (
    HELD_OUT,
    CocoFile,
    CocoImage,
    name_samples,
    read_sizes,
)


@dataclass(eq=False)
class CocoData:
    """Cleaned COCO annotations of train and any val; counts of what was written."""

    files: list[CocoFile]
    class_names: list[str]
    annotations: dict[CocoImage, list[dict]]  # of usable images, with their `label`
    void: dict[CocoImage, list[dict]]  # masks
    reports: list[cleaning.CleaningReport]
    notes: list[str]
    written: int = 0  # objects
    crowds: int = 0
    hidden: list[cleaning.BadAnnotation] = field(default_factory=list)


def clean_files(
    files: list[CocoFile], crowds_as_objects: bool = False, max_bad_images: float = MAX_BAD_FRACTION
) -> CocoData:
    """Read the pictures' sizes, clean the annotations, match the classes. Raises ValueError."""
    read_sizes([*chain(*(file.usable_images for file in files))])
    check_images(files, max_bad_images)
    used = cleaning.used_categories(chain(*(file.content["annotations"] for file in files)))
    cleaned = []
    for file in files:
        try:
            cleaned.append(cleaning.clean_ground_truth(file.usable, True, crowds_as_objects, used))
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from None
    contents, reports = zip(*cleaned, strict=True)
    class_names = [*_class_names(contents[0]).values()]
    check_class_names(class_names, files[0].path)
    annotations, void = {}, {}
    for file, content in zip(files, contents, strict=True):
        names = _class_names(content)
        listed = {names[a["category_id"]] for a in content["annotations"]}
        if unknown := listed - set(class_names):
            problem = f"has other categories than {files[0].path}: {', '.join(sorted(unknown))}"
            raise ValueError(f"{file.path} {problem}")
        by_id = {}
        for image, entry in zip(file.usable_images, content["images"], strict=True):
            annotations[image] = by_id[entry["id"]] = []
            void[image] = [entry["void"]] if "void" in entry else []
        for a in content["annotations"]:
            label = class_names.index(names[a["category_id"]]) + 1
            by_id[a["image_id"]].append(a | {"label": label})
    notes = [*chain(*(file.notes for file in files)), *_notes([*annotations])]
    if not all(report.objects for report in reports[1:]):
        notes.append(f"{files[-1].path} has no object: with it as val, nothing can be evaluated")
    return CocoData(files, class_names, annotations, void, [*reports], notes)


def _notes(images: list[CocoImage]) -> list[str]:
    """Give unique names to images; notes on these, and on what was decided of their sizes."""
    turned = [image.entry["file_name"] for image in images if image.turn != 1]
    way = "as stored" if turned else "as shown"
    unclear = f"have an EXIF orientation that sizes cannot decide; masks are read {way}"
    listed = {
        "have the name of another one": name_samples(images),
        "have another size in the file than their masks fit": [
            image.entry["file_name"] for image in images if image.misfit
        ],
        "are annotated as stored, turned by EXIF": turned,
        "have masks that leave them and would fit them as turned by EXIF, or not": [
            image.entry["file_name"] for image in images if image.leaves
        ],
        unclear: [image.entry["file_name"] for image in images if image.ambiguous],
    }
    return [
        f"{len(names)} images {what}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
        for what, names in listed.items()
        if names
    ]


def _class_names(content: dict) -> dict[int, str]:
    """Category id to name, in the order of ids: labels 1, 2, ..."""
    categories = sorted(content["categories"], key=itemgetter("id"))
    return {c["id"]: " ".join(c["name"].split()) for c in categories}


def check_images(files: list[CocoFile], max_bad: float = MAX_BAD_FRACTION) -> list[str]:
    """What is wrong with images that are not used; ValueError if more than 5 % cannot be, or all.

    Images of train that val lists as well do not count.
    """
    images = [*chain(*(file.images for file in files))]
    bad = [image.problem for image in images if image.problem]
    report = [f"{len(bad)} of {len(images)} images are not used:"]
    report += [f"  {line}" for line in cleaning.first_of(bad)]
    damaged = sum(problem.kind != HELD_OUT for problem in bad)
    if bad and (damaged > max_bad * len(images) or not files[0].usable_images):
        question = f"Are the images' folder and {files[0].path} of the same data?"
        raise ValueError("\n".join([*report, question]))
    return report if bad else []
