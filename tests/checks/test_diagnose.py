"""Corrupted sample files name their cause first; sound ones have no finding."""

import dataclasses
import functools
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from dit_eval.checks import golden
from dit_eval.checks.diagnose import diagnose
from dit_eval.checks.expectation import Expectation, expectation, expectations
from dit_eval.checks.findings import FINDINGS, Case
from dit_eval.checks.findings.counts import FEW_REFERENCE
from dit_eval.checks.findings.effects import effects
from dit_eval.checks.pixels import read_pixels
from dit_eval.cli import main
from dit_eval.images import open_images
from dit_eval.images.npz import write_batch
from dit_eval.results.sample_run import SampleRun
from dit_eval.system.assets import asset

ROOT = Path(__file__).parents[2]


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # its dataclasses look there for their annotations
    spec.loader.exec_module(module)
    return module


made = script(ROOT / "reference_stats" / "make_effects.py")
why = script(ROOT / "reports" / "why_fid_differs.py")

# What is known of these sets, so that their number alone is no finding.
COUNT = functools.partial(Expectation, name="the test", source="here")


def write(path, images, **arrays):
    write_batch(path, images=[images], shape=images.shape, arrays=arrays)
    return path


@functools.cache
def pictures(seed, count, size):
    """Coloured pictures, lit from above, warm rather than blue."""
    rng = np.random.RandomState(seed)
    drawn = np.stack([golden.picture(rng, golden.REAL, size) for _ in range(count)]).astype(np.float64)
    light = (1.0 - 0.65 * np.arange(size) / size)[None, :, None, None] * np.array([1.0, 0.75, 0.4])
    return (drawn * light).clip(0, 255).astype(np.uint8)


def look(tmp_path, images, ref, *, expect=None, extractor=None, ref_arrays=None, **arrays):
    gen = open_images(write(tmp_path / "gen.npz", images, **arrays), role="gen")
    if isinstance(ref, np.ndarray):
        # Statistics of 64 dimensions: not the published protocol, whose reference holds 10,000 images.
        ref = write(tmp_path / "ref.npz", ref, **(ref_arrays or {"mu": np.zeros(64), "sigma": np.eye(64)}))
    return diagnose(gen=gen, ref=open_images(ref, role="ref"), expect=expect, extractor=extractor)


def first(diagnosis):
    return diagnosis.findings[0].id if diagnosis.findings else None


