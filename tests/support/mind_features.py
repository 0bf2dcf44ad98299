"""Features for MIND: seeded, of different numbers of rows, with and without a shift."""

import numpy as np

CASES = {  # rows of gen, rows of ref, dimensions, shift of gen
    "as many": (400, 400, 64, 0.3),
    "more gen": (500, 300, 64, 0.3),
    "more ref": (300, 500, 64, 0.3),
    "wide": (250, 200, 2048, 0.1),
    "nothing between them": (300, 300, 32, 0.0),
}


def mind_features(name):
    """`gen` and `ref` of a case, float32 (N, D) and (M, D)."""
    num_gen, num_ref, width, shift = CASES[name]
    rng = np.random.RandomState(list(CASES).index(name))
    ref = np.abs(rng.standard_normal((num_ref, width))).astype(np.float32)
    gen = np.abs(rng.standard_normal((num_gen, width)) * (1 + shift) + shift).astype(np.float32)
    return gen, ref
