"""What a sampler draws: the plain loop's images, by seed and index alone; guidance, labels, rounding, precision."""

import numpy as np
import pytest
import torch
from sample_runs import make_flow_run, make_run, random_dit

from dit_eval.diffusion.labels import draw_labels, read_labels
from dit_eval.diffusion.process import Diffusion
from dit_eval.diffusion.sampler import ImageSampler, to_uint8
from dit_eval.models.checkpoints import load_dit, stored_config
from dit_eval.models.config import BLOCK_DESIGNS
from dit_eval.models.dit import DiT
from dit_eval.system.assets import asset
from dit_eval.system.switches import using_threads


@pytest.fixture(scope="module")
def digits_dit():
    return load_dit(asset("dit-digits").path, stored_config(asset("dit-digits").path))


def plain_loop(model, *, cfg_scale, cfg_channels, seed, indices, labels):
    """Everything between model and bytes, written out: keyed noise, two halves, the loop, rounding."""
    config = model.config
    streams = [np.random.Generator(np.random.Philox(key=np.array([seed, i], np.uint64))) for i in indices]
    shape = (config.in_channels, config.input_size, config.input_size)

    def draw(_=None):
        noise = torch.from_numpy(np.stack([s.standard_normal(shape, np.float32) for s in streams]))
        return torch.cat([noise, noise])

    y = torch.cat([torch.from_numpy(labels), torch.full((len(labels),), config.num_classes)])

    def denoise(x, t):
        if cfg_scale == 1.0:
            return model(x, t, torch.cat([y[: len(labels)]] * 2))
        return model.forward_with_cfg(x, t, y, cfg_scale, cfg_channels)

    with torch.inference_mode():
        x = Diffusion("8").sample(denoise, draw(), draw)[: len(labels)]
    pixels = (127.5 * x + 128).clamp(0, 255).byte().permute(0, 2, 3, 1)
    return pixels.repeat(1, 1, 1, 3 // config.in_channels).numpy()


@pytest.mark.parametrize(("cfg_scale", "cfg_channels"), [(1.0, None), (1.5, 1), (4.0, 1)])
def test_images_are_those_of_the_plain_loop(digits_dit, cfg_scale, cfg_channels):
    run = make_run(digits_dit.config, cfg_scale=cfg_scale, cfg_channels=cfg_channels, global_seed=7)
    indices, labels = np.array([3, 11, 5]), np.array([2, 9, 4])
    expected = plain_loop(
        digits_dit, cfg_scale=cfg_scale, cfg_channels=cfg_channels, seed=7, indices=indices, labels=labels
    )
    drawn = ImageSampler(digits_dit, run).draw(indices, labels)
    assert ((drawn > 0) & (drawn < 255)).mean() > 0.2, "a saturated image proves little"
    # The loop's batch is not filled up to 8, so its kernels may round differently.
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    assert (drawn != expected).mean() < 1e-2


@pytest.mark.parametrize("block", BLOCK_DESIGNS)
@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_latents_are_those_of_the_plain_loop(block, cfg_scale):
    # Timesteps and labels embedded anew in each step, guidance by the model's own method, the batch in one piece.
    model, latents = random_dit(block=block), []
    channels = None if cfg_scale == 1.0 else 3
    run = make_run(model.config, cfg_scale=cfg_scale, cfg_channels=channels, num_sampling_steps="5")
    sampler = ImageSampler(model, run, decode=lambda x: latents.append(x.clone()) or x)
    indices, labels = np.arange(11), np.arange(11) % 10
    sampler.draw(indices, labels)
    streams = [np.random.Generator(np.random.Philox(key=np.array([0, i], np.uint64))) for i in indices]

    def draw(_=None):
        return torch.from_numpy(np.stack([s.standard_normal((3, 8, 8), np.float32) for s in streams]))

    def denoise(x, t):
        y = torch.from_numpy(labels)
        if cfg_scale == 1.0:
            return model(x, t, y)
        y = torch.cat([y, torch.full_like(y, 10)])
        return model.forward_with_cfg(torch.cat([x, x]), torch.cat([t, t]), y, cfg_scale, 3)[: len(x)]

    with torch.inference_mode():
        expected = Diffusion("5").sample(denoise, draw(), draw)
    torch.testing.assert_close(latents[0], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_step_computes_nothing_again():
    model, calls = random_dit(), []
    for name, module in (("time", model.t_embedder), ("label", model.y_embedder), ("tokens", model.x_embedder)):
        module.register_forward_hook(lambda _, inputs, __, name=name: calls.append((name, len(inputs[0]))))
    sampler = ImageSampler(model, make_run(model.config, cfg_scale=1.5, cfg_channels=3, num_sampling_steps="5"))
    assert calls == [("time", 1000)]
    calls.clear()
    sampler.draw(np.arange(11), np.arange(11) % 10)
    assert [call for call in calls if call[0] != "tokens"] == [("label", 32)], "16 images, and as many without label"
    assert sum(size for name, size in calls if name == "tokens") == 32 * 5, "both halves, once"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("make", [make_run, make_flow_run])
def test_many_small_images_at_a_time_are_those_of_eight(threads, make):
    model, calls, ended = random_dit(), [], []
    model.x_embedder.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    sampler = ImageSampler(model, make(model.config), decode=lambda x: ended.append(x.clone()) or x)
    indices, labels = np.arange(100), np.arange(100) % 10
    with using_threads(threads):
        sampler.draw(indices, labels)
    assert set(calls) == ({64, 40} if threads == 1 else {56, 48}), "of 16 tokens each"
    for begin in range(0, 100, 8):
        sampler.draw(indices[begin : begin + 8], labels[begin : begin + 8])
    torch.testing.assert_close(torch.cat(ended[1:]), ended[0], rtol=0, atol=0)


def test_on_a_gpu_a_compiled_model_keeps_its_shape(monkeypatch):
    model = random_dit()
    for compiled, filled in ((False, [5, 12, 5]), (True, [5, 12, 12])):
        sampler = ImageSampler(model, make_run(model.config, compiled=compiled))
        monkeypatch.setattr(sampler, "_full", 0)
        sampler.device = torch.device("cuda")  # there need not be one: nothing is run
        found = []
        for size in (5, 12, 5):
            found.append(sampler.filled(size))
            sampler._full = max(sampler._full, found[-1])
        assert found == filled


def test_guidance_acts_on_the_channels_asked_for():
    model = random_dit()
    indices, labels = np.arange(4), np.arange(4)
    drawn = {}
    for channels in (1, 2, 3):
        run = make_run(model.config, cfg_scale=4.0, cfg_channels=channels)
        drawn[channels] = ImageSampler(model, run).draw(indices, labels)
        expected = plain_loop(model, cfg_scale=4.0, cfg_channels=channels, seed=0, indices=indices, labels=labels)
        assert (np.abs(drawn[channels].astype(int) - expected) > 1).mean() < 1e-2
    assert (drawn[1] != drawn[2]).any()
    assert (drawn[2] != drawn[3]).any()


def test_ddim_draws_other_images_than_ddpm_of_the_same_digits(digits_dit):
    drawn = {
        sampler: ImageSampler(digits_dit, make_run(digits_dit.config, sampler=sampler)).draw(np.arange(4), np.arange(4))
        for sampler in ("ddpm", "ddim")
    }
    assert (drawn["ddpm"] != drawn["ddim"]).mean() > 0.3


def test_an_image_depends_on_seed_and_index_only(digits_dit):
    sampler = ImageSampler(digits_dit, make_run(digits_dit.config))
    labels = np.arange(10)
    together = sampler.draw(np.arange(10), labels)
    backwards = sampler.draw(np.arange(10)[::-1].copy(), labels[::-1].copy())[::-1]
    np.testing.assert_array_equal(together, backwards)
    np.testing.assert_array_equal(sampler.draw(np.array([6]), np.array([6]))[0], together[6])
    other = ImageSampler(digits_dit, make_run(digits_dit.config, global_seed=1)).draw(np.arange(10), labels)
    assert (other != together).mean() > 0.3


def test_two_models_meet_the_same_noise():
    # Figure 7: with all weights zero the network predicts nothing, and what is left is the noise both saw.
    zeros = [DiT(random_dit(hidden_size=width).config).eval() for width in (32, 64)]
    drawn = [ImageSampler(model, make_run(model.config)).draw(np.arange(4), np.arange(4)) for model in zeros]
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn[0])) > 1


