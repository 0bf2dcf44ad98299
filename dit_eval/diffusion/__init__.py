"""The diffusion of DiT: process, sampler, training."""
