"""Image i from (seed, i): model, guidance, decoder, eight-bit pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn

from dit_eval.diffusion.flow import number_of_points
from dit_eval.diffusion.guidance import Evaluations
from dit_eval.diffusion.spacing import NUM_TRAIN_STEPS, respaced_timesteps
from dit_eval.diffusion.steps import Network, steps_of
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT, guided
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import SamplingSettings
from dit_eval.system.switches import Cores, arithmetic, each_core_alone

LABEL_STREAM = 1 << 63  # images take the streams below it, their labels those from it on
# A core of a CPU takes so many images at a time through the network, or a multiple that has up to so many tokens. More
# leave its caches; with fewer, a small network spends its time between operators, where threads wait for each other.
CPU_BATCH, _CPU_TOKENS = 8, 1024
_BATCH = 32  # images at once in a process, at least, unless a caller says otherwise
Decoder = Callable[[Tensor], Tensor]  # latents (N, 4, h, w) -> images (N, 3, H, W) in -1..1


def check_sampling(settings: SamplingSettings, config: DiTConfig, *, device: str) -> None:
    """Find what a network cannot draw on a device, before anything is loaded or run.

    Raises
    ------
    ValueError
        With what was found, what is needed, and why.
    """
    if settings.is_flow:
        number_of_points(str(settings.num_sampling_steps), settings.rule)
    else:
        respaced_timesteps(str(settings.num_sampling_steps))
    guided_channels = settings.guided_channels(config.in_channels)
    if guided_channels is not None:
        if not 1 <= guided_channels <= config.in_channels:
            raise ValueError(f"Guidance on {guided_channels} channels: the model has {config.in_channels}.")
        if not config.label_dropout and settings.guide_ckpt is None:
            raise ValueError(
                'Guidance needs a model trained with label dropout: this one has no label for "no label". Draw without '
                "guidance (`cfg_scale` 1.0)."
            )
    if not config.learn_sigma and not settings.is_flow:
        raise ValueError("The sampler needs a model that predicts its variance (learn_sigma).")
    if settings.sampler == "ode-dopri5" and find_spec("torchdiffeq") is None:
        raise ValueError("The sampler ode-dopri5 needs torchdiffeq, which is not installed: pip install torchdiffeq.")
    if settings.precision == "tf32" and not device.startswith("cuda"):
        raise ValueError("tf32 is arithmetic of NVIDIA GPUs; on the CPU use fp32 or bf16.")
    if config.space == "pixel":
        _check_pixels(config)


def check_run(run: SampleRun, config: DiTConfig) -> None:
    """As `check_sampling`, for a run as it is recorded. Errors as there."""
    if (run.cfg_scale == 1.0) != (run.cfg_channels is None):
        raise ValueError(
            f"Guidance scale {run.cfg_scale} on {run.cfg_channels} channels: needed both, or 1.0 and None."
        )
    settings = run.settings
    if settings != settings.completed():
        raise ValueError(f"A run of the sampler {run.sampler} that does not say which flow it follows.")
    check_sampling(settings, config, device=run.device)
    if run.vae is None:
        _check_pixels(config)


def _check_pixels(config: DiTConfig) -> None:
    if config.in_channels not in (1, 3):
        raise ValueError(f"A pixel-space model of {config.in_channels} channels draws no images; needed 1 (grey) or 3.")


class ImageSampler:
    """A model ready to draw images by their index.

    What does not change from step to step is computed once: the embeddings of all timesteps here, those of the labels
    for each batch. On a GPU guidance is one forward pass of both halves, and a compiled model is replayed as a CUDA
    graph of the largest batch, which smaller ones are filled up to; nothing in a step waits for the GPU, so the noise
    of the next one is drawn while it works. On a CPU images pass 8 at a time, each eight on a core of its own: more are
    not faster, and need more memory, and eights that cores share would depend on the number of cores. For bf16 a copy
    of the model has its linear maps in that type, which autocast would round at every step.

    Parameters
    ----------
    model : on the device it is to run on, in evaluation mode
    run : what to draw; see `SampleRun`
    decode : the autoencoder's decoder; None for a model in pixel space
    guide : a second network that guides in place of the one without label (Karras et al. 2024, arXiv 2406.02507); on
        the same device

    Raises
    ------
    ValueError
        As `check_run`.
    """

    def __init__(self, model: DiT, run: SampleRun, *, decode: Decoder | None = None, guide: DiT | None = None) -> None:
        check_run(run, model.config)
        if (guide is None) != (run.guide_ckpt is None):
            raise ValueError(f"Found a guide {run.guide_ckpt!r} in the run; needed the network as well, or neither.")
        self.run, self._decode = run, decode
        self.device = next(model.parameters()).device
        self.steps = steps_of(run.settings)
        self._conditional = _Conditional(model, run)
        self._guide = None if guide is None else _Conditional(guide, run)
        self.model = self._conditional.model
        self._full = 0  # images of the largest batch so far

    @torch.inference_mode()
    def draw(
        self, indices: np.ndarray, labels: np.ndarray, *, on_step: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Images of the given indices and labels (N,), uint8 (N, H, W, 3).

        In memory besides the model: activations of one forward pass, of 8 images, or as many as have 1,024 tokens, for
        each core of a CPU, on a GPU of N, or 2 N with guidance; some copies of the latents; then the decoded images of
        the batch, 12 bytes a pixel, of which few are decoded at once, on a CPU one by each core.

        Parameters
        ----------
        on_step : called after each sampling step with the number of steps done (of a GPU, handed to it)

        Raises
        ------
        ValueError
            If the model returns NaN or infinite values.
        """
        x = self._walk(indices, labels, on_step=on_step)
        return self.pixels(x[: len(indices)].float(), indices)

    @torch.inference_mode()
    def counted(self, labels: np.ndarray) -> Evaluations:
        """How often the network is asked for each of the images 0, 1, ... of these labels (N,), on average.

        Of a sampler that chooses its steps this takes as long as drawing the images; of others `guidance.evaluations`
        knows it.
        """
        asked, guided = 0, 0

        def watching(network: Network) -> Network:
            def seen(x: Tensor, time: Tensor, *, scale: float, rows: Sequence[int] | None = None) -> Tensor:
                nonlocal asked, guided
                count = sum(row < len(labels) for row in (range(len(x)) if rows is None else rows))
                asked, guided = asked + count, guided + (count if scale != 1.0 else 0)
                return network(x, time, scale=scale, rows=rows)

            return seen

        self._walk(np.arange(len(labels)), labels, around=watching)
        return Evaluations(number=asked / len(labels), guided=guided / len(labels))

    def _walk(
        self,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        on_step: Callable[[int], None] | None = None,
        around: Callable[[Network], Network] = lambda network: network,
    ) -> Tensor:
        """From noise to where the last step ends, for the images and what fills up their batch.

        Parameters
        ----------
        around : what the steps see in place of the network
        """
        fill = self.reserve(len(indices)) - len(indices)
        noise = self.noise([*indices, *[indices[-1]] * fill])
        steps = self.steps
        with arithmetic(self.run.precision, self.device), each_core_alone(self.device) as cores:
            network = around(self.network(np.concatenate([labels, np.repeat(labels[-1:], fill)]), cores))
            x = noise(len(steps))
            for index in reversed(range(len(steps))):
                x = steps.step(network, x, index, noise)
                if on_step:
                    on_step(len(steps) - index)
        return x

    def reserve(self, size: int) -> int:
        """`filled`, of a batch that is about to be drawn."""
        self._full = max(self._full, self.filled(size))
        return self.filled(size)

    def filled(self, size: int) -> int:
        """Images that pass through the network for a batch of `size`.

        On a CPU, batches that are no multiple of 8 go through kernels that round differently (about 1e-7). Filled up
        with copies of the last image they do not, however many at a time, and images are the same bytes for any batch
        size. On a GPU, a compiled model would be compiled anew for another size.
        """
        if self.device.type == "cpu":
            return size + -size % CPU_BATCH
        return max(size, self._full) if self.run.compiled else size

    def noise(self, indices: Sequence[int] | np.ndarray) -> Callable[[int], Tensor]:
        """A source of noise (N, C, H, W), each image's of its own stream; what it is asked for is not looked at."""
        generators = [random_stream(self.run.global_seed, i) for i in indices]
        config = self.model.config
        shape = (config.in_channels, config.input_size, config.input_size)

        def draw(_: int) -> Tensor:
            noise = torch.from_numpy(np.stack([g.standard_normal(shape, np.float32) for g in generators]))
            # From pinned memory the copy waits in the GPU's queue, not here.
            return noise.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else noise

        return draw

    def network(self, labels: np.ndarray, cores: Cores) -> Network:
        """The model, with guidance, as the steps see it for images of these labels."""
        y = torch.from_numpy(labels).to(self.device)
        if self.run.cfg_channels is not None and self._guide is None:
            y = torch.cat([y, torch.full_like(y, self.model.config.num_classes)])
        embedded = self._conditional.labels(y)
        label, none = embedded[: len(labels)], embedded[len(labels) :]
        if self._guide is not None:
            none = self._guide.labels(y)

        def predict(x: Tensor, time: Tensor, *, scale: float, rows: Sequence[int] | None = None) -> Tensor:
            count, own, other = len(x), label, none if scale != 1.0 else None
            if rows is not None:  # some images of the batch, filled up as a batch is
                place = [*range(count), *[count - 1] * (self.filled(count) - count)]
                these = [rows[each] for each in place]
                x, time, own = x[place], time[place], label[these]
                other = None if other is None else other[these]
            if self.run.compiled and self.device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()  # the graph may write over its last output
            return self._guided(x, time, own, other, scale, cores)[:count]

        return predict

    def _guided(
        self, x: Tensor, time: Tensor, label: Tensor, other: Tensor | None, scale: float, cores: Cores
    ) -> Tensor:
        """The model's output, guided by what it, or a second model, says of other label embeddings (N, D)."""
        channels = self.run.cfg_channels
        if other is None or channels is None:
            out = self._conditional(x, time, label, cores)
        elif self._guide is not None:
            halves = [self._conditional(x, time, label, cores), self._guide(x, time, other, cores)]
            out = guided(torch.cat([half[:, : x.shape[1]] for half in halves]), scale, channels)
            out = torch.cat([out, halves[0][:, x.shape[1] :]], dim=1)  # the variance is the model's own
        else:
            twice = torch.cat([x, x]), torch.cat([time, time]), torch.cat([label, other])
            out = guided(self._conditional(*twice, cores), scale, channels)
        if self.run.compiled and self.device.type == "cuda":
            out = out.clone()  # a step may ask more than once
        return out.float()

    def pixels(self, x: Tensor, indices: np.ndarray) -> np.ndarray:
        """Pixels of what the last step left, uint8 (N, H, W, 3); they are made on the device."""
        if self._decode is not None:
            # Autocast is for the network of the diffusion alone.
            with arithmetic("fp32" if self.run.precision == "fp32" else "tf32", self.device):
                x = self._decode(x)
        if not torch.isfinite(x).all():
            bad = indices[(~torch.isfinite(x)).flatten(1).any(1).cpu().numpy()]
            raise ValueError(f"Image {bad[0]} (of {len(bad)}) holds NaN or infinite values; try `precision` fp32.")
        return to_uint8(x, rounding=self.run.rounding).cpu().numpy()


