"""The templates of a report, and what they may call."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

# What means something inside a line of GitHub's Markdown; of addresses that it makes links of, a sign that they need.
_MARKS = re.compile(r"[\\`*_\[\]<>&|~@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "\u00a0": "~",
    "−": "$-$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
}


def render(name: str, given: Mapping[str, object]) -> str:
    """Fill a template of `templates/`; a name that it uses and `given` lacks is an error.

    Texts are escaped in HTML by themselves; in Markdown and LaTeX by the filters `markdown` and `tex`.
    """
    environment = _TEX_ENVIRONMENT if name.endswith(".tex.j2") else _ENVIRONMENT
    return environment.get_template(name).render(given)


def markdown(text: str) -> str:
    """Text for GitHub's Markdown; it makes no mark, link or HTML."""
    return _MARKS.sub(r"\\\g<0>", text)


def tex(text: str) -> str:
    """Text for LaTeX; characters outside ASCII that it does not know become "?".

    A row may begin with it: a bracket or a star there would belong to the command that ended the row before.
    """
    escaped = ("{}" if text.lstrip()[:1] in ("[", "*") else "") + "".join(_TEX.get(c, c) for c in text)
    return escaped.encode("ascii", "replace").decode()


def letter(number: int) -> str:
    """The mark of a note: a, b, c."""
    return chr(ord("a") + number)


def in_address(content: bytes) -> Markup:
    """Bytes of a text as a data address holds them within double quotes; shorter than base64.

    Nothing that means something in HTML is left of them.
    """
    return Markup(quote(content, safe="!*();:@$,/?[]={}|^~+ "))


def small_svg(content: bytes) -> bytes:
    """A picture of matplotlib's in fewer bytes: without line breaks, and paths to a hundredth of their unit."""

    def rounded(path: re.Match[bytes]) -> bytes:
        return re.sub(rb"\d+\.\d{3,}", lambda number: b"%g" % round(float(number[0]), 2), path[0])

    return re.sub(rb' d="[^"]*"', rounded, re.sub(rb"\s*\n\s*", b" ", content))


def base64_text(content: bytes) -> str:
    """Bytes as a data address holds them."""
    return base64.b64encode(content).decode()


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates"), encoding="utf-8"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "markdown": markdown,
        "tex": tex,
        "letter": letter,
        "base64": base64_text,
        "in_address": in_address,
        "small_svg": small_svg,
    }
    return made


_ENVIRONMENT = _environment()
# The braces of LaTeX are no tags.
_TEX_ENVIRONMENT = _ENVIRONMENT.overlay(
    block_start_string="<%",
    block_end_string="%>",
    variable_start_string="<<",
    variable_end_string=">>",
    comment_start_string="<#",
    comment_end_string="#>",
)
