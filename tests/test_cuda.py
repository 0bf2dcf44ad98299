"""On an NVIDIA GPU: what it computes is what the CPU does. Without one these tests are skipped."""

import dataclasses

import numpy as np
import pytest
import torch
from golden_sets import image_set
from sample_runs import make_run

from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.features.digits import DigitsExtractor
from dit_eval.features.inception import TorchInception
from dit_eval.metrics.manifold import precision_recall
from dit_eval.models.checkpoints import load_dit, stored_config
from dit_eval.system.assets import asset
from dit_eval.system.switches import float32_products

DEVICE = "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def load_digits():
    path = asset("dit-digits").path
    return load_dit(path, stored_config(path))


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("callers_tf32", [False, True])
def test_features_are_those_of_the_cpu_whatever_a_caller_switched_on(inception_files, torch_inception, callers_tf32):
    images = image_set("gen-64")[:9]
    network = TorchInception(weights=inception_files.pth, device=DEVICE)
    with float32_products(tf32=callers_tf32):
        found = network(images)
    for part, expected in dataclasses.asdict(torch_inception(images)).items():
        assert relative_error(getattr(found, part), expected) < 1e-4, part


@pytest.mark.parametrize(("precision", "most"), [("tf32", 0.03), ("fp16", 0.03), ("bf16", 0.2)])
def test_features_of_another_precision_are_near_and_others(inception_files, torch_inception, precision, most):
    # If they were those of fp32, the test above would see no leak.
    images = image_set("gen-64")[:4]
    found = TorchInception(weights=inception_files.pth, device=DEVICE, precision=precision)(images)
    assert 1e-5 < relative_error(found.pool, torch_inception(images).pool) < most


def test_features_of_digits_are_those_of_the_cpu():
    images = image_set("gen-64")[:9]
    here, there = DigitsExtractor()(images), DigitsExtractor(device=DEVICE)(images)
    assert relative_error(there.pool, here.pool) < 1e-6


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("precision", "levels"), [("fp32", 1), ("tf32", 4), ("bf16", 16)])
def test_images_are_those_of_the_cpu_to_some_grey_levels(precision, levels, compiled):
    # In bf16 a CPU is 5 levels away. A model with random weights would be far off: its images are noise, and saturate.
    run, labels = make_run(load_digits().config, cfg_scale=1.5, cfg_channels=1), np.arange(5) % 10
    expected = ImageSampler(load_digits(), run).draw(np.arange(5), labels)
    run = dataclasses.replace(run, device=DEVICE, precision=precision, compiled=compiled)
    found = ImageSampler(load_digits().to(DEVICE), run).draw(np.arange(5), labels)
    assert np.abs(found.astype(int) - expected).max() <= levels


@pytest.mark.parametrize("distances", ["adm-float16", "float32"])
def test_precision_and_recall_are_those_of_the_cpu_to_an_image(distances):
    gen, ref = (np.random.RandomState(seed).rand(300, 64).astype(np.float32) for seed in (0, 1))
    here, there = (precision_recall(gen=gen, ref=ref, distances=distances, device=each) for each in ("cpu", DEVICE))
    assert there.precision == pytest.approx(here.precision, abs=1.01 / 300)
    assert there.recall == pytest.approx(here.recall, abs=1.01 / 300)
