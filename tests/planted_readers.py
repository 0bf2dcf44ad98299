"""Readers with the faults that the fuzzer is there to find; see test_fuzz.py."""

import os
import time

import numpy as np
from fuzz_readers import Reader, change_bytes


def seeds():
    return [b"0123456789" * 4]


def raise_key_error(path):
    raise KeyError(path.read_bytes()[:4])


def hang(path):
    while True:
        time.sleep(0.01)


def allocate(path):
    np.ones(400 << 20, np.uint8)


def ask_for_a_terabyte(path):
    np.ones(1 << 40, np.uint8)


def die(path):
    os.abort()


def say_nothing(path):
    raise ValueError("It is damaged.")


def warn(path):
    import warnings

    warnings.warn("odd", stacklevel=1)


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
}


def planted(read):
    return Reader(name=read.__name__, suffix=".x", seeds=seeds, mutate=change_bytes, read=read, share=1.0)
