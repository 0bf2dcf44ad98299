"""Make ``reference_stats/verify.npz``: what `dit-eval verify --offline` expects, and what known mistakes would give.

    python tests/goldens/make_verify_goldens.py PATH/TO/guided-diffusion

Needs what ``make_adm_goldens.py`` needs. Expected numbers are those of the unmodified evaluator. What a mistake gives
is found by making it on purpose: in the input or the graph that TensorFlow runs, or in the formula.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
sys.path.insert(0, str(HERE))

import make_adm_goldens as adm
import seeded_inception

from dit_eval.checks.golden import image_set, probes

OUT = HERE.parents[1] / "reference_stats" / "verify.npz"
EVERY = 5  # one value in so many of long vectors is kept; a prime that divides neither channels nor positions
REPEATS = 100  # of each image's probabilities, so that there are two splits, in class order


class Altered:
    """The evaluator's graph, with a mistake in it or in what it is fed."""

    def __init__(self, tf: Any, path: Path) -> None:
        self._tf, self._path = tf, path

    def __call__(
        self,
        images: np.ndarray,
        *,
        feed: Callable[[Any], Any] = lambda x: x,
        resize: Callable[[Any], Any] | None = None,
        change: Callable[[Any], None] = lambda graph: None,
        spatial: str = "mixed_6/conv:0",
        channels: slice = slice(7),
    ) -> tuple[np.ndarray, np.ndarray]:
        tf = self._tf
        definition = tf.GraphDef()
        definition.ParseFromString(self._path.read_bytes())
        change(definition)
        with tf.Graph().as_default():
            x = feed(tf.constant(images.astype(np.float32)))
            source = {"ExpandDims:0": x} if resize is None else {"ResizeBilinear:0": resize(x)}
            outputs = tf.import_graph_def(definition, input_map=source, return_elements=["pool_3:0", spatial])
            with tf.Session() as session:
                pool, space = session.run(outputs)
        return pool.reshape(len(images), -1), space[..., channels].reshape(len(images), -1)


def count_padding(graph: Any) -> None:
    """Average pools that count the padding: pad with zeros first, then pool without."""
    for node in list(graph.node):
        if node.op == "AvgPool" and node.attr["padding"].s == b"SAME":
            paddings = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
            seeded_inception._constant(graph, f"{node.name}/paddings", paddings, 3)
            pad = graph.node.add(name=f"{node.name}/pad", op="Pad", input=[node.input[0], f"{node.name}/paddings"])
            pad.attr["T"].type, pad.attr["Tpaddings"].type = 1, 3
            node.input[0] = pad.name
            node.attr["padding"].s = b"VALID"


def average_last(graph: Any) -> None:
    node = next(node for node in graph.node if node.name == "mixed_10/tower_2/pool")
    node.op = "AvgPool"


def other_epsilon(graph: Any) -> None:
    for node in graph.node:
        if node.op == "BatchNormWithGlobalNormalization":
            node.attr["variance_epsilon"].f = 1e-5


def kept(*parts: np.ndarray) -> np.ndarray:
    """One value in `EVERY`, of each part."""
    return np.concatenate([np.ravel(part)[::EVERY] for part in parts])


def feature_checks(tf: Any, evaluator: Any, graph: Path) -> dict[str, np.ndarray]:
    small, exact, large = probes()
    run = Altered(tf, graph)
    found: dict[str, np.ndarray] = {}
    activations = {name: evaluator.compute_activations([images]) for name, images in probes()._asdict().items()}
    found["network/expected"] = kept(activations["exact"][0])
    found["resize/expected"] = kept(activations["small"][0], activations["large"][0])
    found["spatial/expected"] = kept(activations["exact"][1])
    unaltered = run(exact)
    if not all(np.allclose(a, b, rtol=0, atol=1e-4) for a, b in zip(unaltered, activations["exact"], strict=True)):
        raise ValueError("the graph without a mistake is not the evaluator's")

    mistakes: dict[str, dict[str, Any]] = {
        "colour-order": {"feed": lambda x: x[..., ::-1]},
        "unit-range": {"feed": lambda x: x / 255},
        "half-range": {"feed": lambda x: 128 + 128 * x / 255},
        "middle": {"feed": lambda x: 128 + 128 * (x - 127.5) / 127.5},
        "padding": {"change": count_padding},
        "last-pool": {"change": average_last},
        "epsilon": {"change": other_epsilon},
    }
    for key, how in mistakes.items():
        found[f"network/{key}"] = kept(run(exact, **how)[0])
    from tensorflow import image  # of version 2: with half-pixel centres

    resizes: dict[str, Callable[[Any], Any]] = {
        "half-pixel": lambda x: image.resize(x, (299, 299)),
        "align-corners": lambda x: tf.image.resize_bilinear(x, (299, 299), align_corners=True),
        "antialias": lambda x: image.resize(x, (299, 299), antialias=True),
        "bicubic": lambda x: image.resize(x, (299, 299), method="bicubic", antialias=True),
        "nearest": lambda x: image.resize(x, (299, 299), method="nearest"),
    }
    for key, how in resizes.items():
        found[f"resize/{key}"] = kept(run(small, resize=how)[0], run(large, resize=how)[0])
    spatial = activations["exact"][1].reshape(-1, 17, 17, 7)
    found["spatial/flatten"] = kept(spatial.transpose(0, 3, 1, 2))
    for key, how in {
        "before-relu": {"spatial": "mixed_6/conv/batchnorm:0"},
        "block-before": {"spatial": "mixed_5/conv:0"},
        "block-behind": {"spatial": "mixed_7/conv:0"},
        "last-channels": {"channels": slice(-7, None)},
        "second-channels": {"channels": slice(1, 8)},
    }.items():
        found[f"spatial/{key}"] = kept(run(exact, **how)[1])

    pool = activations["exact"][0]
    found["classes/expected"] = kept(evaluator.sess.run(evaluator.softmax, {evaluator.softmax_input: pool}))
    weights = seeded_inception.seeded_weights(0)
    logits = pool.astype(np.float64) @ weights["softmax/weights"]
    biased = softmax(logits + weights["softmax/biases"])
    found["classes/bias"] = kept(biased)
    found["classes/logits"] = kept(logits)
    thousand = softmax(logits[:, :1000])
    found["classes/thousand"] = kept(np.pad(thousand, ((0, 0), (0, 8))))
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def root_trace(a: np.ndarray, b: np.ndarray) -> float:
    """tr((S_a S_b)^(1/2)) of two sets of rows."""
    factors = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a.astype(np.float64), b.astype(np.float64))]
    return float(np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum())


