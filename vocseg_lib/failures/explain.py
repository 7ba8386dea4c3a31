"""One sentence on each failure: what went wrong, with the numbers."""

import pandas as pd

from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.mask_errors import MASK_FAILURES
from vocseg_lib.failures.tables import LOST


def explain_failure(analysis: Analysis, case: pd.Series) -> str:
    """The sentence on one row of `Analysis.cases`."""
    what = f"{case['class']} of score {case['score']:.2f}"
    if case["detection"] < 0:
        return _missed(analysis, case)
    row = analysis.counted.detections.loc[case["place"]]
    names = {c["id"]: c["name"] for c in analysis.dataset_eval.categories}
    object_name = (
        names[analysis.dataset_eval.annotations[case["annotation"]]["category_id"]]
        if case["annotation"] >= 0
        else ""
    )
    if case["type"] == MASK_FAILURES[0]:
        image_eval = analysis.dataset_eval.image_evals[row["image"]]
        united = [
            analysis.dataset_eval.categories[image_eval.object_class[j]]["name"]
            for j in row["united"]
        ]
        state = analysis.counted.objects.set_index("annotation")["state"]
        lost = sum(state[image_eval.objects[j]] == LOST for j in row["united"])
        found = f"IoU {row['union_iou']:.2f} with all of them, {row['single_iou']:.2f} with the best single one"
        ending = f"; {lost} of them {'is' if lost == 1 else 'are'} lost" if lost else ""
        objects = f"{len(united)} objects ({', '.join(united)})"
        return (
            f"Foreground, not an object: the mask of the {what} covers {objects}: {found}{ending}."
        )
    if case["type"] == "leakage":
        before = (
            f", before the crop {100 * row['leakage_before_crop']:.0f} %"
            if row["leakage_before_crop"] >= 0
            else ""
        )
        others = (
            f", {100 * row['leaked_on_others']:.0f} % on other objects"
            if row["leaked_on_others"] > 0
            else ""
        )
        return f"The box is right, but {100 * row['leakage']:.0f} % of the mask of the {what} lies outside the object{others}{before}."
    if case["type"] == "boundary":
        share = f"{100 * row['lost_at_boundary']:.0f} of {100 * (1 - row['object_iou']):.0f} points"
        loss = f"IoU {row['object_iou']:.2f}; {share} are lost in the band along the contour"
        return f"Right object, coarse contour: the {what} has {loss}."
    if case["type"] == "incomplete":
        loss = f"{100 * row['missing']:.0f} of {100 * (1 - row['object_iou']):.0f} points are lost in it, IoU {row['object_iou']:.2f}"
        return f"Right box, but the mask of the {what} leaves out a part of the object: {loss}."
    kind = "mask" if case["family"] == "TIDE, masks" else "box"
    of, single = f"{kind} of the {what}", f"IoU {row[f'iou_{kind}']:.2f}"
    return {
        "class": f"Misclassified: the {of} is on a {object_name}, {single}.",
        "localisation": f"The {of} is on its {object_name}, but not well enough: {single}, 0.5 is needed.",
        "both": f"Class and place are wrong: the {of} overlaps a {object_name} by {single}.",
        "duplicate": f"A ghost: the {of} is on a {object_name} that a better one has found already, {single}.",
        "background": f"Nothing there: the {of} overlaps no object by more than {row[f'iou_{kind}']:.2f}.",
    }[case["type"]]


def _missed(analysis: Analysis, case: pd.Series) -> str:
    annotation = analysis.dataset_eval.annotations[case["annotation"]]
    place = {
        "alone": "no other object of its class is in the image",
        "apart": "others of its class are in the image, further away",
        "near": "another of its class is near",
        "overlapping": "the box of another of its class overlaps its own",
    }[case["crowding"]]
    if case["type"] == LOST:
        return f"A {case['class']} of {annotation['area']:.0f} pixels disappears in a mask that covers its neighbour too."
    return f"Not found: a {case['class']} of {annotation['area']:.0f} pixels; {place}."
