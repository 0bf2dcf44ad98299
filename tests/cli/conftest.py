"""A folder of its own for each command, and networks that must not run."""

import pytest


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """The command runs in an empty folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_network_runs(monkeypatch):
    """Any forward pass is a failure: errors must come before it."""
    from dit_eval.features.digits import DigitsExtractor
    from dit_eval.features.inception import TorchInception

    def refuse(*_):
        raise AssertionError("a network ran")

    monkeypatch.setattr(DigitsExtractor, "__call__", refuse)
    monkeypatch.setattr(TorchInception, "__call__", refuse)
