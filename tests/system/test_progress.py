"""Progress on stderr: one line with one time left on a terminal, whole lines in a log."""

import hashlib
import io
import json
import os
import pty
import re

import numpy as np
import pytest
from PIL import Image

from dit_eval.cli import main
from dit_eval.features.provenance import checksums
from dit_eval.images import open_images
from dit_eval.system.assets import sha256_of
from dit_eval.system.progress import Progress


@pytest.fixture
def log():
    """A log file, a clock that is set by hand, and the progress that is told there."""

    class Log(io.StringIO):
        now = 0.0

        def progress(self, *unit, **options):
            return Progress(*unit, **options, stream=self, clock=lambda: self.now)

    return Log()


def test_a_log_gets_whole_lines_at_intervals(log):
    progress = log.progress(names={"gen": "gen features"})
    progress.update("gen", 0, 10_000)
    assert log.getvalue() == ""
    for done in range(100, 10_100, 100):  # 50 images a second
        log.now += 2
        progress.update("gen", done, 10_000)
    assert log.getvalue() == (
        "gen features: 1%, 100 of 10,000 images\n"
        "gen features: 16%, 1,600 of 10,000 images, 50.0 images/s, about 3 min left\n"
        "gen features: 31%, 3,100 of 10,000 images, 50.0 images/s, about 2 min left\n"
        "gen features: 46%, 4,600 of 10,000 images, 50.0 images/s, about 2 min left\n"
        "gen features: 61%, 6,100 of 10,000 images, 50.0 images/s, about 78 s left\n"
        "gen features: 76%, 7,600 of 10,000 images, 50.0 images/s, about 48 s left\n"
        "gen features: 91%, 9,100 of 10,000 images, 50.0 images/s, about 18 s left\n"
        "gen features: 100%, 10,000 of 10,000 images, 50.0 images/s\n"
    )


def test_the_time_left_is_of_all_phases_together(log):
    progress = log.progress()
    progress.update("ref", 0, 100)
    progress.update("gen", 0, 300)
    for seconds, phase, done in ((0, "ref", 64), (3.6, "ref", 100), (5, "gen", 64), (15, "gen", 164)):
        log.now = seconds
        progress.update(phase, done, {"ref": 100, "gen": 300}[phase])
    # 36 images in 3.6 s, then 100 in 10: 10 a second. A phase's first batch warms up and does not count.
    assert log.getvalue().splitlines() == [
        "ref: 16%, 64 of 400 images",
        "ref: 25%, 100 of 400 images, 10.0 images/s, about 30 s left",
        "gen: 41%, 164 of 400 images, 10.0 images/s, about 24 s left",
    ]


def test_what_a_cache_has_is_no_work_of_this_run(log):
    progress = log.progress()
    progress.update("ref", 0, 100)
    progress.update("gen", 0, 300)
    progress.update("ref", 100, 100)
    for log.now, done in ((1, 10), (33, 170)):
        progress.update("gen", done, 300)
    # 160 in 32 s: 5 a second, and 130 are left.
    assert log.getvalue().splitlines()[-1] == "gen: 68%, 270 of 400 images, 5.0 images/s, about 26 s left"


def test_bytes_count_alone_and_metrics_have_no_numbers(log):
    progress = log.progress()
    progress.update("gen", 0, 300)
    progress.update("checksums", 1_000_000, 3_000_000_000)
    log.now = 30
    progress.update("checksums", 1_501_000_000, 3_000_000_000)
    progress.update("gen", 300, 300)
    progress.update("metrics", 0, None)
    assert log.getvalue().splitlines() == [
        "checksums: 0%, 1.00 MB of 3.00 GB",
        "checksums: 50%, 1.50 GB of 3.00 GB, 50.00 MB/s, about 30 s left",
        "gen: 100%, 300 of 300 images",
        "metrics",
    ]


def test_who_knows_the_time_left_better_says_it_alone(log):
    progress = log.progress("tasks", time_left=False)
    for log.now, done in ((0, 1), (40, 2)):
        progress.update("digits-small", done, 8, "about 7 min left")
    assert log.getvalue().splitlines() == [
        "digits-small: 12%, 1 of 8 tasks, about 7 min left",
        "digits-small: 25%, 2 of 8 tasks, 0.025 tasks/s, about 7 min left",
    ]


