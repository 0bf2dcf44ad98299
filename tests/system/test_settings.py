"""Groups of settings check themselves, and say what they are."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from msgspec import Meta

from dit_eval.system.settings import check_settings, settings_of


@dataclass(frozen=True, kw_only=True)
class Example:
    steps: Annotated[int, Meta(ge=1, description="steps of the sampler")] = 250
    scale: Annotated[float, Meta(ge=1, lt=100, description="guidance scale")] = 1.0
    sampler: Annotated[Literal["ddpm", "ddim"], Meta(description="which sampler")] = "ddpm"
    limit: Annotated[int, Meta(ge=1, description="images at most")] | None = None
    names: Annotated[tuple[str, ...], Meta(description="names")] = ()
    out: str

    def __post_init__(self) -> None:
        check_settings(self)


def test_right_values_pass():
    Example(out="a", steps=1, scale=99, limit=None, names=("a", "b"))
    Example(out="a", limit=7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1; got 0"),
        ({"scale": 100.0}, "scale: expected at least 1 and less than 100; got 100.0"),
        ({"scale": float("nan")}, "scale: expected at least 1 and less than 100; got nan"),
        ({"steps": "250"}, "steps: expected an integer, at least 1; got '250'"),
        ({"sampler": "euler"}, "sampler: expected one of ddpm, ddim; got 'euler'"),
        ({"limit": 0}, "limit: expected at least 1; got 0"),
        ({"limit": 2.5}, "limit: expected an integer, at least 1; got 2.5"),
        ({"scale": True}, "scale: expected a number, at least 1 and less than 100; got True"),
        ({"names": "a,b"}, "names: expected a list of texts; got 'a,b'"),
    ],
)
def test_wrong_values_are_named(wrong, message):
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(").replace("+", r"\+")):
        Example(out="a", **wrong)


def test_fields_say_what_they_are():
    steps, scale, *_, out = settings_of(Example)
    assert (steps.name, steps.default, steps.help, steps.bounds) == ("steps", 250, "steps of the sampler", {"ge": 1})
    assert scale.bounds == {"ge": 1, "lt": 100}
    assert out.default is dataclasses.MISSING
    assert [each.bounds for each in settings_of(Example) if each.name == "limit"] == [{"ge": 1}]
