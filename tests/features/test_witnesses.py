"""KID, density and coverage, FD-DINOv2 and CMMD: parity with their sources, closed forms, refusals."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import witness_goldens as given
from evaluating import evaluate
from numpy.testing import assert_allclose
from safetensors.torch import save_file

from dit_eval.cli import main
from dit_eval.features.clip import ClipVision
from dit_eval.features.dinov2 import DinoV2
from dit_eval.features.vit import VitSize, read_weights
from dit_eval.images.npz import open_batch
from dit_eval.metrics import cmmd as kernel
from dit_eval.metrics import density_coverage as dc
from dit_eval.metrics.choose import choose
from dit_eval.metrics.cmmd import clip_mmd
from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.kid import kernel_distance
from dit_eval.reference import write_reference
from dit_eval.results.eval_result import EvalResult
from dit_eval.summary import GaussianStats
from dit_eval.system import assets

GOLDENS = Path(__file__).parents[1] / "goldens"
SECTIONS = json.loads((GOLDENS / "witnesses.json").read_text())
NARROW = VitSize(width=given.WIDTH, depth=given.DEPTH)


@pytest.fixture(scope="module")
def golden_embeddings():
    with np.load(GOLDENS / "witnesses.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Narrow networks in the published layouts, by extractor name."""
    folder = tmp_path_factory.mktemp("vit")
    torch.save(given.seeded_weights(given.dinov2_shapes()), folder / "dinov2.pth")
    torch.save(given.seeded_weights(given.clip_shapes()), folder / "clip.bin")
    return {"dinov2": folder / "dinov2.pth", "clip": folder / "clip.bin"}


@pytest.fixture(scope="module")
def dinov2(weights):
    return DinoV2(weights=weights["dinov2"], size=NARROW)


@pytest.fixture(scope="module")
def clip(weights):
    return ClipVision(weights=weights["clip"], size=NARROW, embedding=given.EMBEDDING)


# ---- metrics on features


@pytest.mark.slow
def test_kid_is_that_of_its_sources():
    gen, ref = given.kid_features()
    found = kernel_distance(gen=gen, ref=ref)
    golden = SECTIONS["kid"]["mean and standard deviation"]
    for source in ("torch-fidelity", "MMD-GAN", "dgm-eval"):
        assert_allclose([found.mean, found.std], golden["float64"][source], rtol=1e-9)
        # The programs given float32, which is what differs (9.5e-6 and 2.5e-5).
        assert_allclose([found.mean, found.std], golden["float32"][source], rtol=5e-5)


def test_density_and_coverage_are_those_of_prdc():
    gen, ref = given.prdc_features()
    for case, sides in (("gen against ref", (gen, ref)), ("ref against itself", (ref, ref))):
        found = density_coverage(gen=sides[0], ref=sides[1])
        golden = SECTIONS["prdc"][case]
        assert (found.density, found.coverage) == pytest.approx((golden["density"], golden["coverage"]), rel=1e-12)


def test_cmmd_is_that_of_its_source():
    gen, ref = given.cmmd_features()
    golden = SECTIONS["cmmd"]["cmmd"]
    found = clip_mmd(gen=gen, ref=ref)
    assert found == pytest.approx(golden["float64"], rel=1e-9)
    # The source computes in float32, in which kernel means near 1 keep seven digits of which the distance has few.
    assert found == pytest.approx(golden["float32"], abs=3e-4)


def test_the_frechet_distance_is_that_of_dgm_eval():
    gen, ref = (
        GaussianStats(mu=rows.astype(np.float64).mean(0), sigma=np.cov(rows.astype(np.float64), rowvar=False))
        for rows in given.frechet_features()
    )
    assert frechet_distance(gen=gen, ref=ref).value == pytest.approx(SECTIONS["dgm"]["fd"], rel=1e-5)


