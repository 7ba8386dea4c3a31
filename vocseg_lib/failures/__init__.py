"""What goes wrong in a prediction file, and why; from it and the ground truth alone.

`analyse` finds and prices failures; `by_crowding`, `single_oracles`, `gap_parts` and
`gap_claims` ask why AP differs between models.
"""

from vocseg_lib.failures.analysis import Analysis, analyse
from vocseg_lib.failures.claims import gap_claims
from vocseg_lib.failures.crowding import CROWDING, by_crowding
from vocseg_lib.failures.facts import FAILURES, FOUND, LOST, MISSED, TYPES
from vocseg_lib.failures.mask_failures import MASK_FAILURES, Thresholds, measure
from vocseg_lib.failures.oracles import ORACLES, gap_parts, single_oracles, with_truth
from vocseg_lib.failures.scenes import open_scenes
from vocseg_lib.failures.tide import ERRORS, tide
from vocseg_lib.failures.words import in_words

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
    "analyse",
    "by_crowding",
    "gap_claims",
    "gap_parts",
    "in_words",
    "measure",
    "open_scenes",
    "single_oracles",
    "tide",
    "with_truth",
]