def test_labels():
    balanced = draw_labels("balanced", num_images=50_000, num_classes=1000, seed=0)
    assert (np.bincount(balanced) == 50).all()
    assert len(np.unique(balanced[:5000])) == 1000, "each split of ADM's Inception Score sees every class"
    drawn = draw_labels("random", num_images=5000, num_classes=10, seed=3)
    assert (drawn[:100] == draw_labels("random", num_images=100, num_classes=10, seed=3)).all()
    counts = np.bincount(drawn, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9, "chi-squared, 9 degrees of freedom, p = 0.001"
    assert (drawn != draw_labels("random", num_images=5000, num_classes=10, seed=4)).mean() > 0.5


def test_labels_from_files(tmp_path):
    wanted = np.array([3, 1, 4, 1, 5])
    (tmp_path / "labels.txt").write_text("3\n1\n4\n1\n5\n9\n")
    np.save(tmp_path / "labels.npy", wanted.astype(np.int32))
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((5, 8, 8, 3), np.uint8), arr_1=wanted)
    for name in ("labels.txt", "labels.npy", "samples.npz"):
        labels, sha256 = read_labels(tmp_path / name, num_images=5, num_classes=10)
        np.testing.assert_array_equal(labels, wanted)
        assert labels.dtype == np.int64
        assert len(sha256) == 64


