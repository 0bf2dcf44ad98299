"""Published numbers of later programs: complete, as printed, and what `diagnose` finds where a protocol is another."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import badge, result, sample_run

import dit_eval.paper
from dit_eval.checks.diagnose import diagnose
from dit_eval.checks.expectation import INCEPTION_SCORES, expectation, expectations
from dit_eval.cli import main
from dit_eval.images import open_images
from dit_eval.images.npz import write_batch
from dit_eval.paper import PRINTED_METRICS, printed_rows
from dit_eval.results.eval_result import ExtractorInfo
from dit_eval.results.references import KnownReference, reference_title
from dit_eval.system.assets import sha256_of

ROOT = Path(__file__).parents[2]
PAPER = Path(dit_eval.paper.__file__).parent
PROGRAMS = {row["program"]: row for row in printed_rows("programs")}


# ---- the data


def test_every_program_of_the_list_has_numbers_with_a_source():
    rows = printed_rows("presets")
    asked = {"SiT", "REPA", "REPA-E", "LightningDiT", "MAR", "VAR", "JiT", "RAE", "MeanFlow", "iMF", "EDM2"}
    assert asked <= {row["program"] for row in rows} <= PROGRAMS.keys()
    for row in rows:
        assert row["source"], row
        assert row["guidance"], row
        assert row["fid"], row
        assert all(re.fullmatch(r"\d+\.\d+|", row[metric]) for metric in PRINTED_METRICS), row
    assert len({row["name"] for row in rows}) == len(rows)
    assert {row["name"] for row in rows} < expectations().keys()


def test_programs_say_what_results_say():
    for program in PROGRAMS.values():
        assert reference_title(program["reference"]) != program["reference"], "a title of it is known"
        assert program["inception_score"] in {"", *INCEPTION_SCORES.values()}
        assert program["labels"] in ("", "random", "balanced")
        assert program["rounding"] in ("", "dit", "truncate")
        assert program["repository"]


def test_numbers_typed_a_second_time():
    typed = {  # FID, Inception Score: from the READMEs of MAR, imeanflow, drifting, and arXiv 2511.13720v2
        "mar-b-cfg2.9": (2.31, 281.7), "mar-l-cfg3.0": (1.78, 296.0), "mar-h-cfg3.2": (1.55, 303.7),
        "jit-b-16": (3.66, 275.1), "jit-l-16": (2.36, 298.5), "jit-h-16": (1.86, 303.4), "jit-g-16": (1.82, 292.6),
        "jit-b-32": (4.02, 271.0), "jit-l-32": (2.53, 299.9), "jit-h-32": (1.94, 309.1), "jit-g-32": (1.78, 306.8),
        "imf-b-2": (3.39, 255.3), "imf-m-2": (2.27, 257.7), "imf-l-2": (1.86, 276.6), "imf-xl-2": (1.72, 282.0),
        "drift-b": (1.75, 263.2), "drift-l": (1.54, 258.9), "sit-xl-2": (8.61, 131.7), "sit-xl-2-cfg1.5": (2.06, 270.3),
        "repa-xl-2-cfg1.8": (1.42, 305.7), "lightningdit-xl-1-guided": (1.35, 295.3), "var-d30-re": (1.80, 365.4),
        "repa-e-xl-cfg2.5": (1.26, None), "repa-e-xl-cfg2.4": (1.12, None), "rae-ditdh-xl": (1.51, None),
        "rae-ditdh-xl-autoguidance": (1.13, None), "jit-h-16-by-adm": (1.90, None), "meanflow-xl-2": (3.43, None),
        "edm2-img512-xxl-fid": (1.91, None), "edm2-img512-xxl-guid-fid": (1.81, None), "edm2-img64-l-fid": (1.33, None),
    }  # fmt: skip
    for name, (fid, inception_score) in typed.items():
        found = expectation(name)
        key = found.inception_score
        assert (found.metrics["fid"], found.metrics[key] if key else None) == (fid, inception_score), name


def test_tables_of_later_papers_have_the_same_numbers():
    later = {(row["model"], row["image_size"], row["fid"]): row for row in printed_rows("later")}
    same = [(row, later.get((row["model"], row["image_size"], row["fid"]))) for row in printed_rows("presets")]
    both = [(row, other) for row, other in same if other is not None]
    assert len(both) >= 10
    for row, other in both:
        assert [row[metric] for metric in PRINTED_METRICS] == [other[metric] for metric in PRINTED_METRICS], row


def test_a_preset_is_made_as_its_program_says():
    jit = expectation("jit-h-16")
    assert (jit.reference, jit.inception_score) == ("jit-2025", "inception_score_torch_fidelity")
    assert jit.setting == {"model": "JiT-H/16", "image_size": 256, "labels": "balanced", "rounding": "dit"}
    assert "against JiT's statistics" in jit.made_by
    assert "torch-fidelity's Inception Score" in jit.made_by
    sit = expectation("sit-xl-2-cfg1.5")
    assert (sit.reference, sit.inception_score) == ("adm-2021", "inception_score")
    assert (sit.setting["labels"], sit.setting["cfg_scale"]) == ("random", 1.5)
    assert "cfg_scale" not in expectation("repa-xl-2-cfg1.8").setting, "an interval is no scale of all steps"
    assert "labels" not in expectation("imf-b-2").setting, "no source says it"
    assert expectation("edm2-img512-s-fid").inception_score is None


def test_the_notes_list_every_program():
    notes = (ROOT / "dit_eval/checks/README.md").read_text(encoding="utf-8")
    section = notes.partition("## Published numbers")[2].partition("## Findings")[0]
    listed = {cells[1]: cells for line in section.splitlines() if len(cells := re.split(r" ?\| ?", line)[1:-1]) == 6}
    for name, program in PROGRAMS.items():
        names, _, against, rule, labels, rounding = listed[name]
        assert against == reference_title(program["reference"])
        assert rule.lower().startswith((program["inception_score"] or "none").partition("-")[0])
        assert labels == {"random": "random", "balanced": "50 of each class", "": "not known"}[program["labels"]]
        assert rounding == {"dit": "127.5 x + 128", "truncate": "127.5 (x + 1)", "": "not known"}[program["rounding"]]
        assert set(re.findall(r"`([a-z][^`]*)`", names)) <= expectations().keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "jit",
            "known: jit-b-16, jit-l-16, jit-h-16, jit-g-16, jit-b-32, jit-l-32, jit-h-32, jit-g-32, jit-h-16-by-adm",
        ),
        ("JiT-H/16", "known: jit-b-16, .*Did you mean 'jit-h-16'"),
        ("pixart", "known: dit-..., sit-..., repa-..., lightningdit-..., var-..., rae-..., mar-..., jit-..., mean"),
    ],
)
def test_another_name_lists_those_that_begin_alike(name, said):
    with pytest.raises(ValueError, match=said):
        expectation(name)


def test_a_slip_in_a_name_costs_no_download(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dit_eval.cli.diagnose.reference_path", lambda _: pytest.fail("fetched"))
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(write(tmp_path / "gen.npz")), "--ref", "imagenet256", "--expect", "sit-xl"])
    assert (ended.value.code, "Did you mean 'sit-xl-2'?" in capsys.readouterr().err) == (2, True)


def test_published_pairs_are_of_two_protocols_with_a_source():
    with open(PAPER / "pairs.csv", newline="", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    page = (ROOT / "reports/why_fid_differs.md").read_text(encoding="utf-8")
    assert len(pairs) > 10
    for pair in pairs:
        assert pair["source"]
        assert pair["first_protocol"] != pair["second_protocol"]
        assert float(pair["first"])
        assert float(pair["second"])
        cells = (pair[each] for each in ("first_protocol", "first", "second_protocol", "second", "source"))
        assert f"| {' | '.join(cells)} |" in page


# ---- what is found


def write(path, count=60, **arrays):
    """Small pictures of no meaning."""
    images = np.random.RandomState(0).randint(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    write_batch(path, images=[images], shape=images.shape, arrays=arrays)
    return path


STATISTICS = {"mu": np.full(64, 0.4), "sigma": np.eye(64)}  # of few dimensions, for they are read often


@pytest.fixture
def statistics(tmp_path):
    return write(tmp_path / "statistics.npz", 10, **STATISTICS)


def found(gen, ref, name=None, **options):
    """Findings about a protocol, by their ids."""
    diagnosis = diagnose(
        gen=open_images(gen, role="gen"),
        ref=open_images(ref, role="ref"),
        expect=name if name is None else expectation(name),
        **options,
    )
    ours = ("label-rule", "run-labels", "order", "other-reference", "result-reference", "val-reference",
            "result-inception-score")  # fmt: skip
    return {finding.id: finding for finding in diagnosis.findings if finding.id in ours}


LABELS = {
    "random": np.random.RandomState(0).randint(0, 1000, 2000),
    "balanced": np.random.RandomState(0).permutation(np.arange(2000) % 1000),
}


@pytest.mark.parametrize(
    ("labels", "name", "says"),
    [
        ("balanced", "sit-xl-2", "2 samples of each class; labels of sit-xl-2 are drawn at random"),
        ("random", "sit-xl-2", None),
        ("random", "jit-h-16", "of a class; labels of jit-h-16 are as many of each class (2)"),
        ("balanced", "jit-h-16", None),
        ("balanced", "jit-h-16-by-adm", None),  # whose labels nobody states
        ("random", None, None),
    ],
)
def test_random_against_balanced_labels(tmp_path, statistics, labels, name, says):
    gen = write(tmp_path / "gen.npz", 2000, arr_1=LABELS[labels])
    told = found(gen, statistics, name).get("label-rule")
    assert (told is None) is (says is None)
    if told is not None:
        assert (told.certainty, says in told.found) == ("certain", True)


def test_numbers_that_no_rule_divides_evenly_say_nothing(tmp_path, statistics):
    gen = write(tmp_path / "gen.npz", 2500, arr_1=np.arange(2500) % 1000)
    assert found(gen, statistics, "sit-xl-2") == {}


def test_what_a_run_says_of_its_labels_is_told_once(tmp_path, statistics):
    run = np.array(sample_run(labels="balanced").to_json())
    gen = write(tmp_path / "gen.npz", 2000, arr_1=LABELS["balanced"], sample_run=run)
    assert found(gen, statistics, "dit-xl-2").keys() == {"run-labels"}
    assert "label-rule" not in found(gen, statistics, "rae-ditdh-xl")


@pytest.fixture
def jit(tmp_path, monkeypatch):
    """A file that is known as JiT's, and ADM's beside it."""
    path = write(tmp_path / "one.npz", 10, **STATISTICS)
    adm = write(tmp_path / "another.npz", 11, **STATISTICS)
    known = (
        KnownReference(name="jit-in256", protocol="jit-2025", sha256=sha256_of(path)),
        KnownReference(name="adm-in256-stats", protocol="adm-2021", sha256=sha256_of(adm)),
        KnownReference(name="imf-in256", protocol="meanflow-2025", filename="imagenet_256_fid_stats.npz"),
    )
    monkeypatch.setattr("dit_eval.results.references.published_statistics", lambda: known)
    return {"jit": path, "adm": adm}


@pytest.mark.parametrize(
    ("ref", "name", "fires"),
    [
        ("jit", "sit-xl-2", True),
        ("jit", "dit-xl-2-cfg1.5", True),
        ("jit", "jit-h-16", False),
        ("adm", "jit-h-16", True),
        ("adm", "mar-h-cfg3.2", False),
        ("jit", None, False),
    ],
)
def test_statistics_of_jit_against_a_number_of_adm(tmp_path, jit, ref, name, fires):
    told = found(write(tmp_path / "gen.npz"), jit[ref], name)
    assert told.keys() == ({"other-reference"} if fires else set())
    if fires and ref == "jit":
        assert told["other-reference"].certainty == "certain"
        assert f"is JiT's statistics (jit-in256); {name} is against ADM's reference" in told["other-reference"].found


def test_a_name_alone_makes_a_reference_likely(tmp_path, jit):
    ref, gen = write(tmp_path / "imagenet_256_fid_stats.npz", 12, **STATISTICS), write(tmp_path / "gen.npz")
    told = found(gen, ref, "sit-xl-2")["other-reference"]
    assert (told.certainty, "has the name of MeanFlow's statistics" in told.found) == ("likely", True)
    assert found(gen, ref, "imf-b-2") == {}
    own = write(tmp_path / "mine.npz", 13, **STATISTICS)
    assert found(gen, own, "sit-xl-2") == {}, "whose it is nobody knows"


def scored(*, scores=None, **changes):
    inception = ExtractorInfo(
        name="inception", weights_sha256="0" * 64, backend="torch", precision="fp32", device="cpu"
    )
    given = result(None, 2.3, num_samples=60, badge=badge(60), extractor=inception, **changes)
    return dataclasses.replace(given, scores=given.scores | (scores or {}))


@pytest.mark.parametrize(
    ("whose", "name", "fires"),
    [
        ("jit-2025", "jit-h-16", False),
        ("own", "jit-h-16", True),
        ("adm-2021", "imf-b-2", True),
        ("meanflow-2025", "imf-b-2", False),
        ("adm-2021", "mar-b-cfg2.9", False),
    ],
)
def test_a_result_against_another_reference_than_the_published(tmp_path, statistics, whose, name, fires):
    given = scored(reference_protocol=whose)
    told = found(write(tmp_path / "gen.npz"), statistics, name, result=given)
    assert ("result-reference" in told) is fires


def test_a_result_against_a_file_of_that_name_is_the_best_that_can_be_known(tmp_path, statistics):
    given = scored(reference_protocol="unknown-statistics")
    assert "result-reference" in found(write(tmp_path / "gen.npz"), statistics, "imf-b-2", result=given)
    named = dataclasses.replace(given, ref=dataclasses.replace(given.ref, path="a/imagenet_256_fid_stats.npz"))
    assert "result-reference" not in found(tmp_path / "gen.npz", statistics, "imf-b-2", result=named)


@pytest.mark.parametrize(
    ("name", "certainty"),
    [("val_256.npz", "likely"), ("imagenet-validation.npz", "likely"), ("interval.npz", None), ("train.npz", None)],
)
def test_the_validation_set_by_its_name(tmp_path, name, certainty):
    gen, ref = write(tmp_path / "gen.npz"), write(tmp_path / name, 12, **STATISTICS)
    told = found(gen, ref, "rae-ditdh-xl").get("val-reference")
    assert (told and told.certainty) == certainty
    assert found(gen, ref) == {}, "nothing published to compare with"


def test_the_validation_set_by_its_files(tmp_path):
    for folder, name in (("raw", "ILSVRC2012_val_0000000{}.png"), ("other", "n01440764_{}.png")):
        (tmp_path / folder).mkdir()
        for k in range(1, 4):
            pixels = np.random.RandomState(k).randint(0, 256, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / name.format(k))
    gen = write(tmp_path / "gen.npz")
    assert found(gen, tmp_path / "raw", "sit-xl-2")["val-reference"].certainty == "certain"
    assert found(gen, tmp_path / "other", "sit-xl-2") == {}


def test_precision_and_recall_against_the_validation_set(tmp_path, statistics):
    images = dataclasses.replace(scored().ref, path="imagenet_val_prc_arr0.npz")
    given, gen = scored(pr_ref=images, reference_protocol="adm-2021"), write(tmp_path / "gen.npz")
    assert "precision and recall are against" in found(gen, statistics, "sit-xl-2", result=given)["val-reference"].found
    meanflow = dataclasses.replace(given, reference_protocol="meanflow-2025")
    assert "val-reference" not in found(gen, statistics, "drift-l", result=meanflow), "which are against these"


@pytest.mark.parametrize(
    ("key", "name", "says"),
    [
        ("inception_score", "jit-h-16", "by ADM's rule, the published one by torch-fidelity's"),
        ("inception_score_torch_fidelity", "jit-h-16", None),
        ("inception_score", "imf-b-2", "by ADM's rule, the published one by MeanFlow's"),
        ("inception_score_torch_fidelity", "sit-xl-2", "by torch-fidelity's rule, the published one by ADM's"),
        ("inception_score", "sit-xl-2", None),
        ("inception_score", "edm2-img512-s-fid", None),
    ],
)
def test_the_wrong_rule_of_the_inception_score(tmp_path, statistics, key, name, says):
    given = scored(scores=dict.fromkeys(INCEPTION_SCORES) | {key: 250.0})
    told = found(write(tmp_path / "gen.npz"), statistics, name, result=given).get("result-inception-score")
    assert (told.found if told else "") == (f"the result's Inception Score is {says}" if says else "")


def test_class_order_is_no_matter_where_the_rule_mixes(tmp_path, statistics):
    gen = write(tmp_path / "gen.npz", 6000, arr_1=np.arange(6000) // 6)
    assert "order" in found(gen, statistics, "var-d30-re")
    assert "order" not in found(gen, statistics, "jit-h-16")


def test_each_number_is_compared_with_the_one_of_its_rule(tmp_path, statistics):
    given = scored(scores={"fid": None, "fid_torch_fidelity": 1.9, "inception_score_torch_fidelity": 300.0})
    gen = open_images(write(tmp_path / "gen.npz"), role="gen")
    ref = open_images(statistics, role="ref")
    rows = diagnose(gen=gen, ref=ref, expect=expectation("jit-h-16"), result=given).comparisons
    assert {row.metric: (row.published, row.measured) for row in rows} == {
        "fid": (1.86, 1.9),
        "inception_score_torch_fidelity": (303.4, 300.0),
    }


def test_the_command_says_how_the_published_number_was_made(tmp_path, capsys, statistics, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gen = write(tmp_path / "gen.npz", 2000, arr_1=LABELS["random"])
    for more in ((), ("--json", "-")):
        with pytest.raises(SystemExit) as ended:
            main(["diagnose", str(gen), "--ref", str(statistics), "--expect", "jit-h-16", *more])
        assert ended.value.code in (0, None)
        out = capsys.readouterr().out
        if more:
            assert json.loads(out)["expected"]["reference"] == "jit-2025"
        else:
            head = " ".join(out.partition("1. ")[0].split())
            assert head.startswith(
                "compared with jit-h-16 (arXiv 2511.13720v2, Table 7) made by LTH14/JiT; against JiT's"
            )
            assert "label-rule (certain)" in out
