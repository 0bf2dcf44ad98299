"""What tests of several commands need: images in a file, the usual options, and what a mistake looks like."""

import re

import numpy as np

IMAGES = np.random.RandomState(0).randint(0, 256, (20, 8, 8, 3)).astype(np.uint8)
DIGITS = ("--ref", "digits", "--extractor", "digits")


def save(name, **arrays):
    np.savez(name, **arrays)


def check_error(outcome, message):
    """A command ended with one message of a mistake, and nothing else."""
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert re.search(message, err), err
    assert err.count("error:") == 1