def frechet_mistakes(gen: np.ndarray, ref: np.ndarray) -> dict[str, np.ndarray]:
    g, r = gen.astype(np.float64), ref.astype(np.float64)
    mean = float(np.sum((g.mean(0) - r.mean(0)) ** 2))
    traces, root = float(g.var(0, ddof=1).sum() + r.var(0, ddof=1).sum()), root_trace(gen, ref)
    squares = float(np.sum(np.cov(g, rowvar=False) * np.cov(r, rowvar=False)))  # tr(S_g S_r)
    fid = mean + traces - 2 * root
    return {
        "root-forgotten": np.array(mean + traces - 2 * squares),
        "root-of-all": np.array(np.sqrt(fid)),
        "mean-unsquared": np.array(np.sqrt(mean) + traces - 2 * root),
        "mean-forgotten": np.array(traces - 2 * root),
        "two-forgotten": np.array(mean + traces - root),
    }


def scores(probs: np.ndarray) -> np.ndarray:
    """KL of each row to the mean row."""
    return (probs * (np.log(probs) - np.log(probs.mean(0)))).sum(1)


def split_score(probs: np.ndarray, size: int) -> float:
    return float(np.mean([np.exp(scores(probs[i : i + size]).mean()) for i in range(0, len(probs), size)]))


def metric_checks(module: Any, evaluator: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    sets = {role: image_set(f"{role}-64") for role in ("gen", "ref")}
    acts = {r: evaluator.compute_activations([x[:64], x[64:]] if len(x) > 64 else [x]) for r, x in sets.items()}
    stats = {role: [evaluator.compute_statistics(part) for part in parts] for role, parts in acts.items()}

    for i, part in enumerate(("pool", "spatial")):
        gen = stats["gen"][i]
        found[f"mean of {part}/expected"] = kept(gen.mu)
        rows = acts["gen"][i].astype(np.float64)
        found[f"covariance of {part}/expected"] = kept(np.diag(gen.sigma), gen.sigma[0])
        found[f"covariance of {part}/population"] = (
            found[f"covariance of {part}/expected"] * (len(rows) - 1) / len(rows)
        )
        moment = rows.T @ rows / (len(rows) - 1)
        found[f"covariance of {part}/not-centred"] = kept(np.diag(moment), moment[0])
        metric = "fid" if part == "pool" else "sfid"
        found[f"{metric}/expected"] = np.array(gen.frechet_distance(stats["ref"][i]))
        for key, value in frechet_mistakes(acts["gen"][i], acts["ref"][i]).items():
            found[f"{metric}/{key}"] = value

    pool = acts["gen"][0]
    many = np.repeat(pool, REPEATS, axis=0)
    found["inception score/expected"] = np.array([evaluator.compute_inception_score(x) for x in (pool, many)])
    probs = softmax(pool.astype(np.float64) @ seeded_inception.seeded_weights(0)["softmax/weights"])
    both = probs, np.repeat(probs, REPEATS, axis=0)
    found["inception score/one-split"] = np.array([split_score(p, len(p)) for p in both])
    found["inception score/ten-splits"] = np.array([split_score(p, -(-len(p) // 10)) for p in both])
    found["inception score/no-exponential"] = np.log(found["inception score/expected"])
    found["inception score/base-two"] = 2.0 ** np.log(found["inception score/expected"])

    def manifold(k: int) -> np.ndarray:
        evaluator.manifold_estimator = module.ManifoldEstimator(evaluator.sess, nhood_sizes=(k,))
        return np.array(evaluator.compute_prec_recall(acts["ref"][0], acts["gen"][0]))

    found["precision and recall/expected"] = manifold(3)
    found["precision and recall/swapped"] = manifold(3)[::-1].copy()
    found["precision and recall/k-2"] = manifold(2)
    found["precision and recall/k-4"] = manifold(4)
    return found


def main() -> None:
    """Run everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="guided-diffusion checkout, or evaluator.py itself")
    path = adm.find_evaluator(parser.parse_args().checkout)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as name, adm.working_directory(Path(name)):
        graph = Path(name) / adm.GRAPH_NAME
        seeded_inception.write_graph_def(graph, seeded_inception.seeded_weights(adm.WEIGHTS_SEED))
        module = adm.load_module(path)
        evaluator = module.Evaluator(module.tf.Session())
        found = feature_checks(module.tf, evaluator, graph) | metric_checks(module, evaluator)
    for key, value in found.items():
        print(key, value.shape, value.ravel()[:2])
    arrays = {key: value.astype(np.float32 if value.size > 2 else np.float64) for key, value in found.items()}
    np.savez_compressed(OUT, made_with=np.array(json.dumps(adm.provenance())), **arrays)


if __name__ == "__main__":
    main()
