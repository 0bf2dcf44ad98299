"""Switches of the process: what runs has its own, and leaves them as it found them; images do not see the threads."""

import contextlib
import dataclasses
import os
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from evaluating import evaluate
from PIL import Image, ImageFile

from dit_eval.diffusion import trainer as training
from dit_eval.diffusion.sampler import ImageSampler, usual_batch_size
from dit_eval.features import vit
from dit_eval.features.digits import DigitsExtractor
from dit_eval.features.network import FeatureBatch
from dit_eval.images.stream import from_batches
from dit_eval.metrics import cmmd as kernel
from dit_eval.metrics import density_coverage, halves, manifold
from dit_eval.models import vae, vae_files
from dit_eval.models.config import DiTConfig, named_config
from dit_eval.models.dit import DiT
from dit_eval.models.latent_space import LatentSpace
from dit_eval.results.sample_run import SampleRun
from dit_eval.study import tasks
from dit_eval.study.folder import Study
from dit_eval.study.tasks import do_task
from dit_eval.system import dist, switches
from dit_eval.system.switches import arithmetic, float32_products, using_threads

backends = torch.backends
NEW = {
    "general": backends,
    "cudnn": backends.cudnn,
    "products": backends.cuda.matmul,
    "convolutions": backends.cudnn.conv,
    "recurrent": backends.cudnn.rnn,
    "CPU products": backends.mkldnn.matmul,
    "CPU convolutions": backends.mkldnn.conv,
}
OLD = {
    "old products": lambda: backends.cuda.matmul.allow_tf32,
    "old convolutions": lambda: backends.cudnn.allow_tf32,
    "old precision": torch.get_float32_matmul_precision,
}


def precisions():
    """All switches of float32 products; PyTorch refuses to tell the old ones where the new ones contradict them."""
    found = {name: switch.fp32_precision for name, switch in NEW.items()}
    for name, read in OLD.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "refused"
    return found


def everything():
    """What a process has one of, and what a thread has."""
    return precisions() | {
        "threads": torch.get_num_threads(),
        "cudnn flags": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "mkldnn flags": (backends.mkldnn.enabled, backends.mkldnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default type": torch.get_default_dtype(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "fast attention": backends.mha.get_fastpath_enabled(),
        "attention": (backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled()),
        "generators": (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()),
        "numpy": np.geterr(),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


@pytest.fixture
def as_found():
    """Switches as a new process has them, before and after."""

    def reset():
        backends.fp32_precision = backends.cudnn.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = True
        for name in ("products", "CPU products", "CPU convolutions"):
            NEW[name].fp32_precision = "none"

    reset()
    yield
    reset()


def general(value):
    backends.fp32_precision = value


def recurrent(value):
    backends.cudnn.rnn.fp32_precision = value


def switch(old, value):
    old.allow_tf32 = value


USERS = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old switches": lambda: (switch(backends.cuda.matmul, True), switch(backends.cudnn, False)),
    "new switch of products": lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
    "new switch of convolutions": lambda: setattr(backends.cudnn.conv, "fp32_precision", "ieee"),
    "general": lambda: general("tf32"),
    "mixed": lambda: (torch.set_float32_matmul_precision("medium"), general("ieee"), recurrent("tf32")),
}

# As PyTorch's documentation of the switches has it: "ieee" is float32 as it is, and "high" stands for TF32.
EXACT = {"products": "ieee", "convolutions": "ieee", "recurrent": "ieee", "CPU products": "ieee",
         "CPU convolutions": "ieee", "old products": False, "old convolutions": False,
         "old precision": "highest"}  # fmt: skip
TF32 = EXACT | {"products": "tf32", "convolutions": "tf32", "recurrent": "tf32", "old products": True,
                "old convolutions": True, "old precision": "high"}  # fmt: skip


def in_force():
    return {name: value for name, value in precisions().items() if name in EXACT}


@pytest.mark.usefixtures("as_found")
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    ("precision", "device", "expected", "cast"),
    [
        ("fp32", "cpu", EXACT, False),
        ("bf16", "cpu", EXACT, True),
        ("fp32", "cuda", EXACT, False),
        ("tf32", "cuda", TF32, False),
    ],
)
def test_a_precision_holds_inside_and_what_was_before_outside(user, precision, device, expected, cast):
    USERS[user]()
    before = everything()

    def work():
        assert in_force() == expected
        if device == "cpu":
            assert torch.is_autocast_enabled("cpu") is cast
        with arithmetic("fp32", "cpu"):
            assert in_force() == EXACT
            assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
        assert in_force() == expected
        raise KeyError

    with pytest.raises(KeyError), torch.autocast("cpu", torch.float16), arithmetic(precision, device):
        work()
    assert everything() == before


