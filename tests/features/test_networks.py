"""`NETWORKS`: what it says is what the networks are; and one choice of network, by name."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
import witness_goldens as given

from dit_eval.features import NETWORKS
from dit_eval.features.load import check_network, load_network, network_named
from dit_eval.features.vit import VitSize
from dit_eval.metrics.choose import check_metrics
from dit_eval.system.assets import asset

EVERY = [(network, backend) for network in NETWORKS for backend in network.backends]
every_backend = pytest.mark.parametrize(
    ("network", "backend"), EVERY, ids=[f"{network.name}-{backend.name}" for network, backend in EVERY]
)
IMAGES = np.random.RandomState(0).randint(0, 256, (2, 20, 16, 3), dtype=np.uint8)


def class_of(backend):
    module, _, name = backend.loaded_from.partition(":")
    return getattr(import_module(module), name)


@every_backend
def test_facts_are_those_of_the_class(network, backend):
    loaded = class_of(backend)
    assert (loaded.name, loaded.backend) == (network.name, backend.name)
    assert (loaded.pool_dim, loaded.spatial_dim) == (network.pool_dim, network.spatial_dim)
    check_metrics(None, network.name)


@every_backend
def test_weights_stand_in_the_manifest(network, backend):
    if backend.weights is not None:
        assert asset(backend.weights, "weights").url


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Weights of narrow DINOv2 and CLIP, in the layout of the published files."""
    folder = tmp_path_factory.mktemp("narrow")
    torch.save(given.seeded_weights(given.dinov2_shapes()), folder / "dinov2.pth")
    torch.save(given.seeded_weights(given.clip_shapes()), folder / "clip.bin")
    return {"dinov2": folder / "dinov2.pth", "clip": folder / "clip.bin"}


@pytest.mark.parametrize(
    ("network", "backend"),
    [
        pytest.param(
            network,
            backend,
            id=f"{network.name}-{backend.name}",
            marks=[pytest.mark.parity] if backend.needs == "tensorflow" else [],
        )
        for network, backend in EVERY
    ],
)
def test_a_network_is_loaded_by_its_name(network, backend, request, monkeypatch):
    if backend.needs is not None:
        pytest.importorskip(backend.needs)
    weights = None
    if network.name == "inception":
        files = request.getfixturevalue("inception_files")
        weights = files.pb if backend.name == "tensorflow" else files.pth
    elif backend.weights is not None:
        weights = request.getfixturevalue("narrow")[network.name]
        sizes = class_of(backend).__init__.__kwdefaults__
        monkeypatch.setitem(sizes, "size", VitSize(width=given.WIDTH, depth=given.DEPTH))
        if "embedding" in sizes:
            monkeypatch.setitem(sizes, "embedding", given.EMBEDDING)
    fetched = []

    def fetch(item):
        fetched.append(item.name)
        return weights

    extractor = load_network(network.name, backend=backend.name, device="cpu", fetch=fetch)
    assert fetched == ([] if backend.weights is None else [backend.weights])
    assert isinstance(extractor, class_of(backend))
    features = extractor(IMAGES)
    assert features.pool.shape == (2, extractor.pool_dim)
    assert (features.spatial is None, features.class_probs is None) == (
        network.spatial_dim is None,
        network.num_classes is None,
    )
    if features.spatial is not None and features.class_probs is not None:
        assert features.pool.shape[1] == network.pool_dim
        assert features.spatial.shape == (2, network.spatial_dim)
        assert features.class_probs.shape == (2, network.num_classes)
    if weights is not None:
        again = load_network(network.name, backend=backend.name, device="cpu", weights=weights, fetch=pytest.fail)
        assert again.weights_sha256 == extractor.weights_sha256


def test_every_precision_of_a_backend_is_taken_where_the_device_has_it():
    for network, backend in EVERY:
        for precision in set(backend.precisions) - {"tf32"}:
            if backend.needs is None:
                assert check_network(network.name, backend=backend.name, precision=precision, device="cpu") is network


WRONG = {
    "a name": ({"name": "dino-v2"}, "`network` dino-v2: unknown; .* Did you mean 'dinov2'?"),
    "a backend": ({"backend": "jax"}, "`backend` jax: .* expected one of: torch, tensorflow"),
    "a precision": ({"precision": "bf61"}, "`precision` bf61: unknown; .* Did you mean 'bf16'?"),
    "a precision of another backend": (
        {"backend": "tensorflow", "precision": "bf16"},
        "`precision` bf16 needs `backend` torch",
    ),
    "a precision of another network": ({"name": "clip", "precision": "bf16"}, "drop `backend` and `precision`"),
    "a precision of another device": ({"precision": "tf32"}, "tf32 is arithmetic of NVIDIA GPUs; cpu has fp32, bf16"),
    "weights": ({"weights": "gone.pth"}, "`weights` gone.pth: no such file"),
    "weights of digits": ({"name": "digits", "weights": "x.pth"}, "`network` digits carries its own weights"),
    "a device": ({"device": "gpu"}, "`device` gpu: not a device"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_loaded_is_refused_before_anything_is_fetched(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, said = WRONG[case]
    request = {"name": "inception", "device": "cpu", **changes}
    for ask in (check_network, lambda **request: load_network(**request, fetch=pytest.fail)):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as found:
            ask(**request)
        assert "--" not in str(found.value)  # options are the command line's


@pytest.mark.parametrize(
    ("name", "extra"), [("dinov2", "witnesses"), ("clip", "witnesses"), ("inception", "tensorflow")]
)
def test_a_missing_package_is_told_before_anything_is_fetched(name, extra, monkeypatch):
    monkeypatch.setattr("dit_eval.features.load.find_spec", lambda package: None)
    backend = network_named(name).backends[-1].name
    with pytest.raises(ModuleNotFoundError, match=rf"is not installed.*pip install \"dit-eval\[{extra}\]\""):
        load_network(name, backend=backend, device="cpu", fetch=pytest.fail)


@pytest.mark.parametrize("module", ["dit_eval.features", "dit_eval.features.load"])
def test_to_know_the_networks_loads_none_of_them(module):
    heavy = "{'numpy', 'torch', 'tensorflow', 'timm', 'torch_fidelity'}"
    code = f"import sys, {module}; sys.exit(','.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
