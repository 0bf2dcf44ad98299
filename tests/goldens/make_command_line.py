"""Make ``command_line.json``: the command line as it was when it was frozen.

    python tests/goldens/make_command_line.py

It lists the commands with their arguments and options through `tests/support/command_line.py`, and the lines below.
Made at commit 997a71b, where the command line stood on argparse. It is not made again to please a new parser: a name,
default or exit code that changes on purpose is changed in the file by hand, and told in CHANGELOG.md.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support")]

import command_line

# Right command lines; the file says which values differ from the defaults.
PARSED = """
evaluate a.npz --ref b
evaluate --ref b a.npz
evaluate --ref=b a.npz --metrics=FID,sfid
evaluate a.npz --metrics fid, --ref b
evaluate --intervals a.npz --ref b --no-results
evaluate a.npz --ref b --json -
evaluate a.npz --ref b --json=-
evaluate --ref b -- -a.npz
evaluate - --ref -
evaluate a.npz --ref=-b
evaluate a.npz --ref=
evaluate a.npz --ref ''
evaluate a.npz --ref b --ref c
evaluate a.npz --ref b=c
evaluate -1 --ref b
evaluate '-a b' --ref '-c d'
evaluate a.npz --ref b --num-samples 1_000
evaluate a.npz --ref b --num-samples ' 7'
sample --out s.npz
sample --out s.npz --cfg-scale -1.5
sample --out s.npz --cfg-scale=-1.5 --global-seed -3
sample --out s.npz --cfg-scale 1e1 --num-sampling-steps ddim25
sample --out s.npz --vae-tiling --compile --dry-run
sample --out s.npz --num-sampling-steps 10 --num-sampling-steps 20
train --data d --out o --save-at 100,200,
train --data d --out o --save-at 100 --save-at 200
train --data d --out o --lr 3 --ema .5
report --losses a b --losses c --force
report --losses a b --out o
verify --golden adm-g-128 --golden adm-g-256
verify --offline --offline
flops
flops DiT-XL/2 ADM-256 --json -
flops DiT-XL/2 ADM-256 --image-size 512
grid a.npz b.npz --out g.png --first -1
grid --out g.png a.npz
study run plan.toml --jobs 2
study work plan.toml key
weights list --json
weights fetch inception --url http://x
quickstart
"""

# Command lines that are run in an empty folder: exit code, and the facts that the line of the error, or stdout, names.
RUNS: list[tuple[str, int, list[str]]] = [
    ("--version", 0, ["dit-eval 0.1.0"]),
    ("flops DiT-S/8", 0, ["DiT-S/8", "256", "adaln-zero", "0.3581", "0.3586", "0.3580"]),
    ("weights list", 0, ["inception", "imagenet256"]),
    ("study show digits", 0, ["[training]"]),
    # no command, an unknown one
    ("", 2, ["COMMAND"]),
    ("weights", 2, ["ACTION"]),
    ("study", 2, ["ACTION"]),
    ("evalute a.npz --ref b", 2, ["'evalute'", "'evaluate'", "quickstart"]),
    ("xyz", 2, ["'xyz'", "evaluate", "quickstart"]),
    ("weights lst", 2, ["'lst'", "'list'", "fetch", "verify"]),
    ("study rnu p.toml", 2, ["'rnu'", "'run'", "status", "report", "show", "work"]),
    # an unknown option
    ("--verison", 2, ["'--verison'", "'--version'"]),
    ("--ref b evaluate a.npz", 2, ["'--ref'", "Options of a command come after its name"]),
    ("evaluate a.npz --reff b", 2, ["'--reff'", "'--ref'"]),
    ("evaluate a.npz --re b", 2, ["'--re'"]),
    ("evaluate a.npz --ref b --metric fid", 2, ["'--metric'", "'--metrics'"]),
    ("evaluate a.npz --ref b --Metrics fid", 2, ["'--Metrics'", "'--metrics'"]),
    ("evaluate a.npz --ref b --num_samples 5", 2, ["'--num_samples'", "'--num-samples'"]),
    ("evaluate a.npz --ref b --feature-extractor dinov2", 2, ["'--feature-extractor'", "'--extractor'"]),
    ("evaluate --input1 a.npz --input2 b", 2, ["'--input1'", "SAMPLES"]),
    ("evaluate a.npz --real b", 2, ["'--real'", "'--ref'"]),
    ("evaluate a.npz --ref b --gpu", 2, ["'--gpu'", "'--device cuda'"]),
    ("evaluate a.npz --ref b --isc", 2, ["'--isc'", "'--metrics is'"]),
    ("evaluate a.npz --ref b --no-intervals", 2, ["'--no-intervals'"]),
    ("evaluate a.npz --ref b -q", 2, ["'-q'"]),
    ("evaluate a.npz --ref b --xyzzy=3", 2, ["'--xyzzy'"]),
    ("sample --output s.npz", 2, ["'--output'", "'--out'"]),
    ("sample --out s.npz --guidance-scale 4", 2, ["'--guidance-scale'", "'--cfg-scale'"]),
    ("sample --out s.npz --timestep-respacing 50", 2, ["'--timestep-respacing'", "'--num-sampling-steps'"]),
    ("flops --model DiT-S/8", 2, ["'--model'"]),
    # arguments too few, too many
    ("evaluate", 2, ["SAMPLES", "--ref"]),
    ("evaluate a.npz", 2, ["--ref"]),
    ("evaluate --ref b", 2, ["SAMPLES"]),
    ("evaluate b.npz a.npz", 2, ["SAMPLES", "--ref REF", "dit-eval evaluate a.npz --ref b.npz"]),
    ("evaluate a.npz c.npz --ref b", 2, ["'c.npz'", "SAMPLES"]),
    ("sample x --out s.npz", 2, ["'x'", "none"]),
    ("sample", 2, ["--out"]),
    ("train", 2, ["--data", "--out"]),
    ("encode", 2, ["FOLDER", "--out"]),
    ("stats images", 2, ["--out"]),
    ("grid --out g.png", 2, ["SAMPLES.npz"]),
    ("study run", 2, ["PLAN"]),
    ("study status p.toml", 2, ["--out"]),
    ("study work p.toml", 2, ["TASK"]),
    ("weights fetch", 2, ["name"]),
    ("verify x", 2, ["'x'", "none"]),
    # values
    ("evaluate a.npz --ref", 2, ["--ref", "expected one argument"]),
    ("evaluate a.npz --ref --metrics fid", 2, ["--ref", "expected one argument"]),
    ("report --losses", 2, ["--losses", "expected at least one argument"]),
    ("verify --offline=3", 2, ["--offline", "'3'"]),
    ("evaluate a.npz --ref b --num-samples many", 2, ["--num-samples", "'many'"]),
    ("evaluate a.npz --ref b --num-samples 1.5", 2, ["--num-samples", "'1.5'"]),
    ("evaluate a.npz --ref b --num-samples 0x10", 2, ["--num-samples", "'0x10'"]),
    ("sample --out s.npz --cfg-scale strong", 2, ["--cfg-scale", "'strong'"]),
    ("sample --out s.npz --num-fid-samples 50K", 2, ["--num-fid-samples", "'50K'"]),
    ("train --data d --out o --save-at 1,x", 2, ["--save-at", "'1,x'"]),
    ("evaluate a.npz --ref b --extractor dino", 2, ["--extractor", "'dino'", "'dinov2'", "inception", "digits"]),
    ("evaluate a.npz --ref b --extractor Inception", 2, ["--extractor", "'Inception'", "'inception'"]),
    ("evaluate a.npz --ref b --distances float64", 2, ["--distances", "'float64'", "'float32'", "adm-float16"]),
    ("sample --out s.npz --sampler dpm", 2, ["--sampler", "'dpm'", "ddpm", "ddim"]),
    ("study run p.toml --out o --engine pbs", 2, ["--engine", "'pbs'", "local", "slurm"]),
    # names of files
    ("sample --out s.png", 2, ["s.png", ".npz"]),
    ("evaluate a.npz --ref b --json s.txt", 2, ["s.txt", ".json"]),
    ("evaluate a.npz --ref b --results s.txt", 2, ["s.txt", ".jsonl"]),
    ("grid a.npz --out s.jpg", 2, ["s.jpg", ".png", ".pdf"]),
    ("evaluate a.npz --ref digits", 2, ["a.npz", "no such file"]),
    ("diagnose a.npz --ref digits", 2, ["a.npz", "no such file"]),
    ("classes a.npz --ref digits", 2, ["a.npz", "no such file"]),
    ("stats images --out r.npz", 2, ["images", "no such file"]),
    ("grid a.npz --out g.png", 2, ["a.npz", "no such file"]),
    ("report --results r.jsonl", 2, ["r.jsonl", "no such file"]),
    ("encode images --out o", 2, ["images"]),
    ("study run p.toml --dry-run", 2, ["p.toml"]),
    # said by the commands themselves, before any work
    ("evaluate a.npz --ref b --num-samples 0", 2, ["a.npz"]),
    ("sample --out s.npz --per-proc-batch-size 0", 2, ["--per-proc-batch-size", "0", "at least 1"]),
    ("sample --out s.npz --ckpt x.pt", 2, ["x.pt", "no such"]),
    ("sample --out s.npz --model DiT-X/2", 2, ["DiT-X/2", "DiT-XL/2"]),
    ("flops DiT-X/2", 2, ["DiT-X/2", "DiT-XL/2"]),
    ("verify --offline --golden adm-g-128", 2, ["--offline", "--golden"]),
    ("weights verify incept", 2, ["'incept'", "'inception'"]),
    # the first mistake in a line is told, whatever else is wrong
    ("evaluate --reff", 2, ["'--reff'", "'--ref'"]),
    ("sample --cfg-scale -1 --lables x", 2, ["'--lables'", "'--labels'"]),
]


def parsed(line: str, commands: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a command line means: its command, and the values that differ from the defaults."""
    found = command_line.parse(shlex.split(line))
    command = commands[found["command"]]
    entries = [*command["arguments"], *command["options"].values()]
    defaults = {entry.get("name") or entry["spellings"][0]: entry["default"] for entry in entries}
    return {name: value for name, value in found.items() if name == "command" or value != defaults[name]}


def main() -> None:
    """Write the file, one entry a line."""
    commands = command_line.commands()
    helped = [(f"{name} {flag}".strip(), 0, [name]) for name in commands for flag in ("--help", "-h")]
    golden: dict[str, Any] = {
        "commands": commands,
        "parsed": [{"line": line, **parsed(line, commands)} for line in PARSED.strip().splitlines()],
        "runs": [{"line": line, "exit_code": code, "says": facts} for line, code, facts in [*RUNS, *helped]],
    }
    text = json.dumps(golden, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)  # short lists in a line
    (HERE / "command_line.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
