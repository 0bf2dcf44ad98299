"""How long do all rows of Tables 1, 4 and 6 take to count, and in how much memory?

    python benchmarks/speed_flops.py [--repeats 5]

Each repeat is a process of its own, imports included, which finds no counts of an earlier one. One peer is PyTorch's
own counter on the same models, which gives multiply-adds alone, by operator, and knows nothing of normalisation,
fvcore's bill, or operators left out. The other is fvcore alone, as people call it: on a model with weights in memory,
whose forward pass it runs, and without the operators that it does not know (attention, among others).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from harness import alternate, log, print_environment, report

OURS = """
from dit_eval.flops.printed import paper_rows
rows = paper_rows()
assert len(rows) == 31 and sum(row.agrees() for row in rows) == 28, [row.model for row in rows if not row.agrees()]
"""
PEER = """
import torch
from torch.utils.flop_counter import FlopCounterMode
from dit_eval.models.config import named_config
from dit_eval.models.dit import DiT
from dit_eval.models.unet import UNETS, UNet
from dit_eval.flops.printed import _table_1, _table_4, _table_6
printed = [row for row in (*_table_1(), *_table_4(), *_table_6()) if "networks" not in row]
which = {(row["model"], row["image_size"], row["block"]) for row in printed}
assert len(which) == 24
for name, size, block in sorted(which, key=str):
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False):
        unet = name in UNETS
        c = UNETS[name] if unet else named_config(name, image_size=size, block=block)
        model = (UNet(c) if unet else DiT(c)).eval()
        label = torch.zeros(1, dtype=torch.long)
        x, y = torch.empty(1, c.in_channels, c.input_size, c.input_size), None if c.num_classes is None else label
        given = {}
        if unet and c.context_dim:
            given["context"] = torch.empty(1, 1, c.context_dim)
        if unet and c.low_res_size:
            given["low_res"] = torch.empty(1, c.in_channels, c.low_res_size, c.low_res_size)
        model(x, torch.zeros(1), y, **given)
"""
XL = """
from dit_eval.flops.count import count_model
assert count_model("DiT-XL/2").params
"""
FVCORE = """
import torch
from fvcore.nn import FlopCountAnalysis
from dit_eval.models.config import named_config
from dit_eval.models.dit import DiT
c = named_config("DiT-XL/2")
x, label = torch.zeros(1, c.in_channels, c.input_size, c.input_size), torch.zeros(1, dtype=torch.long)
analysis = FlopCountAnalysis(DiT(c).eval(), (x, torch.zeros(1), label))
assert analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total() > 0
"""
TAIL = """
from dit_eval.system.environment import peak_memory_bytes
print(peak_memory_bytes())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    peaks: dict[str, int] = {}

    def process(name: str, code: str) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as cache:
                words = [sys.executable, "-c", code + TAIL]
                environ = os.environ | {"DIT_EVAL_CACHE": cache}
                done = subprocess.run(words, env=environ, capture_output=True, check=False, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            peaks[name] = max(peaks.get(name, 0), int(done.stdout))

        return run

    print_environment()
    names = {"all rows, dit_eval": OURS, "all rows, torch FlopCounterMode": PEER}
    seconds = alternate({name: process(name, code) for name, code in names.items()}, repeats)
    report("counting the 24 models of Tables 1, 4 and 6", seconds, base="all rows, torch FlopCounterMode")
    names = {"DiT-XL/2, dit_eval": XL, "DiT-XL/2, fvcore alone": FVCORE}
    seconds = alternate({name: process(name, code) for name, code in names.items()}, repeats)
    report("counting DiT-XL/2 at 256 px", seconds, base="DiT-XL/2, fvcore alone")
    for name, peak in peaks.items():
        sys.stdout.write(f"  {name:<42} peak {peak / 1e6:,.0f} MB\n")
    log("peak memory of counting", peaks)


if __name__ == "__main__":
    main()
