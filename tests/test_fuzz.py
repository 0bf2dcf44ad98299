"""The fuzzer of the readers: some of its cases, and that it finds what is planted."""

import time

import planted_readers
import pytest
from fuzz_engine import case_content, fuzz
from fuzz_readers import READERS

pytestmark = pytest.mark.slow

SOME = {reader.name: reader for reader in READERS}
MAKE_ANEW = {
    "features in the cache",
    "kept counts",
    "record of a download",
    "record of an exit",
}  # what is damaged there


def test_no_reader_fails_at_a_few_hundred_damaged_files():
    # `make fuzz` runs fifty times as many.
    tallies = fuzz(READERS, cases=20, seed=7, processes=2)
    assert [finding for tally in tallies.values() for finding in tally.findings] == []
    assert all(tally.cases >= 20 for tally in tallies.values())
    assert {name for name, tally in tallies.items() if tally.taken == tally.cases} <= MAKE_ANEW, "refuse nothing"


@pytest.mark.parametrize("name", ["npz", "results", "plan", "zip", "tar", "tar.gz", "latents folder"])
def test_cases_are_told_by_their_numbers_and_differ(name, monkeypatch):
    seeds = SOME[name].seeds()
    made = [case_content(SOME[name], seeds, 0, number) for number in range(40)]
    monkeypatch.setattr(time, "time", lambda: 1e9)  # what is made at another time is the same
    assert SOME[name].seeds() == seeds
    assert made == [case_content(SOME[name], seeds, 0, number) for number in range(40)]
    assert sum(made.index(case) == number for number, case in enumerate(made)) > 30
    assert made != [case_content(SOME[name], seeds, 1, number) for number in range(40)]


@pytest.mark.parametrize("read", planted_readers.PLANTED, ids=lambda read: read.__name__)
def test_the_fuzzer_finds_what_is_planted(read):
    tally = fuzz((planted_readers.planted(read),), cases=1, seed=3, processes=1)[read.__name__]
    (finding,) = tally.findings
    assert finding.startswith(f"{read.__name__}, seed 3, case 0: ")
    assert planted_readers.PLANTED[read] in finding


def test_the_fuzzer_leaves_a_good_reader_alone_and_goes_on_after_a_process_that_died():
    good = fuzz((planted_readers.planted(planted_readers.be_good),), cases=30, seed=0, processes=1)["be_good"]
    assert (good.cases, good.taken, good.findings) == (30, 0, [])
    dead = fuzz((planted_readers.planted(planted_readers.die),), cases=3, seed=0, processes=1)["die"]
    assert (dead.cases, len(dead.findings)) == (3, 3)
