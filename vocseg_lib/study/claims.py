"""The paper's claims on the gap between the two models, beside what is measured here."""

import numpy as np
import pandas as pd

from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.mask_errors import LEAKAGE, LEAKAGE_BEFORE_CROP, MASK_FAILURES
from vocseg_lib.failures.oracles import UNDETECTED
from vocseg_lib.failures.tables import overall_rows
from vocseg_lib.metrics.average_precision import mean_ap
from vocseg_lib.metrics.matching import match_coco

YES, NO, OPEN = "so it is here", "not so here", "not shown here"
HALF = "in the detector here, too, but the difference is not the same"
CLOSE = 1.0
"""Points of AP within which two differences count as equal."""
CLAIMS = {
    "Localization failure: with too many objects in one spot, a mask comes closer to foreground "
    "than to an instance.": "interval",
    "Leakage: outside of the crop nothing suppresses noise, and a loose box lets another object's "
    "mask in.": "values",
    "Misclassification is one of the causes.": "interval",
    "Object ghosting, the same object twice, is another.": "interval",
    "These failures alone do not explain the gap.": "values",
    "Even perfect masks would win only a few points, as box AP lies little above mask AP.": (
        "values"
    ),
    "The difference between boxes and masks is the same for both, so the gap lies in the detector, "
    "not in the masks.": "values",
}
"""By "interval", a claim is not shown if the interval holds 0; by "values", estimates decide."""


def gap_claims(
    analyses: dict[str, Analysis],
    oracles: dict[str, pd.DataFrame],
    parts: pd.DataFrame,
    crowding: pd.DataFrame,
) -> pd.DataFrame:
    """One row per claim: the paper says, measured, answer, by (see `CLAIMS`).

    The first of the two models is compared as the paper's YOLACT. `oracles`: `single_oracles` by
    model; `parts`: `gap_parts` from the first model to the second; `crowding`: `by_crowding`.
    """
    parts = parts.set_index("part")
    points, leaks = parts["points"], [f"{t}: {_leakage_text(a)}" for t, a in analyses.items()]
    leaked = np.subtract(*(_mean(analysis, LEAKAGE[0]) for analysis in analyses.values()))
    dap = {name: _dap(analyses, "TIDE, masks", name) for name in ("class", "duplicate")}
    known = points[["true classes", "no duplicates", "true masks"]].sum()
    rest = [f"{k} {points[k]:+.1f}" for k in ("true boxes", "no false alarms", UNDETECTED)]
    rows = [
        _localization(analyses, crowding),
        ("; ".join(leaks), YES if leaked > CLOSE else OPEN if leaked > -CLOSE else NO),
        (
            f"dAP {dap['class']} points of AP50; {_part(parts, 'true classes')} of the gap",
            _sign(parts.loc["true classes"], points["gap"]),
        ),
        (
            f"dAP {dap['duplicate']} points of AP50; {_part(parts, 'no duplicates')} of the gap",
            _sign(parts.loc["no duplicates"], points["gap"]),
        ),
        (
            f"classes, duplicates and masks together: {known:+.1f} of {points['gap']:+.1f} points; "
            f"the rest: {', '.join(rest)}",
            YES if abs(points["gap"] - known) > CLOSE else NO,
        ),
        *_boxes_and_masks(analyses, oracles, parts),
    ]
    claims = [(claim, *row, by) for (claim, by), row in zip(CLAIMS.items(), rows, strict=True)]
    return pd.DataFrame(claims, columns=["the paper says", "measured", "answer", "by"])


def _localization(analyses: dict[str, Analysis], crowding: pd.DataFrame) -> tuple[str, str]:
    """Measured and answer: the models' difference in recall with and without crowding."""
    first, second = analyses
    rows = (crowding["metric"] == "recall") & (crowding["model"] == f"{first} - {second}")
    recall = crowding[rows].drop_duplicates("bin").set_index("bin")
    bins = ["overlapping - alone", "overlapping", "alone"]
    change, crowd, alone = (recall.loc[name] for name in bins)
    text = (
        f"dAP {_dap(analyses, 'pixels', MASK_FAILURES[0])}; {first} - {second} in recall: "
        f"{_change(crowd)} where boxes of a class overlap, {_change(alone)} where an object is "
        f"alone of it; the change: {_change(change)}"
    )
    return text, YES if change["high"] < 0 else NO if change["low"] > 0 else OPEN


def _boxes_and_masks(
    analyses: dict[str, Analysis], oracles: dict[str, pd.DataFrame], parts: pd.DataFrame
) -> list[tuple[str, str]]:
    """Measured and answer: box AP minus mask AP, and what true masks gain."""
    lost, lost_at_50, gain = {}, {}, {}
    for title, table in oracles.items():
        box = match_coco(analyses[title].dataset_eval, "box", thresholds=np.array([0.5]))
        baseline, masks = table.loc["baseline"], table.loc["true masks"]
        lost[title] = baseline["box AP"] - baseline["mask AP"]
        lost_at_50[title] = float(mean_ap(box)[0, 0]) - baseline["mask AP50"]
        gain[title] = masks["mask AP"] - baseline["mask AP"]
    first, second = analyses
    of_masks = parts["points"]["true masks"]
    rest = parts["points"]["gap"] - of_masks
    same = all(abs(of[first] - of[second]) <= CLOSE for of in (lost, lost_at_50))
    larger = abs(rest) > abs(of_masks)
    text = f"box AP less mask AP: {_both(lost)}"
    gains = f"true masks in the predicted boxes gain {_both(gain)} points of mask AP"
    shares = f"masks are {_part(parts, 'true masks')}, the rest {rest:+.1f}"
    return [
        (f"{text}; {gains}", NO if gain[first] > 5 else YES),
        (
            f"{text}; in AP50 {_both(lost_at_50)}; {shares}",
            (YES if same else HALF) if larger else NO,
        ),
    ]


def _dap(analyses: dict[str, Analysis], family: str, name: str) -> str:
    rows = {t: overall_rows(a.table).set_index(["family", "type"]) for t, a in analyses.items()}
    return _both({title: table["dAP"][family, name] for title, table in rows.items()})


def _mean(analysis: Analysis, column: str) -> float:
    return float(100 * analysis.at_threshold.detections[column].astype(float).mean())


def _leakage_text(analysis: Analysis) -> str:
    after, others = (_mean(analysis, column) for column in LEAKAGE)
    before, others_before = (_mean(analysis, column) for column in LEAKAGE_BEFORE_CROP)
    text = f"{after:.0f} % of a mask with a right box lies outside its object"
    crop = f" (before the crop {before:.0f} %, {others_before:.0f} %)" if before == before else ""
    return f"{text}, {others:.0f} % on others{crop}"


def _both(values: dict[str, float]) -> str:
    return ", ".join(f"{title} {value:.1f}" for title, value in values.items())


def _change(row: pd.Series) -> str:
    if row["value"] != row["value"]:
        return "unknown, as there is no such object,"
    return f"{row['value']:+.0f} [{row['low']:.0f}, {row['high']:.0f}]"


def _part(parts: pd.DataFrame, name: str) -> str:
    row = parts.loc[name]
    ends = f" [{row['low']:+.1f}, {row['high']:+.1f}]" if row["low"] == row["low"] else ""
    return f"{row['points']:+.1f}{ends} of {parts.loc['gap', 'points']:+.1f} points"


def _sign(row: pd.Series, gap: float) -> str:
    """Whether the interval of a part of the gap lies on the gap's side."""
    if not (row["low"] > 0 or row["high"] < 0):
        return OPEN
    return YES if np.sign(row["points"]) == np.sign(gap) else NO
