"""What torch-fidelity's master gives for MIND, which no released version has; see README.md.

    python tests/goldens/make_mind_goldens.py PATH/TO/torch-fidelity

The path is a checkout of torch-fidelity at 5e211a9. It is imported unchanged, and given the features that
`tests/support/mind_features.py` makes.
"""

import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from mind_features import CASES, mind_features

sys.path.insert(0, str(Path(sys.argv[1]).resolve()))
from torch_fidelity.metric_mind import mind_features_to_metric

found = {}
for name in CASES:
    gen, ref = (torch.from_numpy(rows) for rows in mind_features(name))
    settings = {"mind_num_projections": 1000, "rng_seed": 2020, "cuda": False, "verbose": False}
    found[name] = mind_features_to_metric(gen, ref, **settings)["monge_inception_distance"]
text = {"source": "torch-fidelity 5e211a9, torch " + torch.__version__, "mind": found}
(HERE / "mind.json").write_text(json.dumps(text, indent=1) + "\n")
