"""Who wins by how much under which rule: two models by every metric, and where the winner flips."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from vocseg_lib.metrics.bootstrap import Sampled, paired_differences
from vocseg_lib.metrics.coco_eval import Evaluation
from vocseg_lib.metrics.table import KEYS, SIZES, resampled_metrics


class Rule(NamedTuple):
    """A way to compare: title, what it is of, metric of `metrics_table`, and if less is better."""

    title: str
    kind: str
    metric: str
    less_is_better: bool = False


RULES = (
    Rule("COCO AP", "mask", "AP"),
    Rule("COCO AP50", "mask", "AP50"),
    Rule("COCO AP75", "mask", "AP75"),
    *(Rule(f"AP, {s} masks", "mask", f"AP_{s}") for s in SIZES),
    *(Rule(f"AP, {s} boxes", "mask", f"AP_{s}_by_box") for s in SIZES),
    Rule("COCO AP, all detections", "mask", "AP_unlimited"),
    Rule("COCO AP without void", "mask", "AP_without_void"),
    Rule("VOC AP at .5", "mask", "voc_AP50"),
    Rule("VOC AP at .5, 11 points", "mask", "voc_AP50_11"),
    Rule("VOC AP at .7", "mask", "voc_AP70"),
    Rule("VOC AP at .7, 11 points", "mask", "voc_AP70_11"),
    Rule("VOC AP, .1 to .9", "mask", "voc_AP_vol"),
    Rule("Boundary AP", "mask", "boundary_AP"),
    Rule("oLRP", "mask", "oLRP", less_is_better=True),
    Rule("F1, best threshold", "mask", "best_F1"),
    Rule("mean IoU", "mask", "mean_IoU"),
    Rule("COCO AP of boxes", "box", "AP"),
    Rule("COCO AP50 of boxes", "box", "AP50"),
    Rule("VOC AP of boxes at .5", "box", "voc_AP50"),
    Rule("oLRP of boxes", "box", "oLRP", less_is_better=True),
)
"""By size: of the objects' areas, and the detections' mask or box areas."""


def rule_book(first: Sampled, second: Sampled) -> pd.DataFrame:
    """Two models by `RULES`, those that were evaluated: the lead of the first under each.

    Columns: rule, kind, metric, first, second (percent), lead (points, above 0: the first is
    better), low, high (95 %, paired), significant, training_share, flips (the winner is not that of
    the first row).
    """
    differences = paired_differences(first, second).set_index(KEYS)
    rows = []
    for rule in RULES:
        key = rule.kind, rule.metric, "all"
        if key not in differences.index:
            continue
        row, sign = differences.loc[key], -1 if rule.less_is_better else 1
        low, high = sorted((sign * row["low"], sign * row["high"]))
        values = (
            *(s.estimate[key] for s in (first, second)),
            sign * row["difference"] + 0.0,
            low,
            high,
        )
        rows.append((*rule[:3], *values, row["significant"], row["training_share"]))
    columns = "rule kind metric first second lead low high significant training_share".split()
    table = pd.DataFrame(rows, columns=columns)
    signs = np.sign(table["lead"])
    return table.assign(flips=(signs * signs.iloc[0] < 0) if len(table) else False)


def image_that_flips(
    first: Evaluation, second: Evaluation, rules: tuple[Rule, Rule]
) -> tuple[int, pd.DataFrame]:
    """The image (index) that does most for both of two different winners, and what it does.

    Of each image's part in the two leads (jackknife, in standard deviations over images), the
    smaller one is largest. The table has a row per rule: rule, lead (points, on all images),
    without (this image).
    """
    count = len(first.ground_truth["images"])
    weights = np.concatenate([np.ones((1, count)), 1 - np.eye(count)])
    only, leads = [rule.metric for rule in rules], []
    columns = [dict(resampled_metrics(model, weights, only=only)) for model in (first, second)]
    for rule in rules:
        values = [of_model[rule.kind, rule.metric, "all"] for of_model in columns]
        leads.append((values[0] - values[1]) * (-1 if rule.less_is_better else 1))
    parts = np.array([(lead[0] - lead[1:]) * np.sign(lead[0]) for lead in leads])
    parts = np.nan_to_num(parts, nan=-np.inf) / np.maximum(np.nanstd(parts, 1), 1e-12)[:, None]
    image = int(parts.min(0).argmax())
    rows = [(r.title, lead[0], lead[1 + image]) for r, lead in zip(rules, leads, strict=True)]
    return image, pd.DataFrame(rows, columns=["rule", "lead", "without"])