def test_kid_and_cmmd_of_their_definitions():
    # Written out pair by pair.
    gen, ref = given.unit_features(20, 12, 7), given.unit_features(21, 9, 7, shift=0.2)
    u, v = gen[:9].astype(np.float64), ref.astype(np.float64)

    def cubic(a, b):
        return (a @ b / 7 + 1) ** 3

    within = sum(cubic(x[i], x[j]) for x in (u, v) for i in range(9) for j in range(9) if i != j) / (9 * 8)
    expected = within - 2 * np.mean([[cubic(a, b) for b in v] for a in u])
    found = kernel_distance(gen=gen[:9], ref=ref, num_subsets=1, subset_size=9)
    assert found.mean == pytest.approx(expected, rel=1e-9)
    assert found.std == 0

    def mean(x, y):
        return np.mean([[np.exp(-np.square(a - b).sum() / 200) for b in y] for a in x])

    w = gen.astype(np.float64)
    assert clip_mmd(gen=gen, ref=ref) == pytest.approx(1000 * (mean(w, w) + mean(v, v) - 2 * mean(w, v)), rel=1e-9)


def test_equal_and_shifted_sets():
    ref = given.features(30, 1500, 32)
    assert clip_mmd(gen=ref[::-1], ref=ref) == pytest.approx(0, abs=1e-9)
    # An image that is on both sides meets itself between the sets, never within one: a little below 0.
    assert -5e-3 < kernel_distance(gen=ref, ref=ref, num_subsets=9).mean < 0
    values = [
        (clip_mmd(gen=ref + shift, ref=ref), kernel_distance(gen=ref + shift, ref=ref, num_subsets=9).mean)
        for shift in (0.1, 0.2, 0.4)
    ]
    assert (np.diff(np.array(values), axis=0) > 0).all()
    # Two points a distance apart: 2 - 2 exp(-d^2 / 200), times 1,000.
    points = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    assert clip_mmd(gen=points[:1], ref=points[1:]) == pytest.approx(2000 * -np.expm1(-25 / 200), rel=1e-12)


def test_density_and_coverage_of_sets_that_are_known():
    ref = given.features(31, 700, 16)
    itself = density_coverage(gen=ref, ref=ref)
    assert (itself.coverage, itself.covered) == (1.0, 700)
    assert itself.density == pytest.approx(1.0, abs=1e-12), "each ball holds its centre and the k - 1 nearest"
    away = density_coverage(gen=ref + 100, ref=ref)
    assert (away.density, away.coverage) == (0.0, 0.0)
    # All gen on one reference image: it alone, and those whose ball it is in, are covered.
    centres = np.arange(40, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    one = density_coverage(gen=centres[[20] * 7], ref=centres, k=1)
    assert (one.covered, one.density) == (1, 1.0), "balls are open: the neighbours' end at the image"


@pytest.mark.parametrize("k", [1, 5])
def test_blocks_do_not_matter(monkeypatch, k):
    gen, ref = given.features(32, 333, 16, shift=0.1), given.features(33, 257, 16)
    whole = density_coverage(gen=gen, ref=ref, k=k), clip_mmd(gen=gen, ref=ref)
    monkeypatch.setattr(dc, "_ROWS", 50)
    monkeypatch.setattr(dc, "_COLUMNS", 31)
    monkeypatch.setattr(kernel, "_ROWS", 64)
    blocked = density_coverage(gen=gen, ref=ref, k=k), clip_mmd(gen=gen, ref=ref)
    assert blocked[0] == whole[0]
    assert blocked[1] == pytest.approx(whole[1], rel=1e-10)


MEMORY = """
import sys
import numpy as np
import torch
from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.cmmd import clip_mmd
from dit_eval.metrics.kid import kernel_distance
from dit_eval.system.environment import peak_memory_bytes
rows = np.random.RandomState(0).standard_normal((14_000, 8)).astype(np.float32)
density_coverage(gen=rows[:100], ref=rows[:100]), clip_mmd(gen=rows[:100], ref=rows[:100])
kernel_distance(gen=rows, ref=rows, num_subsets=1)
before = peak_memory_bytes()
density_coverage(gen=rows, ref=rows), clip_mmd(gen=rows, ref=rows)
print(peak_memory_bytes() - before)
"""


@pytest.mark.slow
def test_memory_is_that_of_the_blocks():
    # All distances of 14,000 images to each other would be 1.6 GB.
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400e6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: kernel_distance(gen=a[:900], ref=a), r"gen has 900 images; KID draws subsets of 1,000.*more images"),
        (lambda a: kernel_distance(gen=a, ref=a[:, :4]), r"dimensions differ: gen 8, ref 4"),
        (lambda a: kernel_distance(gen=a, ref=a, num_subsets=0), r"0 subsets"),
        (lambda a: clip_mmd(gen=a[:0], ref=a), r"gen has shape \(0, 8\)"),
        (lambda a: clip_mmd(gen=np.full_like(a, np.nan), ref=a), r"gen holds NaN"),
        (lambda a: density_coverage(gen=a, ref=a[:5]), r"ref has shape \(5, 8\).*at least 6"),
        (lambda a: density_coverage(gen=a, ref=a[:, :4]), r"gen has 8 feature dimensions, ref has 4"),
        (lambda a: density_coverage(gen=a, ref=np.full_like(a, np.inf)), r"ref holds NaN or infinity"),
        (lambda a: density_coverage(gen=a, ref=a, k=0), r"k=0"),
    ],
)
def test_impossible_features_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1000, 8), np.float32))


