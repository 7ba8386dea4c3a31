"""Everything that goes wrong in one prediction file: counted, priced in AP, and listed case by case."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from vocseg_lib.data.coco import validate_ground_truth, validate_results
from vocseg_lib.failures.fixes import ap_with_fix, counting
from vocseg_lib.failures.mask_errors import MASK_FAILURES, Thresholds, measure
from vocseg_lib.failures.tables import FAILURES, OBJECT_FAILURES, SIZES, FailureTables, build_tables
from vocseg_lib.failures.tide import ERRORS, RIGHT
from vocseg_lib.metrics.bootstrap import prepend_point_estimate
from vocseg_lib.metrics.coco_eval import IOU_TYPES
from vocseg_lib.metrics.matching import DatasetEval, evaluate_images

FAMILIES = {"TIDE, masks": "AP50", "TIDE, boxes": "AP50", "pixels": "AP"}
"""Of failures, and the figure whose points they cost: AP50 of masks or boxes, or COCO's AP of masks."""


@dataclass(frozen=True)
class Analysis:
    """One model's failures. Counts and cases are of detections of at least `score_threshold`, costs in AP of all detections."""

    dataset_eval: DatasetEval
    score_threshold: float = 0.0
    thresholds: Thresholds = field(default_factory=Thresholds)

    @cached_property
    def measured(self) -> pd.DataFrame:
        """`measure` of all detections."""
        return measure(self.dataset_eval, self.thresholds)

    @cached_property
    def everything(self) -> FailureTables:
        """Of all detections."""
        return build_tables(self.dataset_eval, self.measured, self.thresholds)

    @cached_property
    def counted(self) -> FailureTables:
        """Of those that are sure enough to be counted."""
        kept = np.concatenate(
            [
                image_eval.score >= self.score_threshold
                for image_eval in self.dataset_eval.image_evals
            ]
        )
        if kept.all():
            return self.everything
        sure = self.dataset_eval.changed(
            lambda image_eval: image_eval.select(image_eval.score >= self.score_threshold)
        )
        return build_tables(sure, self.measured[kept].reset_index(drop=True), self.thresholds)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """Each failure as a row, the worst of a type first: family, type, image_id, class, size, crowding, score, severity,
        detection, annotation (places in the lists; -1 for none), place (in `counted.detections`, or -1)."""
        facts = self.counted
        found, parts = facts.detections.rename_axis("place").reset_index(), []
        errors = dict(zip(FAMILIES, ("error_mask", "error_box"), strict=False))
        for family, column in errors.items():
            wrong = found[found[column] != RIGHT]
            parts.append(
                wrong.assign(
                    family=family, type=np.array(ERRORS, object)[wrong[column].to_numpy(int)]
                )
            )
        failed = found[found["failure"] != ""]
        parts.append(
            failed.assign(family="pixels", type=failed["failure"], annotation=failed["target"])
        )
        missed = facts.objects.assign(detection=-1, place=-1)
        for kind, family in zip(IOU_TYPES, errors, strict=True):
            none = np.concatenate([errors.missed for errors in facts.tide[kind].errors])
            parts.append(missed[none].assign(family=family, type="missed"))
        missed = missed[missed["state"].isin(OBJECT_FAILURES)]
        parts.append(missed.assign(family="pixels", type=missed["state"]))
        cases = pd.concat(parts, ignore_index=True)
        on_object, objects = cases["annotation"] >= 0, facts.objects.set_index("annotation")
        for name in ("size", "crowding"):
            cases[name] = cases["annotation"].map(objects[name]).where(on_object, cases[name])
        cases["severity"] = _severity(self.dataset_eval, cases)
        cases["image_id"] = pd.Series(
            [self.dataset_eval.images[place]["id"] for place in cases["image"]], dtype=object
        )
        cases = cases.sort_values("severity", ascending=False, kind="stable", ignore_index=True)
        return cases[CASE_COLUMNS]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Failures of each type: family, type, class, size ("all" for all), count, rate, cost, dap_as_tidecv.

        `rate` is percent of the counted detections, for what is missed or lost of the objects. `cost`: points of AP (see
        `FAMILIES`) that come back when all failures of the type are repaired, and nothing else. `dap_as_tidecv`: what TIDE's
        toolbox says, for all classes and sizes; it differs where there are detections of classes that have no object.
        """
        facts, costs = self.counted, self._costs()
        names = [c["name"] for c in self.dataset_eval.categories]
        of_toolbox = {
            family: self.everything.tide[kind].dap_as_tidecv
            for kind, family in zip(IOU_TYPES, FAMILIES, strict=False)
        }
        of = {"detections": facts.detections, "objects": facts.objects}
        scopes = [
            ("all", "all"),
            *(("all", size) for size in SIZES),
            *((name, "all") for name in names),
        ]
        types = [(family, name) for family in list(FAMILIES)[:2] for name in ERRORS] + [
            ("pixels", name) for name in FAILURES
        ]
        rows = []
        for class_name, size in scopes:

            def within(
                table: pd.DataFrame, class_name: str = class_name, size: str = size
            ) -> pd.DataFrame:
                kept = (table["class"] == class_name) | (class_name == "all")
                return table[kept & ((table["size"] == size) | (size == "all"))]

            counts = within(self.cases).value_counts(["family", "type"])
            totals = {what: len(within(table)) for what, table in of.items()}
            for family, name in types:
                count = int(counts.get((family, name), 0))
                total = totals["objects" if name in ("missed", *OBJECT_FAILURES) else "detections"]
                rate = 100 * count / total if total else np.nan
                toolbox = (
                    of_toolbox[family][name]
                    if (class_name, size) == ("all", "all") and family in of_toolbox
                    else np.nan
                )
                rows.append(
                    (
                        family,
                        name,
                        class_name,
                        size,
                        count,
                        rate,
                        costs[family, name, class_name, size],
                        toolbox,
                    )
                )
        return pd.DataFrame(
            rows,
            columns=["family", "type", "class", "size", "count", "rate", "cost", "dap_as_tidecv"],
        )

    def _costs(self) -> dict[tuple[str, str, str, str], float]:
        costs, names = {}, ["all", *(c["name"] for c in self.dataset_eval.categories)]
        for size in ("all", *SIZES):
            for (family, name), price in self._prices(size).items():
                for of, value in zip(names if size == "all" else ["all"], price[0], strict=False):
                    costs[family, name, of, size] = float(value)
        return costs

    def resampled_costs(
        self, weights: Float[np.ndarray, "b i"]
    ) -> dict[tuple[str, str], Float[np.ndarray, " _"]]:
        """What failures cost over all classes and sizes, by family and type: as it is (see `table`), then in each resample."""
        return {
            key: price[:, 0]
            for key, price in self._prices(
                "all", prepend_point_estimate(weights, len(self.dataset_eval.images))
            ).items()
        }

    def _prices(
        self, size: str, weights: Float[np.ndarray, "b i"] | None = None
    ) -> dict[tuple[str, str], Float[np.ndarray, "b _"]]:
        facts = self.everything
        before = ap_with_fix(facts, "", size, weights)
        prices = {
            ("pixels", name): ap_with_fix(facts, name, size, weights) - before for name in FAILURES
        }
        for kind, family in zip(IOU_TYPES, FAMILIES, strict=False):
            prices |= {
                (family, name): price
                for name, price in facts.tide[kind].costs(counting(size), weights).items()
            }
        return prices


LOST_BY = {"leakage": "leakage", "boundary": "lost_at_boundary", "incomplete": "missing"}
"""What of `measure` says how bad a failure with a right box is."""
CASE_COLUMNS = [
    "family",
    "type",
    "image_id",
    "class",
    "size",
    "crowding",
    "score",
    "severity",
    "detection",
    "annotation",
    "place",
]


def analyze(
    ground_truth: dict,
    detections: list,
    score_threshold: float = 0.0,
    thresholds: Thresholds | None = None,
) -> Analysis:
    """What goes wrong in COCO results with masks, against COCO ground truth; both are checked.

    Raises ValueError naming the entry that cannot be judged (see `coco.checked_results`), or that has no mask.
    """
    ground_truth = validate_ground_truth(ground_truth)
    dataset_eval = evaluate_images(ground_truth, validate_results(ground_truth, detections))
    return Analysis(dataset_eval, score_threshold, thresholds or Thresholds())


def _severity(dataset_eval: DatasetEval, cases: pd.DataFrame) -> Float[np.ndarray, " n"]:
    """How bad cases of a type are beside one another: the score times what is lost; for missed objects their share of the image."""
    lost = pd.DataFrame(
        {
            "localisation": 1 - cases["iou_mask"],
            MASK_FAILURES[0]: cases["union_iou"] - cases["single_iou"],
            **{name: cases[column] for name, column in LOST_BY.items()},
        }
    )
    rows, columns = np.arange(len(cases)), lost.columns.get_indexer(cases["type"])
    weight = np.where(columns >= 0, lost.to_numpy(float)[rows, columns], 1.0) * cases[
        "score"
    ].to_numpy(float)
    areas = np.array(
        [dataset_eval.annotations[i]["area"] if i >= 0 else 0 for i in cases["annotation"]],
        dtype=float,
    )
    images = np.array(
        [
            dataset_eval.images[i]["height"] * dataset_eval.images[i]["width"]
            for i in cases["image"]
        ],
        dtype=float,
    )
    return np.where(cases["detection"] < 0, areas / np.maximum(images, 1), weight)