# --- sound sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "count", "size"), [(11, 120, 64), (12, 300, 64), (13, 40, 128), (14, 24, 256), (15, 200, 32)]
)
def test_sound_pictures_have_no_finding(tmp_path, seed, count, size):
    assert look(tmp_path, pictures(seed, count, size), pictures(seed + 100, count // 2, size)).findings == ()


@pytest.mark.parametrize("count", [500, 200])
def test_sound_digits_have_no_finding(tmp_path, digits, digits_ref, digits_extractor, count):
    found = look(
        *(tmp_path, digits.images[:count], digits_ref), arr_1=digits.labels[:count], extractor=digits_extractor
    )
    assert found.findings == ()


def test_digits_drawn_by_a_model_have_no_finding(digits_ref):
    for path in sorted((ROOT / "reports/digits/samples").glob("mini-XL-1-*.npz")):
        found = diagnose(gen=open_images(path, role="gen"), ref=open_images(digits_ref, role="ref"))
        assert found.findings == ()


def noise_set(count, seed):
    """Tiny pictures of 1,000 classes, as many as of the published protocol."""
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, 1000, size=count)
    means = np.random.RandomState(0).randint(40, 216, size=(1000, 1, 1, 3))
    noise = rng.randint(-32, 33, size=(count, 8, 8, 3))
    return (means[labels] + noise).clip(0, 255).astype(np.uint8), labels


def test_50000_mixed_samples_against_10000_have_no_finding_by_the_published_protocol(tmp_path):
    images, labels = noise_set(50_000, 1)
    stats = {"mu": np.full(2048, 0.4), "sigma": np.eye(2048)}
    found = look(tmp_path, images, noise_set(10_000, 2)[0], ref_arrays=stats, arr_1=labels)
    assert found.findings == ()


# --- corrupted ones -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", made.DAMAGES, ids=lambda d: d.words.replace(" ", "-"))
def test_damaged_pictures_name_the_cause_first(tmp_path, damage):
    sound, ref = pictures(11, 120, 64), pictures(111, 120, 64)
    found = look(tmp_path, damage.apply(sound), ref)
    assert first(found) == damage.id, [(f.id, f.found) for f in found.findings]


@pytest.mark.parametrize(
    "name", ["float-range", "half-range", "duplicates", "blank", "orientation", "resolution", "constant-channel"]
)
def test_damaged_digits_name_the_cause_first(tmp_path, digits, digits_ref, name):
    damage = next(d for d in made.DAMAGES if d.id == name)
    found = look(tmp_path, damage.apply(digits.images), digits_ref)
    assert first(found) == name, [(f.id, f.found) for f in found.findings]


def test_reference_images_among_the_samples(tmp_path, digits, digits_ref):
    with np.load(digits_ref) as ref:
        mixed = np.concatenate([digits.images[:250], ref["arr_0"][:250]])
    found = look(tmp_path, mixed, digits_ref)
    assert first(found) == "copies-of-reference"
    assert "250 of 500" in found.findings[0].found


def test_processes_that_share_a_seed_show_in_the_lag(tmp_path, digits, digits_ref):
    found = look(tmp_path, np.concatenate([digits.images[:100]] * 2), digits_ref)
    assert first(found) == "duplicates"
    assert "a repeat lies 100 images after the first" in found.findings[0].found


def test_missing_classes(tmp_path, digits, digits_ref):
    kept = digits.labels < 7
    found = look(tmp_path, digits.images[kept], digits_ref, arr_1=digits.labels[kept])
    assert first(found) == "class-balance"
    assert "3 of 10 are missing" in found.findings[0].found


@pytest.mark.parametrize("labelled", [True, False])
def test_class_order_of_more_than_one_split(tmp_path, labelled):
    images, labels = noise_set(12_000, 1)
    order = np.argsort(labels, kind="stable")
    arrays = {"arr_1": labels[order]} if labelled else {}
    found = look(tmp_path, images[order], noise_set(2_000, 2)[0], **arrays)
    assert first(found) == "order"
    assert found.findings[0].certainty == ("certain" if labelled else "likely")
    # One split holds all, whatever the order: nothing moves.
    few = np.argsort(labels[:4000], kind="stable")
    assert look(tmp_path, images[:4000][few], noise_set(2_000, 2)[0]).findings == ()


def test_labels_in_turn(tmp_path):
    images, labels = noise_set(12_000, 1)
    order = np.argsort(labels, kind="stable").reshape(2, -1).T.ravel()  # two classes in turn: still ordered
    assert first(look(tmp_path, images[order], noise_set(2_000, 2)[0], arr_1=labels[order])) == "order"
    labels = np.arange(12_000) % 1000
    assert look(tmp_path, images, noise_set(2_000, 2)[0], arr_1=labels).findings == ()


def test_few_samples_by_the_published_protocol(tmp_path, digits):
    with np.load(asset("digits").path) as ref:
        reference = ref["arr_0"]
    stats = {"mu": np.full(2048, 0.4), "sigma": np.eye(2048)}
    found = look(tmp_path, digits.images, reference, ref_arrays=stats)
    assert first(found) == "few-samples"
    assert [f.id for f in found.findings] == ["few-samples", "few-reference"]
    for count, cause in ((500, None), (499, "more-samples"), (501, "few-samples")):
        expect = COUNT(num_samples=count)
        assert first(look(tmp_path, digits.images, reference, ref_arrays=stats, expect=expect)) == cause


# --- the reference ------------------------------------------------------------------------------------------------


def changed_reference(tmp_path, **changes):
    with np.load(asset("digits").path) as ref:
        arrays = dict(ref)
    arrays |= {key: change(arrays[key]) for key, change in changes.items()}
    return write(tmp_path / "changed.npz", arrays.pop("arr_0"), **arrays)


@pytest.mark.parametrize("order", ["NHWC", "NCHW"])
def test_spatial_statistics_in_nchw_order(tmp_path, digits, order):
    # Means of three pictures only, by the seeded Inception in ADM's evaluator: of 50,000 they are smoother still.
    with np.load(ROOT / "tests" / "goldens" / "adm_features.npz") as file:
        mu_s = file["gen-64/spatial"].mean(axis=0, dtype=np.float64)
    if order == "NCHW":
        mu_s = mu_s.reshape(17, 17, 7).transpose(2, 0, 1).ravel()
    with np.load(asset("digits").path) as ref:
        arrays = {key: ref[key] for key in ("arr_0", "mu", "sigma")}
    ref = write(tmp_path / "changed.npz", arrays.pop("arr_0"), **arrays, mu_s=mu_s, sigma_s=np.eye(2023))
    assert first(look(tmp_path, digits.images, ref)) == ("nchw-statistics" if order == "NCHW" else None)


def test_statistics_of_another_port(tmp_path, digits, digits_extractor):
    summary = made.extract_features(open_images(asset("digits").path, role="ref"), made._OtherResize())
    ref = changed_reference(tmp_path, mu=lambda _: summary.pool.mu, sigma=lambda _: summary.pool.sigma)
    found = look(tmp_path, digits.images, ref, extractor=digits_extractor)
    assert first(found) == "other-statistics"
    assert any("--network" in text for text in look(tmp_path, digits.images, ref).unchecked)


def test_statistics_that_no_relu_gave(tmp_path, digits):
    stats = {"mu": np.random.RandomState(0).normal(size=2048), "sigma": np.eye(2048)}
    found = look(tmp_path, digits.images, noise_set(100, 2)[0], ref_arrays=stats, expect=COUNT(num_samples=500))
    assert "other-statistics" in [f.id for f in found.findings]


def test_the_512_reference_of_1000_images(tmp_path):
    images, ref = np.zeros((4, 512, 512, 3), np.uint8), np.zeros((1000, 8, 8, 3), np.uint8)
    facts = {"gen": read_pixels(open_images(write(tmp_path / "a.npz", images), role="gen"))}
    facts["ref"] = read_pixels(open_images(write(tmp_path / "b.npz", ref), role="ref"))
    case = Case(
        gen=open_images(tmp_path / "a.npz", role="gen"),
        ref=open_images(tmp_path / "b.npz", role="ref"),
        own=facts["gen"],
        reference=dataclasses.replace(facts["ref"], size=(512, 512)),
        expect=None,
        result=None,
        extractor=None,
    )
    (finding,) = FEW_REFERENCE.look(case)
    assert "as ADM's file for 512 px does" in finding.found
    published = dataclasses.replace(case, expect=expectation("dit-xl-2-512-cfg1.5"))
    assert list(FEW_REFERENCE.look(published)) == []


# --- the run ------------------------------------------------------------------------------------------------------

PUBLISHED = SampleRun(
    model="DiT-XL/2",
    network={"num_classes": 1000},
    checkpoint="DiT-XL-2-256x256.pt",
    checkpoint_sha256="",
    image_size=256,
    cfg_scale=1.5,
    cfg_channels=3,
    vae="ema",
)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, None),
        ({"cfg_scale": 4.0}, "run-guidance"),
        ({"cfg_scale": 1.0, "cfg_channels": None}, "run-guidance"),
        ({"cfg_channels": 4}, "run-guidance"),
        ({"vae": "mse"}, "run-decoder"),
        ({"num_sampling_steps": "50"}, "run-steps"),
        ({"sampler": "ddim"}, "run-sampler"),
        ({"weights": "model"}, "run-weights"),
        ({"rounding": "truncate"}, "run-rounding"),
        ({"labels": "balanced"}, "run-labels"),
        ({"precision": "tf32"}, "run-precision"),
        ({"precision": "bf16"}, "run-precision"),
        ({"model": "DiT-L/2"}, "run-model"),
    ],
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else str(x),
)
@pytest.mark.slow
def test_a_run_beside_the_published_setting(tmp_path, changes, cause):
    run = dataclasses.replace(PUBLISHED, **changes)
    expect = dataclasses.replace(expectation("dit-xl-2-cfg1.5"), num_samples=100)
    images, ref = pictures(11, 100, 64), pictures(111, 100, 64)
    stats = {"mu": np.full(2048, 0.4), "sigma": np.eye(2048)}
    found = look(tmp_path, images, ref, expect=expect, ref_arrays=stats, sample_run=np.array(run.to_json()))
    # 100 reference images are few, which is no matter of the run.
    assert next((f.id for f in found.findings if f.id != "few-reference"), None) == cause


