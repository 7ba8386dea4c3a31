"""All failures in one prediction file: counts, dAP, and one row per case."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.failures.config import Thresholds
from vocseg_lib.failures.mask_errors import MASK_FAILURES, MEASURES, measure_masks
from vocseg_lib.failures.tables import LOST, OBJECT_FAILURES, FailureTables, build_tables
from vocseg_lib.failures.tide import ERRORS, NO_ERROR
from vocseg_lib.metrics import matching
from vocseg_lib.metrics.average_precision import MeanAndClasses, Weights, mean_ap
from vocseg_lib.metrics.bootstrap import prepend_point_estimate
from vocseg_lib.metrics.coco_eval import Evaluation
from vocseg_lib.metrics.matching import AREA_RANGES, IOU_TYPES, DatasetEval, ImageEval, select_area

FAMILIES = {"TIDE, masks": "AP50", "TIDE, boxes": "AP50", "pixels": "AP"}
"""Families of failures and the metric of their dAP: AP50 of masks or boxes, or COCO's mask AP."""
TIDE_FAMILIES = dict(zip(IOU_TYPES, FAMILIES, strict=False))
SEVERITY = {"leakage": "leakage", "boundary": "lost_at_boundary", "incomplete": "missing"}
"""Measure that says how bad a failure with a right box is."""
CASE_COLUMNS = "family type image_id class size crowding score severity".split()
CASE_COLUMNS += ["detection", "annotation", "table_row"]
MADE_OF = "image_id image class size crowding score detection annotation error_mask error_box"
MADE_OF += f" failure target iou_mask union_iou single_iou {' '.join(SEVERITY.values())}"
"""Columns of detections that cases are made of: millions of rows take GBs with the others."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One model's failures: counts and cases from `score_threshold` on, dAP of all detections."""

    dataset_eval: DatasetEval
    score_threshold: float = 0.0
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if "mask" not in self.dataset_eval.image_evals[0].iou:
            raise ValueError("detections or objects have no segmentation: failures need masks")

    @cached_property
    def tables(self) -> FailureTables:
        """Tables of all detections."""
        measures = measure_masks(self.dataset_eval, self.thresholds)
        return build_tables(self.dataset_eval, measures, self.thresholds)

    @cached_property
    def at_threshold(self) -> FailureTables:
        """Tables of the detections from the score threshold on."""
        detections, least = self.tables.detections, self.score_threshold
        kept = detections["score"] >= least
        if kept.all():
            return self.tables
        measures = detections.loc[kept, MEASURES]
        sure = self.dataset_eval.changed(lambda e: e.select(e.detections["score"] >= least))
        return build_tables(sure, measures.reset_index(drop=True), self.thresholds)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """One row per failure, the worst of a type first.

        Columns: family, type, image_id, class, size, crowding, score, severity, detection,
        annotation (indices in the files, -1 for none), table_row (in `at_threshold.detections`).
        """
        tables, parts = self.at_threshold, []
        detections = tables.detections[MADE_OF.split()].rename_axis("table_row").reset_index()
        objects = tables.objects.assign(detection=-1, table_row=-1)
        for kind, family in TIDE_FAMILIES.items():
            code, missed = detections[f"error_{kind}"], tables.tide[kind].objects["missed"]
            types = np.array([*ERRORS, ""], dtype=object)[code]
            parts.append(detections.assign(family=family, type=types)[code != NO_ERROR])
            parts.append(objects.assign(family=family, type="missed")[missed])
        pixels = {"type": detections["failure"], "annotation": detections["target"]}
        parts.append(detections.assign(family="pixels", **pixels)[detections["failure"] != ""])
        objects = objects.assign(family="pixels", type=objects["state"])
        parts.append(objects[objects["state"].isin(OBJECT_FAILURES)])
        # Detections first.
        cases = pd.concat(parts[::2] + parts[1::2], ignore_index=True)
        # A failure has the size and crowding of its object.
        of_object = tables.objects.set_index("annotation")
        for name in ("size", "crowding"):
            cases[name] = cases["annotation"].map(of_object[name]).fillna(cases[name])
        cases["severity"] = _severity(self.dataset_eval, cases)
        cases["image_id"] = cases["image_id"].astype(object)
        cases = cases.sort_values("severity", ascending=False, kind="stable", ignore_index=True)
        return cases[CASE_COLUMNS]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per type of failure and class or size ("all" for all).

        Columns: family, type, class, size, count, rate (percent of the detections, for missed and
        lost objects of the objects), dAP (points that AP, see `FAMILIES`, gains when all failures
        of the type are fixed, alone), dAP_as_tidecv (as TIDE's toolbox has it, which differs if
        there are detections of classes without objects).
        """
        classes = ["all", *(c["name"] for c in self.dataset_eval.categories)]
        dap, rows = {size: self._dap(size) for size in AREA_RANGES}, []
        as_tidecv = {
            ("all", "all", family, name): values[0, 0]
            for kind, family in TIDE_FAMILIES.items()
            for name, values in self.tables.tide[kind].dap(as_tidecv=True).items()
        }
        counts = _count_scopes(self.cases, "family", "type")
        totals = _count_scopes(self.at_threshold.detections)
        objects = _count_scopes(self.at_threshold.objects)
        for name, size in [("all", size) for size in dap] + [(name, "all") for name in classes[1:]]:
            for (family, kind), values in dap[size].items():
                key = name, size, family, kind
                count, tidecv = int(counts.get(key, 0)), as_tidecv.get(key, np.nan)
                of_objects = kind in ("missed", *OBJECT_FAILURES)
                total = (objects if of_objects else totals).get((name, size), 0)
                rate = 100 * count / total if total else np.nan
                points = float(values[0, classes.index(name)])
                rows.append((family, kind, name, size, count, rate, points, tidecv))
        columns = ["family", "type", "class", "size", "count", "rate", "dAP", "dAP_as_tidecv"]
        return pd.DataFrame(rows, columns=columns)

    def resampled_dap(self, weights: Weights) -> dict[tuple[str, str], Float[np.ndarray, " _"]]:
        """dAP over all classes and sizes by family and type: the estimate, then each resample's."""
        weights = prepend_point_estimate(weights, len(self.dataset_eval.images))
        return {key: values[:, 0] for key, values in self._dap("all", weights).items()}

    def _dap(
        self, size: str, weights: Weights | None = None
    ) -> dict[tuple[str, str], MeanAndClasses]:
        """dAP among objects of a size by family and type."""
        result = {}
        for kind, family in TIDE_FAMILIES.items():
            dap = self.tables.tide[kind].dap(select_area(size, "mask"), weights)
            result |= {(family, name): values for name, values in dap.items()}
        ap = ap_with_fix(self.tables, "", size, weights)
        for name in (*MASK_FAILURES, *OBJECT_FAILURES):
            result["pixels", name] = ap_with_fix(self.tables, name, size, weights) - ap
        return result


