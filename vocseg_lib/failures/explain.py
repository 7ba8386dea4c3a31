"""A sentence on each failure, with the numbers."""

import pandas as pd

from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import LOST

NEIGHBORS = {
    "alone": "no other object of its class is in the image",
    "apart": "others of its class are in the image, further away",
    "near": "another of its class is near",
    "overlapping": "the box of another of its class overlaps its own",
}


def explain_failure(analysis: Analysis, case: pd.Series) -> str:
    """The sentence on one row of `Analysis.cases`."""
    if case["detection"] < 0:
        return _missed(analysis, case)
    row = analysis.at_threshold.detections.loc[case["table_row"]]
    what = f"{case['class']} of score {case['score']:.2f}"
    if case["family"] != "pixels":
        return _tide_error(analysis, case, row, what)
    if case["type"] == MASK_FAILURES[0]:
        return _localization_failure(analysis, row, what)
    loss, iou = f"{100 * (1 - row['object_iou']):.0f} points", f"IoU {row['object_iou']:.2f}"
    if case["type"] == "boundary":
        lost = f"{100 * row['lost_at_boundary']:.0f} of {loss} are lost in the band"
        return f"Right object, coarse contour: the {what} has {iou}; {lost} along the contour."
    if case["type"] == "incomplete":
        lost = f"{100 * row['missing']:.0f} of {loss} are lost in it, {iou}"
        return f"Right box, but the mask of the {what} leaves out a part of the object: {lost}."
    leak = f"{100 * row['leakage']:.0f} % of the mask of the {what} lies outside the object"
    if row["leaked_on_others"] > 0:
        leak += f", {100 * row['leaked_on_others']:.0f} % on other objects"
    if row["leakage_before_crop"] >= 0:
        leak += f", before the crop {100 * row['leakage_before_crop']:.0f} %"
    return f"The box is right, but {leak}."


def _localization_failure(analysis: Analysis, row: pd.Series, what: str) -> str:
    tables, dataset_eval = analysis.at_threshold, analysis.dataset_eval
    objects = dataset_eval.image_evals[row["image"]].objects[list(row["covered_objects"])]
    names = {c["id"]: c["name"] for c in dataset_eval.categories}
    classes = [names[dataset_eval.annotations[j]["category_id"]] for j in objects]
    lost = (tables.objects.set_index("annotation")["state"][objects] == LOST).sum()
    ending = f"; {lost} of them {'is' if lost == 1 else 'are'} lost" if lost else ""
    single = f"{row['single_iou']:.2f} with the best single one"
    iou = f"IoU {row['union_iou']:.2f} with all of them, {single}{ending}"
    covers = f"covers {len(classes)} objects ({', '.join(classes)}): {iou}"
    return f"Foreground, not an object: the mask of the {what} {covers}."


def _tide_error(analysis: Analysis, case: pd.Series, row: pd.Series, what: str) -> str:
    dataset_eval, kind = analysis.dataset_eval, "mask" if case["family"] == "TIDE, masks" else "box"
    names = {c["id"]: c["name"] for c in dataset_eval.categories}
    of, iou, name = f"{kind} of the {what}", f"{row[f'iou_{kind}']:.2f}", ""
    if case["annotation"] >= 0:
        name = names[dataset_eval.annotations[case["annotation"]]["category_id"]]
    return {
        "class": f"Misclassified: the {of} is on a {name}, IoU {iou}.",
        "localization": f"The {of} is on its {name} with IoU {iou} only: 0.5 is needed.",
        "both": f"Wrong class and poor localization: the {of} has IoU {iou} with a {name}.",
        "duplicate": f"A ghost: the {of} is on a {name} that a better one detects, IoU {iou}.",
        "background": f"Nothing there: the {of} overlaps no object by more than {iou}.",
    }[case["type"]]


def _missed(analysis: Analysis, case: pd.Series) -> str:
    area = analysis.dataset_eval.annotations[case["annotation"]]["area"]
    what = f"a {case['class']} of {area:.0f} pixels"
    if case["type"] == LOST:
        return f"Lost: {what} disappears in a mask that covers its neighbor too."
    return f"Missed: {what}; {NEIGHBORS[case['crowding']]}."
