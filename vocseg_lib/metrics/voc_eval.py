"""VOC's AP^r and AP_vol (SDS, sec. 5)."""

import numpy as np
from jaxtyping import Float

from vocseg_lib.metrics.average_precision import Matches, average_precision

AP_VOL_THRESHOLDS = tuple(i / 10 for i in range(1, 10))
"""Over which AP_vol is the mean of AP^r (SDS, sec. 5)."""


def voc_metrics(
    matches: Matches, weights: Float[np.ndarray, "b i"] | None = None
) -> dict[str, Float[np.ndarray, "b k"]]:
    """VOC's AP^r at .5 and .7, from all points and from 11, and AP_vol, in percent, from matches at `AP_VOL_THRESHOLDS`."""
    whole = 100 * average_precision(matches, weights, "all")
    eleven = 100 * average_precision(matches.at([4, 6]), weights, "11")
    figures = {"voc_AP50": whole[:, 4], "voc_AP70": whole[:, 6], "voc_AP_vol": whole.mean(1)}
    return figures | {"voc_AP50_11": eleven[:, 0], "voc_AP70_11": eleven[:, 1]}
