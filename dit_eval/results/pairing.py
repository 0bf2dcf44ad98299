"""Whether image i of two runs begins with the same noise and label."""

from __future__ import annotations

from dit_eval.results.sample_run import SampleRun
from dit_eval.system.text import shown

# Of a run, what decides the noise and the label that image i begins with. How they are drawn from there on (steps,
# guidance, sampler, the network's weights) is what is compared.
_START = ("global_seed", "noise", "labels", "labels_sha256", "image_size")
_START_OF_NETWORK = ("input_size", "in_channels", "num_classes")


def why_unpaired(one: SampleRun | None, other: SampleRun | None) -> str | None:
    """What image i of two runs does not begin with alike; None if it begins with the same noise and label."""
    if one is None or other is None:
        return "a file does not say how its images were drawn"
    for name in _START:
        if getattr(one, name) != getattr(other, name):
            mine, theirs = (shown(getattr(run, name)) for run in (one, other))
            return f"{name} is {mine} and {theirs}"
    for name in _START_OF_NETWORK:
        takes = [run.network.get(name) for run in (one, other)]
        if takes[0] != takes[1] or takes[0] is None:
            return f"the networks' {name} is {shown(takes[0])} and {shown(takes[1])}"
    return None
