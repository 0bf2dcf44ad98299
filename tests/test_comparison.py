"""`compare`: differences, pairs, verdicts; and runs that stop when they are sure enough."""

import dataclasses
import json
import re
import zipfile
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from report_runs import sample_run

import dit_eval
from dit_eval.cli import main
from dit_eval.features.digits import DigitsExtractor
from dit_eval.images.npz import RUN_KEY, write_batch
from dit_eval.images.picked import Picked
from dit_eval.metrics.differences import differences
from dit_eval.metrics.influence import frechet_variation
from dit_eval.results.comparison import Pairing
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.looking import Looking
from dit_eval.sequential import COMPARISONS, INTERVALS, looks_at
from dit_eval.summary import GaussianStats
from dit_eval.system import assets

CPU = dit_eval.Where(device="cpu")
FIVE = ("fid", "sfid", "is", "precision", "recall")
RUN = sample_run(num_images=400, image_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of 400 digits: `a` clean, `b` and `c` noisy, `d` of another seed, `e` of nobody knows whom, `f` fewer."""
    found = tmp_path_factory.mktemp("samples")
    with np.load(assets.asset("digits-heldout").path) as stored:
        images, labels = stored["arr_0"][:400], stored["arr_1"][:400]
    noise = np.random.RandomState(0).randint(-1, 2, (400, 8, 8, 1))

    def write(name, strength, run=RUN, num=400, labels=labels):
        made = (images[:num] + strength * noise[:num]).clip(0, 255).astype(np.uint8)
        arrays = {"arr_1": labels[:num]} | ({RUN_KEY: np.array(run.to_json())} if run else {})
        write_batch(found / f"{name}.npz", images=[made], shape=made.shape, arrays=arrays)

    write("a", 0)
    write("b", 20, dataclasses.replace(RUN, cfg_scale=2.0, num_sampling_steps="50"))
    write("c", 60, dataclasses.replace(RUN, cfg_scale=4.0))
    write("d", 20, dataclasses.replace(RUN, global_seed=1))
    write("e", 20, None)
    write("f", 20, RUN, 300)
    write("g", 20, RUN, labels=labels[::-1])
    return found


def compare(folder, names, **options):
    settings = dit_eval.ComparisonSettings(**{"metrics": ("fid", "is"), **options})
    paths = [folder / f"{name}.npz" for name in names]
    where = dataclasses.replace(CPU, cache=folder / "cache")
    return dit_eval.compare(paths, ref="digits", network="digits", settings=settings, where=where, quiet=True)


def evaluate(gen, **options):
    return dit_eval.evaluate(gen, **{"ref": "digits", "network": "digits", "where": CPU, "quiet": True, **options})


@pytest.fixture(scope="module")
def both(folder):
    return compare(folder, "ab", metrics=FIVE)


def test_a_set_does_not_differ_from_itself(folder):
    for pairing in (None, "paired", "unpaired"):
        metrics = ("fid", "precision", "mind") if pairing else (*FIVE, "density", "coverage", "mind")
        found = compare(folder, "aa", pairing=pairing, metrics=metrics)
        assert len(found.differences) == len(metrics)
        assert found.pairings[0].same
        assert found.pairings[0].reason == ("as asked for" if pairing else "the same images")
        for each in found.differences:
            assert each.value == 0
            if pairing == "unpaired":  # two draws that happen to be alike
                known = each.missing is None
                assert (each.verdict, each.low, known) == (("undecided", -each.high, each.high > 0) if known
                                                           else (None, None, False))  # fmt: skip
            else:
                assert (each.standard_error, each.low, each.high, each.verdict, each.missing) == (
                    *(0.0, 0.0, 0.0), "undecided", None,
                )  # fmt: skip
                assert (each.p_value, each.p_corrected, each.images_to_decide) == (1.0, 1.0, None)
        assert "-0.0," not in found.to_json()
        table = str(found).partition("pairing")[0]
        assert "+0.00 " not in table
        assert "\N{MINUS SIGN}0.00 " not in table
        if pairing is None:
            assert re.search(r" +0\.00  0\.00 to 0\.00 +1\.0000  undecided\n", table)


def test_files_that_differ_and_images_that_do_not_are_the_same(folder, tmp_path):
    with np.load(folder / "a.npz") as stored:
        np.savez_compressed(tmp_path / "a.npz", **stored)
    for metrics in (FIVE, ("precision",)):
        paths = [folder / "a.npz", tmp_path / "a.npz"]
        where = dataclasses.replace(CPU, cache=folder / "cache")
        settings = dit_eval.ComparisonSettings(metrics=metrics)
        found = dit_eval.compare(paths, ref="digits", network="digits", settings=settings, where=where, quiet=True)
        assert found.pairings[0].same
        assert {(each.low, each.high) for each in found.differences} == {(0.0, 0.0)}
    assert not compare(folder, "ab").pairings[0].same


def test_exchanged_roles_change_the_sign_alone(folder, both):
    turned = compare(folder, "ba", metrics=FIVE)
    mirror = {"better": "worse", "worse": "better", "undecided": "undecided"}
    for one, other in zip(both.differences, turned.differences, strict=True):
        assert other.value == -one.value
        assert (other.low, other.high) == (-one.high, -one.low)
        assert other.standard_error == pytest.approx(one.standard_error, rel=1e-12)
        assert other.verdict == mirror[one.verdict]
        assert (other.p_value, other.images_to_decide) == pytest.approx((one.p_value, one.images_to_decide))


def test_values_are_those_of_evaluate_and_the_worse_set_is_named(folder, both):
    where = dataclasses.replace(CPU, cache=folder / "cache")
    alone = [evaluate(folder / f"{name}.npz", where=where) for name in "ab"]
    for each in both.differences:
        a, b = (getattr(result, each.metric) for result in alone)
        assert each.value == pytest.approx(a - b, rel=1e-9, abs=1e-12)
        assert each.low < each.value < each.high
    fid = next(each for each in both.differences if each.metric == "fid")
    assert fid.value < 0
    assert fid.verdict == "better"
    assert fid.images_to_decide < 400
    assert fid.variance_ratio > 3, "noise on the same digits: what they have in common cancels"


def test_pairs_are_told_from_how_the_files_were_drawn(folder, both):
    assert both.pairings == (Pairing(a=0, b=1, paired=True, reason="the same noise and labels, seed 0"),)
    for name, why in (("d", "global_seed is 0 and 1"), ("e", "does not say how"), ("g", "image 0 has another label")):
        found = compare(folder, f"a{name}")
        assert not found.pairings[0].paired
        assert why in found.pairings[0].reason
        assert {each.pairing for each in found.differences} == {"unpaired"}
        assert {each.variance_ratio for each in found.differences} == {None}
        wide, tight = (next(d for d in c.differences if d.metric == "fid").standard_error for c in (found, both))
        assert wide > 1.5 * tight
    assert compare(folder, "ae", pairing="paired", metrics=("fid",)).pairings[0].paired


def test_many_pairs_are_corrected_for(folder):
    found = compare(folder, "abce")
    assert [(each.a, each.b) for each in found.pairings] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert found.correction == "Holm over the 6 pairs of each metric"
    fids = [each for each in found.differences if each.metric == "fid"]
    least = min(fids, key=lambda each: each.p_value)
    assert least.p_corrected == pytest.approx(min(6 * least.p_value, 1))
    assert all(each.p_corrected >= each.p_value for each in found.differences)
    text = str(found)
    for part in ("A - B", "C - D", "Holm's correction over the 6 pairs", "paired: A and B, A and C, B and C"):
        assert part in text


def test_json_has_method_number_and_pairing_of_each_difference(both):
    data = json.loads(both.to_json())
    for line, each in zip(data["differences"], both.differences, strict=True):
        assert line["num_images"] == 400
        assert line["pairing"] == "paired"
        assert "influence functions" in line["method"]
        assert line["value"] == each.value
    assert data["looking"] is None
    assert [result["gen"]["run"]["cfg_scale"] for result in data["results"]] == [1.0, 2.0]
    assert EvalResult.from_json(json.dumps(data["results"][0])) == both.results[0]


def test_the_command_prints_verdicts(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    words = [str(folder / "a.npz"), str(folder / "b.npz"), "--ref", "digits", "--extractor", "digits"]
    with pytest.raises(SystemExit) as exit_:
        main(["compare", *words, "--device", "cpu", "--metrics", "fid,mind", "--json", str(tmp_path / "c.json")])
    out = capsys.readouterr().out
    assert not exit_.value.code
    for part in ("FID-400 (digits)", "A is better", "images that pairing saves", "no interval: there is no estimator"):
        assert part in out
    assert {each["metric"] for each in json.loads((tmp_path / "c.json").read_text())["differences"]} == {"fid", "mind"}


def test_a_difference_without_an_estimate_says_why(folder):
    found = compare(folder, "ab", num_images=100)
    fid, score = found.differences
    assert (fid.verdict, fid.standard_error) == (None, None)
    assert fid.missing == "100 images; a Fréchet distance of 64 dimensions needs at least 130 of them"
    assert score.verdict in ("better", "worse", "undecided")
    assert fid.num_images == 100
    assert "no interval: 100 images" in str(found)


# ---- stopping early


def test_looks_are_fixed_beforehand_and_their_levels_add_up():
    looks = looks_at(50_000, error=INTERVALS, least=4_098)
    assert looks.numbers == (6_250, 12_500, 25_000, 50_000)
    assert sum(looks.levels) == pytest.approx(0.05)
    assert looks.levels[-1] == pytest.approx(0.04)
    assert looks.rule.endswith("1 % of error shared by the early ones and 4 % for the last")
    assert looks_at(60, error=INTERVALS).levels == (0.05,)
    assert looks_at(60, error=COMPARISONS).rule == "pre-set looks at random parts of the images, 4 % for the last"
    seen = [set(looks.rows(number)) for number in looks.numbers]
    assert all(early < late for early, late in pairwise(seen))
    assert len(seen[-1]) == 50_000
    assert list(looks.rows(6_250)) == sorted(looks.rows(6_250))


def test_a_comparison_stops_when_it_is_decided(folder):
    found = compare(folder, "ac", metrics=("fid",), until_decided=True)
    looking = found.looking
    assert looking.looks == (200, 400)
    assert (looking.used, looking.decided, looking.seed) == (200, True, 0)
    assert found.results[0].num_samples == found.differences[0].num_images == 200
    assert "FID-200 (digits)" in str(found)
    assert "decided at 200 of 400 images, taken at random (seed 0); about" in str(found)
    assert looking.seconds_saved > 0
    # As the metric of these images is by itself.
    rows = looks_at(400, error=COMPARISONS, least=130).rows(200)
    with np.load(folder / "a.npz") as stored:
        alone = evaluate(stored["arr_0"][rows], metrics="fid")
    assert found.results[0].fid == pytest.approx(alone.fid, rel=1e-6)


def test_a_comparison_that_is_not_decided_sees_all_images(folder):
    found, whole = compare(folder, "aa", metrics=("fid",), until_decided=True), compare(folder, "aa", metrics=("fid",))
    assert (found.looking.used, found.looking.decided) == (400, False)
    assert found.results[0].fid == pytest.approx(whole.results[0].fid, rel=1e-9)
    assert "not decided with all 400 images" in str(found)


@pytest.mark.parametrize(("until", "used"), [(0.5, 200), (0.001, 400)])
def test_an_evaluation_stops_when_its_intervals_are_narrow(folder, monkeypatch, tmp_path, until, used):
    passed = []
    run = DigitsExtractor.__call__
    monkeypatch.setattr(DigitsExtractor, "__call__", lambda self, x: passed.append(len(x)) or run(self, x))
    settings = dit_eval.EvaluationSettings(metrics=("fid", "is"), until=until)
    where = dataclasses.replace(CPU, cache=tmp_path)
    found = evaluate(folder / "c.npz", settings=settings, where=where)
    assert sum(passed) == used, "each image passes through the network once"
    assert (found.num_samples, found.looking.used, found.looking.until) == (used, used, until)
    assert found.looking.decided == (used == 200)
    for name in ("fid", "inception_score"):
        estimate = getattr(found.uncertainty, name)
        narrow = (estimate.high - estimate.low) / 2 <= until * estimate.value
        assert narrow or used == 400
    assert EvalResult.from_json(found.to_json()) == found
    assert f"FID-{used} (digits)" in found.text()
    assert found.looking.text() in found.text()
    if used == 400:  # which are then kept, and serve
        assert len(list(tmp_path.iterdir())) == 1
        evaluate(folder / "c.npz", settings=settings, where=where)
        assert sum(passed) == used


def test_lines_of_other_results_do_without(folder):
    found = evaluate(folder / "a.npz", metrics="fid", where=dataclasses.replace(CPU, cache=folder / "cache"))
    assert "looking" not in json.loads(found.to_json())
    line = json.loads(found.to_json()) | {"looking": {"looks": [1], "levels": []}}
    with pytest.raises(ValueError, match="Looking"):
        EvalResult.from_json(json.dumps(line))
    assert dataclasses.replace(found, looking=LOOKING).to_json() != found.to_json()


LOOKING = Looking(rule="r", seed=0, looks=(2,), levels=(0.05,), used=2, decided=True, seconds_saved=0.0)


@pytest.mark.parametrize("form", ["stored", "compressed", "folder", "zip"])
def test_picked_images_are_those_of_their_rows(folder, tmp_path, form):
    with np.load(folder / "a.npz") as stored:
        images = stored["arr_0"][:60]
    path = tmp_path / form
    if form in ("stored", "compressed"):
        path = path.with_suffix(".npz")
        (np.savez if form == "stored" else np.savez_compressed)(path, arr_0=images)
    else:
        path.mkdir()
        for place, image in enumerate(images):
            Image.fromarray(image).save(path / f"{place}.png")
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for each in path.iterdir():
                archive.write(each, each.name)
        path = tmp_path / "x.zip"
    opened = dit_eval.open_images(path, role="gen")
    rows = np.array([0, 3, 4, 17, 40, 41, 42, 59])
    picked = Picked(images=opened, rows=rows)
    batches = list(picked.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    np.testing.assert_array_equal(np.concatenate(batches), images[rows])
    np.testing.assert_array_equal(np.concatenate(list(picked.batches(2, first=3, last=6))), images[rows[3:6]])
    assert picked.sha256() == opened.sha256()
    if form == "folder":  # plain order has 10.png before 2.png
        order = picked.plain_order()
        names = [f"{row}.png" for row in rows]
        assert [names[place] for place in order] == sorted(names)


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_chance_decides_in_less_than_one_of_twenty_comparisons_that_may_stop_early(paired):
    # 500 comparisons of equal generators; the benchmark does it with digits.
    rng, ref = np.random.default_rng(0), GaussianStats(mu=np.zeros(2), sigma=np.eye(2))
    looks, wrong = looks_at(400, error=COMPARISONS), 0
    assert len(looks.numbers) == 4
    for _ in range(500):
        both = rng.normal(size=(400, 2))
        sets = [(0.8 * both if paired else 0) + rng.normal(size=(400, 2)) + 0.5 for _ in range(2)]
        for number, level in zip(looks.numbers, looks.levels, strict=True):
            if _verdict([each[looks.rows(number)] for each in sets], ref, paired, level) != "undecided":
                wrong += 1
                break
    assert wrong <= 25


def _verdict(sets, ref, paired, level):
    from types import SimpleNamespace

    from dit_eval.metrics.fid import FID
    from dit_eval.metrics.metric import Sides
    from dit_eval.summary import FeatureSummary

    fitted = [GaussianStats(mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False), num=len(x)) for x in sets]
    sides = [Sides(gen=FeatureSummary(pool=each), ref=FeatureSummary(pool=ref)) for each in fitted]
    results = [SimpleNamespace(scores=FID.score(each).values, num_samples=len(sets[0])) for each in sides]
    varied = [{"fid": frechet_variation(x, ref)} for x in sets]
    return differences(results, varied, [Pairing(a=0, b=1, paired=paired, reason="")], level=level)[0].verdict


# ---- misuse

MISUSES = {
    "one set": ("compare {a} --ref digits", "1 set(s) of samples: expected 2 to 100"),
    "other numbers": ("compare {a} {f} --ref digits", "pass --num-images 300 to compare the first 300 of each"),
    "both pairings": ("compare {a} {b} --ref digits --paired --unpaired", "--paired and --unpaired: expected one"),
    "other labels": ("compare {a} {g} --ref digits --paired", "expected the same label of image i in all"),
    "no estimator": ("compare {a} {b} --ref digits --metrics mind", "expected a metric of which it is known how far"),
    "no file": ("compare {a} nowhere.npz --ref digits", "nowhere.npz"),
    "a metric nobody knows": ("compare {a} {b} --ref digits --metrics fdi", "Unknown metric fdi"),
    "no interval": ("evaluate {a} --ref digits --until 0.1 --metrics mind", "expected metrics that have"),
    "no share": ("evaluate {a} --ref digits --until 2", "--until"),
    "not a number": ("evaluate {a} --ref digits --until soon", "expected a number, got 'soon'"),
    "nothing": ("evaluate {a} --ref digits --until 0", "--until: expected more than 0; got 0"),
    "one set's rule for two": ("compare {a} {b} --ref digits --until 0.1", "--until"),
    "one set, until decided": ("compare {a} --ref digits --until-decided", "1 set(s) of samples: expected 2 to 100"),
    "no reference": ("compare {a} {b}", "--ref"),
    "two protocols": ("compare {a} {b} --ref digits --metrics fid --protocol adm", "--metrics"),
    "a prediction": ("evaluate {a} --ref digits --until 0.1 --dry-run", "--dry-run: predicts for a number of images"),
    "a file that is no JSON": ("compare {a} {b} --ref digits --json c.txt", ".json"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISUSES)
def test_a_mistake_is_told_before_the_network_runs(case, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(DigitsExtractor, "__call__", lambda *_: pytest.fail("the network ran"))
    line, message = MISUSES[case]
    words = line.format(**{name: folder / f"{name}.npz" for name in "abcdefg"}).split()
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--extractor", "digits", "--device", "cpu"])
    error = next(line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert exit_.value.code == 2
    assert message in error


def test_mistakes_of_callers(folder):
    images = np.zeros((80, 8, 8, 3), np.uint8)
    for gens, options, message in (
        ([images, images], {"until_decided": True}, "is read once from its start"),
        (str(folder / "a.npz"), {}, "`gens`: expected a list of two or more"),
        ([images] * 101, {}, "expected 2 to 100"),
        ([images, np.zeros((80, 16, 16, 3), np.uint8)], {}, "expected one size"),
    ):
        with pytest.raises(ValueError, match=message):
            dit_eval.compare(gens, ref="digits", network="digits", settings=dit_eval.ComparisonSettings(**options),
                             where=CPU, quiet=True)  # fmt: skip
    with pytest.raises(ValueError, match=r"`until` 0\.1: is about the intervals of one set"):
        dit_eval.ComparisonSettings(until=0.1)
    with pytest.raises(ValueError, match="expected a ComparisonSettings"):
        dit_eval.compare([images, images], ref="digits", settings=dit_eval.EvaluationSettings())
    with pytest.raises(ValueError, match="expected as many of each"):  # known once they have been read
        dit_eval.compare([images, images[:70]], ref="digits", network="digits", where=CPU, quiet=True, metrics="is")
