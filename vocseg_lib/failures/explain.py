"""A sentence on each failure, with the numbers."""

import pandas as pd

from vocseg_lib.failures.analysis import TIDE_FAMILIES, Analysis
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import LOST, MISSED

NEIGHBORS = {
    "alone": "no other object of its class is in the image",
    "apart": "others of its class are in the image, further away",
    "near": "another of its class is near",
    "overlapping": "the box of another of its class overlaps its own",
}
_MISSED = "Missed: a {class} of {area:.0f} pixels; {neighbor}."
SENTENCES = {
    "class": "Misclassified: the {kind} of the {what} is on {object}, IoU {iou:.2f}.",
    "localization": "The {kind} of the {what} is on its {class} with IoU {iou:.2f} only: 0.5 is "
    "needed.",
    "both": "Wrong class and poor localization: the {kind} of the {what} has IoU {iou:.2f} with "
    "{object}.",
    "duplicate": "A ghost: the {kind} of the {what} is on {object} that a better one detects, "
    "IoU {iou:.2f}.",
    "background": "Nothing there: the {kind} of the {what} overlaps no object by more than "
    "{iou:.2f}.",
    MASK_FAILURES[0]: "Foreground, not an object: the mask of the {what} covers {covered}: IoU "
    "{union_iou:.2f} with all of them, {single_iou:.2f} with the best single one; {lost_objects} "
    "of them lost.",
    "leakage": "The box is right, but {leakage:.0%} of the mask of the {what} lies outside the "
    "object, {leaked_on_others:.0%} on other objects{before_crop}.",
    "boundary": "Right object, coarse contour: the {what} has IoU {object_iou:.2f}; of the "
    "{lost:.0%} lost, {lost_at_boundary:.0%} are in the band along the contour.",
    "incomplete": "Right box, but the mask of the {what} leaves out a part of the object: of the "
    "{lost:.0%} lost, {missing:.0%} are in it, IoU {object_iou:.2f}.",
    LOST: "Lost: a {class} of {area:.0f} pixels disappears in a mask that covers its neighbor too.",
} | dict.fromkeys(("missed", *MISSED), _MISSED)
"""By type of failure; fields are columns of the tables, or see `explain_failure`."""


def explain_failure(analysis: Analysis, case: pd.Series) -> str:
    """The sentence on one row of `Analysis.cases`."""
    tables, annotations = analysis.at_threshold, analysis.dataset_eval.annotations
    names = {c["id"]: c["name"] for c in analysis.dataset_eval.categories}
    fields = case.to_dict() | {"neighbor": NEIGHBORS.get(case["crowding"])}
    if case["detection"] >= 0:
        row = tables.detections.loc[case["table_row"]].to_dict()
        kind = {family: kind for kind, family in TIDE_FAMILIES.items()}.get(case["family"], "mask")
        fields |= row | {"object": "an object", "kind": kind, "iou": row[f"iou_{kind}"]}
        fields["what"] = f"{row['class']} of score {row['score']:.2f}"
        fields["lost"] = 1 - row["object_iou"]
        covered = [names[annotations[j]["category_id"]] for j in row["covered_objects"]]
        is_lost = tables.objects["annotation"].isin(row["covered_objects"])
        fields["lost_objects"] = (is_lost & (tables.objects["state"] == LOST)).sum()
        fields["covered"] = f"{len(covered)} objects ({', '.join(covered)})"
        before = row["leakage_before_crop"]
        fields["before_crop"] = f", before the crop {before:.0%}" if before >= 0 else ""
    if case["annotation"] >= 0:
        annotation = annotations[case["annotation"]]
        fields |= {"object": f"a {names[annotation['category_id']]}", "area": annotation["area"]}
    return SENTENCES[case["type"]].format(**fields).replace("%", " %")
