"""What `diagnose` looks for: `FINDINGS`, one file a group.

To add one, write what it looks for and its `Cause` in the file of its group, and name it here.
"""

from __future__ import annotations

from dit_eval.checks.findings.case import Case, Cause, Effect, Finding, Seen
from dit_eval.checks.findings.colours import COLOUR_ORDER, CONSTANT_CHANNEL, GREY
from dit_eval.checks.findings.counts import CLASS_BALANCE, FEW_REFERENCE, FEW_SAMPLES, LABEL_RULE, MORE_SAMPLES, ORDER
from dit_eval.checks.findings.pictures import (
    BLANK,
    BLURRED,
    COPIES_OF_REFERENCE,
    DUPLICATES,
    JPEG,
    ORIENTATION,
    REPEATED_PIXELS,
    RESOLUTION,
    SATURATED,
)
from dit_eval.checks.findings.reference import NCHW_STATISTICS, OTHER_REFERENCE, OTHER_STATISTICS, VAL_REFERENCE
from dit_eval.checks.findings.settings import (
    RESULT_DISTANCES,
    RESULT_INCEPTION_SCORE,
    RESULT_NETWORK,
    RESULT_PRECISION,
    RESULT_REFERENCE,
    RESULT_SAMPLES,
    RESULT_WEIGHTS,
    RUN_DECODER,
    RUN_GUIDANCE,
    RUN_LABELS,
    RUN_MODEL,
    RUN_PRECISION,
    RUN_ROUNDING,
    RUN_SAMPLER,
    RUN_STEPS,
    RUN_WEIGHTS,
)
from dit_eval.checks.findings.values import CLIPPED, FLOAT_RANGE, HALF_RANGE, NARROW_RANGE

__all__ = ["FINDINGS", "Case", "Cause", "Effect", "Finding", "Seen"]

# Where neither certainty nor measured effect tells which is worse, this order stands.
FINDINGS: tuple[Cause, ...] = (
    *(FLOAT_RANGE, HALF_RANGE, CLIPPED, NARROW_RANGE, RESOLUTION, COPIES_OF_REFERENCE, DUPLICATES, BLANK, SATURATED),
    *(CONSTANT_CHANNEL, GREY, COLOUR_ORDER, REPEATED_PIXELS, BLURRED, ORIENTATION, JPEG),
    *(OTHER_STATISTICS, NCHW_STATISTICS, OTHER_REFERENCE, VAL_REFERENCE),
    *(RESULT_NETWORK, RESULT_PRECISION, RESULT_DISTANCES, RESULT_WEIGHTS, RESULT_REFERENCE, RESULT_INCEPTION_SCORE),
    RESULT_SAMPLES,
    *(RUN_MODEL, RUN_GUIDANCE, RUN_STEPS, RUN_SAMPLER, RUN_WEIGHTS, RUN_DECODER, RUN_ROUNDING, RUN_LABELS),
    *(RUN_PRECISION, LABEL_RULE, CLASS_BALANCE, ORDER, FEW_SAMPLES, MORE_SAMPLES, FEW_REFERENCE),
)
