"""Readers with the faults that the fuzzer is there to find; see test_fuzz.py."""

import functools
import os
import time
import warnings

import numpy as np
from fuzz_changes import change_bytes
from fuzz_engine import Reader

GOOD = b"0123456789" * 4


def seeds():
    return [GOOD]


def fails_when_changed(read):
    """Valid files are read before the cases begin."""

    @functools.wraps(read)
    def checked(path):
        if path.read_bytes() != GOOD:
            read(path)

    return checked


@fails_when_changed
def raise_key_error(path):
    raise KeyError(path.read_bytes()[:4])


@fails_when_changed
def hang(path):
    while True:
        time.sleep(0.01)


@fails_when_changed
def allocate(path):
    np.ones(400 << 20, np.uint8)


@fails_when_changed
def ask_for_a_terabyte(path):
    np.ones(1 << 40, np.uint8)


@fails_when_changed
def die(path):
    os.abort()


@fails_when_changed
def say_nothing(path):
    raise ValueError("It is damaged.")


@fails_when_changed
def warn(path):
    warnings.warn("odd", stacklevel=1)


@fails_when_changed
def take_what_is_not_sound(path):
    raise AssertionError("labels of no class")


@fails_when_changed
def be_good(path):
    raise ValueError(f"{path}: damaged.")


PLANTED = {
    raise_key_error: "KeyError",
    hang: "more than 5 seconds",
    allocate: "MiB of memory",
    ask_for_a_terabyte: "MemoryError",
    die: "the process died",
    say_nothing: "a message that does not name the file",
    warn: "UserWarning: odd",
    take_what_is_not_sound: "AssertionError: labels of no class",
}


def planted(read):
    return Reader(name=read.__name__, suffix=".x", seeds=seeds, mutate=change_bytes, read=read)
