"""Make the files beside this script: what the first edition of dit-eval wrote, at commit 8b3f93e.

    git worktree add /tmp/first-edition 8b3f93e
    PYTHONPATH=/tmp/first-edition python tests/goldens/first_edition/make.py

It writes into its own folder, in a minute or two, and refuses any other version of the package. See README.md.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
COMMIT = "8b3f93e"
ELSEWHERE = "/elsewhere/dit-eval"  # stands for the checkout in files that name it; no such folder exists

PLAN = """\
name = "micro"
about = "Two tiny DiTs on digits"

[data]
train = "digits"
ref = "digits"
extractor = "digits"
space = "pixel"
image_size = 8
channels = 1
num_classes = 10

[models]
"micro-S/4" = { depth = 1, hidden_size = 4, num_heads = 1, patch_size = 4 }
"micro-B/4" = { depth = 1, hidden_size = 8, num_heads = 2, patch_size = 4 }

[training]
learning_rate = 2e-3
batch_size = 16
ema_decay = 0.9
ema_warm_up = true
flip = 0.0
log_every = 4

[sampling]
num_samples = 16
labels = "balanced"

[[cells]]
models = "all"
training_steps = [6, 12]
sampling_steps = 4

[[resources]]
threads = 1
batch_size = 4
num_workers = 0
"""
SAMPLE = "sample --ckpt dit-digits --num-sampling-steps 8 --device cpu --num-fid-samples 40 --per-proc-batch-size 8"
TRAIN = (
    "train --data digits.npz --grey --no-flips --depth 1 --hidden-size 8 --num-heads 2 --patch-size 4 "
    "--steps 12 --batch-size 8 --lr 1e-3 --log-every 4 --save-at 6 --device cpu"
)
ENCODE = "encode pictures --image-size 8 --vae vae --device cpu"
DIGITS = "evaluate {} --ref {} --extractor digits --device cpu"
STUDY = "study run plan.toml --device cpu --jobs 1"

# Put before a command: the process is killed in the middle of its work.
IN_A_PIECE = """
from dit_eval import sampling
from dit_eval.files import atomic_file
save, calls = sampling._Parts.save, []
def dying(self, begin, images):
    calls.append(begin)
    if len(calls) <= {after}:
        return save(self, begin, images)
    with atomic_file(self.folder / f"{{begin:09d}}-{{begin + len(images):09d}}.u8") as file:
        file.write(images.tobytes()[: images.size // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
sampling._Parts.save = dying
"""
IN_A_STEP = """
from dit_eval.training import Trainer
step = Trainer.step
def dying(self, batch):
    if self.steps == {after} and self.config.hidden_size == {width}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)
Trainer.step = dying
"""
IN_AN_IMAGE = """
from dit_eval.models.vae import Autoencoder
encode, calls = Autoencoder.encode, []
def dying(self, images):
    calls.append(len(images))
    if sum(calls) > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, images)
Autoencoder.encode = dying
"""
AT_ONCE = """
from dit_eval.workers import LocalEngine
LocalEngine.submit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def main() -> None:
    package = check_package()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["DIT_EVAL_CACHE"] = os.path.abspath("kept")
        inputs(package)
        make_samples()
        make_trainings()
        make_latents()
        make_studies()
        make_results(package)
        run("study report plan.toml --out study/whole")  # counts Gflops, which are kept
        tidy(package)


def check_package() -> Path:
    from dit_eval.results import environment

    about = environment()
    if about["dirty"] or not str(about["commit"]).startswith(COMMIT):
        sys.exit(f"dit_eval is at commit {about['commit']} (changed: {about['dirty']}); needed {COMMIT}, unchanged.")
    import dit_eval

    return Path(dit_eval.__file__).resolve().parent.parent


def run(command: str, *, dying: str | None = None) -> None:
    """Run a command as a process; with `dying`, it must be killed."""
    code = f"import os, signal\n{dying or ''}\nfrom dit_eval.cli import main\nmain({command.split()!r})"
    print("$ dit-eval", command, "(killed)" if dying else "", flush=True)
    status = subprocess.run([sys.executable, "-c", code], check=False).returncode
    if status != (-signal.SIGKILL if dying else 0):
        sys.exit(f"It ended with {status}.")


