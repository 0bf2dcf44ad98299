"""The figures of the DiT paper and three more, from published points and measured ones.

Open marks are the paper's numbers, filled ones are measured. The paper prints end points and no curves, so lines join
measured points only. A figure without points, and a panel without them, is not drawn.

To add a figure, write a file with its `PaperFigure`, and its line here.
"""

from __future__ import annotations

from dit_eval.report.figures.compute import FIGURE9, FIGURE10
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.figure2 import FIGURE2_LEFT, FIGURE2_RIGHT
from dit_eval.report.figures.figure5 import FIGURE5
from dit_eval.report.figures.figure6 import FIGURE6
from dit_eval.report.figures.figure7 import FIGURE7
from dit_eval.report.figures.figure8 import FIGURE8
from dit_eval.report.figures.figure12 import FIGURE12
from dit_eval.report.figures.figure13 import FIGURE13
from dit_eval.report.figures.front import FRONT
from dit_eval.report.figures.samplers import SAMPLERS
from dit_eval.report.figures.sweeps import EPOCHS, GUIDANCE, SAMPLING_STEPS

# In the order of print, then those that the paper lacks.
FIGURES: tuple[PaperFigure, ...] = (
    FIGURE2_LEFT,
    FIGURE2_RIGHT,
    FIGURE5,
    FIGURE6,
    FIGURE7,
    FIGURE8,
    FIGURE9,
    FIGURE10,
    FIGURE12,
    FIGURE13,
    GUIDANCE,
    FRONT,
    SAMPLING_STEPS,
    SAMPLERS,
    EPOCHS,
)