class _Conditional:
    """A network of embedded times and labels, its batches cut as a device likes them."""

    def __init__(self, model: DiT, run: SampleRun) -> None:
        if run.precision == "bf16":
            model = _rounded(model)
        self.model = model
        self._device = next(model.parameters()).device
        grid = model.config.input_size // model.config.patch_size
        # A compiled network is compiled anew for another size.
        multiple = 1 if run.compiled else max(1, _CPU_TOKENS // (CPU_BATCH * grid**2))
        self._most = CPU_BATCH * multiple  # images at a time on a core of a CPU
        self._network = model.denoise
        if run.compiled:
            mode = "reduce-overhead" if self._device.type == "cuda" else None  # with CUDA graphs
            self._network = torch.compile(model.denoise, mode=mode)
        with torch.inference_mode(), arithmetic(run.precision, self._device), each_core_alone(self._device):
            self._times = model.t_embedder(torch.arange(NUM_TRAIN_STEPS, device=self._device))  # (1000, D)

    def labels(self, y: Tensor) -> Tensor:
        """(N, D) of labels (N,)."""
        return self.model.y_embedder(y)

    def __call__(self, x: Tensor, time: Tensor, label: Tensor, cores: Cores) -> Tensor:
        """The output of inputs, times (timesteps, if integers) and label embeddings, N of each."""
        size = len(x)
        if self._device.type == "cpu":
            share = -(-len(x) // cores.count)
            size = min(self._most, share + -share % CPU_BATCH)
        time = time if time.is_floating_point() else self._times[time]
        cut = list(zip(*(all_.split(size) for all_ in (x, time, label)), strict=True))
        parts = cores.map(self._part, cut)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, part: tuple[Tensor, ...]) -> Tensor:
        x, time, label = part
        # Times between timesteps are embedded here, some multiple of 8 at a time like all else, which rounds the same.
        return self._network(x, self.model.t_embedder(time) if time.ndim == 1 else time, label)


def usual_batch_size(device: torch.device | str) -> int:
    """Images at once in a process, unless a caller says otherwise: 32, or more to keep all cores of a CPU busy."""
    step = CPU_BATCH * torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    return step * -(-_BATCH // step)


def to_uint8(images: Tensor, *, rounding: str) -> Tensor:
    """Images (N, C, H, W), nominally in -1..1, as uint8 (N, H, W, 3); grey ones get three equal channels.

    Parameters
    ----------
    rounding : "dit" truncates 127.5 x + 128 as DiT's sample_ddp.py does, which rounds 127.5 x + 127.5 to the nearest;
        "truncate" truncates 127.5 (x + 1) as ADM's image_sample.py does
    """
    if rounding not in ("dit", "truncate"):
        raise ValueError(f"Unknown rounding {rounding!r}; known: dit, truncate.")
    scaled = 127.5 * images + 128.0 if rounding == "dit" else (images + 1.0) * 127.5
    pixels = scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.expand(-1, -1, -1, 3).contiguous()


def _rounded(model: DiT) -> DiT:
    """A copy with its linear maps in bf16; under autocast it gives the same numbers."""
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return rounded


def random_stream(seed: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on (seed, stream) only; making one costs microseconds."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))