@pytest.mark.usefixtures("as_found")
def test_a_switch_that_followed_the_general_one_still_does():
    general("tf32")
    with float32_products(tf32=False):
        assert backends.mkldnn.conv.fp32_precision == "ieee"
    general("ieee")
    assert (backends.mkldnn.conv.fp32_precision, backends.mkldnn.matmul.fp32_precision) == ("ieee", "ieee")


# ---- what runs, in a process whose user has switched on all that makes float32 something else


def random_dit(**settings):
    config = DiTConfig(
        **{"depth": 1, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "input_size": 8, "num_classes": 10}
        | {"in_channels": 3, "space": "pixel"}
        | settings
    )
    with torch.random.fork_rng():
        return randomised(DiT(config))


def randomised(model):
    """Every parameter random, so that no block is the identity, and the same each time."""
    rows = np.random.RandomState(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.from_numpy(rows.standard_normal(parameter.shape).astype(np.float32) * 0.05))
    return model.eval()


def make_run(config, **settings):
    return SampleRun(
        **{"model": "test", "network": dataclasses.asdict(config), "checkpoint": "", "checkpoint_sha256": ""}
        | {"image_size": config.image_size, "num_images": 8, "num_sampling_steps": "2", "device": "cpu"}
        | settings
    )


SMALL_VAE = vae_files.SD_CONFIG | {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "sample_size": 64}


@pytest.fixture(scope="module")
def small_vae():
    with torch.random.fork_rng():
        return AutoencoderKL.from_config(SMALL_VAE).eval()


def watch(module, seen):
    return module.register_forward_hook(lambda *_: seen.append(in_force()))


IMAGES = np.random.RandomState(0).randint(0, 256, (18, 16, 16, 3)).astype(np.uint8)
ROWS = np.random.RandomState(0).standard_normal((2, 40, 8)).astype(np.float32)


def draw(seen, precision):
    model = random_dit()
    watch(model.x_embedder, seen)
    ImageSampler(model, make_run(model.config, precision=precision)).draw(np.arange(16), np.arange(16) % 10)


def train(seen, precision):
    recipe = training.Recipe(batch_size=2, precision=precision)
    trainer = training.Trainer(random_dit().config, recipe)
    watch(trainer.model.x_embedder, seen)
    trainer.model.x_embedder.proj.weight.register_hook(lambda _: seen.append(in_force()))  # of the backward pass
    images = torch.zeros(2, 3, 8, 8)
    batch = training.Batch(x0=images, labels=torch.tensor([1, 2]), timesteps=torch.tensor([3, 4]), noise=images + 1)
    trainer.step(batch)
    assert len(seen) == 2


def autoencoder_of(model, monkeypatch, path):
    """An autoencoder in no file."""
    file = vae_files.AutoencoderFile(weights=path, config={}, latents=LatentSpace())
    monkeypatch.setattr(vae, "open_autoencoder", lambda _: file)
    monkeypatch.setattr(vae, "_load", lambda *_: model)
    return vae.Autoencoder(path)


def autoencode(seen, small, monkeypatch, tmp_path):
    autoencoder = autoencoder_of(small, monkeypatch, tmp_path)
    handle = watch(small.encoder.conv_in, seen)
    with torch.inference_mode():
        autoencoder.encode(torch.zeros(3, 3, 16, 16))
        autoencoder.decode(torch.zeros(3, 4, 2, 2))
    handle.remove()


def embed(seen):
    class Narrow(vit.VitExtractor):
        """The extractors' own code around a network of one layer."""

        name, pool_dim, image_size = "narrow", 6, 14
        _mean, _std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

        def __init__(self):
            self.device = "cpu"
            self._net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 14), torch.nn.Flatten()).requires_grad_(False)

        def _renamed(self, state, source):
            return state

    with torch.random.fork_rng():
        extractor = Narrow()
    watch(extractor._net, seen)
    assert extractor(IMAGES).pool.dtype == np.float32


def digits(seen):
    extractor = DigitsExtractor()
    watch(extractor._model, seen)
    extractor(IMAGES)