# ---- networks


def assert_same_embeddings(found, golden):
    assert found.dtype == np.float32
    assert_allclose(found, golden, rtol=0, atol=1e-5 * np.abs(golden).max())


@pytest.mark.parametrize("size", [64, 224, 256])
def test_dinov2_is_that_of_dgm_eval(dinov2, golden_embeddings, size):
    features = dinov2(given.images(size))
    assert (features.spatial, features.class_probs) == (None, None)
    assert_same_embeddings(features.pool, golden_embeddings[f"dinov2/{size}"])


@pytest.mark.parametrize("case", ["64", "224", "256", "256 x 200"])
def test_clip_is_that_of_cmmd(clip, golden_embeddings, case):
    images = given.images(256)[:, :, 17:217] if " x " in case else given.images(int(case))
    features = clip(images)
    assert_allclose(np.linalg.norm(features.pool, axis=1), 1, rtol=1e-6)
    assert_same_embeddings(features.pool, golden_embeddings[f"clip/{case}"])
    if case == "256":
        assert_same_embeddings(features.pool, golden_embeddings["transformers/256"])


def test_another_resampling_of_positions_would_show(dinov2, golden_embeddings, monkeypatch, weights):
    # timm's own, antialiased and by size, is another network.
    interpolate = torch.nn.functional.interpolate
    monkeypatch.setattr(
        "dit_eval.features.dinov2.F.interpolate",
        lambda x, scale_factor, mode, antialias: interpolate(x, size=(16, 16), mode=mode, antialias=True),
    )
    other = DinoV2(weights=weights["dinov2"], size=NARROW)(given.images(256)).pool
    golden = golden_embeddings["dinov2/256"]
    assert np.abs(other - golden).max() > 1e-3 * np.abs(golden).max()


