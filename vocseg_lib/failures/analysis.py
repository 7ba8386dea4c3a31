"""Everything that goes wrong in one prediction file: counted, priced in AP, and listed case by case."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from vocseg_lib.coco import checked_ground_truth, checked_results
from vocseg_lib.failures.crowding import CROWDING, crowding_of
from vocseg_lib.failures.mask_failures import MASK_FAILURES, MEASURES, PLACES, Thresholds, measure
from vocseg_lib.failures.scenes import Counting, Scene, Scenes, coco_matches, mean_ap, open_scenes
from vocseg_lib.failures.tide import ERRORS, RIGHT, Tide, tide
from vocseg_lib.metrics import KINDS

MISSED = ("missed in a crowd", "missed alone")
FOUND, BADLY_FOUND, LOST = "found", "badly found", "lost in a localization failure"
"""What becomes of objects that are not missed: a detection is right about them; one would be, with another class or a better
mask (TIDE's class and localisation errors); a mask that is foreground covers them (a localization failure)."""
OBJECT_FAILURES = (LOST, *MISSED)
FAILURES = (*MASK_FAILURES, *OBJECT_FAILURES)
"""What pixels and neighbours say, beside TIDE's errors."""
TYPES = (*ERRORS[:-1], *MASK_FAILURES, *MISSED)
"""Of cases to look at: TIDE's *missed* is told apart as in a crowd or alone."""
SIZES = {"small": 32**2, "medium": 96**2, "large": np.inf}
"""Of an object by its pixels (COCO's limits, up to)."""
SIZE_NAMES = np.array(list(SIZES), dtype=object)
FAMILIES = {"TIDE, masks": "AP50", "TIDE, boxes": "AP50", "pixels": "AP"}
"""Of failures, and the figure whose points they cost: AP50 of masks or boxes, or COCO's AP of masks."""


@dataclass(frozen=True)
class Facts:
    """What there is to say of one set of detections, a row each in `detections` and of each object in `objects`.

    `detections`: image (place), row (in the scene), detection (in the list), class, size, crowding, score, error_mask and
    error_box (codes of TIDE), iou_mask and iou_box (with what TIDE says they are about, else the largest), annotation (that
    TIDE says the mask is about, else -1), failure, target (the annotation that the failure is about, else -1), and what
    `measure` says. `objects`: image, row, annotation, class, size, crowding, state.
    """

    scenes: Scenes
    tide: dict[str, Tide]
    detections: pd.DataFrame
    objects: pd.DataFrame


@dataclass(frozen=True)
class Analysis:
    """One model's failures. Counts and cases are of detections of at least `score_threshold`, costs in AP of all detections."""

    scenes: Scenes
    score_threshold: float = 0.0
    thresholds: Thresholds = field(default_factory=Thresholds)

    @cached_property
    def measured(self) -> pd.DataFrame:
        """`measure` of all detections."""
        return measure(self.scenes, self.thresholds)

    @cached_property
    def everything(self) -> Facts:
        """Of all detections."""
        return facts_of(self.scenes, self.measured, self.thresholds)

    @cached_property
    def counted(self) -> Facts:
        """Of those that are sure enough to be counted."""
        kept = np.concatenate([scene.score >= self.score_threshold for scene in self.scenes.scenes])
        if kept.all():
            return self.everything
        sure = self.scenes.changed(lambda scene: scene.take(scene.score >= self.score_threshold))
        return facts_of(sure, self.measured[kept].reset_index(drop=True), self.thresholds)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """Each failure as a row, the worst of a type first: family, type, image_id, class, size, crowding, score, severity,
        detection, annotation (places in the lists; -1 for none), place (in `counted.detections`, or -1)."""
        facts = self.counted
        found, parts = facts.detections.rename_axis("place").reset_index(), []
        errors = dict(zip(FAMILIES, ("error_mask", "error_box"), strict=False))
        for family, column in errors.items():
            wrong = found[found[column] != RIGHT]
            parts.append(wrong.assign(family=family, type=np.array(ERRORS, object)[wrong[column].to_numpy(int)]))
        failed = found[found["failure"] != ""]
        parts.append(failed.assign(family="pixels", type=failed["failure"], annotation=failed["target"]))
        missed = facts.objects.assign(detection=-1, place=-1)
        for kind, family in zip(KINDS, errors, strict=True):
            none = np.concatenate([errors.missed for errors in facts.tide[kind].errors])
            parts.append(missed[none].assign(family=family, type="missed"))
        missed = missed[missed["state"].isin(OBJECT_FAILURES)]
        parts.append(missed.assign(family="pixels", type=missed["state"]))
        cases = pd.concat(parts, ignore_index=True)
        on_object, objects = cases["annotation"] >= 0, facts.objects.set_index("annotation")
        for name in ("size", "crowding"):
            cases[name] = cases["annotation"].map(objects[name]).where(on_object, cases[name])
        cases["severity"] = _severity(self.scenes, cases)
        cases["image_id"] = pd.Series([self.scenes.images[place]["id"] for place in cases["image"]], dtype=object)
        cases = cases.sort_values("severity", ascending=False, kind="stable", ignore_index=True)
        return cases[CASE_COLUMNS]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Failures of each type: family, type, class, size ("all" for all), count, rate, cost.

        `rate` is percent of the counted detections, for what is missed or lost of the objects. `cost`: points of AP (see
        `FAMILIES`) that come back when all failures of the type are repaired, and nothing else; TIDE's as in its toolbox.
        """
        facts, costs = self.counted, self._costs()
        names = [c["name"] for c in self.scenes.categories]
        of = {"detections": facts.detections, "objects": facts.objects}
        scopes = [("all", "all"), *(("all", size) for size in SIZES), *((name, "all") for name in names)]
        types = [(family, name) for family in list(FAMILIES)[:2] for name in ERRORS] + [("pixels", name) for name in FAILURES]
        rows = []
        for class_name, size in scopes:

            def within(table: pd.DataFrame, class_name: str = class_name, size: str = size) -> pd.DataFrame:
                kept = (table["class"] == class_name) | (class_name == "all")
                return table[kept & ((table["size"] == size) | (size == "all"))]

            counts = within(self.cases).value_counts(["family", "type"])
            totals = {what: len(within(table)) for what, table in of.items()}
            for family, name in types:
                count = int(counts.get((family, name), 0))
                total = totals["objects" if name in ("missed", *OBJECT_FAILURES) else "detections"]
                rate = 100 * count / total if total else np.nan
                rows.append((family, name, class_name, size, count, rate, costs[family, name, class_name, size]))
        return pd.DataFrame(rows, columns=["family", "type", "class", "size", "count", "rate", "cost"])

    def _costs(self) -> dict[tuple[str, str, str, str], float]:
        facts, costs = self.everything, {}
        names = ["all", *(c["name"] for c in self.scenes.categories)]
        for size in ("all", *SIZES):
            counting = _counting(size)
            by_family = {family: facts.tide[kind].costs_by_class(counting) for kind, family in zip(KINDS, FAMILIES, strict=False)}
            before = mean_ap(coco_matches(self.scenes, "mask", counting))[0]
            by_family["pixels"] = {}
            for name in FAILURES:
                scenes, gone = repaired(facts, name)
                after = mean_ap(coco_matches(scenes, "mask", _counting(size, gone)))[0]
                by_family["pixels"][name] = after - before
            for family, by_type in by_family.items():
                for name, values in by_type.items():
                    some = names if size == "all" else names[:1]
                    costs |= {(family, name, of, size): float(value) for of, value in zip(some, values, strict=False)}
        return costs


CASE_COLUMNS = ["family", "type", "image_id", "class", "size", "crowding", "score", "severity", "detection", "annotation", "place"]


def analyse(ground_truth: dict, detections: list, score_threshold: float = 0.0, thresholds: Thresholds | None = None) -> Analysis:
    """What goes wrong in COCO results with masks, against COCO ground truth; both are checked.

    Raises ValueError naming the entry that cannot be judged (see `coco.checked_results`), or that has no mask.
    """
    ground_truth = checked_ground_truth(ground_truth)
    scenes = open_scenes(ground_truth, checked_results(ground_truth, detections))
    return Analysis(scenes, score_threshold, thresholds or Thresholds())


def facts_of(scenes: Scenes, measured: pd.DataFrame, thresholds: Thresholds) -> Facts:
    """Everything about some detections; `measured` has their rows of `measure`."""
    names = np.array([c["name"] for c in scenes.categories], dtype=object)
    errors = {kind: tide(scenes, kind) for kind in KINDS}
    detections, objects, start = [], [], 0
    for scene, *theirs in zip(scenes.scenes, errors["mask"].errors, errors["box"].errors, strict=True):
        of_mask = theirs[0]
        rows = measured.iloc[start : start + len(scene.found)]
        start += len(rows)
        crowding = np.array(CROWDING, object)[crowding_of(scenes, scene, thresholds.near)]
        size = SIZE_NAMES[_size(scene.object_area)]
        failure = rows["failure"].to_numpy(object)
        on_object = of_mask.about >= 0
        detections.append(
            {
                "image": np.full(len(rows), scene.image),
                "row": np.arange(len(rows)),
                "detection": scene.found,
                "class": names[scene.found_class],
                "size": np.where(on_object, _at(size, of_mask.about), SIZE_NAMES[_size(scene.found_area)]),
                "crowding": np.where(on_object, _at(crowding, of_mask.about), "no object"),
                "score": scene.score,
                **{f"error_{kind}": of.code for kind, of in zip(KINDS, theirs, strict=True)},
                **{f"iou_{kind}": _iou_about(scene.iou[kind], of.about) for kind, of in zip(KINDS, theirs, strict=True)},
                "annotation": np.where(on_object, _at(scene.objects, of_mask.about), -1),
                "failure": failure,
                "target": _targets(scene, rows),
                **{name: rows[name].to_numpy() for name in MEASURES},
            }
        )
        covered = {j for row in np.flatnonzero(failure == MASK_FAILURES[0]) for j in rows["united"].iloc[row]}
        lost = ~of_mask.found & np.isin(np.arange(len(size)), list(covered))
        state = np.select(
            [of_mask.found, lost, ~of_mask.missed, np.isin(crowding, CROWDING[2:])],
            [FOUND, LOST, BADLY_FOUND, MISSED[0]],
            MISSED[1],
        )
        places = {"image": np.full(len(size), scene.image), "row": np.arange(len(size)), "annotation": scene.objects}
        objects.append({**places, "class": names[scene.object_class], "size": size, "crowding": crowding, "state": state})
    tables = (
        pd.DataFrame({key: np.concatenate([part[key] for part in parts]) for key in parts[0]}) for parts in (detections, objects)
    )
    return Facts(scenes, errors, *tables)


def _targets(scene: Scene, rows: pd.DataFrame) -> Int[np.ndarray, " n"]:
    """The annotation that each failure of `measure` is about: of what a mask unites the best, of its class if one is."""
    targets = np.full(len(rows), -1)
    for place, row in enumerate(rows.itertuples()):
        if row.failure == MASK_FAILURES[0]:
            own = [j for j in row.united if scene.object_class[j] == scene.found_class[place]] or row.united
            targets[place] = scene.objects[max(own, key=lambda j: scene.iou["mask"][place, j])]
        elif row.failure:
            targets[place] = scene.objects[row.object]
    return targets


def repaired(facts: Facts, name: str) -> tuple[Scenes, dict[int, set[int]]]:
    """The scenes with all failures of a type repaired, and the objects (rows, by image) that need not be found any more.

    Leakage, boundary, incomplete: the mask is its object's. Localization failure: the mask is that of one object (of its
    class, if one is), and each object lost that way gets a detection of its own with the same score. Missed and lost: as TIDE has
    it, the object is not there.
    """
    gone: dict[int, set[int]] = {}
    if name in OBJECT_FAILURES:
        for place in facts.objects[facts.objects["state"] == name].itertuples():
            gone.setdefault(place.image, set()).add(place.row)
        return facts.scenes, gone
    failed = {image: rows for image, rows in facts.detections[facts.detections["failure"] == name].groupby("image")}
    states = {image: rows["state"].to_numpy() for image, rows in facts.objects.groupby("image")}

    def repair(scene: Scene) -> Scene:
        if scene.image not in failed:
            return scene
        rows = failed[scene.image]
        places, iou = rows["row"].to_numpy(), scene.iou["mask"].copy()
        targets = np.searchsorted(scene.objects, rows["target"])
        iou[places] = 0
        iou[places, targets] = 1
        copies = [
            (place, j)
            for place, target, united in zip(places, targets, rows["united"], strict=True)
            for j in united
            if name == MASK_FAILURES[0]
            and j != target
            and states[scene.image][j] == LOST
            and scene.object_class[j] == scene.found_class[place]
        ]
        scene = replace(scene, iou={**scene.iou, "mask": iou})
        if not copies:
            return scene
        sources, theirs = np.array(copies).T
        order = np.argsort(np.r_[np.arange(len(scene.found)), sources], kind="stable")
        more = scene.take(np.r_[np.arange(len(scene.found)), sources])
        more.iou["mask"][len(scene.found) :] = np.eye(len(scene.objects))[theirs]
        more.found[len(scene.found) :] = -1
        return more.take(order)

    return facts.scenes.changed(repair), gone


def _counting(size: str, gone: dict[int, set[int]] | None = None) -> Counting:
    """What counts among objects of a size ("all" for all), without those that are gone (rows, by image)."""

    def counting(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        if size == "all":
            wanted, counted = np.ones(len(scene.objects), dtype=bool), np.ones(len(scene.found), dtype=bool)
        else:
            place = list(SIZES).index(size)
            wanted, counted = _size(scene.object_area) == place, _size(scene.found_area) == place
        if gone and scene.image in gone:
            wanted[list(gone[scene.image])] = False
        return wanted, counted

    return counting


def _size(pixels: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Places in `SIZES`."""
    return np.searchsorted(list(SIZES.values())[:-1], pixels, side="left")


