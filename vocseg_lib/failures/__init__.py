"""What goes wrong in a prediction file, and why; from it and the ground truth alone.

`analyze` finds and prices failures; `by_crowding`, `single_oracles`, `gap_parts` ask why AP differs between models.
"""

from vocseg_lib.failures.analysis import Analysis, analyze
from vocseg_lib.failures.crowding import CROWDING, by_crowding
from vocseg_lib.failures.explain import explain_failure
from vocseg_lib.failures.mask_errors import MASK_FAILURES, Thresholds, measure
from vocseg_lib.failures.oracles import ORACLES, gap_parts, single_oracles, with_truth
from vocseg_lib.failures.tables import FAILURES, FOUND, LOST, MISSED, TYPES
from vocseg_lib.failures.tide import ERRORS, tide
from vocseg_lib.metrics.matching import evaluate_images

__all__ = [
    "CROWDING",
    "ERRORS",
    "FAILURES",
    "FOUND",
    "LOST",
    "MASK_FAILURES",
    "MISSED",
    "ORACLES",
    "TYPES",
    "Analysis",
    "Thresholds",
    "analyze",
    "by_crowding",
    "evaluate_images",
    "explain_failure",
    "gap_parts",
    "measure",
    "single_oracles",
    "tide",
    "with_truth",
]
