"""Figure 5: block designs."""

from __future__ import annotations

from matplotlib.figure import Figure

from dit_eval.report.figures.draw import (
    BLOCK_STYLES,
    _block_name,
    _caption,
    _gflops_text,
    _interval,
    _marker,
    _params_text,
    _series,
)
from dit_eval.report.figures.select import _common_steps, _end_points, _step_label, _step_scale
from dit_eval.report.figures.style import lettering, new_figure, styled
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text


@styled
def block_designs(setting: Setting) -> Figure | None:
    """Figure 5: the four block designs; published end points, and curves over training where measured."""
    points = setting.scaling
    designs = points[points["block"].notna()]
    counts = designs.groupby("model")["block"].nunique()
    models = [m for m in counts.index if counts[m] > 1]
    if not models:
        return None
    largest = designs.groupby("model")["gflops"].max()
    model = "DiT-XL/2" if "DiT-XL/2" in models else max(models, key=lambda m: (counts[m], largest[m]))
    designs = select(designs, model=model)
    measured = select(designs, source="measured")
    steps = _common_steps(designs, each="block")
    ends = select(designs, training_steps=steps)
    if measured.empty:
        figure, left = new_figure(3.5, 2.2)
        curves = None
    else:
        figure, (left, curves) = new_figure(7.0, 2.6, columns=2)
    order = [b for b in BLOCK_STYLES if b in set(ends["block"])]
    widest = max(ends["fid"])
    both = len(set(ends["source"])) > 1
    for row in ends.itertuples():
        colour, marker = BLOCK_STYLES[row.block]
        is_measured = row.source == "measured"
        y = len(order) - 1 - order.index(row.block) - (0.28 if is_measured and both else 0.0)
        left.plot([0, row.fid], [y, y], color=colour, linewidth=1.6, alpha=0.5, zorder=1)
        _marker(left, row.fid, y, colour, marker, measured=is_measured, size=7)
        _interval(left, y, row._asdict(), "fid", across=True)
        size = "" if is_measured and both else f"   {_gflops_text(row.gflops)}, {_params_text(row.params_m)}"
        text = f"{row.fid:.2f}{size}"
        left.annotate(text, (row.fid, y), (7, 0), textcoords="offset points", va="center", fontsize=7)
    left.set_yticks(range(len(order)), [_block_name(b) for b in reversed(order)])
    left.set_ylim(-0.7, len(order) - 0.4)
    left.set_xlim(0, (2.3 if curves is None or not both else 1.95) * widest)
    left.set_xticks([x for x in left.get_xticks() if x <= 1.05 * widest])
    left.set_xlabel(f"{fid_label(setting.num_samples)} ↓ of {lettering(model)} at {steps_text(steps)} training steps")
    left.grid(False, axis="y")
    if curves is not None:
        shown = designs[designs["training_steps"] <= max(steps, measured["training_steps"].max())]
        for block in order:
            colour, marker = BLOCK_STYLES[block]
            own = select(shown, block=block)
            _series(curves, own, "training_steps", "fid", colour, marker, scale=_step_scale(shown))
        curves.set_xlabel(_step_label(shown))
        curves.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
        curves.set_xlim(left=0)
    _caption(figure, designs, published="Table 4", extra=_end_points(designs))
    return figure