def _at(values: np.ndarray, places: Int[np.ndarray, " n"]) -> np.ndarray:
    """The values at places, something where a place is -1."""
    return values[places] if len(values) else np.zeros(len(places), values.dtype)


def _iou_about(iou: Float[np.ndarray, "n m"], about: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """IoU with the object at a place; the largest where that is -1."""
    largest = iou.max(1, initial=0)
    return np.where(about >= 0, iou[np.arange(len(about)), about], largest) if iou.shape[1] else largest


def _severity(scenes: Scenes, cases: pd.DataFrame) -> Float[np.ndarray, " n"]:
    """How bad cases of a type are beside one another: the score times what is lost; for missed objects their share of the image."""
    lost = pd.DataFrame(
        {
            "localisation": 1 - cases["iou_mask"],
            MASK_FAILURES[0]: cases["union_iou"] - cases["single_iou"],
            **{name: cases[column] for name, column in PLACES.items()},
        }
    )
    rows, columns = np.arange(len(cases)), lost.columns.get_indexer(cases["type"])
    weight = np.where(columns >= 0, lost.to_numpy(float)[rows, columns], 1.0) * cases["score"].to_numpy(float)
    areas = np.array([scenes.annotations[i]["area"] if i >= 0 else 0 for i in cases["annotation"]], dtype=float)
    images = np.array([scenes.images[i]["height"] * scenes.images[i]["width"] for i in cases["image"]], dtype=float)
    return np.where(cases["detection"] < 0, areas / np.maximum(images, 1), weight)
