"""Damaged and hostile files by the thousand for every reader: `python tests/support/fuzz_readers.py`, or `make fuzz`.

Each case is a small valid file, or a folder of them, with some of its bytes, its text or its structure changed, and is
the same whenever it has the same seed, reader and number. A reader must take it or refuse it: by one of the errors that
it documents, with a message that names the file, in time, and with no more memory than the bound. Anything else is a
finding, as is a process that dies, and what is taken and not sound. Cases run in processes of their own, which are
replaced when they die or hang.

    python tests/support/fuzz_readers.py --cases 1000 --seed 0 --processes 2    # of each reader
    python tests/support/fuzz_readers.py --reader npz --first 17 --cases 1    # one again, by its numbers

Changes are in fuzz_changes.py, valid files in fuzz_seeds.py, readers in fuzz_kinds.py, fuzz_beside.py and
fuzz_folders.py, the processes in fuzz_engine.py.
"""

from __future__ import annotations

import argparse
import sys
import time

from fuzz_beside import BESIDE
from fuzz_engine import SECONDS, fuzz
from fuzz_folders import FOLDERS
from fuzz_kinds import KINDS

READERS = (*KINDS, *BESIDE, *FOLDERS)
_SHOWN = 10  # findings of a reader that are printed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="of each reader; the busiest get up to 2.5 times more")
    parser.add_argument("--first", type=int, default=0, help="number of each reader's first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="no case is begun after so many")
    parser.add_argument("--reader", choices=[reader.name for reader in READERS], help="this one alone")
    arguments = parser.parse_args()
    readers = tuple(reader for reader in READERS if arguments.reader in (None, reader.name))
    begun = time.monotonic()
    tallies = fuzz(
        readers,
        cases=arguments.cases,
        seed=arguments.seed,
        processes=arguments.processes,
        first=arguments.first,
        until=begun + arguments.seconds - 3 * SECONDS,
    )
    print(f"{'reader':24}{'cases':>7}{'refused':>9}{'read':>7}{'CPU':>9}{'slowest':>10}{'memory':>9}{'findings':>10}")
    for name, tally in tallies.items():
        print(
            f"{name:24}{tally.cases:7,}{tally.cases - tally.taken:9,}{tally.taken:7,}{tally.seconds:7.1f} s"
            f"{tally.slowest:8.2f} s{tally.memory / 2**20:5.0f} MiB{len(tally.findings):10}"
        )
    total = sum(tally.cases for tally in tallies.values())
    findings = sum(len(tally.findings) for tally in tallies.values())
    print(f"{total:,} cases in {time.monotonic() - begun:.0f} s, seed {arguments.seed}; {findings} finding(s)")
    for name, tally in tallies.items():
        print("".join(f"{finding}\n" for finding in tally.findings[:_SHOWN]), end="")
        if len(tally.findings) > _SHOWN:
            print(f"{name}: {len(tally.findings) - _SHOWN} more")
    short = [reader.name for reader in readers if tallies[reader.name].cases < round(arguments.cases * reader.weight)]
    if short:
        print(f"In {arguments.seconds:g} s there was no time for all cases of: {', '.join(short)}.")
    return 1 if findings or short else 0


if __name__ == "__main__":
    sys.exit(main())