def measure(seen):
    gen, ref = ROWS
    manifold.precision_recall(gen=gen, ref=ref, distances="float32")
    density_coverage.density_coverage(gen=gen, ref=ref)
    kernel.clip_mmd(gen=gen / np.linalg.norm(gen, axis=1)[:, None], ref=ref / np.linalg.norm(ref, axis=1)[:, None])
    found, _ = halves._nearest(torch.from_numpy(gen), torch.from_numpy(ref), torch.ones(len(ref)), 3)
    every = np.square(gen[:, None].astype(np.float64) - ref).sum(2)
    np.testing.assert_allclose(found, np.sort(every, axis=1)[:, :3], rtol=1e-5)
    seen.append(EXACT)


RUNS = {
    "sampling in fp32": partial(draw, precision="fp32"),
    "sampling in bf16": partial(draw, precision="bf16"),
    "training in fp32": partial(train, precision="fp32"),
    "training in bf16": partial(train, precision="bf16"),
    "autoencoder": autoencode,
    "DINOv2 and CLIP": embed,
    "digits": digits,
    "metrics": measure,
}


@pytest.mark.usefixtures("as_found")
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("user", ["medium", "new switch of convolutions", "general"])
def test_what_runs_has_its_own_switches_and_leaves_the_users(name, user, small_vae, monkeypatch, tmp_path):
    extra = [small_vae, monkeypatch, tmp_path] if name == "autoencoder" else []
    USERS[user]()
    with using_threads(3), torch.autocast("cpu", torch.bfloat16, enabled=name != "autoencoder"):
        before, seen = everything(), []
        RUNS[name](seen, *extra)
        assert everything() == before
    assert seen
    assert all(each == EXACT for each in seen)


@pytest.mark.usefixtures("as_found")
def test_inception_has_its_own_switches_and_leaves_the_users(torch_inception, monkeypatch):
    # Its cores work at once: each of them setting and restoring switches would leave those of another.
    seen = []
    layers = torch_inception._layers
    backends.cudnn.conv.fp32_precision = "ieee"  # PyTorch then refuses to read the old switch
    torch.set_float32_matmul_precision("medium")
    handles = [watch(layers.stem, seen), watch(layers.after, seen)]
    with using_threads(3), torch.autocast("cpu", torch.bfloat16):
        before = everything()
        torch_inception(IMAGES[:5])
        assert everything() == before
    for handle in handles:
        handle.remove()
    assert len(seen) > 3
    assert all(each == EXACT for each in seen)


@pytest.mark.usefixtures("as_found")
def test_a_network_after_sampling_in_tf32_is_not_in_tf32(monkeypatch):
    # Without a GPU: the switches of one are set all the same, and those of the process are what networks see.
    monkeypatch.setattr(
        "dit_eval.diffusion.sampler.arithmetic",
        lambda precision, _: switches.arithmetic(precision, torch.device("cuda")),
    )
    before, seen, decoding = precisions(), [], []
    model = random_dit()
    watch(model.x_embedder, seen)
    sampler = ImageSampler(
        model,
        make_run(model.config, precision="tf32", device="cuda"),
        decode=lambda x: decoding.append(in_force()) or x,
    )
    gen = sampler.draw(np.arange(8), np.arange(8))
    assert seen == [TF32, TF32]
    assert decoding == [TF32], "the decoder belongs to the run"

    class Network:
        """Says what it is run in."""

        name, backend, precision, weights_sha256, device = "inception", "torch", "fp32", "0" * 64, "cpu"
        pool_dim, spatial_dim = 4, None

        def __init__(self):
            self.seen = []

        def __call__(self, images):
            self.seen.append(precisions())
            rows = np.random.RandomState(images[0, 0, 0, 0]).standard_normal((len(images), 4)).astype(np.float32)
            return FeatureBatch(pool=rows, class_probs=np.full((len(images), 5), 0.2, np.float32))

    network = Network()
    evaluate(gen=from_batches([gen]), ref=from_batches([gen[::-1].copy()]), extractor=network, metrics=["fid"])
    assert network.seen
    assert all(each == before for each in network.seen)


def test_the_initial_weights_leave_the_generators_of_gpus_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    config = random_dit().config
    trainer = training.Trainer(config, training.Recipe(global_seed=7))
    assert seeded == []
    with torch.random.fork_rng():
        torch.manual_seed(7)
        assert seeded == [7]
        expected = DiT(config)
    assert torch.equal(trainer.model.x_embedder.proj.weight, expected.x_embedder.proj.weight)


def test_threads_of_a_process_are_set_back(monkeypatch):
    with using_threads(2):
        with contextlib.suppress(KeyError), dist.join() as world:
            world.share_cores(3)
            assert torch.get_num_threads() == 3
            raise KeyError
        assert torch.get_num_threads() == 2


