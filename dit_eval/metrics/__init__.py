"""The metrics. Each is a file that holds all that is known of it, and stands in `METRICS`.

To add one: write `metrics/x.py` with a `Metric`, and put it into the tuple. Importing this loads no NumPy and no
PyTorch: what a metric computes with is imported when it is computed.
"""

from __future__ import annotations

from dit_eval.metrics.cmmd import CMMD
from dit_eval.metrics.density_coverage import COVERAGE, DENSITY
from dit_eval.metrics.fid import FD_DINOV2, FID, SFID
from dit_eval.metrics.inception_score import INCEPTION_SCORE
from dit_eval.metrics.kid import KID
from dit_eval.metrics.meanflow import MEANFLOW_INCEPTION_SCORE
from dit_eval.metrics.metric import Metric
from dit_eval.metrics.mind import MIND
from dit_eval.metrics.precision_recall import PRECISION, RECALL
from dit_eval.metrics.torch_fidelity import TORCH_FIDELITY_METRICS

# In the order in which they are printed.
METRICS: tuple[Metric, ...] = (
    FID,
    SFID,
    INCEPTION_SCORE,
    PRECISION,
    RECALL,
    KID,
    MIND,
    DENSITY,
    COVERAGE,
    FD_DINOV2,
    CMMD,
    *TORCH_FIDELITY_METRICS,
    MEANFLOW_INCEPTION_SCORE,
)
# By which a user asks for the metrics of each, all from one pass.
PROTOCOLS: tuple[str, ...] = tuple(dict.fromkeys(suite for metric in METRICS for suite in metric.suites))


def names_in_words() -> str:
    """The names of metrics, those of Inception first, and with which network the others come.

    Versions of other protocols are left out; they come by the protocol's name.
    """
    metrics = [metric for metric in METRICS if metric.version_of is None]
    homes = dict.fromkeys(metric.networks[0] for metric in metrics)
    groups = {home: ", ".join(m.name for m in metrics if m.networks[0] == home) for home in homes}
    return ", ".join(names if home == "inception" else f"with {home} {names}" for home, names in groups.items())