def test_rounding_as_dit_and_as_adm():
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.003, 0.9999, 1.0, 2.0]).view(1, 1, 1, 8)
    dit = to_uint8(x, rounding="dit")[0, 0, :, 0].tolist()
    adm = to_uint8(x, rounding="truncate")[0, 0, :, 0].tolist()
    assert dit == [0, 0, 64, 128, 128, 255, 255, 255]
    assert adm == [0, 0, 63, 127, 127, 254, 255, 255]
    assert to_uint8(torch.zeros(2, 1, 4, 5), rounding="dit").shape == (2, 4, 5, 3), "grey becomes three channels"


def test_bf16_stays_near_fp32(digits_dit):
    def draw(precision):
        run = make_run(digits_dit.config, num_sampling_steps="16", precision=precision)
        return ImageSampler(digits_dit, run).draw(np.arange(8), np.arange(8)).astype(int)

    assert 0 < np.abs(draw("bf16") - draw("fp32")).mean() < 8, "of 255; another arithmetic, the same picture"


@pytest.mark.parametrize("block", BLOCK_DESIGNS)
def test_bf16_rounds_the_weights_once_as_autocast_does_at_every_step(block, monkeypatch):
    model = random_dit(block=block)
    run = make_run(model.config, precision="bf16", cfg_scale=1.5, cfg_channels=3)
    once = ImageSampler(model, run)
    assert {p.dtype for p in once.model.blocks.parameters() if p.ndim == 2} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "the model that was given stays as it is"
    monkeypatch.setattr("dit_eval.diffusion.sampler._rounded", lambda model: model)
    always = ImageSampler(model, run)
    images = [sampler.draw(np.arange(8), np.arange(8)) for sampler in (once, always)]
    assert np.ptp(images[0]) > 100
    np.testing.assert_array_equal(*images)


@pytest.mark.slow
def test_compiled_draws_the_same_images():
    model = random_dit(depth=1)
    drawn = [
        ImageSampler(model, make_run(model.config, compiled=compiled)).draw(np.arange(8), np.arange(8)).astype(int)
        for compiled in (False, True)
    ]
    assert np.ptp(drawn[0]) > 100
    assert (np.abs(drawn[0] - drawn[1]) > 1).mean() < 1e-2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cfg_scale": 2.0}, "Guidance scale 2.0 on None channels"),
        ({"sampler": "euler"}, "Unknown sampler 'euler'"),
        ({"precision": "tf32"}, "tf32"),
    ],
)
def test_a_run_that_contradicts_itself_is_refused(settings, said):
    model = random_dit()
    with pytest.raises(ValueError, match=said):
        ImageSampler(model, make_run(model.config, **settings))


def test_values_that_are_no_numbers_are_an_error():
    model = random_dit()
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"Image 5 \(of 2\) holds NaN"):
        ImageSampler(model, make_run(model.config)).draw(np.array([5, 6]), np.array([0, 0]))
