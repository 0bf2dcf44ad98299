"""What a figure of the report is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as it was drawn.

    Attributes
    ----------
    figure : the picture alone, without caption
    caption : where its points come from and what its marks mean, for the page
    data : the points that are drawn, a row each; None for images
    """

    figure: Figure
    caption: str
    data: pd.DataFrame | None = None


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """A figure of the report: how to draw it, and what it shows.

    Attributes
    ----------
    name : file name without ending, such as "figure8"
    title : number and subject
    draw : makes a `Picture` of what it needs, in a `style.Look`; None if there is nothing to draw
    about : what is shown, true of any points; may be empty
    claim : what the paper reads in its own points; to be shown with those only
    needs : what `draw` takes: "points", a `Setting`; "losses", a frame of `read_losses`; "images", a `SeedImages`
    missing : what it takes to have this figure, for a report without it; may be empty
    may_be_wide : whether it has the page's whole width where it is drawn wider than a column
    """

    name: str
    title: str
    draw: Callable[..., Picture | None]
    about: str
    claim: str = ""
    needs: Literal["points", "losses", "images"] = "points"
    missing: str = ""
    may_be_wide: bool = True
