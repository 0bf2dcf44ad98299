"""The Gaussian diffusion of DiT: schedule, respacing, DDPM and DDIM sampling, training losses.

The noise-predicting process of Ho et al. 2020 with the learned variance of Nichol & Dhariwal 2021, as DiT uses it:
1,000 linear steps, of which a sampler may visit a subset. Tables are float64 and are rounded to the type of the images
where they meet them.

N batch, C channels, S number of steps. A step index i counts the S visited steps from the least noisy, 0; a timestep is
its place in the original process, 0..999, and is what the model is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dit_eval.diffusion.spacing import NUM_TRAIN_STEPS, noise_levels, respaced_timesteps

# Model as the process sees it: (x (N, C, ...), timesteps (N,) of the original process) -> (N, 2 C, ...).
Denoiser = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of the next less noisy image: its Gaussian, and the image at the end of the way.

    Attributes
    ----------
    mean, log_variance : of x_{i-1} given x_i, (N, C, ...)
    x0 : predicted noise-free image, not clipped
    """

    mean: Tensor
    log_variance: Tensor
    x0: Tensor


class Diffusion:
    """The process, restricted to the steps that are visited.

    Parameters
    ----------
    spacing : see `respaced_timesteps`; None for all steps, as in training

    Attributes
    ----------
    timesteps : list of S ints, ascending
    betas, alphas_cumprod : float64 (S,), of the respaced process, which has the noise levels of the original one

    References
    ----------
    Ho et al. 2020 (DDPM); Nichol & Dhariwal 2021, Section 3.1 (learned variance), respacing; Song et al. 2021 (DDIM);
    facebookresearch/DiT `diffusion/`.
    """

    def __init__(self, spacing: str | None = None) -> None:
        alphas_cumprod = noise_levels()
        self.timesteps = respaced_timesteps(spacing or str(NUM_TRAIN_STEPS))
        kept = alphas_cumprod[self.timesteps]
        self.betas = 1.0 - kept / np.append(1.0, kept[:-1])
        self.alphas_cumprod = np.cumprod(1.0 - self.betas)
        previous = np.append(1.0, self.alphas_cumprod[:-1])
        self._previous = previous
        noise = 1.0 - self.alphas_cumprod
        posterior_variance = self.betas * (1.0 - previous) / noise
        # The last step is deterministic: variance 0. Its logarithm is replaced by that of the step before.
        clipped = np.append(posterior_variance[1:2] if len(self) > 1 else self.betas, posterior_variance[1:])
        self._posterior_log_variance = np.log(clipped)
        self._log_betas = np.log(self.betas)
        self._x0_weight = self.betas * np.sqrt(previous) / noise
        self._xt_weight = (1.0 - previous) * np.sqrt(1.0 - self.betas) / noise

    def __len__(self) -> int:
        return len(self.timesteps)

    def add_noise(self, x0: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """x_i = sqrt(abar_i) x0 + sqrt(1 - abar_i) noise, for step indices (N,)."""
        signal = _gather(np.sqrt(self.alphas_cumprod), steps, x0)
        return signal * x0 + _gather(np.sqrt(1.0 - self.alphas_cumprod), steps, x0) * noise

    def predict(self, output: Tensor, x: Tensor, steps: Tensor | int) -> Prediction:
        """Turn a model's output (N, 2 C, ...) at x (N, C, ...) and step indices (N,) into a `Prediction`.

        One index for all of them spares a GPU the copies of tables that it would wait for; the numbers are the same.

        The second half of the channels interpolates the log variance between its two bounds, -1 for the posterior's
        and 1 for beta; it is not clamped.

        Raises
        ------
        ValueError
            If the output does not have twice the channels of x.
        """
        if output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"The model returned {tuple(output.shape)} for an input of {tuple(x.shape)}; needed twice the channels "
                "(noise and variance)."
            )
        noise, interpolation = output.chunk(2, dim=1)
        fraction = (interpolation + 1) / 2
        upper, lower = (_gather(t, steps, x) for t in (self._log_betas, self._posterior_log_variance))
        x0 = self._x0_from_noise(x, steps, noise)
        mean = _gather(self._x0_weight, steps, x) * x0 + _gather(self._xt_weight, steps, x) * x
        return Prediction(mean=mean, log_variance=fraction * upper + (1 - fraction) * lower, x0=x0)

    def _x0_from_noise(self, x: Tensor, steps: Tensor | int, noise: Tensor) -> Tensor:
        scale = _gather(np.sqrt(1.0 / self.alphas_cumprod), steps, x)
        return scale * x - _gather(np.sqrt(1.0 / self.alphas_cumprod - 1.0), steps, x) * noise

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        index: int,
        noise: Tensor,
        *,
        sampler: Literal["ddpm", "ddim"] = "ddpm",
        eta: float = 0.0,
    ) -> Tensor:
        """One step of a sampler, from x_i to x_{i-1}.

        Parameters
        ----------
        index : i
        noise : (N, C, ...) standard normal; not used at index 0, nor by DDIM with eta = 0
        sampler : "ddpm" draws from the predicted Gaussian; "ddim" ignores the learned variance
        eta : DDIM only, 0 for the deterministic sampler
        """
        timesteps = torch.full((len(x),), self.timesteps[index], device=x.device)
        prediction = self.predict(denoiser(x, timesteps), x, index)
        if sampler == "ddpm":
            spread = torch.exp(0.5 * prediction.log_variance)
            return prediction.mean + spread * noise if index else prediction.mean
        if sampler != "ddim":
            raise ValueError(f"Unknown sampler {sampler!r}; known: ddpm, ddim.")
        abar, previous = (_gather(table, index, x) for table in (self.alphas_cumprod, self._previous))
        direction = (_gather(np.sqrt(1.0 / self.alphas_cumprod), index, x) * x - prediction.x0) / _gather(
            np.sqrt(1.0 / self.alphas_cumprod - 1.0), index, x
        )
        sigma = eta * torch.sqrt((1 - previous) / (1 - abar)) * torch.sqrt(1 - abar / previous)
        mean = prediction.x0 * torch.sqrt(previous) + torch.sqrt(1 - previous - sigma**2) * direction
        return mean + sigma * noise if index else mean

    def sample(
        self,
        denoiser: Denoiser,
        x: Tensor,
        draw_noise: Callable[[int], Tensor],
        *,
        sampler: Literal["ddpm", "ddim"] = "ddpm",
        eta: float = 0.0,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Run a sampler from pure noise to an image.

        Parameters
        ----------
        x : (N, C, ...) standard normal
        draw_noise : step index -> noise of x's shape; called S times, from S - 1 down to 0
        on_step : called after each step with its index and the new x

        Returns
        -------
        (N, C, ...)
        """
        for index in reversed(range(len(self))):
            x = self.step(denoiser, x, index, draw_noise(index), sampler=sampler, eta=eta)
            if on_step:
                on_step(index, x)
        return x

    def training_losses(self, denoiser: Denoiser, x0: Tensor, steps: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Losses of a training step, (N,) each, averaged over channels and pixels.

        "mse" between true and predicted noise; "vb", the variational bound in bits, which trains the variance only
        (the predicted mean is detached): the divergence of the predicted from the true posterior or, at step 0, the
        likelihood of x0 under bins of width 2/255; "loss", their sum.

        References
        ----------
        Nichol & Dhariwal 2021, eq. 16 with weight 1 on the bound, as DiT trains.
        """
        x = self.add_noise(x0, steps, noise)
        timesteps = torch.tensor(self.timesteps, device=x.device)[steps]
        output = denoiser(x, timesteps)
        predicted, interpolation = output.chunk(2, dim=1)
        frozen = self.predict(torch.cat([predicted.detach(), interpolation], dim=1), x, steps)
        true_mean = _gather(self._x0_weight, steps, x) * x0 + _gather(self._xt_weight, steps, x) * x
        true_log_variance = _gather(self._posterior_log_variance, steps, x)
        divergence = 0.5 * (
            frozen.log_variance
            - true_log_variance
            - 1.0
            + torch.exp(true_log_variance - frozen.log_variance)
            + (true_mean - frozen.mean) ** 2 * torch.exp(-frozen.log_variance)
        )
        likelihood = _log_likelihood_of_bins(x0, frozen.mean, 0.5 * frozen.log_variance)
        bits = torch.where(steps == 0, -_mean(likelihood), _mean(divergence)) / math.log(2.0)
        mse = _mean((noise - predicted) ** 2)
        return {"loss": mse + bits, "mse": mse, "vb": bits}


def _gather(table: np.ndarray, steps: Tensor | int, x: Tensor) -> Tensor:
    """Entries of a float64 table at (N,) step indices, rounded to float32, as (N, 1, ...) to go with x.

    One index gives one number, left on the CPU: kernels take it as an argument, where a copy would make a GPU wait.
    """
    if isinstance(steps, int):
        return torch.tensor(table[steps], dtype=torch.float32)
    values = torch.from_numpy(table).to(x.device)[steps].float()
    return values.view(-1, *[1] * (x.ndim - 1))


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _log_likelihood_of_bins(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability, in nats, of 8-bit values x in -1..1 under Gaussians; the outer bins reach to infinity."""

    def below(edge: Tensor) -> Tensor:
        # The tanh approximation of the normal distribution function that the released code trains with.
        z = (edge - mean) * torch.exp(-log_std)
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))

    lower, upper = below(x - 1.0 / 255.0), below(x + 1.0 / 255.0)
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1.0 - lower, upper - lower))
    return torch.log(probability.clamp(min=1e-12))
