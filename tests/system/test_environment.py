"""What results say of the code that made them."""

import subprocess
from pathlib import Path

import pytest

import dit_eval
from dit_eval.system.environment import environment


def test_the_commit_of_a_checkout_is_told():
    root = Path(dit_eval.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        pytest.skip("the package is installed, not run from a checkout")
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True, check=True)
    about = environment()
    assert about["commit"] == head.stdout.strip()
    assert about["dirty"] in (True, False)