# --- effects and output -------------------------------------------------------------------------------------------


MEASURED = json.loads(made.EFFECTS.read_text(encoding="utf-8"))["effects"]
IDS = [cause.id for cause in FINDINGS]


def test_every_id_is_one_of_a_finding():
    assert len(set(IDS)) == len(IDS)
    for cause in FINDINGS:
        assert cause.title
        assert set(cause.explains) < set(IDS), cause.id
        assert cause.id not in cause.explains
    assert {damage.id for damage in made.DAMAGES} < set(IDS)
    assert {row["id"] for row in MEASURED} - set(IDS) == {made.CHANCE, made.OTHER_PORT}, "of the page alone"


def test_the_notes_beside_the_code_list_every_finding():
    notes = (ROOT / "dit_eval" / "checks" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|$", notes, re.MULTILINE) == [(c.id, c.title) for c in FINDINGS]


def test_effects_say_where_they_were_measured():
    known = effects()
    assert len(known) > 20
    for rows in known.values():
        for row in rows:
            assert row.network in why.NETWORKS
            assert row.before.keys() == row.after.keys() != set()


def test_some_effects_measured_again(tmp_path):
    names = ("blurred", "few-samples", "nchw-statistics")
    again = made.measure_digits(tmp_path, names)
    kept = json.loads(made.EFFECTS.read_text(encoding="utf-8"))["effects"]
    for row in again:
        (same,) = [k for k in kept if all(k[key] == row[key] for key in ("id", "damage", "network", "images"))]
        for side in ("before", "after"):
            assert row[side] == pytest.approx(same[side], rel=2e-3)


def test_the_page_is_what_the_script_makes():
    assert (ROOT / "reports" / "why_fid_differs.md").read_text(encoding="utf-8") == why.page()


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", *map(str, arguments)])
    return ended.value.code


def test_the_command(tmp_path, capsys, digits, digits_ref, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gen = write(tmp_path / "gen.npz", (digits.images // 200))
    assert command(gen, "--ref", digits_ref) == 0
    text = capsys.readouterr().out
    assert text.startswith("1. float-range (certain): ")
    assert made.DIGITS in text
    assert command(gen, "--ref", digits_ref, "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][0]["id"] == "float-range"
    assert report["findings"][0]["effects"][0]["network"] == made.DIGITS
    sound = write(tmp_path / "sound.npz", digits.images)
    assert command(sound, "--ref", digits_ref) == 0
    assert capsys.readouterr().out.startswith("Nothing found.\nnot checked: ")


def test_the_command_compares_the_result(tmp_path, capsys, digits, digits_ref, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gen = write(tmp_path / "gen.npz", digits.images)
    with pytest.raises(SystemExit):
        main(["evaluate", str(gen), "--ref", str(digits_ref), "--extractor", "digits", "--metrics", "fid"])
    capsys.readouterr()
    assert command(gen, "--ref", digits_ref, "--expect", "dit-xl-2-cfg1.5", "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["comparisons"]
    assert (row["metric"], row["published"]) == ("fid", 2.27)
    assert {"other-statistics", "result-network", "few-samples"} <= {f["id"] for f in report["findings"]}
    assert command(gen, "--ref", digits_ref, "--expect-fid", "2.5") == 0
    text = capsys.readouterr().out
    assert "published 2.5, difference " in text
    assert "Nothing found." in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--expect", "dit-xl-3"], "No published result called 'dit-xl-3'"),
        (["--expect", "dit-xl-2", "--expect-fid", "3"], "not both"),
        (["--expect-samples", "0"], "needed at least 1"),
        (["--results", "none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_mistakes(tmp_path, capsys, digits, digits_ref, arguments, message):
    gen = write(tmp_path / "gen.npz", digits.images[:8])
    assert command(gen, "--ref", digits_ref, *arguments) == 2
    assert message in capsys.readouterr().err


def test_published_settings():
    known = expectations()
    assert known["dit-xl-2-cfg1.5"].metrics["fid"] == 2.27
    assert known["dit-xl-2-512-cfg1.5"].setting["image_size"] == 512
    assert known["dit-xl-2"].setting["cfg_scale"] == 1.0
