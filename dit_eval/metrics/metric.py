"""`Metric`: all that the package knows of one metric. Importing this loads no NumPy and no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.metrics.variation import Variation
    from dit_eval.results.eval_result import Estimate
    from dit_eval.summary import FeatureSummary


Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
# Names of protocols, as a user asks for them; `Metric.suites` says what each gives.
ADM, TORCH_FIDELITY, BETA = "adm", "torch-fidelity", "torch-fidelity-beta"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a metric takes of samples and reference.

    Attributes
    ----------
    moments : whose mean and covariance it compares: "pool" or "spatial" features; None if it compares none. Statistics
        that a reference file stores stand for its images
    ref_images : whether it compares the features of single reference images
    class_probs : whether it takes the classifier's probabilities of the samples
    least_gen, least_ref : fewest images of each side
    because : what it does with so many, for the message where they are too few
    """

    moments: Literal["pool", "spatial"] | None = None
    ref_images: bool = False
    class_probs: bool = False
    least_gen: int = 0
    least_ref: int = 0
    because: str = ""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What metrics are computed from.

    Attributes
    ----------
    gen, ref : features of the samples and of the reference, as far as the chosen metrics need them
    gen_labels : int64 (N,), or None where the samples have none
    gen_order : int64 (N,), the samples in the plain order of their files' names where that is another; else None
    stored : whether the statistics of the reference are a file's, and not of its features here
    distances : rule of the precision and recall distances, "adm-float16" or "float32"
    device : where PyTorch computes
    z : half width of intervals in standard errors; of 95 % by default
    """

    gen: FeatureSummary
    ref: FeatureSummary
    gen_labels: np.ndarray | None = None
    gen_order: np.ndarray | None = None
    stored: bool = False
    distances: Literal["adm-float16", "float32"] = "adm-float16"
    device: str = "cpu"
    z: float = Z


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Values by key, of a metric or of several that are computed together, and warnings about them."""

    values: dict[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric.

    Attributes
    ----------
    key : of its value in results: `result.scores["fid"]`, or `result.fid`, and the column of tables
    name : by which a user asks for it
    label : how texts and tables call it
    short : how narrow tables call it, where that is shorter
    better : whether lower or higher values are better
    digits : decimals in the printed result, as papers print it; results hold all
    counted : whether the number of samples belongs to its name, as in FID-50K
    networks : feature networks on which it is defined, its home first. Networks that no metric names, such as the
        digits' or one's own, give what Inception gives
    by_default : networks that give it without being asked
    suites : protocols that give it where they are asked for
    version_of : the protocol that its name begins with, of a metric of which ADM has another version; else None
    needs : of samples and reference
    protocol : whose definition it is, with its settings; None of ADM's five, which the result's protocol is about
    details : further keys of the values that `score` returns
    other_names : what users of other programs call it, for suggestions
    few_samples, few_reference : the warning where a set has fewer images than the published numbers are of, from the
        number and the network; None if there is nothing to warn of. Metrics with one function share the warning
    score : its value. Metrics that are computed together have the same function, which is then called once
    interval : standard errors and intervals, from the value; a text is the reason why there is none. None for a metric
        that has no estimator
    variation : what each image does to the value, from which the difference of two sets is told; `NoEstimate` is the
        reason why there is none. None for a metric that has no estimator
    """

    key: str
    name: str
    label: str
    better: Literal["lower", "higher"]
    networks: tuple[str, ...]
    by_default: tuple[str, ...]
    needs: Needs
    score: Callable[[Sides], Scores]
    digits: int = 2
    short: str = ""
    counted: bool = False
    suites: tuple[str, ...] = ()
    version_of: str | None = None
    protocol: str | None = None
    details: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()
    few_samples: Callable[[int, str], str | None] | None = None
    few_reference: Callable[[int, str], str | None] | None = None
    interval: Callable[[float, Sides], dict[str, Estimate | str]] | None = None
    variation: Callable[[Sides], Variation] | None = None
