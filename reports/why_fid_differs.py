"""The page `why_fid_differs.md`, "Why is my FID not the paper's?", from measured effects and what others have stated.

`python reports/make.py why` writes it; `reference_stats/make_effects.py` and `make_cifar10_effects.py` measure the
effects, and say how.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dit_eval.paper import printed_rows
from dit_eval.system.assets import embedded_dir

METRICS = {
    **{"fid": "FID", "sfid": "sFID", "kid": "KID", "inception_score": "IS"},
    **{"precision": "Precision", "recall": "Recall"},
}

# Sections of measured effects: the network of their numbers, and what it and the images are.
NETWORKS = {
    "Inception with its true convolutions, CIFAR-10": "The network that published FIDs are of, and real pictures of 32 "
    "pixels, which it sees enlarged to 299. A sound set scores what stands before the arrow: an FID that is large for "
    "the small number of pictures alone. What a damage adds is not what it would add at 256 pixels. KID is the mean of "
    "10 subsets. There is no Inception Score: the classifier was not to be had. Where another program runs the network "
    "for samples and reference alike, `diagnose` sees nothing in the files; `dit-eval verify` tells.",
    "digits network, trained": "Real digits of 8 x 8 pixels and the trained network that comes with dit-eval (not "
    "Inception). The names are those of the findings of `diagnose`.",
}
NO_FINDINGS = {"run-seed": "(chance)", "other-port": "(`dit-eval verify`)"}  # measured for this page alone

# What others have published or said of the real protocol: (cause, size, source). None of it was measured here.
STATED = (
    (
        "Guidance 1.5, 1.25, none (DiT-XL/2, 256 px)",
        "FID 2.27, 3.22, 9.62; IS 278.24, 201.77, 121.50",
        "the paper, Table 2",
    ),
    ("Guidance 4.0, the default of DiT's `sample.py`, in place of 1.5", "FID far above 2.27", "facebookresearch/DiT#8"),
    (
        "Decoder ft-MSE, or the original one, in place of ft-EMA (cfg 1.5)",
        "FID 2.30, 2.46; published 2.27; sFID 4.73, 5.18; published 4.60",
        "the paper, Table 5",
    ),
    ("DiT-B/2 in place of DiT-XL/2 (400K steps, no guidance)", "FID 43.47; published 19.47", "the paper, Table 4"),
    ("The same weights in PyTorch (fp32) and JAX", "FID 2.21 and 2.27", "README of facebookresearch/DiT; the paper"),
    ("Class order of the file", "IS 62.07 in class order, 298.45 in one split", "openai/guided-diffusion#165"),
    (
        "10,000 samples in place of 50,000 (512 px)",
        "FID 6.05, sFID 18.3; published 3.04, 5.02",
        "facebookresearch/DiT#94",
    ),
    ("As many samples of each class in place of random labels", "FID about 0.1 lower", "README of RAE"),
    ("Spatial features flattened in NCHW order", "sFID 299 in place of 6.14", "ADM-evaluation-suite-pytorch, PR 2"),
    (
        "Precision and recall by float32 distances in place of float16",
        "0.8255, 0.5285 in place of 0.8265, 0.5309",
        "README of ADM-evaluation-suite-pytorch",
    ),
    ("ADM's reference for 512 px", "holds 1,000 images, those for 256 px 10,000", "openai/guided-diffusion#19, #66"),
)

# Columns of dit_eval/paper/pairs.csv, as the page has them.
PAIR = ("model", "metric", "first_protocol", "first", "second_protocol", "second", "source", "note")


def page() -> str:
    """The page: the same bytes for the same data."""
    rows = json.loads((embedded_dir() / "effects.json").read_text(encoding="utf-8"))["effects"]
    lines = [
        "# Why is my FID not the paper's?",
        "",
        "<!-- Made by reports/why_fid_differs.py; edit that. -->",
        "",
        "A number that is off has a cause, and most causes leave a trace in the sample file. `dit-eval diagnose` looks "
        "for them:",
        "",
        "    dit-eval diagnose samples.npz --ref imagenet256 --expect dit-xl-2-cfg1.5",
        "",
        "This page shows what each cause does to each metric. **Each table says which network and pictures its numbers "
        "are of; only those stated by others are of ImageNet.** The others tell which metrics a cause moves and which "
        "it leaves alone, not by how much it would move yours.",
        "",
    ]
    for network, words in NETWORKS.items():
        mine = [row for row in rows if row["network"] == network]
        if mine:
            lines += [f"## Measured: {network}", "", words, "", *_effects(mine)]
    lines += [
        "## Stated by others: trained Inception, ImageNet",
        "",
        "Not measured here; each with its source.",
        "",
        "| cause | size | source |",
        "|---|---|---|",
        *(f"| {cause} | {size} | {source} |" for cause, size, source in STATED),
        "",
        "## One model, two protocols: published pairs",
        "",
        "Both numbers of each row are published by others; none was measured here. Papers report against ADM's "
        "reference, JiT's or MeanFlow's statistics, with random labels or as many images of each class; `diagnose "
        "--expect` knows which ([the list](../dit_eval/checks/README.md#published-numbers)).",
        "",
        "| model | metric | protocol | published | other protocol | published | source | note |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row[column] for column in PAIR)} |" for row in printed_rows("pairs")),
        "",
        "## What pixels do not tell",
        "",
        "- Whether the conversion to 8 bits rounded or truncated: half a grey level lies within what any model is off. "
        "A file of `dit-eval sample` says it.",
        "- Guidance, steps, decoder and arithmetic: a file of `dit-eval sample` says them too, others do not.",
        "- JPEG of a quality of 95 and more, and a slight blur: `diagnose` stays silent where a sound model could look "
        "the same.",
        "",
    ]
    return "\n".join(lines)


def _effects(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A table for each set of images, with the metrics that the network gives."""
    metrics = {key: name for key, name in METRICS.items() if any(key in row["before"] for row in rows)}
    for images in dict.fromkeys(row["images"] for row in rows):
        yield f"{images[0].upper()}{images[1:]}:"
        yield ""
        yield "| finding | damage | " + " | ".join(metrics.values()) + " |"
        yield "|---|---|" + "---|" * len(metrics)
        for row in rows:
            if row["images"] == images:
                name = NO_FINDINGS.get(row["id"], f"`{row['id']}`")
                yield f"| {name} | {row['damage']} | " + " | ".join(_change(row, metric) for metric in metrics) + " |"
        yield ""


def _change(row: dict[str, Any], metric: str) -> str:
    return f"{row['before'][metric]:g} → {row['after'][metric]:g}" if metric in row["before"] else ""