def inputs(package: Path) -> None:
    """The embedded digits as an npz, as a small reference, and as PNGs in class folders; an autoencoder; a plan."""
    shutil.copy(package / "reference_stats" / "digits.npz", "digits.npz")
    with np.load("digits.npz") as file:
        images, labels = file["arr_0"], file["arr_1"]
    np.savez("sixty.npz", arr_0=images[:60], arr_1=labels[:60])
    for number, (image, label) in enumerate(zip(images[:600], labels[:600], strict=True)):
        path = Path("pictures", str(label), f"{number:04d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    code = (
        "import torch; from diffusers import AutoencoderKL; from dit_eval.models import vae; torch.manual_seed(0);"
        "small = {'block_out_channels': [4] * 4, 'layers_per_block': 1, 'norm_num_groups': 2, 'sample_size': 8};"
        "AutoencoderKL.from_config(vae._CONFIG | small).save_pretrained('vae')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    Path("plan.toml").write_text(PLAN)


def make_samples() -> None:
    run(f"{SAMPLE} --out samples/whole.npz")
    run(f"{SAMPLE} --out samples/killed.npz", dying=IN_A_PIECE.format(after=2))


def make_trainings() -> None:
    run(f"{TRAIN} --out training/whole")
    run(f"{TRAIN} --out training/killed", dying=IN_A_STEP.format(after=10, width=8))


def make_latents() -> None:
    run(f"{ENCODE} --out latents/whole")
    run(f"{ENCODE} --out latents/killed", dying=IN_AN_IMAGE.format(after=2 * 512 + 20))


def make_studies() -> None:
    """A finished study, and one whose tasks are done, begun or missing."""
    run(f"{STUDY} --out study/whole")
    from dit_eval.study import Study

    plan = Study.open("study/whole").plan
    large = next(each for each in plan.trainings if each.model == "micro-B/4")
    first, second = (cell for cell in plan.cells if cell.training == large.key)
    small = next(each for each in plan.trainings if each.model == "micro-S/4")
    # `run` begins the folder and is killed at once; its tasks are then done, or killed, one by one.
    run(f"{STUDY} --out study/half", dying=AT_ONCE)
    work = "study work study/half"
    run(f"{work} {large.key}")
    run(f"{work} {small.key}", dying=IN_A_STEP.format(after=9, width=4))
    run(f"{work} {first.key}")
    run(f"{work} {second.key}", dying=IN_A_PIECE.format(after=2))


def make_results(package: Path) -> None:
    """Lines of many kinds: with a run and intervals, without a run, with later metrics, Inception, odd names."""
    digits = DIGITS.format("samples/whole.npz", "sixty.npz")
    run(f"{digits} --intervals --cache cache")
    heldout = package / "reference_stats" / "digits-heldout.npz"
    run(f"{DIGITS.format(heldout, 'digits')} --metrics fid,sfid,is,precision,recall,density,coverage --intervals")
    run(f"{DIGITS.format('digits.npz', 'digits')} --metrics kid")
    run(f"{digits} --metrics fid,recall --num-samples 20 --distances float32")
    odd = Path("Bilder_»½«_☃\u202e")
    shutil.copytree("pictures/3", odd)
    run(DIGITS.format(odd, "sixty.npz"))
    # Any Inception in fp32 was "adm-2021" then; a seeded one is enough.
    sys.path.insert(0, str(package / "tests"))
    from seeded_inception import seeded_weights, write_state_dict

    write_state_dict(Path("inception.pth"), seeded_weights(0))
    rng = np.random.RandomState(0)
    for name, count, side in (("gen", 12, 32), ("ref", 10, 32), ("small", 9, 16)):
        np.savez(f"{name}.npz", arr_0=rng.randint(0, 256, (count, side, side, 3)).astype(np.uint8))
    inception = "--ref ref.npz --weights inception.pth --device cpu"
    run(f"evaluate gen.npz {inception}")
    run(f"evaluate gen.npz {inception} --precision bf16 --metrics fid")
    run(f"evaluate small.npz {inception} --allow-size-mismatch --distances float32")


def tidy(package: Path) -> None:
    """Keep what is read again, take the name of the checkout out of texts, and put all beside this script."""
    shutil.rmtree("study/whole/report")
    for folder in ("study/whole/cache", "study/half/cache"):  # 400 kB; `cache` has an entry
        shutil.rmtree(folder)
    for path in Path("cache").iterdir():  # of two entries, that of the samples is enough
        with np.load(path, allow_pickle=False) as entry:
            ours = len(entry["pool_features"]) == 40
        if not ours:
            path.unlink()
    for path in [Path("results.jsonl"), *Path().glob("study/*/study.json"), *Path().glob("study/*/*/*.json")]:
        text = path.read_text(encoding="utf-8").replace(str(package), ELSEWHERE)
        path.write_text(text.replace(os.getcwd(), ELSEWHERE), encoding="utf-8")
    (kept,) = Path("kept").iterdir()
    counts = json.loads(kept.read_text())
    micro = {key: value for key, value in counts.items() if key.startswith("{")}
    kept.write_text(json.dumps(micro, sort_keys=True))
    for name in ("results.jsonl", "samples", "training", "latents", "study", "cache", "kept", "vae", "plan.toml"):
        target = HERE / name
        if target.is_dir():
            shutil.rmtree(target)
        shutil.copytree(name, target) if Path(name).is_dir() else shutil.copy(name, target)


if __name__ == "__main__":
    main()
