"""What results say of themselves: as published or not, in twelve and more combinations, on files and in tables."""

import dataclasses
import hashlib
import json
import pickle
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import real
import scipy.linalg
import torch
from evaluating import evaluate, with_scores
from PIL import Image
from report_runs import badge, result, sample_run
from seeded_inception import CONVS, seeded_weights

from dit_eval.checks.classes import score_classes
from dit_eval.checks.diagnose import diagnose
from dit_eval.checks.expectation import expectation
from dit_eval.cli import main
from dit_eval.features.clip import ClipVision
from dit_eval.features.dinov2 import DinoV2
from dit_eval.features.inception import TorchInception
from dit_eval.features.inception_weights import convolutions_sha256, read_state_dict
from dit_eval.features.network import FeatureBatch
from dit_eval.features.provenance import image_source
from dit_eval.flops.kept import Count
from dit_eval.images import open_images
from dit_eval.images.npz import open_batch
from dit_eval.images.stream import from_batches
from dit_eval.metrics.choose import choose
from dit_eval.reference import write_reference
from dit_eval.report.points import measured_points, published_points
from dit_eval.report.sections import setting_ending
from dit_eval.report.setting import comparable, select, settings
from dit_eval.report.tables import paper, stated
from dit_eval.report.tables.measured import measured_table
from dit_eval.report.tables.paper import paper_tables
from dit_eval.results.badge import CONVOLUTIONS_SHA256, make_badge, protocol_name
from dit_eval.results.eval_result import EvalResult, ExtractorInfo, ImageSource
from dit_eval.results.references import (
    KnownReference,
    known_reference,
    published_statistics,
    reference_protocol,
    reference_warnings,
)
from dit_eval.system.assets import asset, identify, recorded_sha256
from dit_eval.system.pickles import read_pickle

PINNED = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # as torch-fidelity states it
TRUE_CONVOLUTIONS = "9886ad8445a8cf3d7ff03cc996e76be8a64a4ccbc77b8b7ab8f77a2d0ffcfb4e"
GRAPH, IMAGENET_256, IMAGENET_512, OTHER = "a" * 64, "b" * 64, "c" * 64, "d" * 64
MAR = "1da4c17607fe959d54999fd098105649a0c05e15"  # git's id of fid_stats/adm_in256_stats.npz in MAR's tree
# pickle.dumps(numpy.array([1.0, 2.0]), 2) as Python 2 wrote it: bytes are texts there.
PYTHON_2 = (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03(K\x01K\x02\x85"
    b"cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    b"U\x10\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\x00@tb."
)
JIT = "412046720c0d496dc6d72a30eac3e22b9ef6ddac3501cce7f996674ad227ba4c"  # statistics that are not ADM's


def note(name, sha256, **changes):
    """What `fetch` writes beside a file that came from the official address."""
    item = asset(name)
    item.record_path.parent.mkdir(parents=True, exist_ok=True)
    record = {"url": item.url, "size": 1, "sha256": sha256, "time": "2026-11-25T00:00:00+00:00"} | changes
    item.record_path.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))


def network(sha256=PINNED, convolutions=None, name="inception", precision="fp32"):
    return ExtractorInfo(name=name, weights_sha256=sha256, backend="torch", precision=precision, device="cpu",
                         convolutions_sha256=convolutions)  # fmt: skip


def images(sha256, num, size=256, statistics="computed", **more):
    return ImageSource(path="x", sha256=sha256, num_images=num, image_size=(size, size) if size else None,
                       statistics=statistics, **more)  # fmt: skip


def adm(sha256=IMAGENET_256, size=256):
    return images(sha256, 10_000, size, "stored")


ALL = "protocol, weights, reference, N"
SOUND = {"extractor": network(), "gen": images(OTHER, 50_000), "ref": adm(), "distances": "adm-float16",
         "needs_classifier": True, "whole_reference": True}  # fmt: skip
