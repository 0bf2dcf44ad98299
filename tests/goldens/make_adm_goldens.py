"""Make ``adm.json`` and ``adm_features.npz``: what the unmodified ADM evaluator says about the golden sets.

    python tests/goldens/make_adm_goldens.py PATH/TO/guided-diffusion

PATH is a checkout of openai/guided-diffusion at the commit below, or its ``evaluator.py``. Needed besides NumPy:
tensorflow, scipy < 1.18, requests and tqdm. The network is the seeded one of ``seeded_inception.py``, written where the
evaluator looks for its download, so nothing is fetched. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import golden_sets
import seeded_inception

REPOSITORY = "https://github.com/openai/guided-diffusion"
COMMIT = "22e0df8183507e13a7813f8d38d51b072ca1e67c"
EVALUATOR_SHA256 = "c8f10ab1406c45d105d7f5b347e5be06c118bd2ddef1c54789c263ebae7f1ca7"
GRAPH_NAME = "classify_image_graph_def.pb"  # the evaluator looks for it in the working directory

WEIGHTS_SEED = 0
IMAGE_PAIRS = (("gen-64", "ref-64"), ("gen-256", "ref-256"))
NUM_ACTIVATIONS = 3
PRINTED = {
    "Inception Score": "inception_score",
    "FID": "fid",
    "sFID": "sfid",
    "Precision": "precision",
    "Recall": "recall",
}


def find_evaluator(path: Path) -> Path:
    """The evaluator's file, given that file or a folder that holds it; refuses any other version."""
    candidates = [path] if path.is_file() else [path / "evaluations" / "evaluator.py", path / "evaluator.py"]
    for candidate in candidates:
        if candidate.is_file():
            found = hashlib.sha256(candidate.read_bytes()).hexdigest()
            if found != EVALUATOR_SHA256:
                raise ValueError(
                    f"{candidate} has SHA-256 {found}, the goldens are defined by {EVALUATOR_SHA256}.\n"
                    f"Check out commit {COMMIT} of {REPOSITORY}."
                )
            return candidate.resolve()
    raise FileNotFoundError(f"no evaluator.py in {path}; give a checkout of {REPOSITORY}")


def array_sha256(array: np.ndarray) -> str:
    """SHA-256 of the values in C order (little-endian machines), shape and dtype apart."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def describe(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype and SHA-256, enough to notice that an input is no longer the one the golden was made from."""
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": array_sha256(array)}


def weights_sha256(weights: dict[str, np.ndarray]) -> str:
    """One SHA-256 over all arrays, each preceded by its name, in sorted order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


def as_count(share: float, total: int) -> int:
    """How many of `total` make up `share`; the evaluator reports only the quotient."""
    count = round(share * total)
    if count / total != share:
        raise ValueError(f"{share!r} is not a whole number of {total}")
    return count


def with_counts(result: dict[str, Any], num_gen: int, num_ref: int) -> dict[str, Any]:
    """`result` with set sizes and with precision and recall also as whole numbers."""
    return {
        **result,
        "num_gen": num_gen,
        "num_ref": num_ref,
        "gen_inside": as_count(result["precision"], num_gen),
        "ref_inside": as_count(result["recall"], num_ref),
    }


def run_evaluator(evaluator: Path, folder: Path, gen: str, ref: str) -> dict[str, float]:
    """The five numbers that ``evaluator.py REF GEN`` prints, by our names. It prints every digit of a float64."""
    command = [sys.executable, str(evaluator), f"{ref}.npz", f"{gen}.npz"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    lines = re.findall(r"^([A-Za-z ]+): (\S+)$", done.stdout, flags=re.MULTILINE)
    values = {PRINTED[label]: float(value) for label, value in lines if label in PRINTED}
    if len(values) != len(PRINTED):
        raise ValueError(f"expected {', '.join(PRINTED)}; the evaluator printed:\n{done.stdout}\n{done.stderr}")
    return values


def load_module(evaluator: Path) -> ModuleType:
    """The evaluator as a module; its file is not changed."""
    spec = importlib.util.spec_from_file_location("adm_evaluator", evaluator)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    """Be in `folder` for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def cpu_model() -> str:
    """Name of the processor; sums inside the network depend on its vector width."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def provenance() -> dict[str, Any]:
    """With what the goldens were made."""
    packages = ("numpy", "scipy", "tensorflow")
    return {
        "evaluator": {
            "repository": REPOSITORY,
            "commit": COMMIT,
            "file": "evaluations/evaluator.py",
            "sha256": EVALUATOR_SHA256,
        },
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "cpu": cpu_model(),
        "tf_enable_onednn_opts": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "unset"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "weights_seed": WEIGHTS_SEED,
    }


def main() -> None:
    """Run everything and write the two files beside this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="guided-diffusion checkout, or evaluator.py itself")
    evaluator_path = find_evaluator(parser.parse_args().checkout)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    goldens: dict[str, Any] = {"made_with": provenance(), "inputs": {}, "evaluate": {}, "manifold": {}}
    inputs = goldens["inputs"]
    activations: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = seeded_inception.seeded_weights(WEIGHTS_SEED)
        inputs["weights"] = {"arrays": len(weights), "sha256": weights_sha256(weights)}
        seeded_inception.write_graph_def(folder / GRAPH_NAME, weights)

        first_images = {}
        for gen, ref in IMAGE_PAIRS:
            sizes = []
            for batch in (gen, ref):
                arrays = golden_sets.batch_arrays(batch)
                inputs[batch] = {key: describe(array) for key, array in arrays.items()}
                np.savez(folder / f"{batch}.npz", **arrays)
                sizes.append(len(arrays["arr_0"]))
                first_images[batch] = arrays["arr_0"][:NUM_ACTIVATIONS]
            result = run_evaluator(evaluator_path, folder, gen, ref)
            goldens["evaluate"][f"{gen} against {ref}"] = with_counts(result, *sizes)
            print(gen, ref, goldens["evaluate"][f"{gen} against {ref}"], flush=True)

        with working_directory(folder):
            module = load_module(evaluator_path)
            evaluator = module.Evaluator(module.tf.Session())
        for gen, _ in IMAGE_PAIRS:
            pool, spatial = evaluator.compute_activations([first_images[gen]])
            activations[f"{gen}/pool"], activations[f"{gen}/spatial"] = pool, spatial

        rows = golden_sets.features("score-gen")
        inputs["score-gen"] = describe(rows)
        score = evaluator.compute_inception_score(rows)
        goldens["inception_score"] = {"score-gen": {"inception_score": score, "num_gen": len(rows)}}
        print("score-gen", score, flush=True)

        for pair in golden_sets.FEATURE_PAIRS:
            gen_rows, ref_rows = golden_sets.features(f"{pair}-gen"), golden_sets.features(f"{pair}-ref")
            inputs[f"{pair}-gen"], inputs[f"{pair}-ref"] = describe(gen_rows), describe(ref_rows)
            precision, recall = evaluator.compute_prec_recall(ref_rows, gen_rows)  # reference first
            result = {"precision": precision, "recall": recall}
            goldens["manifold"][pair] = with_counts(result, len(gen_rows), len(ref_rows))
            print(pair, goldens["manifold"][pair], flush=True)

    (HERE / "adm.json").write_text(json.dumps(goldens, indent=2) + "\n")
    np.savez_compressed(HERE / "adm_features.npz", **activations)


if __name__ == "__main__":
    main()
