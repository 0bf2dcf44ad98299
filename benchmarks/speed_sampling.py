"""What drawing images costs against the released loop and diffusers' pipeline, on random weights.

python benchmarks/speed_sampling.py --official CLONE_OF_FACEBOOKRESEARCH_DIT [--model DiT-S/2 --steps 10 --profile]
python benchmarks/speed_sampling.py --official CLONE --device cuda

The released code needs timm. Latents only: diffusers' pipeline decodes them always, here with an autoencoder so small
that it costs nothing. On a GPU the model is DiT-XL/2 in 50 steps of 32 images unless told otherwise; tf32 and compiled
bf16 run as well. Model-flops utilisation is against the machine's own matrix product of the type, in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from harness import alternate, log, print_environment, report
from machine import best_rate, products, profile

from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.flops.kept import count_named
from dit_eval.models.config import DiTConfig, named_config
from dit_eval.models.dit import DiT
from dit_eval.results.sample_run import SampleRun

SCALE = 1.5


def random_model(config: DiTConfig, device: str) -> DiT:
    torch.manual_seed(0)
    model = DiT(config).eval().requires_grad_(False).to(device)
    for parameter in model.parameters():
        if not parameter.any():  # what starts at zero, so that no product is spared
            parameter.normal_(std=0.02)
    return model


def ours(model: DiT, name: str, steps: int, batch: int, *, precision: str, compiled: bool) -> Callable[[], Any]:
    """Our sampler as `dit-eval sample` runs it, noise and rounding included, without the autoencoder."""
    device = next(model.parameters()).device.type
    run = SampleRun(
        model=name,
        network=dataclasses.asdict(model.config),
        checkpoint="random",
        checkpoint_sha256="",
        image_size=model.config.image_size,
        num_images=batch,
        num_sampling_steps=str(steps),
        cfg_scale=SCALE,
        cfg_channels=3,
        vae="none",
        labels="balanced",
        precision=precision,
        compiled=compiled,
        device=device,
    )
    # Random weights drift far from images; what is drawn is thrown away, but must be finite.
    sampler = ImageSampler(model, run, decode=lambda latents: latents.nan_to_num()[:, :3])
    return lambda: sampler.draw(np.arange(batch), np.arange(batch) % 1000)


def official(model: DiT, name: str, steps: int, batch: int, clone: str) -> Callable[[], Any]:
    """The loop of sample_ddp.py with the same weights."""
    sys.path.insert(0, clone)
    module = importlib.import_module("models").DiT_models[name](input_size=model.config.input_size).eval()
    module.load_state_dict(model.state_dict())
    device = next(model.parameters()).device
    module.to(device)
    diffusion = importlib.import_module("diffusion").create_diffusion(str(steps))
    y = torch.cat([torch.arange(batch) % 1000, torch.full((batch,), 1000)]).to(device)

    @torch.no_grad()
    def run() -> Any:
        z = torch.randn(batch, 4, model.config.input_size, model.config.input_size, device=device)
        z = torch.cat([z, z])
        arguments = {"y": y, "cfg_scale": SCALE}
        samples = diffusion.p_sample_loop(
            module.forward_with_cfg, z.shape, z, clip_denoised=False, model_kwargs=arguments, device=device
        )
        return samples.chunk(2)[0].cpu()

    return run


def pipeline(config: DiTConfig, steps: int, batch: int, device: str) -> Callable[[], Any]:
    """diffusers' DiTPipeline with a network of the same sizes."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.hidden_size // config.num_heads,
        in_channels=4,
        out_channels=8,
        num_layers=config.depth,
        sample_size=config.input_size,
        patch_size=config.patch_size,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(4, 4, 4, 4), norm_num_groups=4, latent_channels=4, **blocks)
    pipe = DiTPipeline(transformer.eval(), vae.eval(), DDIMScheduler(clip_sample=False)).to(device)
    pipe.set_progress_bar_config(disable=True)
    labels = [i % 1000 for i in range(batch)]
    return lambda: pipe(labels, guidance_scale=SCALE, num_inference_steps=steps, output_type="np")


def utilisation(name: str, options: argparse.Namespace, seconds: list[float], rate: float) -> None:
    """Share of the machine's rate, GFLOP/s, that a candidate reaches, and what FID-50K then takes."""
    median = statistics.median(seconds)
    flops = 2e9 * count_named(options.model).gflops * 2 * options.steps * options.batch  # both halves of guidance
    hours = median / options.batch / options.steps * 250 * 50_000 / 3600
    sys.stdout.write(
        f"  {name}: {flops / median / 1e9:,.0f} GFLOP/s, {flops / median / rate / 1e9:.1%} of the {rate:,.0f} of a "
        f"matrix product in its type; 50,000 images in 250 steps: {hours:,.2f} h, decoding aside\n"
    )
    log(f"utilisation of {name}", {"flops": flops, "seconds": median, "product_gflops": rate, "hours_of_50k": hours})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", metavar="CLONE", help="clone of facebookresearch/DiT; left out without it")
    parser.add_argument("--model", help="default: DiT-S/2; DiT-XL/2 on a GPU")
    parser.add_argument("--steps", type=int, help="default: 10; 50 on a GPU")
    parser.add_argument("--batch", type=int, help="default: 8; 32 on a GPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="where the time of a core goes; not on a GPU")
    options = parser.parse_args()
    gpu = options.device.startswith("cuda")
    options.model = options.model or ("DiT-XL/2" if gpu else "DiT-S/2")
    options.steps = options.steps or (50 if gpu else 10)
    options.batch = options.batch or (32 if gpu else 8)  # a CPU fills batches up to eights
    print_environment()
    torch.set_grad_enabled(False)
    config = named_config(options.model)
    model = random_model(config, options.device)
    size = (options.model, options.steps, options.batch)
    candidates = {"dit-eval fp32": ours(model, *size, precision="fp32", compiled=False)}
    if options.official:
        candidates["released loop fp32"] = official(model, *size, options.official)
    candidates["diffusers DiTPipeline fp32"] = pipeline(config, options.steps, options.batch, options.device)
    candidates["dit-eval bf16"] = ours(model, *size, precision="bf16", compiled=False)
    if gpu:
        candidates["dit-eval tf32"] = ours(model, *size, precision="tf32", compiled=False)
        candidates["dit-eval bf16 compiled"] = ours(model, *size, precision="bf16", compiled=True)
    plain = {"fp32": products(torch.float32, options.device), "bf16": products(torch.bfloat16, options.device)}
    beside = {f"{precision} {name}": each for precision in plain for name, each in plain[precision].items()}
    question = f"{options.batch} images of {options.model} in {options.steps} steps, guidance {SCALE}, {options.device}"
    seconds = alternate(candidates | {name: each.run for name, each in beside.items()}, options.repeats)
    rates = {
        precision: best_rate({name: each for name, each in beside.items() if name.startswith(precision)}, seconds)
        for precision in plain
    }
    report(question, seconds, "released loop fp32" if options.official else "dit-eval fp32")
    for name in candidates:
        if name.startswith("dit-eval") and "tf32" not in name:
            utilisation(name, options, seconds[name], rates["bf16" if "bf16" in name else "fp32"])
    if not gpu:
        sys.stdout.write("  tf32, CUDA graphs: not measured: no GPU\n")
    if options.profile and not gpu:
        for precision in plain:
            run = ours(model, options.model, 1, 8, precision=precision, compiled=False)
            profile(f"8 images in a step, {precision}", run, options.repeats, plain[precision])


if __name__ == "__main__":
    main()