# Name -> (what differs from a sound evaluation, badge, protocol, reference protocol).
COMBINATIONS = {
    "true weights, ADM's reference, 50,000": ({}, ALL, "adm-2021", "adm-2021"),
    "the graph as fetched": ({"extractor": network(GRAPH)}, ALL, "adm-2021", "adm-2021"),
    "10,000 samples": (
        {"gen": images(OTHER, 10_000)},
        "protocol, weights, reference   not: N (10,000)", "adm-2021", "adm-2021",
    ),
    "random weights": (
        {"extractor": network(OTHER, OTHER)},
        "protocol, reference, N   not: weights (unknown)", "adm-2021 except weights (unknown)", "adm-2021",
    ),
    "true convolutions in another file, no Inception Score": (
        {"extractor": network(OTHER, TRUE_CONVOLUTIONS), "needs_classifier": False}, ALL, "adm-2021", "adm-2021",
    ),
    "true convolutions in another file, with an Inception Score": (
        {"extractor": network(OTHER, TRUE_CONVOLUTIONS)},
        "protocol, reference, N   not: weights (classifier unknown)", "adm-2021 except weights (classifier unknown)",
        "adm-2021",
    ),
    "own reference images": (
        {"ref": images(OTHER, 10_000)},
        "protocol, weights, N   not: reference (own)", "adm-2021 except reference (own)", "own",
    ),
    "statistics made by dit-eval": (
        {"ref": images(OTHER, 0, None, "stored", made_from=GRAPH)},
        "protocol, weights, N   not: reference (own)", "adm-2021 except reference (own)", "own",
    ),
    "JiT's statistics": (
        {"ref": images(JIT, 0, None, "stored")},
        "protocol, weights, N   not: reference (jit-in256)", "adm-2021 except reference (jit-in256)", "jit-2025",
    ),
    "ADM's statistics as MAR ships them": (
        {"ref": images(OTHER, 0, None, "stored", git=MAR)}, ALL, "adm-2021", "adm-2021",
    ),
    "MAR's file and samples of 512 px": (
        {"gen": images(OTHER, 50_000, 512), "ref": images(OTHER, 0, None, "stored", git=MAR)},
        "protocol, weights, N   not: reference (adm-in256-stats, samples of another size)",
        "adm-2021 except reference (adm-in256-stats, samples of another size)", "adm-2021",
    ),
    "statistics that nobody knows": (
        {"ref": images(OTHER, 0, None, "stored", fingerprint=OTHER, git="e" * 40)},
        "protocol, weights, N   not: reference (unknown statistics)",
        "adm-2021 except reference (unknown statistics)", "unknown-statistics",
    ),
    "ADM's reference of another size": (
        {"ref": adm(IMAGENET_512, 512)},
        "protocol, weights, N   not: reference (imagenet512, samples of another size)",
        "adm-2021 except reference (imagenet512, samples of another size)", "adm-2021",
    ),
    "512 px throughout": (
        {"gen": images(OTHER, 50_000, 512), "ref": adm(IMAGENET_512, 512)}, ALL, "adm-2021", "adm-2021",
    ),
    "a part of ADM's reference": (
        {"ref": images(IMAGENET_256, 500, 256, "stored"), "whole_reference": False},
        "protocol, weights, N   not: reference (500 images of imagenet256)",
        "adm-2021 except reference (500 images of imagenet256)", "adm-2021",
    ),
    "bf16": (
        {"extractor": network(precision="bf16")},
        "weights, reference, N   not: protocol (features in bf16)", "adm-2021 except features in bf16", "adm-2021",
    ),
    "exact distances": (
        {"distances": "float32"},
        "weights, reference, N   not: protocol (float32 distances)", "adm-2021 except float32 distances", "adm-2021",
    ),
    "nothing right but the network": (
        {"extractor": network(OTHER, None, precision="tf32"), "gen": images(OTHER, 500), "ref": images(OTHER, 0),
         "distances": "float32"},
        "nothing   not: protocol (float32 distances and features in tf32), weights (unknown), reference (own), N (500)",
        "adm-2021 except float32 distances and features in tf32, weights (unknown), reference (own)", "own",
    ),
    "DINOv2 against ADM's images": (
        {"extractor": network(OTHER, None, "dinov2")},
        "reference, N   not: protocol (network dinov2), weights (dinov2)", "dinov2", "adm-2021",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_badge_of(name):
    note("imagenet256", IMAGENET_256)
    note("imagenet512", IMAGENET_512)
    note("inception-graph", GRAPH)
    changes, text, protocol, reference = COMBINATIONS[name]
    choices = SOUND | changes
    found = make_badge(**choices)
    assert found.text() == text
    assert found.full == (text == ALL)
    assert protocol_name(found, choices["extractor"].name) == protocol
    assert found.comparable == (protocol == "adm-2021")
    assert reference_protocol(choices["ref"]) == reference


def test_the_digits_are_known_and_not_adms(digits_ref):
    found = identify(hashlib.sha256(digits_ref.read_bytes()).hexdigest(), "reference")
    assert (found.name, found.protocol) == ("digits", "digits")


def statistics(path, **arrays):
    rng = np.random.RandomState(0)
    features = rng.rand(40, 4)
    given = {"mu": features.mean(0), "sigma": np.cov(features.T)} | arrays
    np.savez(path, **given)
    return given


def source(path, **options):
    opened = open_images(path, role="ref", **options)
    return image_source(opened, opened.sha256(), "stored")


def test_a_copy_of_statistics_is_told_by_what_they_are(tmp_path, monkeypatch):
    given = statistics(tmp_path / "first.npz")
    known = KnownReference(
        name="some-in256", protocol="some-2026", fingerprint=source(tmp_path / "first.npz").fingerprint
    )
    monkeypatch.setattr("dit_eval.results.references.published_statistics", lambda: (known,))
    np.savez_compressed(
        tmp_path / "again.npz", ref_mu=given["mu"][None].astype("f4"), ref_sigma=given["sigma"].astype("f4")
    )
    (tmp_path / "again.pkl").write_bytes(pickle.dumps({"num_images": 9, "fid": {k: given[k] for k in ("mu", "sigma")}}))
    for name in ("first.npz", "again.npz", "again.pkl"):
        assert reference_protocol(source(tmp_path / name)) == "some-2026", name
    statistics(tmp_path / "other.npz", mu=np.nextafter(given["mu"].astype("f4"), np.float32(9)))
    assert reference_protocol(source(tmp_path / "other.npz")) == "unknown-statistics"


def test_a_pickle_holds_what_python_finds_in_it(tmp_path):
    rng = np.random.RandomState(0)
    same = {"mu": rng.rand(5), "sigma": np.asfortranarray(rng.rand(5, 5))}
    given = {"num_images": 1_281_167, "fid": same, "again": same, "list": [1, -2.5, "x", (1, 2, 3, 4)], "long": 2**40,
             "scalar": np.float64(0.5), "other end": rng.rand(3).astype(">f4"), "turned": np.arange(6).reshape(2, 3).T,
             "empty": np.zeros((0, 2)), "bool": np.array([True]), "deep": {"a": {"b": [()]}}}  # fmt: skip
    for protocol in range(6):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(given, protocol=protocol))
        found = read_pickle(tmp_path / "x.pkl", "a pickle of statistics")
        np.testing.assert_equal(found, pickle.loads((tmp_path / "x.pkl").read_bytes()))
        assert found["other end"].dtype == ">f4"
    (tmp_path / "x.pkl").write_bytes(PYTHON_2)
    assert read_pickle(tmp_path / "x.pkl", "a pickle").tolist() == [1.0, 2.0]


LAYOUTS = {
    "x.npz": lambda mu, sigma: {"mu": mu, "sigma": sigma},
    "one row.npz": lambda mu, sigma: {"mu": mu[None], "sigma": sigma},
    "MeanFlow.npz": lambda mu, sigma: {"ref_mu": mu, "ref_sigma": sigma},
    "both.npz": lambda mu, sigma: {"mu": mu, "sigma": sigma, "ref_mu": mu[None], "ref_sigma": sigma},
    "FD-Loss.npz": lambda mu, sigma: {"mu": mu, "sigma": sigma, "avg_mu": mu + 1, "avg_sigma": 2 * sigma},
    "CLIP beside.npz": lambda mu, sigma: {"mu": mu, "sigma": sigma, "mu_clip": mu[:2], "sigma_clip": sigma[:2, :2]},
    "EDM2.pkl": lambda mu, sigma: {
        "num_images": 40, "fid": {"mu": mu, "sigma": sigma}, "fd_dinov2": {"mu": mu + 1, "sigma": sigma},
    },
    "one pair.pkl": lambda mu, sigma: {"ref_mu": mu[None], "ref_sigma": sigma},
    "FD-Loss.pkl#jit_in256_stats.npz": lambda mu, sigma: {
        "guided_diffusion_stats.npz": {"mu": mu + 1, "sigma": sigma}, "jit_in256_stats.npz": {"mu": mu, "sigma": sigma},
        "vit_large_patch16_224_mae_in256_t224_stats.npz": {"mu": mu, "sigma": sigma},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_statistics_of_each_layout_give_the_same_number(tmp_path, pictures, name):
    rng = np.random.RandomState(0)
    features = 255 * rng.rand(40, 4)
    mu, sigma = features.mean(0), np.cov(features.T)
    given, file = LAYOUTS[name](mu, sigma), tmp_path / name.partition("#")[0]
    if file.suffix == ".npz":
        np.savez(file, **given)
    else:
        file.write_bytes(pickle.dumps(given))
    gen = from_batches([pictures])
    found = evaluate(gen=gen, ref=open_images(tmp_path / name, role="ref"), extractor=StubInception(), metrics=["fid"])
    rows = pictures.reshape(60, -1)[:, :4].astype(np.float64)
    other, mine = np.cov(rows.T), rows.mean(0)
    root = scipy.linalg.sqrtm(sigma @ other)
    assert found.fid == pytest.approx(((mu - mine) ** 2).sum() + np.trace(sigma + other - 2 * root.real), rel=1e-9)
    assert found.ref.path == str(tmp_path / name if "#" in name or name != "EDM2.pkl" else f"{file}#fid")
    assert found.ref.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_statistics_are_of_one_network(tmp_path):
    one, other = ({"mu": np.full(4, value), "sigma": np.eye(4)} for value in (1.0, 2.0))
    edm2 = tmp_path / "edm2.pkl"
    edm2.write_bytes(pickle.dumps({"num_images": 9, "fid": one, "fd_dinov2": other}))
    pool = open_images(edm2, role="ref", network="dinov2").pool
    assert (pool.network, pool.num, pool.mu[0]) == ("dinov2", 9, 2.0)
    assert open_images(edm2, role="ref").pool.network == "inception"
    with pytest.raises(ValueError, match=r"holds no statistics of the network clip: fid \(inception\), fd_dinov2"):
        open_images(edm2, role="ref", network="clip")
    with pytest.raises(ValueError, match=r"no statistics called 'fd_dino'; it holds fid, fd_dinov2\. .*fd_dinov2"):
        open_images(f"{edm2}#fd_dino", role="ref")
    with pytest.raises(ValueError, match="holds statistics and no images to score"):
        open_images(edm2, role="gen")
    bundle = tmp_path / "bundle.pkl"
    bundle.write_bytes(pickle.dumps({"guided_diffusion_stats.npz": one, "jit_in256_stats.npz": other}))
    with pytest.raises(ValueError, match=r"several statistics of the network inception.*pkl#guided_diffusion_stats"):
        open_images(bundle, role="ref")
    bundle.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(ValueError, match=r"no statistics in the pickle; it holds x\. Needed mu and sigma"):
        open_images(bundle, role="ref")
    with pytest.raises(FileNotFoundError):
        open_images(tmp_path / "none.pkl", role="ref")
    np.savez(tmp_path / "x.npz", **one, ref_mu=other["mu"], ref_sigma=other["sigma"])
    with pytest.raises(ValueError, match="mu, sigma and ref_mu, ref_sigma are different statistics"):
        open_images(tmp_path / "x.npz", role="ref")


def test_dimensions_prove_no_network(tmp_path, pictures):
    class StubDino(StubInception):
        name, spatial_dim = "dinov2", None

    gen = open_images_of(tmp_path / "gen.npz", arr_0=pictures)
    unsaid = open_images_of(tmp_path / "unsaid.npz", mu=np.ones(4), sigma=np.eye(4))
    with pytest.raises(ValueError, match=r"unsaid.npz: it does not say which network its statistics are of, and 4 dim"):
        choose(gen=gen, ref=unsaid, network=StubDino())
    assert choose(gen=gen, ref=unsaid, network=StubInception()).stored
    for network in (StubDino(), StubInception()):
        path = tmp_path / f"{network.name}.npz"
        write_reference(images=gen, out=path, extractor=network, num_images=0)
        for other in (StubDino(), StubInception()):
            ref = open_images(path, role="ref")
            assert ref.pool.network == network.name
            if network.name == other.name:
                assert choose(gen=gen, ref=ref, network=other).stored
                continue
            with pytest.raises(ValueError, match=f"its statistics are of the network {network.name}, not {other.name}"):
                choose(gen=gen, ref=ref, network=other)


def open_images_of(path, **arrays):
    np.savez(path, **arrays)
    return open_images(path, role="ref")


def test_git_calls_a_file_so(tmp_path):
    statistics(tmp_path / "x.npz")
    found = subprocess.run(["git", "hash-object", "x.npz"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert source(tmp_path / "x.npz").git == found.stdout.strip()


def test_a_name_or_a_layout_is_a_hint_and_no_proof(tmp_path):
    names = {known.filename for known in published_statistics()}
    assert {"jit_in256_stats.npz", "imagenet_256_fid_stats.npz", "img512.pkl"} <= names
    given = statistics(tmp_path / "jit_in256_stats.npz")
    np.savez(tmp_path / "imagenet_256_fid_stats.npz", ref_mu=given["mu"], ref_sigma=given["sigma"])
    (tmp_path / "img512.pkl").write_bytes(
        pickle.dumps({"num_images": 9, "fid": {k: given[k] for k in ("mu", "sigma")}})
    )
    statistics(tmp_path / "x.npz")
    for name, told in {
        "jit_in256_stats.npz": "has the name of JiT's statistics (jit-in256), and is another file",
        "imagenet_256_fid_stats.npz": "has the name of MeanFlow's statistics (imf-in256), whose checksum nobody states",
        "img512.pkl": "has the name of EDM2's statistics (edm2-img512), whose checksum nobody states",
        "x.npz": "who made its statistics is not known. Those of pytorch-fid and clean-fid have as many",
    }.items():
        found = source(tmp_path / name)
        assert (known_reference(found), reference_protocol(found)) == (None, "unknown-statistics")
        (warning,) = reference_warnings(found)
        assert told in warning


def test_a_result_says_against_whose_statistics_it_is(tmp_path, pictures, monkeypatch):
    np.savez(tmp_path / "gen.npz", arr_0=pictures[:30])
    statistics(tmp_path / "ref.npz")
    gen = open_batch(tmp_path / "gen.npz", role="gen")

    def scored():
        return evaluate(gen=gen, ref=open_batch(tmp_path / "ref.npz", role="ref"), extractor=StubInception())

    unknown = scored()
    assert "FID-30 against unknown statistics" in unknown.text()
    known = KnownReference(name="jit-in256", protocol="jit-2025", sha256=unknown.ref.sha256, image_size=(256, 256))
    monkeypatch.setattr("dit_eval.results.references.published_statistics", lambda: (known,))
    found = scored()
    assert (found.protocol, found.reference_protocol) == ("adm-2021 except reference (jit-in256)", "jit-2025")
    assert "FID-30 against JiT's statistics" in found.text()
    assert "against JiT&#x27;s statistics" in found._repr_html_()
    assert EvalResult.from_json(found.to_json()) == found
    line = json.loads(found.to_json())
    for part in (line["gen"], line["ref"]):
        del part["fingerprint"], part["git"]
    del line["reference_protocol"], line["badge"]
    old = EvalResult.from_json(json.dumps(line))
    assert old.reference_protocol is None
    assert "reference not recorded" in old.text()
    assert " against " not in old.text()


def test_a_reference_counts_only_while_it_is_what_was_fetched():
    assert identify(IMAGENET_256, "reference") is None, "never fetched"
    note("imagenet256", IMAGENET_256)
    assert identify(IMAGENET_256, "reference").name == "imagenet256"
    assert identify(OTHER, "reference") is None, "the file was replaced"
    note("imagenet256", IMAGENET_256, url="https://example.org/mirror.npz")
    assert identify(IMAGENET_256, "reference") is None, "a note of another address"
    for broken in ("", "[]", "{}", '{"url": 1', "[" * 100_000, "\udce9"):
        asset("imagenet256").record_path.write_bytes(broken.encode("utf-8", "surrogateescape"))
        assert recorded_sha256(asset("imagenet256")) is None


# --- the network's tensors


@pytest.mark.parity
def test_both_layouts_have_the_fingerprint_that_hashlib_gives(inception_files):
    state = read_state_dict(inception_files.pth)
    weights = seeded_weights(0)
    digest = hashlib.sha256()
    for conv in CONVS:  # the tests' own list of layers, in the graph's names
        kernel = np.ascontiguousarray(weights[f"{conv.name}/conv2d_params"].transpose(3, 2, 0, 1))
        named = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        arrays = [("weight", kernel)]
        arrays += [(ours, weights[f"{conv.name}/batchnorm/{theirs}"]) for theirs, ours in named.items()]
        for part, array in arrays:
            digest.update(f"{conv.name} {part} {array.shape}\n".encode() + array.tobytes())
    assert convolutions_sha256(state) == digest.hexdigest()
    assert convolutions_sha256(read_state_dict(inception_files.pb)) == digest.hexdigest()
    wider = {name: tensor.double() for name, tensor in state.items()}
    assert convolutions_sha256(wider) == digest.hexdigest(), "the same numbers in another type"
    turned = {name: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for name, t in state.items()}
    assert convolutions_sha256(turned) == digest.hexdigest(), "the same numbers in another order in memory"


def test_any_other_tensor_is_another_network_but_for_the_classifier(inception_files):
    state = read_state_dict(inception_files.pth)
    before = convolutions_sha256(state)
    for name in ("Conv2d_1a_3x3.conv.weight", "Mixed_5d.branch_pool.bn.bias", "Mixed_6d.branch1x1.bn.running_mean",
                 "Mixed_7b.branch3x3_2a.bn.running_var", "Mixed_7c.branch_pool.bn.weight"):  # fmt: skip
        changed = state[name].clone()
        last = (-1,) * changed.ndim
        changed[last] = torch.nextafter(changed[last], torch.tensor(torch.inf))
        assert convolutions_sha256(state | {name: changed}) != before, name
    assert convolutions_sha256(state | {"Mixed_7c.branch_pool.bn.weight": state["fc.bias"]}) != before
    assert convolutions_sha256(state | {"fc.weight": torch.zeros(1)}) == before
    halves = {name: tensor.half() for name, tensor in state.items()}
    assert convolutions_sha256(halves) != before, "other numbers"
    with pytest.raises(ValueError, match=re.escape("Conv2d_1a_3x3.conv.weight is missing")):
        convolutions_sha256({})


@pytest.mark.parametrize("values", [torch.zeros(1).expand(1 << 38), torch.zeros(32, 3, 3, 3, dtype=torch.complex64)])
def test_a_tensor_of_more_than_its_bytes_is_refused(inception_files, tmp_path, values):
    torch.save(read_state_dict(inception_files.pth) | {"Conv2d_1a_3x3.conv.weight": values}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError,
        match=r"x\.pth: not (a PyTorch state dict|the weights of the 2015 Inception) .*Conv2d_1a_3x3\.conv\.weight",
    ):
        TorchInception(weights=tmp_path / "x.pth")


def test_a_random_network_is_told_by_its_tensors(torch_inception):
    assert CONVOLUTIONS_SHA256 == TRUE_CONVOLUTIONS
    assert torch_inception.convolutions_sha256 != TRUE_CONVOLUTIONS
    assert torch_inception.weights_sha256 != asset("inception").sha256 == PINNED


def test_the_true_networks_fingerprint_is_the_pinned_one(true_inception):
    assert len(real.convolutions()) == 94 * 5
    assert true_inception.convolutions_sha256 == TRUE_CONVOLUTIONS
    info = network(true_inception.weights_sha256, true_inception.convolutions_sha256)
    note("imagenet256", IMAGENET_256)
    assert make_badge(**SOUND | {"extractor": info, "needs_classifier": False}).full
    assert not make_badge(**SOUND | {"extractor": info}).full


# --- whole evaluations


class StubInception:
    """Class probabilities of images by their mean, under the name and with the weights' checksum of the network."""

    name, backend, precision, device, weights_sha256 = "inception", "torch", "fp32", "cpu", PINNED
    pool_dim, spatial_dim = 4, 4

    def __call__(self, images):
        values = images.reshape(len(images), -1)[:, :4].astype(np.float32)
        probs = np.exp(values / 255)
        return FeatureBatch(pool=values, spatial=values, class_probs=probs / probs.sum(axis=1, keepdims=True))


@pytest.fixture
def pictures():
    return np.random.RandomState(0).randint(0, 256, (60, 8, 8, 3)).astype(np.uint8)


def test_an_evaluation_carries_its_badge(tmp_path, pictures):
    np.savez(tmp_path / "gen.npz", arr_0=pictures[:30])
    np.savez(tmp_path / "ref.npz", arr_0=pictures[30:])
    note("imagenet256", hashlib.sha256((tmp_path / "ref.npz").read_bytes()).hexdigest())
    gen = open_batch(tmp_path / "gen.npz", role="gen")

    def score(**options):
        ref = open_batch(tmp_path / "ref.npz", role="ref", **options)
        return evaluate(gen=gen, ref=ref, extractor=StubInception())

    found = score()
    assert found.badge.text() == "protocol, weights, reference   not: N (30)"
    assert (found.protocol, found.reference_protocol) == ("adm-2021", "adm-2021")
    assert score(num_images=20).protocol == "adm-2021 except reference (20 images of imagenet256)"
    line = json.loads(found.to_json())
    assert line["badge"]["reference"] == {"as_published": True, "reason": "imagenet256"}
    assert line["badge"]["num_samples"] == {"as_published": False, "reason": "30"}
    assert EvalResult.from_json(found.to_json()) == found
    np.savez(tmp_path / "ref.npz", arr_0=pictures[29:])
    assert score().protocol == "adm-2021 except reference (own)", "another file under the name"


def test_a_file_of_adms_name_that_nobody_fetched_is_told(tmp_path, pictures):
    name = "VIRTUAL_imagenet256_labeled.npz"
    np.savez(tmp_path / "gen.npz", arr_0=pictures[:30])
    np.savez(tmp_path / name, arr_0=pictures[30:])
    gen, ref = open_batch(tmp_path / "gen.npz", role="gen"), open_batch(tmp_path / name, role="ref")

    def told():
        return [w for w in evaluate(gen=gen, ref=ref, extractor=StubInception()).warnings if "has the name of" in w]

    (warning,) = told()
    assert warning.startswith(f"{tmp_path}/{name} has the name of imagenet256, whose publisher states no checksum")
    assert warning.endswith("and pass --ref imagenet256.")
    note("imagenet256", ref.sha256())
    assert told() == []


def test_the_command_line_shows_the_badge(tmp_path, monkeypatch, capsys, digits):
    monkeypatch.chdir(tmp_path)
    np.savez("gen.npz", arr_0=digits.images[:300])
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", "gen.npz", "--ref", "digits", "--extractor", "digits"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    wanted = "nothing   not: protocol (network digits), weights (digits), reference (digits), N (300)"
    assert f"as published: {wanted}" in shown
    assert EvalResult.from_json(Path("results.jsonl").read_text()).reference_protocol == "digits"


@pytest.mark.parametrize("change", [
    {"weights": None}, {"weights": {"as_published": 1, "reason": ""}}, {"weights": {"as_published": True}},
    {"more": {"as_published": True, "reason": ""}}, "full",
])  # fmt: skip
def test_a_badge_that_is_none_is_refused(change):
    line = json.loads(result(sample_run(), 3.0).to_json())
    line["badge"] = line["badge"] | change if isinstance(change, dict) else change
    with pytest.raises(ValueError, match="Not an evaluation result"):
        EvalResult.from_json(json.dumps(line))


# --- tables and figures of the paper


def points_of(*results):
    return measured_points([(f"line {k}", r) for k, r in enumerate(results)],
                           count=lambda network: Count(gflops=118.6, params_m=675.0))  # fmt: skip


@pytest.fixture
def uncounted(monkeypatch):
    """Tables without their own count of Gflops, which takes seconds and is not what is looked at here."""
    for module in (paper, stated):
        monkeypatch.setattr(module, "count_named", lambda *model: Count(gflops=1.0, params_m=1.0))


def without_badge(**changes):
    """A line as versions before the badge wrote it."""
    line = json.loads(result(sample_run(), 1.0, **changes).to_json())
    del line["badge"], line["reference_protocol"]
    for part in ("extractor", "gen", "ref"):
        line[part].pop("convolutions_sha256", None)
        line[part].pop("made_from", None)
    return EvalResult.from_json(json.dumps(line))


EXCEPT = "adm-2021 except"
NOT_QUALIFIED = {
    "a line of an earlier version": without_badge(),
    "random weights": result(sample_run(), 1.0, protocol=f"{EXCEPT} weights (unknown)", badge=badge(weights="unknown")),
    "own reference": result(sample_run(), 1.0, protocol=f"{EXCEPT} reference (own)", badge=badge(reference="own")),
    "bf16": result(sample_run(), 1.0, protocol=f"{EXCEPT} features in bf16", badge=badge(protocol="features in bf16")),
    "a protocol that its badge denies": result(sample_run(), 1.0, badge=badge(reference="own")),
    "10,000 samples": result(sample_run(), 1.0, num_samples=10_000),
}

CELLS = {  # what the table of measured results says to be as published
    "a line of an earlier version": "not known",
    "random weights": "protocol, reference, N",
    "own reference": "protocol, weights, N",
    "bf16": "weights, reference, N",
    "a protocol that its badge denies": "protocol, weights, N",
    "10,000 samples": "protocol, weights, reference",
}


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("name", NOT_QUALIFIED)
def test_no_row_of_a_paper_table_without_the_full_badge(name):
    best = with_scores(NOT_QUALIFIED[name], sfid=1.0, inception_score=900.0, precision=0.99, recall=0.99)
    runs = [dataclasses.replace(best.gen.run, cfg_scale=scale, vae=vae) for scale, vae in ((1.0, "mse"), (1.5, "ema"))]
    given = [dataclasses.replace(best, gen=dataclasses.replace(best.gen, run=run)) for run in runs]
    points = pandas.concat([published_points(), points_of(*given)], ignore_index=True)
    for table in paper_tables(points):
        assert not [row for row in table.rows if row.measured], table.name
    measured = measured_table(points)
    assert len(measured.rows) == 2, "they are shown apart"
    cell = measured.rows[0].cells["badge"]
    assert cell == CELLS[name]
    if name != "10,000 samples":
        papers, *others = settings(points)
        assert set(papers.points["source"]) == {"paper"}
        assert len(others) == 1, "figures of their own"
        assert "2 measured results are not known to be of the published protocol" in paper_tables(points)[1].about


@pytest.mark.usefixtures("uncounted")
def test_rows_with_the_full_badge_join_and_leave_published_cells_their_bold():
    better = result(sample_run(vae="ema", training_steps=7_000_000), 1.0)
    runs = [with_scores(better, fid=fid, sfid=1.0, inception_score=900.0, precision=0.99, recall=0.99)
            for fid in (1.0, 1.5)]  # fmt: skip
    alone, joined = (paper_tables(points)[1] for points in (
        published_points(), pandas.concat([published_points(), points_of(*runs)], ignore_index=True)))  # fmt: skip
    own = [index for index, row in enumerate(joined.rows) if row.measured]
    assert len(own) == 2
    assert alone.best, "the paper prints some numbers bold"
    assert {cell for cell in joined.best if cell[0] not in own} == alone.best
    assert (own[0], "fid") in joined.best, "the better of the measured rows"
    assert (own[1], "fid") not in joined.best


def test_two_references_in_a_table_are_marked_and_have_figures_of_their_own():
    def against(whose, sha256, protocol):
        made = result(sample_run(), 2.0, protocol=protocol, badge=None, reference_protocol=whose)
        return dataclasses.replace(made, ref=dataclasses.replace(made.ref, sha256=sha256))

    unknown = f"{EXCEPT} reference (unknown statistics)"
    given = [
        against("jit-2025", JIT, f"{EXCEPT} reference (jit-in256)"),
        against("unknown-statistics", "1" * 64, unknown),
        against("unknown-statistics", "2" * 64, unknown),
        result(sample_run(), 1.0, reference_protocol="adm-2021"),
        without_badge(),
    ]
    points = pandas.concat([published_points(), points_of(*given)], ignore_index=True)
    table = measured_table(points)
    assert [row.cells["reference"] for row in table.rows] == [
        "JiT's statistics", "unknown statistics (11111111)", "unknown statistics (22222222)", "-",
        "reference not recorded (11111111)",
    ]  # fmt: skip
    assert [row.notes for row in table.rows] == [(0,), (1,), (2,), (3,), (4,)]
    assert table.notes[0] == "Against JiT's statistics."
    assert table.notes[3] == "Against ADM's reference."
    assert sorted(setting.reference for setting in settings(points)) == [
        "", "", "", "unknown statistics (11111111)", "unknown statistics (22222222)",
    ]  # fmt: skip
    assert len({setting_ending(setting) for setting in settings(points)}) == 5
    same = measured_table(points_of(given[3], given[3]))
    assert (same.notes, [c.key for c in same.columns if c.key == "reference"]) == ((), []), "nothing to tell apart"


def test_fid_10k_may_stand_beside_the_papers_fid_10k():
    points = points_of(result(sample_run(num_sampling_steps="128"), 9.0, num_samples=10_000))
    assert len(comparable(points)) == 1
    (papers,) = settings(pandas.concat([published_points(), points], ignore_index=True))
    assert len(select(papers.sweep, source="measured")) == 1
    assert not len(select(papers.scaling, source="measured"))


# --- scored against itself; too few images


def warnings_of(gen, ref, **options):
    return evaluate(gen=gen, ref=ref, extractor=StubInception(), metrics=["fid"], **options).warnings


ITSELF = "The score says nothing of a model; pass real images, or statistics of them, as the reference."


def test_samples_against_themselves_are_told(tmp_path, pictures):
    np.savez(tmp_path / "a.npz", arr_0=pictures)
    for k, picture in enumerate(pictures[:40]):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / folder / f"{k:02}.png")
    a, one, two = (open_images(tmp_path / name, role="gen") for name in ("a.npz", "one", "two"))
    same = f"{tmp_path}/a.npz is the same as {tmp_path}/a.npz: the samples are scored against themselves. {ITSELF}"
    assert same in warnings_of(a, open_images(tmp_path / "a.npz", role="ref"))
    assert any("are scored against themselves" in w for w in warnings_of(one, two)), "the same files elsewhere"

    write_reference(images=a, out=tmp_path / "made.npz", extractor=StubInception(), num_images=0)
    told = f"the statistics of {tmp_path}/made.npz were made of the images of {tmp_path}/a.npz. {ITSELF}"
    assert told in warnings_of(a, open_batch(tmp_path / "made.npz", role="ref"))
    with zipfile.ZipFile(tmp_path / "made.npz") as made:
        note = json.loads(made.comment)["made_from"]
        assert (note["images_sha256"], note["num_images"]) == (a.sha256(), 60)
        assert note["extractor"]["weights_sha256"] == PINNED

    # Statistics by NumPy, in float32: what another program makes of the same images.
    rows = StubInception()(pictures).pool
    np.savez(tmp_path / "numpy.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False).astype(np.float32))
    alike = f"{tmp_path}/numpy.npz has the mean and covariance of {tmp_path}/a.npz: they seem to be the same images."
    assert f"{alike} {ITSELF}" in warnings_of(a, open_batch(tmp_path / "numpy.npz", role="ref"))
    assert any("seem to be the same images" in w for w in warnings_of(from_batches([pictures]), a)), "an iterable"


def test_other_images_are_not_called_the_same(tmp_path, pictures):
    np.savez(tmp_path / "a.npz", arr_0=pictures[:59])
    np.savez(tmp_path / "b.npz", arr_0=pictures[1:])  # 58 of 59 are the same
    np.savez(tmp_path / "c.npz", arr_0=np.full_like(pictures, 7))
    for comment in (b"", b"of another program", b"\xff", b"[]", b'{"made_from": {"images_sha256": 1}}', b"[" * 60_000):
        with zipfile.ZipFile(tmp_path / "c.npz", "a") as archive:
            archive.comment = comment
        assert open_batch(tmp_path / "c.npz", role="ref").made_from is None
    a, b, c = (open_batch(tmp_path / f"{name}.npz", role="ref") for name in "abc")
    for gen, ref in ((a, b), (b, a), (a, c)):
        assert not [w for w in warnings_of(gen, ref) if "themselves" in w or "same images" in w or "made of" in w]


@pytest.mark.parametrize(("dim", "least"), [(64, 65), (2048, 2049), (1024, 1025)])
def test_fewer_images_than_dimensions_are_told(tmp_path, dim, least):
    names = {64: "digits", 2048: "inception", 1024: "dinov2"}
    metric, title = ("fd-dinov2", "FD-DINOv2") if dim == 1024 else ("fid", "FID")
    sizes = dataclasses.make_dataclass("Sizes", ["name", "pool_dim", "spatial_dim"])(names[dim], dim, None)
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((least, 8, 8, 3), np.uint8))
    enough = open_batch(tmp_path / "x.npz", role="gen")
    few = open_batch(tmp_path / "x.npz", role="gen", num_images=dim)
    advice = (
        f"the covariance behind {title} is singular, and the distance hangs on their number. Take more than {dim:,}."
    )

    def told(gen, ref):
        return [w for w in choose([metric], gen=gen, ref=ref, network=sizes).warnings if "singular" in w]

    assert told(few, enough) == [f"{dim:,} samples and {dim:,} feature dimensions: {advice}"]
    assert told(enough, few) == [f"{dim:,} reference images and {dim:,} feature dimensions: {advice}"]
    assert told(enough, enough) == []


def test_fid_and_sfid_are_told_of_in_one_line(tmp_path, digits_extractor):
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((100, 8, 8, 3), np.uint8))  # 64 < 100 < 112
    gen, few = (open_batch(tmp_path / "x.npz", role="gen", num_images=n) for n in (100, 50))

    def told(images):
        found = choose(gen=images, ref=gen, network=digits_extractor).warnings
        return [w.partition(" is singular")[0] for w in found if "singular" in w and "samples" in w]

    assert told(gen) == ["100 samples and 112 feature dimensions: the covariance behind sFID"]
    assert told(few) == ["50 samples and 64 and 112 feature dimensions: the covariance behind FID and sFID"]


def test_classes_against_themselves_are_told(tmp_path, digits, digits_extractor):
    np.savez(tmp_path / "a.npz", arr_0=digits.images[:200], arr_1=digits.labels[:200])
    np.savez(tmp_path / "b.npz", arr_0=digits.images[200:], arr_1=digits.labels[200:])
    a, b = (open_batch(tmp_path / f"{name}.npz", role="gen") for name in "ab")
    warnings = score_classes(gen=a, ref=a, extractor=digits_extractor).warnings
    assert any("are scored against themselves" in w for w in warnings)
    assert not score_classes(gen=a, ref=b, extractor=digits_extractor).warnings


def test_diagnose_tells_of_other_weights_and_another_reference(tmp_path, pictures):
    np.savez(tmp_path / "a.npz", arr_0=pictures)
    a = open_batch(tmp_path / "a.npz", role="gen")

    def told(given):
        found = diagnose(gen=a, ref=a, expect=expectation("dit-xl-2-cfg1.5"), result=given).findings
        return {f.id: f.found for f in found if f.id in ("result-weights", "result-reference")}

    inception = ExtractorInfo(name="inception", weights_sha256=OTHER, backend="torch", precision="fp32", device="cpu")
    sound = dataclasses.replace(result(None, 2.3), extractor=inception)
    assert told(sound) == {}
    assert told(dataclasses.replace(sound, badge=None)) == {}, "not known"
    against = dataclasses.replace(sound, badge=badge(reference="jit-in256"), reference_protocol="jit-2025")
    assert told(against) == {
        "result-reference": "the result's reference is not known to be ADM's (jit-in256): its distances are FID and "
        "sFID against JiT's statistics"
    }
    unsaid = diagnose(gen=a, ref=a, result=dataclasses.replace(sound, reference_protocol=None)).unchecked
    assert any("is of an earlier version: reference not recorded" in text for text in unsaid)
    assert told(dataclasses.replace(sound, badge=badge(weights="unknown", reference="own"))) == {
        "result-weights": "the result's weights are not known to be the published ones (unknown)",
        "result-reference": "the result's reference is not known to be ADM's (own)",
    }


def test_every_network_tells_of_few_samples_in_words_of_its_own(tmp_path, digits_extractor):
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((300, 8, 8, 3), np.uint8))
    x = open_batch(tmp_path / "x.npz", role="gen")

    def told(sizes):
        return [w for w in choose(gen=x, ref=x, network=sizes).warnings if "singular" not in w and "computed" not in w]

    assert told(digits_extractor) == [
        "300 samples: FID and sFID of the digits network grow as samples get fewer; compare at equal numbers only."
    ]
    assert told(DinoV2) == [
        "300 samples: FD-DINOv2 grows as samples get fewer; compare at equal numbers only.",
    ]
    assert told(ClipVision) == [
        "300 samples: CMMD counts each image as its own neighbour, which adds the more to it the fewer there are; "
        "compare at equal numbers only."
    ]
    assert told(TorchInception)[0] == (
        "300 samples: FID and sFID grow as samples get fewer; compare with FID-300 only, not with FID-50K."
    )