def _count_scopes(table: pd.DataFrame, *columns: str) -> pd.Series:
    """Number of rows by class, size and other columns; "all" for all classes or sizes."""
    table = table[["class", "size", *columns]]
    over_classes, over_sizes = table.assign(**{"class": "all"}), table.assign(size="all")
    parts = over_classes, over_sizes, over_classes.assign(size="all")
    return pd.concat(parts).value_counts(["class", "size", *columns])


def _severity(dataset_eval: DatasetEval, cases: pd.DataFrame) -> pd.Series:
    """Score times what is lost; for missed objects, their share of the image."""
    lost = {name: cases[measure] for name, measure in SEVERITY.items()}
    lost["localization"] = 1 - cases["iou_mask"]
    lost[MASK_FAILURES[0]] = cases["union_iou"] - cases["single_iou"]
    weight = np.select([cases["type"] == name for name in lost], list(lost.values()), 1.0)
    pixels = np.array([image["height"] * image["width"] for image in dataset_eval.images], float)
    share = cases["area"] / pixels[cases["image"]]
    return share.where(cases["detection"] < 0, weight * cases["score"])


def ap_with_fix(
    tables: FailureTables, failure: str, size: str = "all", weights: Weights | None = None
) -> MeanAndClasses:
    """COCO's mask AP (see `mean_ap`) on objects of a size, failures of a type fixed ("": none).

    Missed and lost objects are dropped, as in TIDE; the others get the masks of `fix_masks`.
    """
    of_size, dropped = select_area(size, "mask"), _in_state(tables, failure)

    def select(image_eval: ImageEval) -> matching.Selected:
        objects, detections = of_size(image_eval)
        return objects & ~np.isin(image_eval.objects["annotation"], dropped), detections

    changed = fix_masks(tables, failure) if failure in MASK_FAILURES else tables.dataset_eval
    return mean_ap(matching.match_coco(changed, "mask", select), weights)


def fix_masks(tables: FailureTables, failure: str) -> DatasetEval:
    """The evaluation with the object's mask in place of each mask that has a failure.

    The fix of a localization failure adds detections of the same score for the other covered
    objects of its class that are lost, right after it.
    """
    rows, lost = tables.detections, _in_state(tables, LOST)
    rows = rows.loc[rows["failure"] == failure, ["image", "row", "target", "covered_objects"]]
    failed = {image: of_image.to_numpy() for image, of_image in rows.groupby("image")}

    def fix(image_eval: ImageEval) -> ImageEval:
        if image_eval.image not in failed:
            return image_eval
        objects = image_eval.objects["annotation"]
        # The objects whose masks each detection gets, -1 for its own mask.
        masks = {row: [-1] for row in range(len(image_eval.detections))}
        for _, row, target, covered in failed[image_eval.image]:
            masks[row] = [target]
            if failure == MASK_FAILURES[0]:
                own = objects[image_eval.same_class[row]]
                masks[row] += [j for j in covered if j != target and j in own and j in lost]
        changed = image_eval.select(np.repeat(list(masks), list(map(len, masks.values()))))
        target = np.concatenate(list(masks.values()))
        one_hot = target[:, None] == objects
        changed.iou["mask"][target >= 0] = one_hot[target >= 0]
        return changed

    return tables.dataset_eval.changed(fix)


def _in_state(tables: FailureTables, state: str) -> np.ndarray:
    return tables.objects["annotation"][tables.objects["state"] == state].to_numpy()


def analyze(
    evaluation: Evaluation, score_threshold: float = 0.0, thresholds: Thresholds | None = None
) -> Analysis:
    """The failures of an evaluated model. Raises ValueError if there are no masks."""
    options = {"score_threshold": score_threshold, "thresholds": thresholds or Thresholds()}
    return Analysis(dataset_eval=evaluation.dataset_eval, **options)
