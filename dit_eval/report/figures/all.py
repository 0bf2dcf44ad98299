"""The figures of the DiT paper, from published points and measured ones.

Open markers are the paper's numbers, filled ones are measured. The paper prints end points and no curves, so lines
join measured points only. Each function takes the points that may share its axes (`data.Setting`) and returns a figure;
`draw` knows them all by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from dit_eval.report.figures.compute import sampling_compute, training_compute
from dit_eval.report.figures.figure2 import against_unets, fid_by_model
from dit_eval.report.figures.figure5 import block_designs
from dit_eval.report.figures.figure6 import training_curves
from dit_eval.report.figures.figure8 import fid_against_gflops
from dit_eval.report.figures.figure12 import all_metrics
from dit_eval.report.setting import Setting


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """A figure of the paper: how to draw it, and what it shows.

    Attributes
    ----------
    name : file name without ending, such as "figure8"
    title : number and subject
    draw : makes it of a setting's points; None if there is nothing to draw
    about : what is shown, true of any points; may be empty
    claim : what the paper reads in its own points; to be shown with those only
    """

    name: str
    title: str
    draw: Callable[[Setting], Figure | None]
    about: str
    claim: str = ""


FIGURES = (
    PaperFigure(
        name="figure2-left",
        title="Figure 2, left: FID by model",
        draw=fid_by_model,
        about="Each bubble is a model; its area shows Gflops.",
        claim="Larger models and smaller patches both lower FID; Gflops are what they share.",
    ),
    PaperFigure(
        name="figure2-right",
        title="Figure 2, right: against diffusion U-Nets",
        draw=against_unets,
        about="A dotted line leads from a model without guidance to the same model with it; the evaluations of "
        "guidance, two for each step, are not counted, as in the paper.",
        claim="DiT-XL/2 needs few Gflops for its FID.",
    ),
    PaperFigure(
        name="figure5",
        title="Figure 5: block designs",
        draw=block_designs,
        about="Four ways to tell a transformer block the timestep and the class.",
        claim="adaLN-Zero is best, and cheap.",
    ),
    PaperFigure(
        name="figure6",
        title="Figure 6: training by size and by patch",
        draw=training_curves,
        about="Above, sizes at each patch size; below, patch sizes at each size.",
        claim="Whatever is held fixed, the model with more Gflops ends lower.",
    ),
    PaperFigure(
        name="figure8",
        title="Figure 8: FID against Gflops",
        draw=fid_against_gflops,
        about="r is the correlation of FID with the logarithm of Gflops, computed from the points that are drawn.",
        claim="FID falls nearly linearly with the logarithm of Gflops.",
    ),
    PaperFigure(
        name="figure9",
        title="Figure 9: training compute",
        draw=training_compute,
        about="Training compute is Gflops x batch size x training steps x 3.",
    ),
    PaperFigure(
        name="figure10",
        title="Figure 10: sampling compute",
        draw=sampling_compute,
        about="Sampling compute is Gflops x sampling steps for one image, guidance not counted.",
    ),
    PaperFigure(
        name="figure12",
        title="Figure 12: every metric against compute",
        draw=all_metrics,
        about="Above against model Gflops, below against training compute.",
    ),
)
