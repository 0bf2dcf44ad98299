"""Compute of sampling and of training, from the Gflops of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass

TRAINING_FACTOR = 3  # forward and backward pass, which counts as two forward passes (Figure 9 of the paper)


def sampling_gflops(gflops: float, *, num_sampling_steps: int, guided: bool = False) -> float:
    """Gflops to sample one image: Gflops x steps, twice that with classifier-free guidance.

    The paper's Figure 10 leaves the factor of guidance out. The autoencoder is not counted.
    """
    return gflops * num_sampling_steps * (2 if guided else 1)


def image_gflops(
    gflops: float, *, evaluations: float, guided_evaluations: float = 0, guide_gflops: float | None = None
) -> float:
    """Gflops to sample one image by any sampler, its guidance counted. The autoencoder is not.

    Parameters
    ----------
    gflops : of one forward pass of the model at batch 1
    evaluations : how often a step asks the network (NFE)
    guided_evaluations : how many of them are guided, each by a second pass
    guide_gflops : of that pass, where another model guides (autoguidance); None for the model itself
    """
    if guide_gflops is None:
        return gflops * (evaluations + guided_evaluations)
    return gflops * evaluations + guide_gflops * guided_evaluations


def training_gflops(gflops: float, *, steps: int, batch_size: int = 256) -> float:
    """Gflops to train: Gflops x batch x steps x `TRAINING_FACTOR`."""
    return gflops * batch_size * steps * TRAINING_FACTOR  # in this order: the last digits of reports are committed


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A cell of a plan: a model to train for some steps, or to sample from, or both.

    Attributes
    ----------
    gflops : of one forward pass at batch 1, in the convention of your choice
    training_steps, batch_size : of its training; 0 steps if it is not trained
    num_samples, num_sampling_steps, guided : of the images drawn; 0 samples if none are
    evaluations, guided_evaluations, guide_gflops : as `image_gflops`; None of the first: one a step, guided or not as
        `guided` says
    """

    gflops: float
    training_steps: int = 0
    batch_size: int = 256
    num_samples: int = 0
    num_sampling_steps: int = 250
    guided: bool = False
    evaluations: float | None = None
    guided_evaluations: float = 0
    guide_gflops: float | None = None

    @property
    def training(self) -> float:
        """Compute of its training, Gflops (1e9 multiply-adds)."""
        return training_gflops(self.gflops, steps=self.training_steps, batch_size=self.batch_size)

    @property
    def sampling(self) -> float:
        """Compute of drawing its images, Gflops (1e9 multiply-adds)."""
        guided = self.guided_evaluations
        if self.evaluations is None:
            guided = self.num_sampling_steps if self.guided else 0
        return self.num_samples * image_gflops(
            self.gflops,
            evaluations=self.num_sampling_steps if self.evaluations is None else self.evaluations,
            guided_evaluations=guided,
            guide_gflops=self.guide_gflops,
        )


def gpu_hours(
    gflops: float,
    *,
    achieved_tflops: float | None = None,
    peak_tflops: float | None = None,
    utilisation: float | None = None,
) -> float:
    """Hours of one GPU for a number of Gflops (multiply-adds, of which each is two floating-point operations).

    Parameters
    ----------
    achieved_tflops : 1e12 floating-point operations per second that the program reaches, as data sheets count them; or
    peak_tflops, utilisation : those of the data sheet, and the share of them that the program reaches, in 0..1

    Raises
    ------
    ValueError
        If neither way is given, or both are, or a value is out of range.
    """
    if achieved_tflops is None and peak_tflops is not None and utilisation is not None:
        if not 0 < utilisation <= 1:
            raise ValueError(f"utilisation = {utilisation}; needed a share above 0 and up to 1.")
        achieved_tflops = peak_tflops * utilisation
    elif achieved_tflops is None or peak_tflops is not None or utilisation is not None:
        raise ValueError("Needed achieved_tflops, or both peak_tflops and utilisation.")
    if not achieved_tflops > 0:
        raise ValueError(f"A throughput of {achieved_tflops} Tflop/s; needed more than 0.")
    return 2 * gflops * 1e9 / (achieved_tflops * 1e12) / 3600
