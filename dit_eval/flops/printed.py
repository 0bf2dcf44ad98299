"""Gflops and parameters counted here, beside the published ones of Tables 1, 4 and 6."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dit_eval.flops.counts import CONVENTIONS
from dit_eval.models.names import LIGHTNING_NAMES, SIT_NAMES, UNET_SIZES
from dit_eval.paper import GFLOPS_DECIMALS, load_table, printed_rows

if TYPE_CHECKING:
    from dit_eval.flops.counts import Convention, FlopCount

CountModel = Callable[..., "FlopCount"]


@dataclass(frozen=True, kw_only=True)
class ComplexityRow:
    """A model counted, and what the paper prints for it.

    Attributes
    ----------
    model : name of a network, or of a pair of them where Table 6 prints a total ("ADM-U")
    image_size : pixels
    block : block design, or None for a U-Net
    params : trainable parameters
    macs, norm_elements, fvcore : see `dit_eval.flops.counts.Counts`
    table : number of the paper's table; None if it prints no Gflops for the model
    published : Gflops printed there, with `decimals` digits after the point
    published_params_m : millions of parameters printed there, or None
    published_in_text : Gflops that the text or a figure states, or None
    note : what a reader should know of the printed figure, or empty
    """

    model: str
    image_size: int
    block: str | None
    params: int
    macs: int
    norm_elements: int
    fvcore: int
    table: int | None = None
    published: float | None = None
    decimals: int = 2
    published_params_m: int | None = None
    published_in_text: float | None = None
    note: str = ""

    def gflops(self, convention: Convention = "paper") -> float:
        """Units of 1e9, batch 1, without guidance."""
        paper = self.macs + self.norm_elements
        return {"paper": paper, "fvcore": self.fvcore, "mac": self.macs}[convention] / 1e9

    def difference(self, convention: Convention = "paper") -> float | None:
        """Counted minus published, Gflops."""
        return None if self.published is None else self.gflops(convention) - self.published

    def agrees(self, convention: Convention = "paper") -> bool | None:
        """Whether the count rounds to the printed digits."""
        if self.published is None:
            return None
        return _rounds_to(self.gflops(convention), self.published, self.decimals)

    def remarks(self, convention: Convention = "paper") -> list[str]:
        """Why a printed figure is not reached, one sentence for each; empty if all are."""
        found = (
            self._about_gflops(convention),
            self._about_params(),
            self._about_text(convention),
        )
        return [remark for remark in found if remark]

    def _about_gflops(self, convention: Convention) -> str:
        if self.published is None or self.agrees(convention):
            return ""
        gflops = self.gflops(convention)
        past = abs(gflops - self.published) - 0.5 * 10**-self.decimals
        return (
            f"{self.published:.{self.decimals}f} printed, {gflops:.4f} counted: {past:.4f} past where it rounds to "
            f"the printed digits, {abs(gflops / self.published - 1):.3%} off. "
            + (self.note or "Every row is counted by one rule; none is corrected.")
        )

    def _about_params(self) -> str:
        if self.published_params_m is None or _rounds_to(self.params / 1e6, self.published_params_m, 0):
            return ""
        return f"{self.published_params_m} M parameters printed, {self.params / 1e6:.2f} M counted."

    def _about_text(self, convention: Convention) -> str:
        if self.published_in_text is None:
            return ""
        gflops, text = self.gflops(convention), self.published_in_text
        decimals = 0 if text.is_integer() else 1
        if _rounds_to(gflops, text, decimals):
            return ""
        ways = {name: self.gflops(name) for name in CONVENTIONS}
        reached = [name for name, value in ways.items() if _rounds_to(value, text, decimals)]
        every = ", ".join(f"{name} {value:.1f}" for name, value in ways.items())
        verdict = f"reached by the convention {reached[0]}." if reached else f"no convention gives it: {every}."
        return f"{text:.{decimals}f} in the text, {gflops:.{decimals}f} counted; {verdict}"

    def to_json(self, convention: Convention = "paper") -> dict[str, Any]:
        """Everything about the row, for ``dit-eval flops --json``."""
        return {
            "model": self.model,
            "image_size": self.image_size,
            "block": self.block,
            "params": self.params,
            "gflops": {name: self.gflops(name) for name in CONVENTIONS},
            "macs": self.macs,
            "norm_elements": self.norm_elements,
            "published": self.published,
            "table": self.table,
            "published_params_m": self.published_params_m,
            "published_in_text": self.published_in_text,
            "difference": self.difference(convention),
            "agrees": self.agrees(convention),
            "remarks": self.remarks(convention),
        }


def counted_row(name: str, count: FlopCount, *, image_size: int | None, block: str | None) -> ComplexityRow:
    """A model that was counted, with the figures of Table 4 or 6, or of a later paper, where they have it."""
    is_unet = name in UNET_SIZES
    size = UNET_SIZES[name] if is_unet else image_size or 256
    counted = _fields(name, size, None if is_unet else block or "adaln-zero", count)
    for printed in (*_table_4(), *_table_6(), *_later()):
        if all(printed[key] == counted[key] for key in ("model", "image_size", "block")):
            return ComplexityRow(**counted | printed)
    return ComplexityRow(**counted)


def paper_rows(count: CountModel | None = None) -> list[ComplexityRow]:
    """Every distinct model of Tables 1, 4 and 6, in the paper's order, counted now or kept from before.

    Table 6 gives a row to each network, and another to the sum of base and upsampler.

    Parameters
    ----------
    count : in place of `kept_parts.count_in_parts`, for example to show progress
    """
    if count is None:
        from dit_eval.flops.kept_parts import count_in_parts

        count = count_in_parts
    counts: dict[tuple[str, int, str | None], FlopCount] = {}

    def counted(printed: Mapping[str, Any]) -> dict[str, Any]:
        key = (printed["model"], printed["image_size"], printed["block"])
        if key not in counts:
            counts[key] = count(key[0], image_size=key[1], block=key[2])
        return _fields(*key, counts[key])

    rows = [ComplexityRow(**counted(printed) | printed) for printed in (*_table_1(), *_table_4())]
    for printed in _table_6():
        networks = printed.pop("networks", None)
        if networks is None:
            rows.append(ComplexityRow(**counted(printed) | printed))
            continue
        parts = [row for row in rows[-2:] if row.model in networks]
        summed = {name: sum(getattr(row, name) for row in parts) for name in _COUNTED}
        rows.append(ComplexityRow(**summed | printed))
    return rows


_COUNTED = ("params", "macs", "norm_elements", "fvcore")


def _fields(name: str, image_size: int, block: str | None, count: FlopCount) -> dict[str, Any]:
    return {
        "model": name,
        "image_size": image_size,
        "block": block,
        **{field: getattr(count, field) for field in _COUNTED},
    }


def _table_1() -> Iterator[dict[str, Any]]:
    larger = {row.model: row.gflops for row in load_table(4).itertuples() if row.block == "adaln-zero"}
    for row in load_table(1).itertuples():
        model = f"{row.model}/4"
        yield {
            "model": model,
            "image_size": 256,
            "block": "adaln-zero",
            "table": 1,
            "published": row.gflops,
            "decimals": GFLOPS_DECIMALS[1],
            "note": f"Table 4 prints {larger[model]:.2f} for it, which this rounds again.",
        }


def _table_4() -> Iterator[dict[str, Any]]:
    # The rows that differ in training alone are one model.
    for row in load_table(4).drop_duplicates(["model", "image_size", "block"]).itertuples():
        yield {
            "model": row.model,
            "image_size": row.image_size,
            "block": row.block,
            "table": 4,
            "published": row.gflops,
            "decimals": GFLOPS_DECIMALS[4],
            "published_params_m": row.params_m,
            "published_in_text": _known(row.gflops_in_text),
            "note": row.note,
        }


def _table_6() -> Iterator[dict[str, Any]]:
    """Base networks, upsamplers, then the sums, which list their `networks`."""
    for row in load_table(6).itertuples():
        shared = {"block": None, "table": 6, "decimals": GFLOPS_DECIMALS[6], "note": row.note}
        text = _known(row.gflops_in_text)
        base = {"model": row.base, "image_size": UNET_SIZES[row.base], "published": float(row.base_gflops)}
        if not row.upsampler:
            yield shared | base | {"published_in_text": text}
            continue
        yield shared | base
        upsampler = {"model": row.upsampler, "image_size": row.image_size}
        yield shared | upsampler | {"published": float(row.upsampler_gflops)}
        both = {"networks": (row.base, row.upsampler), "model": row.model, "image_size": row.image_size}
        yield shared | both | {"published": float(row.total_gflops), "published_in_text": text}


def _later() -> Iterator[dict[str, Any]]:
    """Models of later papers, which print other digits, and some no Gflops."""
    seen = set()
    for row in printed_rows("later"):
        model, gflops = row["model"], row["gflops"]
        if model in seen or model not in {*SIT_NAMES, *LIGHTNING_NAMES}:
            continue
        seen.add(model)
        yield {
            "model": model,
            "image_size": int(row["image_size"]),
            "block": "adaln-zero",
            "published": float(gflops) if gflops else None,
            "decimals": len(gflops.partition(".")[2]),
            "published_params_m": int(row["params_m"]) if row["params_m"] else None,
        }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _rounds_to(value: float, printed: float, decimals: int) -> bool:
    return f"{value:.{decimals}f}" == f"{printed:.{decimals}f}"
