"""A cleaned COCO data set, ready to be written: annotations by image, labels, notes, counts."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter

from vocseg_lib.data.classes import check_class_names
from vocseg_lib.data.coco_cleaning import (
    MAX_BAD_FRACTION,
    BadAnnotation,
    CleaningReport,
    clean_ground_truth,
    first_of,
    used_categories,
)
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
    total: int  # annotations read
    reports: list[CleaningReport]
    notes: list[str]
    written: int = 0  # objects
    crowds: int = 0
    hidden: list[BadAnnotation] = field(default_factory=list)

    @property
    def images(self) -> list[CocoImage]:
        return [*chain(*(file.images for file in self.files))]


def clean_files(
    files: list[CocoFile], crowds_as_objects: bool = False, max_bad_images: float = MAX_BAD_FRACTION
) -> CocoData:
    """Read the pictures' sizes, clean the annotations, match the classes. Raises ValueError."""
    images = [*chain(*(file.images for file in files))]
    total = sum(len(file.content["annotations"]) for file in files)
    read_sizes([image for image in images if image.problem is None])
    check_images(files, max_bad_images)
    contents, reports = [], []
    used = {*chain(*(used_categories(file.content["annotations"]) for file in files))}
    for file in files:
        try:
            content, report = clean_ground_truth(file.usable, True, crowds_as_objects, used)
        except ValueError as error:
            raise ValueError(f"{file.path}: {error}") from None
        contents.append(content)
        reports.append(report)
    class_names = [*_class_names(contents[0]).values()]
    check_class_names(class_names, files[0].path)
    annotations, void = {}, {}
    for file, content in zip(files, contents, strict=True):
        by_id, names = defaultdict(list), _class_names(content)
        used = {names[a["category_id"]] for a in content["annotations"]}
        if unknown := used - set(class_names):
            problem = f"has other categories than {files[0].path}: {', '.join(sorted(unknown))}"
            raise ValueError(f"{file.path} {problem}")
        for a in content["annotations"]:
            by_id[a["image_id"]].append(
                a | {"label": class_names.index(names[a["category_id"]]) + 1}
            )
        usable = [image for image in file.images if image.problem is None]
        for image, entry in zip(usable, content["images"], strict=True):
            annotations[image] = by_id[entry["id"]]
            void[image] = [entry["void"]] if "void" in entry else []
    notes = [*chain(*(file.notes for file in files))]
    notes += [
        f"{file.path} has no object: with it as val, nothing can be evaluated"
        for file, report in zip(files[1:], reports[1:], strict=True)
        if not report.objects
    ]
    if renamed := name_samples([*annotations]):
        notes.append(f"{len(renamed)} images have the name of another one: {shorten_list(renamed)}")
    if misfit := [image.entry["file_name"] for image in annotations if image.misfit]:
        problem = "images have another size in the file than their masks fit"
        notes.append(f"{len(misfit)} {problem}: {shorten_list(misfit)}")
    if turned := [image.entry["file_name"] for image in annotations if image.turn != 1]:
        notes.append(
            f"{len(turned)} images are annotated as stored, turned by EXIF: {shorten_list(turned)}"
        )
    if unclear := [image.entry["file_name"] for image in annotations if image.ambiguous]:
        way = "as stored" if turned else "as shown"
        problem = "images have an EXIF orientation that sizes cannot decide; masks are read"
        notes.append(f"{len(unclear)} {problem} {way}: {shorten_list(unclear)}")
    return CocoData(files, class_names, annotations, void, total, reports, notes)


def _class_names(content: dict) -> dict[int, str]:
    """Category id to name, in the order of ids: labels 1, 2, ..."""
    categories = sorted(content["categories"], key=itemgetter("id"))
    return {c["id"]: " ".join(c["name"].split()) for c in categories}


def check_images(files: list[CocoFile], max_bad: float = MAX_BAD_FRACTION) -> list[str]:
    """What is wrong with images that are not used; ValueError if more than 5 % cannot be, or all.

    Images of train that val lists as well do not count.
    """
    problems = [image.problem for file in files for image in file.images]
    if not (bad := [problem for problem in problems if problem]):
        return []
    report = f"{len(bad)} of {len(problems)} images are not used:"
    damaged = sum(problem.kind != HELD_OUT for problem in bad)
    if damaged > max_bad * len(problems) or all(image.problem for image in files[0].images):
        listed = "\n  ".join([report, *first_of(bad)])
        raise ValueError(f"{listed}\nAre the images' folder and {files[0].path} of the same data?")
    return [report, *(f"  {problem}" for problem in first_of(bad))]


def shorten_list(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
