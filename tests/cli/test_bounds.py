"""Numbers that nobody can mean are refused before anything is done, and say what would do."""

import dataclasses

import pytest

from dit_eval.cli import main
from dit_eval.diffusion.recipe import Execution, Recipe, Schedule
from dit_eval.results.settings import EvaluationSettings, SamplingSettings
from dit_eval.study.engine import Resources
from dit_eval.system.settings import settings_of

HUGE = "1000000000000"
LONG = "9" * 1000
DIGITS = ["--ref", "digits", "--extractor", "digits"]
SAMPLE = ["sample", "--ckpt", "dit-digits", "--out", "s.npz"]
TRAIN = ["train", "--model", "DiT-S/2", "--data", "latents", "--out", "run"]
EVALUATE = ["evaluate", "g.npz", *DIGITS]
STUDY = ["study", "run", "digits-small", "--out", "study"]

# A command, its option, the value, and the greatest that is taken.
TOO_GREAT = [
    (SAMPLE, "--num-fid-samples", HUGE, "10,000,000"),
    (SAMPLE, "--num-fid-samples", "10000001", "10,000,000"),
    (SAMPLE, "--num-fid-samples", str(1 << 63), "10,000,000"),
    (SAMPLE, "--num-fid-samples", LONG, "10,000,000"),
    (SAMPLE, "--per-proc-batch-size", HUGE, "65,536"),
    (SAMPLE, "--image-size", HUGE, "16,384"),
    (SAMPLE, "--num-classes", HUGE, "1,000,000"),
    (SAMPLE, "--cfg-channels", HUGE, "4,096"),
    (TRAIN, "--steps", HUGE, "100,000,000"),
    (TRAIN, "--steps", "100000001", "100,000,000"),
    (TRAIN, "--save-every", HUGE, "100,000,000"),
    (TRAIN, "--log-every", HUGE, "100,000,000"),
    (TRAIN, "--warm-up", HUGE, "100,000,000"),
    (TRAIN, "--batch-size", HUGE, "1,000,000"),
    (TRAIN, "--per-proc-batch-size", HUGE, "65,536"),
    (TRAIN, "--num-workers", HUGE, "1,024"),
    (TRAIN, "--num-classes", HUGE, "1,000,000"),
    (TRAIN, "--image-size", HUGE, "16,384"),
    (TRAIN, "--global-seed", str(1 << 63), "9,223,372,036,854,775,807"),
    (TRAIN, "--global-seed", LONG, "9,223,372,036,854,775,807"),
    (["encode", "pictures", "--out", "latents"], "--num-workers", HUGE, "1,024"),
    (["encode", "pictures", "--out", "latents"], "--image-size", HUGE, "16,384"),
    (EVALUATE, "--batch-size", HUGE, "65,536"),
    (EVALUATE, "--num-samples", HUGE, "10,000,000"),
    ([*EVALUATE, "--dry-run"], "--num-samples", HUGE, "10,000,000"),
    (["stats", "g.npz", "--out", "r.npz"], "--num-images", HUGE, "10,000,000"),
    (["classes", "g.npz", *DIGITS], "--images", HUGE, "100"),
    (["classes", "g.npz", *DIGITS], "--worst", HUGE, "1,000,000"),
    (["diagnose", "g.npz", "--ref", "digits"], "--expect-samples", HUGE, "10,000,000"),
    (["verify"], "--batch-size", HUGE, "65,536"),
    (["flops", "DiT-S/8"], "--image-size", HUGE, "16,384"),
    (STUDY, "--jobs", HUGE, "10,000"),
    ([*STUDY, "--engine", "slurm"], "--jobs", "10001", "10,000"),
]


def said(capsys, words):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    return [line for line in err.splitlines() if "error: " in line]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    yield
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("command", "option", "value", "most"), TOO_GREAT)
def test_a_number_that_is_too_great_names_the_greatest(command, option, value, most, capsys):
    (error,) = said(capsys, [*command, option, value])
    assert f"error: {option}: expected " in error
    assert f"at most {most}; got " in error


OTHERS = [
    (SAMPLE, ["--global-seed", str(1 << 63)], "Seed 9223372036854775808: needed 0 to 2^63 - 1"),
    (SAMPLE, ["--global-seed", "-1"], "Seed -1: needed 0 to 2^63 - 1"),
    (SAMPLE, ["--global-seed", "9" * 5000], "--global-seed"),  # Python reads no integer of so many digits
    (SAMPLE, ["--num-fid-samples", "9" * 5000], "--num-fid-samples"),
    (SAMPLE, ["--num-fid-samples", "1e12"], "expected a whole number, got '1e12'"),
    (SAMPLE, ["--num-fid-samples", "-1000000000000"], "-1000000000000 images asked for; needed at least 1"),
    (SAMPLE, ["--cfg-scale", "1e400"], "Guidance scale inf: needed 1.0 or more"),
    (TRAIN, ["--steps", "100000000", "--save-every", "1"], "99,999,999 saves asked for; expected at most 10,000"),
    (TRAIN, ["--steps", "100000000", "--save-every", "1"], "Raise --save-every, which is 1."),
    (TRAIN, ["--save-at", HUGE], "--save-at: expected steps from 1 to 400000, the last one; got 1000000000000"),
    (TRAIN, ["--num-workers", "-1"], "--num-workers: expected at least 0; got -1"),
    (TRAIN, ["--batch-size", "-1000000000000"], "--batch-size: expected at least 1; got -1000000000000"),
    (STUDY, ["--jobs", "-1"], "--jobs -1: needed at least 1"),
]


@pytest.mark.parametrize(("command", "more", "message"), OTHERS)
def test_other_numbers(command, more, message, capsys):
    (error,) = said(capsys, [*command, *more])
    assert message in error


GROUPS = [SamplingSettings, EvaluationSettings, Recipe, Schedule, Execution, Resources]


@pytest.mark.parametrize("group", GROUPS)
def test_every_whole_number_has_an_upper_bound(group):
    whole = [each for each in settings_of(group) if "ge" in each.bounds and isinstance(each.bounds["ge"], int)]
    whole = [each for each in whole if "int" in str(each.type) and "float" not in str(each.type)]
    assert whole
    assert [each.name for each in whole if "le" not in each.bounds] == []
    for each in whole:
        most = each.bounds["le"]
        with pytest.raises(ValueError, match=rf"({each.name}: expected .*at most {most:,}; got|^Seed) ?{most + 1}"):
            group(**{each.name: most + 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: SamplingSettings(num_images=10**12), "num_images: expected .* at most 10,000,000; got 1000000000000"),
        (lambda: SamplingSettings(num_images=10**5000), "num_images: expected .*; got a number of thousands of digits"),
        (lambda: EvaluationSettings(batch_size=1 << 70), "batch_size: expected .* at most 65,536; got 11805916207"),
        (lambda: Recipe(global_seed=-(10**30)), "global_seed: expected at least 0; got -10000000000"),
        (lambda: Schedule(steps=10**8, save_every=9_999), "10,000 saves|at most"),
        (lambda: Schedule(save_at=(10**12,)), "save_at: expected steps from 1 to 400000"),
    ],
)  # fmt: skip
def test_the_library_bounds_them_as_well(settings, message):
    with pytest.raises(ValueError, match=message):
        settings()


def test_the_greatest_numbers_of_saves_are_counted_and_not_made():
    assert len(Schedule(steps=100_000_000, save_every=10_000).saves) == 10_000
    with pytest.raises(ValueError, match=r"100,000 saves|expected at most 10,000"):
        dataclasses.replace(Schedule(steps=100_000_000, save_every=10_000), save_every=1_000)