class Terminal:
    """A real pseudo-terminal of 80 columns, as a text stream."""

    def __init__(self):
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")

    def read(self):
        """What was shown."""
        self.stream.flush()
        os.set_blocking(self._master, False)
        shown = b""
        while True:
            try:
                shown += os.read(self._master, 65536)
            except (BlockingIOError, OSError):
                return shown.decode().replace("\r\n", "\n")

    def close(self):
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    terminal.close()


def test_a_terminal_shows_one_line_that_goes_in_the_end(terminal):
    now = 0.0
    with Progress(stream=terminal.stream, clock=lambda: now) as progress:
        progress.update("gen", 0, 40)
        for now in (1.0, 1.05, 2.0):
            progress.update("gen", round(10 * now), 40)
        progress.note("a note")
    first, second, third = (
        "gen [....................] 0%, 0 of 40 images",
        "gen [#####...............] 25%, 10 of 40 images",
        "gen [##########..........] 50%, 20 of 40 images, 10.0 images/s, about 2 s left",
    )
    gone = {line: "\r" + " " * len(line) + "\r" for line in (first, second, third)}
    # 1.05 s comes too soon after 1 s.
    lines = [first, gone[first], second, gone[second], third, gone[third], "a note\n", third, gone[third]]
    assert terminal.read() == "".join(lines)


def test_a_line_is_no_longer_than_the_terminal(terminal):
    with Progress(stream=terminal.stream) as progress:
        progress.update("gen", 1, 40, "remark " * 20)
        assert len(terminal.read()) == 79


@pytest.fixture
def samples(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    np.savez("g.npz", arr_0=digits.images[:200], arr_1=digits.labels[:200])
    return "g.npz"


COMMANDS = {
    "evaluate": ["--ref", "digits", "--no-results", "--json", "-"],
    "classes": ["--ref", "digits", "--json", "-"],
    "stats": ["--out", "ref.npz", "--force"],
}


def run(command):
    with pytest.raises(SystemExit) as exit_:
        main([command, "g.npz", *COMMANDS[command], "--extractor", "digits"])
    assert exit_.value.code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_a_bar_on_a_terminal_and_lines_in_a_log(samples, capsys, monkeypatch, terminal, command):
    run(command)
    out, err = capsys.readouterr()
    assert "\r" not in err
    lines = err.splitlines()
    assert lines[:2] == ["gen  g.npz, 0.04 MB", "gen  200 images of 8x8 px"]
    assert "network  digits: loading" in lines
    assert "device  cpu" in lines
    count, role = {"stats": (200, "ref")}.get(command, (1497, "gen"))  # 1,297 of the reference, 200 samples
    assert re.search(rf"^{role} features: 100%, {count:,} of {count:,} images, ", err, re.MULTILINE)
    if "--json" in COMMANDS[command]:
        assert json.loads(out)
        assert "checksums: 100%, " in err
    monkeypatch.setattr("sys.stderr", terminal.stream)
    run(command)
    shown = terminal.read()
    assert re.search(rf"\r{role} features \[#+\.*\] \d+%, [\d,]+ of {count:,} images", shown)
    assert "\r" not in shown.rpartition("\r")[2]
    assert capsys.readouterr().out.count("\n") == 1


def test_hashing_tells_its_bytes(tmp_path, digits):
    path = tmp_path / "large.npz"
    np.savez(path, np.zeros((6, 1000, 1000, 3), np.uint8))
    size, seen = path.stat().st_size, []
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_images(path, role="gen").sha256(lambda *state: seen.append(state)) == digest
    assert [done for done, _ in seen] == [*range(1 << 22, size, 1 << 22), size]
    assert {total for _, total in seen} == {size}
    seen.clear()
    assert sha256_of(path, lambda *state: seen.append(state)) == digest
    assert seen[-1] == (size, size)
    seen.clear()
    two = open_images(path, role="gen")
    assert checksums(two, two, on_progress=lambda *state: seen.append(state)) == [digest, digest]
    assert seen[-1] == ("checksums", 2 * size, 2 * size)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_hashing_files_expects_the_bytes_of_all(tmp_path):
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    sizes, seen = [(tmp_path / f"{number}.png").stat().st_size for number in range(4)], []
    open_images(tmp_path, role="gen").sha256(lambda *state: seen.append(state))
    assert seen == [(sum(sizes[:k]), sum(sizes[:k]) * 4 // k) for k in (1, 2, 3, 4)]