@pytest.mark.parametrize(("name", "made", "section"), [
    ("dinov2", given.dinov2_shapes(1024, 24), "dgm"),
    ("clip", given.clip_shapes(1024, 24, 768), "transformers"),
])  # fmt: skip
def test_the_published_layout_is_the_one_that_is_read(name, made, section, tmp_path, monkeypatch):
    layout = SECTIONS[section]["layout"]
    image = {key: shape for key, shape in layout.items() if not key.startswith(("text_", "logit_scale"))}
    image.pop("vision_model.embeddings.position_ids", None)
    assert image == made
    # Tensors without values stand for a file of 1.2 GB.
    tensors = {key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    (tmp_path / "weights").write_bytes(b"")
    monkeypatch.setattr("dit_eval.features.vit.read_weights", lambda path, network: dict(tensors))
    extractor = {"dinov2": DinoV2, "clip": ClipVision}[name]
    net = extractor(weights=tmp_path / "weights", device="meta")._net
    assert net(torch.empty(2, 3, extractor.image_size, extractor.image_size, device="meta")).shape == (
        2,
        extractor.pool_dim,
    )


def test_batches_and_safetensors_do_not_matter(clip, weights, tmp_path):
    images = given.images(64, 19)
    save_file(read_weights(weights["clip"], "clip"), tmp_path / "clip.safetensors")
    again = ClipVision(weights=tmp_path / "clip.safetensors", size=NARROW, embedding=given.EMBEDDING)
    one_by_one = np.concatenate([again(image[None]).pool for image in images])
    assert_allclose(clip(images).pool, one_by_one, atol=2e-6)


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


BAD_WEIGHTS = {
    "another depth": (
        "dinov2",
        lambda s: given.seeded_weights(given.dinov2_shapes(depth=given.DEPTH + 1)),
        "Unexpected",
    ),
    "a name missing": ("dinov2", lambda s: without(s, "norm.bias"), r"Missing key.*norm\.bias"),
    "no positions": ("dinov2", lambda s: without(s, "pos_embed"), r"Missing key.*pos_embed"),
    "odd positions": ("dinov2", lambda s: s | {"pos_embed": torch.zeros(1, 12, given.WIDTH)}, "pos_embed has shape"),
    "a layer too many": (
        "clip",
        lambda s: given.seeded_weights(given.clip_shapes(depth=given.DEPTH + 1)),
        r"Unexpected key.*layers\.3",
    ),
    "a layer missing": ("clip", lambda s: given.seeded_weights(given.clip_shapes(depth=1)), r"layers\.1.* is missing"),
    "not tensors": ("clip", lambda s: {"model": s}, "not a plain state dict"),
    "the other network": ("clip", lambda s: given.seeded_weights(given.dinov2_shapes()), "is missing"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_other_weights_are_refused(case, tmp_path, weights):
    name, change, message = BAD_WEIGHTS[case]
    torch.save(change(read_weights(weights[name], name)), tmp_path / "bad.pth")
    extractor = {"dinov2": DinoV2, "clip": ClipVision}[name]
    with pytest.raises(ValueError, match=rf"bad.pth: not the weights of .*{message}.*`dit-eval weights fetch {name}`"):
        extractor(weights=tmp_path / "bad.pth", size=NARROW)


class Hostile:
    def __reduce__(self):
        return os.system, ("echo run > executed",)


@pytest.mark.parametrize("content", ["pickle", "noise", "safetensors"])
def test_a_file_that_is_no_weights_is_refused_and_not_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("x.safetensors" if content == "safetensors" else "x.pth")
    if content == "pickle":
        torch.save({"a": Hostile()}, path)
    else:
        path.write_bytes(np.random.RandomState(0).bytes(3000))
    with pytest.raises(ValueError, match="not the weights of openai/clip"):
        ClipVision(weights=path)
    assert not (tmp_path / "executed").exists()


def test_without_timm_the_error_says_what_to_install(weights, monkeypatch):
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "timm":
                raise ModuleNotFoundError("No module named 'timm'", name="timm")

    for name in [name for name in sys.modules if name.split(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=r'pip install "dit-eval\[witnesses\]"'):
        DinoV2(weights=weights["dinov2"], size=NARROW)


# ---- from files to a result


def write(path, images, **arrays):
    np.savez(path, arr_0=images, **arrays)
    return path


def run(gen, ref, extractor, **options):
    return evaluate(gen=open_batch(gen, role="gen"), ref=open_batch(ref, role="ref"), extractor=extractor, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """Small picture files, and digits: 1,100 of each side."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.RandomState(5)
    noise = rng.randint(-30, 31, (3, *digits.images.shape[:3], 1))
    many = np.concatenate([(digits.images + part).clip(0, 255).astype(np.uint8) for part in noise])
    return {
        "gen": write(folder / "gen.npz", given.images(64, 12)),
        "ref": write(folder / "ref.npz", given.images(64, 20)[::-1] // 2),
        "digits gen": write(folder / "dg.npz", many[:1100]),
        "digits ref": write(folder / "dr.npz", many[-1200:] // 2 + 60),
    }


@pytest.fixture(scope="module")
def dinov2_result(files, dinov2):
    return run(files["gen"], files["ref"], dinov2)


def test_dinov2_gives_its_metrics_and_no_other(dinov2_result, files, dinov2):
    gen, ref = (dinov2(np.load(files[role])["arr_0"]).pool.astype(np.float64) for role in ("gen", "ref"))
    assert dinov2_result.density == density_coverage(gen=gen, ref=ref).density
    assert dinov2_result.coverage == density_coverage(gen=gen, ref=ref).coverage
    stats = [GaussianStats(mu=x.mean(0), sigma=np.cov(x, rowvar=False), num=len(x)) for x in (gen, ref)]
    assert dinov2_result.fd_dinov2 == pytest.approx(frechet_distance(gen=stats[0], ref=stats[1]).value, rel=1e-9)
    adm = ("fid", "sfid", "inception_score", "precision", "recall")
    assert [getattr(dinov2_result, name) for name in adm] == [None] * 5
    assert (dinov2_result.kid, dinov2_result.cmmd) == (None, None)
    assert (dinov2_result.protocol, dinov2_result.extractor.name) == ("dinov2", "dinov2")
    assert set(dinov2_result.protocols) == {"fd-dinov2", "density", "coverage"}
    assert dinov2_result.protocols["density"] == "prdc: k = 5"
    assert any("kid: not computed" in warning for warning in dinov2_result.warnings)
    assert EvalResult.from_json(dinov2_result.to_json()) == dinov2_result


def test_clip_gives_cmmd(files, clip):
    found = run(files["gen"], files["ref"], clip)
    gen, ref = (clip(np.load(files[role])["arr_0"]).pool for role in ("gen", "ref"))
    assert found.cmmd == pytest.approx(clip_mmd(gen=gen, ref=ref), rel=1e-6)
    assert (found.fd_dinov2, found.num_reference, set(found.protocols)) == (None, 20, {"cmmd"})


def test_the_cache_keeps_features_without_classes(files, dinov2, dinov2_result, tmp_path):
    first = run(files["gen"], files["ref"], dinov2, cache=tmp_path)
    entries = sorted(tmp_path.iterdir())
    assert len(entries) == 2
    second = run(files["gen"], files["ref"], dinov2, cache=tmp_path, batch_size=5)
    assert sorted(tmp_path.iterdir()) == entries
    for found in (first, second):
        assert (found.fd_dinov2, found.density) == (dinov2_result.fd_dinov2, dinov2_result.density)


def test_statistics_of_another_network_leave_the_images(files, dinov2, dinov2_result, tmp_path):
    with np.load(files["ref"]) as ref:
        images = ref["arr_0"]
    inception = {"mu": np.zeros(2048), "sigma": np.eye(2048), "mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    found = run(files["gen"], write(tmp_path / "adm.npz", images, **inception), dinov2)
    assert (found.fd_dinov2, found.ref.statistics) == (dinov2_result.fd_dinov2, "computed")
    assert any("FD-DINOv2 is against its 20 images" in warning for warning in found.warnings)
    np.savez(tmp_path / "statistics.npz", **inception)
    with pytest.raises(ValueError, match=r"2048 dimensions; the dinov2 extractor needs 128"):
        run(files["gen"], tmp_path / "statistics.npz", dinov2)
    # Its own are kept by `stats` and used.
    write_reference(images=open_batch(files["ref"], role="gen"), out=tmp_path / "own.npz", extractor=dinov2)
    with np.load(tmp_path / "own.npz") as own:
        assert set(own.files) == {"arr_0", "mu", "sigma"}
    stored = run(files["gen"], tmp_path / "own.npz", dinov2)
    assert stored.ref.statistics == "stored"
    assert stored.fd_dinov2 == pytest.approx(dinov2_result.fd_dinov2, rel=1e-6)


@pytest.mark.parametrize(
    ("network", "metric", "advice"),
    [
        ("inception", "cmmd", "`network` clip"),
        ("digits", "fd-dinov2", "`network` dinov2"),
        ("dinov2", "fid", "`network` inception"),
        ("dinov2", "precision", "`network` inception"),
        ("clip", "kid", "`network` inception"),
        ("clip", "fd-dinov2", "`network` dinov2"),
    ],
)
def test_a_metric_on_the_wrong_network_is_refused(files, network, metric, advice):
    sizes = dataclasses.make_dataclass("Sizes", ["name", "pool_dim", "spatial_dim"])(network, 128, None)
    with pytest.raises(ValueError, match=rf"{metric} is not defined on the features of {network}.*{advice}"):
        choose(
            [metric],
            gen=open_batch(files["gen"], role="gen"),
            ref=open_batch(files["ref"], role="ref"),
            network=sizes,
        )


def test_inception_and_digits_give_witnesses_only_when_asked(files, digits_extractor):
    usual = run(files["digits gen"], files["digits ref"], digits_extractor)
    assert (usual.kid, usual.density, usual.coverage, usual.protocols) == (None, None, None, {})
    asked = run(files["digits gen"], files["digits ref"], digits_extractor, metrics=["kid", "density", "coverage"])
    assert asked.fid is None
    assert asked.kid > 0
    assert asked.kid_std > 0
    assert asked.protocols["kid"].startswith("torch-fidelity: ")
    with pytest.raises(ValueError, match="KID draws subsets of 1,000"):
        run(files["gen"], files["digits ref"], digits_extractor, metrics=["kid"], allow_size_mismatch=True)


def command(capsys, *arguments):
    """Exit code, stdout, stderr of `dit-eval evaluate`."""
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def test_the_command_line_prints_witnesses(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [files["digits gen"], "--ref", files["digits ref"], "--extractor", "digits"]
    code, out, _ = command(capsys, *arguments, "--metrics", "kid,density,coverage")
    assert not code
    for name in ("KID (digits)", "Density (digits)", "Coverage (digits)"):
        assert name in out


def test_missing_weights_are_told_with_a_way_out(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    nowhere = [dataclasses.replace(a, url=f"http://127.0.0.1:9/{a.filename}") if a.url else a for a in assets.assets()]
    monkeypatch.setattr(assets, "assets", lambda: tuple(nowhere))
    arguments = [files["gen"], "--ref", files["ref"], "--extractor"]
    for name in ("dinov2", "clip"):
        code, out, err = command(capsys, *arguments, name)
        assert (code, out) == (2, "")
        assert f"{name} could not be downloaded" in err
        assert assets.asset(name).filename in err
    code, _, err = command(capsys, *arguments, "clip", "--backend", "tensorflow")
    assert code == 2
    assert "runs on torch and in fp32 only" in err


TWO = """
import sys
import witness_goldens as given
from dit_eval.system.dist import join
from evaluating import evaluate
from dit_eval.features.clip import ClipVision
from dit_eval.features.dinov2 import DinoV2
from dit_eval.features.vit import VitSize
from dit_eval.images.npz import open_batch
gen, ref, out, dinov2, clip = sys.argv[1:]
size = VitSize(width=given.WIDTH, depth=given.DEPTH)
with join() as world:
    nets = DinoV2(weights=dinov2, size=size), ClipVision(weights=clip, size=size, embedding=given.EMBEDDING)
    for extractor in nets:
        found = evaluate(gen=open_batch(gen, role="gen"), ref=open_batch(ref, role="ref"), extractor=extractor,
                         batch_size=5, world=world)
        if world.rank == 0:
            open(out, "a").write(found.to_json() + "\\n")
"""


def test_two_processes_give_the_result_of_one(forks, files, dinov2, clip, weights, tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    paths = [files["gen"], files["ref"], tmp_path / "two.jsonl", weights["dinov2"], weights["clip"]]
    ended = forks(paths, script=str(tmp_path / "two.py"), ranks=2)
    assert ended["statuses"] == [0, 0], ended["stderr"]
    two = [EvalResult.from_json(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    for found, extractor in zip(two, (dinov2, clip), strict=True):
        alone = run(files["gen"], files["ref"], extractor, batch_size=5)
        names = ["num_samples", "num_reference"]
        names += ["cmmd"] if extractor is clip else ["fd_dinov2", "density", "coverage"]
        for name in names:
            assert getattr(found, name) == pytest.approx(getattr(alone, name), rel=1e-9), name