def test_threads_of_one_task_are_not_those_of_the_next(monkeypatch, tmp_path):
    # A worker of a study does one task after another; one without a number of its own takes what the worker began with.
    seen = []
    plan = SimpleNamespace(task=lambda key: key, resources=lambda task: SimpleNamespace(threads=task))
    monkeypatch.setattr(Study, "open", lambda _: SimpleNamespace(plan=plan))
    monkeypatch.setattr(tasks, "work", lambda *_: seen.append(torch.get_num_threads()))
    with using_threads(2):
        for threads in (3, None, 1, None):
            do_task(tmp_path, 1, threads)
    assert seen == [3, 2, 1, 2]


# ---- images and the number of threads


@pytest.fixture(scope="module")
def full_vae():
    """The Stable Diffusion autoencoder with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL.from_config(vae_files.SD_CONFIG).eval().requires_grad_(False)


def drawn(model, run, threads, count, decode=None):
    """What is decoded, and the images, with so many threads."""
    decoded = []
    with using_threads(threads):
        sampler = ImageSampler(model, run, decode=lambda x: decoded.append(decode(x) if decode else x) or decoded[0])
        images = sampler.draw(np.arange(count), np.arange(count) % 10)
        assert torch.get_num_threads() == threads
    return decoded[0], images


@pytest.mark.slow
def test_images_of_a_full_network_and_decoder_do_not_depend_on_the_threads(full_vae, monkeypatch, tmp_path):
    autoencoder = autoencoder_of(full_vae, monkeypatch, tmp_path)
    model = randomised(DiT(named_config("DiT-S/8", image_size=64)))
    run = make_run(model.config, vae="random", num_sampling_steps="2", cfg_scale=1.5, cfg_channels=3)
    found = [drawn(model, run, threads, 2, lambda x: autoencoder.decode(x.clamp(-3, 3))) for threads in (1, 2, 3)]
    assert np.ptp(found[0][1]) > 50
    for decoded, images in found[1:]:
        assert torch.equal(decoded, found[0][0]), "not by one rounding"
        np.testing.assert_array_equal(images, found[0][1])


def test_encoding_does_not_depend_on_the_threads(full_vae, monkeypatch, tmp_path):
    autoencoder = autoencoder_of(full_vae, monkeypatch, tmp_path)
    images = torch.from_numpy(IMAGES[:2]).permute(0, 3, 1, 2) / 127.5 - 1
    found = []
    for threads in (1, 2, 3):
        with using_threads(threads), torch.inference_mode():
            found.append(autoencoder.encode(images.repeat(1, 1, 2, 2)))
    for other in found[1:]:
        assert torch.equal(other[0], found[0][0])
        assert torch.equal(other[1], found[0][1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_images_of_odd_sizes_do_not_depend_on_the_threads(sampler, precision):
    # A tensor cut for five or seven threads ends in pieces that no vector register fills.
    model = random_dit(hidden_size=20, num_heads=1, patch_size=3, input_size=63, in_channels=1)
    run = make_run(model.config, sampler=sampler, precision=precision, cfg_scale=4.0, cfg_channels=1)
    found = [drawn(model, run, threads, 11) for threads in (1, 2, 3, 5, 7)]
    for latents, images in found[1:]:
        assert torch.equal(latents, found[0][0])
        np.testing.assert_array_equal(images, found[0][1])


def test_the_usual_batch_keeps_all_cores_busy():
    sizes = {}
    for threads in (1, 2, 3, 4, 5, 16, 64):
        with using_threads(threads):
            sizes[threads] = usual_batch_size("cpu")
            assert usual_batch_size("cuda:1") == 32
    assert sizes == {1: 32, 2: 32, 3: 48, 4: 32, 5: 40, 16: 128, 64: 512}


def test_cores_work_in_the_modes_of_their_caller():
    def modes(_):
        return (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"),
                torch.get_num_threads())  # fmt: skip

    with using_threads(3):
        for inside, expected in (
            (torch.inference_mode(), (True, False, False)),
            (torch.no_grad(), (False, False, False)),
            (torch.autocast("cpu", torch.bfloat16), (False, True, True)),
        ):
            with inside, switches.each_core_alone() as cores:
                assert cores.map(modes, range(4)) == [(*expected, 1)] * 4
        with pytest.raises(ZeroDivisionError), switches.each_core_alone() as cores:
            cores.map(lambda part: 1 / part, [1, 0, 2, 3])
        assert torch.get_num_threads() == 3
