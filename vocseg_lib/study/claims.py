"""What the paper says of the gap between the two models, sentence by sentence, beside our figures."""

import numpy as np
import pandas as pd

from vocseg_lib.failures.analysis import Analysis
from vocseg_lib.failures.mask_errors import LEAKAGE, LEAKAGE_BEFORE_CROP, MASK_FAILURES
from vocseg_lib.failures.oracles import UNDETECTED
from vocseg_lib.failures.tables import overall_rows
from vocseg_lib.metrics.average_precision import mean_ap
from vocseg_lib.metrics.matching import match_coco

YES, NO, OPEN = "so it is here", "not so here", "not shown here"
BY_INTERVAL = (0, 2, 3)
"""Places of the claims that an interval answers."""
CLOSE = 1.0
"""Points of AP within which two differences count as the same."""


def gap_claims(
    analyses: dict[str, Analysis],
    oracles: dict[str, pd.DataFrame],
    parts: pd.DataFrame,
    crowding: pd.DataFrame,
) -> pd.DataFrame:
    """A row a claim: the paper says, our figures, answer, by (what it is answered by). The first of the two models plays the
    part of the paper's YOLACT.

    `oracles`, `parts`, `crowding`: tables of `single_oracles` for each model, of `gap_parts` from the first model to the
    second, and of `by_crowding`. Crowds, classes and duplicates are answered by an "interval", and are not shown where it holds
    0; the other claims have none, and are answered by the "figures" as they stand.
    """
    first, second = analyses
    part = parts.set_index("part")
    masks = {
        title: _cost(analysis, "pixels", MASK_FAILURES[0]) for title, analysis in analyses.items()
    }
    errors = {
        name: {t: _cost(a, "TIDE, masks", name) for t, a in analyses.items()}
        for name in ("class", "duplicate")
    }
    lost = {
        title: table.loc["baseline", "box AP"] - table.loc["baseline", "mask AP"]
        for title, table in oracles.items()
    }
    lost50 = {
        title: _box_ap50(a) - oracles[title].loc["baseline", "mask AP50"]
        for title, a in analyses.items()
    }
    gain = {
        title: table.loc["true masks", "mask AP"] - table.loc["baseline", "mask AP"]
        for title, table in oracles.items()
    }
    gap = part.loc["gap", "points"]
    named = part.loc[["true classes", "no duplicates", "true masks"], "points"].sum()
    detector = gap - part.loc["true masks", "points"]
    same = all(abs(of[first] - of[second]) <= CLOSE for of in (lost, lost50))
    recalls = crowding[
        (crowding["metric"] == "recall") & crowding["model"].str.contains(" - ", regex=False)
    ]
    alone, crowd, change = (
        recalls[recalls["bin"] == b].iloc[0]
        for b in ("alone", "overlapping", "overlapping - alone")
    )
    leaks = {title: _leaks(analysis) for title, analysis in analyses.items()}
    rows = [
        (
            "Localization failure: with too many objects in one spot, a mask comes closer to foreground than to an instance.",
            f"costs {_both(masks)} points of AP; {first} - {second} in recall: {_change(crowd)} where boxes of a class overlap, "
            f"{_change(alone)} where an object is alone of it; the change: {_change(change)}",
            YES if change["high"] < 0 else NO if change["low"] > 0 else OPEN,
        ),
        (
            "Leakage: outside of the crop nothing suppresses noise, and a loose box lets another object's mask in.",
            "; ".join(f"{title}: {text}" for title, text in leaks.items()),
            _more(*(_mean(a, LEAKAGE[0]) for a in analyses.values())),
        ),
        (
            "Misclassification is one of the causes.",
            f"costs {_both(errors['class'])} points of AP50; {_part(part, 'true classes')} of the gap",
            _sign(part.loc["true classes"], gap),
        ),
        (
            "Object ghosting, the same object twice, is another.",
            f"costs {_both(errors['duplicate'])} points of AP50; {_part(part, 'no duplicates')} of the gap",
            _sign(part.loc["no duplicates"], gap),
        ),
        (
            "These failures alone do not explain the gap.",
            f"classes, duplicates and masks together: {named:+.1f} of {gap:+.1f} points; the rest: "
            + ", ".join(
                f"{name} {part.loc[name, 'points']:+.1f}"
                for name in ("true boxes", "no false alarms", UNDETECTED)
            ),
            YES if abs(gap - named) > CLOSE else NO,
        ),
        (
            "Even perfect masks would win only a few points, as box AP lies little above mask AP.",
            f"box AP less mask AP: {_both(lost)}; true masks in the predicted boxes win {_both(gain)} points of mask AP",
            NO if gain[first] > 5 else YES,
        ),
        (
            "The difference between boxes and masks is the same for both, so the gap lies in the detector, not in the masks.",
            f"box AP less mask AP: {_both(lost)}; in AP50 {_both(lost50)}; masks are {_part(part, 'true masks')}, "
            f"the rest {detector:+.1f}",
            YES if same and abs(detector) > abs(part.loc["true masks", "points"]) else NO,
        ),
    ]
    table = pd.DataFrame(rows, columns=["the paper says", "our figures", "answer"])
    return table.assign(by=["interval" if k in BY_INTERVAL else "figures" for k in table.index])


def _cost(analysis: Analysis, family: str, name: str) -> float:
    return float(overall_rows(analysis.table).set_index(["family", "type"])["dAP"][family, name])


def _box_ap50(analysis: Analysis) -> float:
    return float(
        mean_ap(match_coco(analysis.dataset_eval, "box", thresholds=np.array([0.5])))[0, 0]
    )


def _mean(analysis: Analysis, column: str) -> float:
    return float(100 * analysis.at_threshold.detections[column].astype(float).mean())


def _leaks(analysis: Analysis) -> str:
    after, others = (_mean(analysis, column) for column in LEAKAGE)
    before, others_before = (_mean(analysis, column) for column in LEAKAGE_BEFORE_CROP)
    text = f"{after:.0f} % of a mask with a right box lies outside its object, {others:.0f} % on others"
    return text + (
        f" (before the crop {before:.0f} %, {others_before:.0f} %)" if before == before else ""
    )


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
    """Whether a part of the gap is on the gap's side for sure."""
    if not (row["low"] > 0 or row["high"] < 0):
        return OPEN
    return YES if np.sign(row["points"]) == np.sign(gap) else NO


def _more(first: float, second: float) -> str:
    return YES if first > second + CLOSE else OPEN if first > second - CLOSE else NO
