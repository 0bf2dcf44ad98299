"""From what a plan says to its tasks: the combinations of cells, the trainings that they need, and their keys."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from dit_eval.diffusion.recipe import MOST_STEPS, FlowRecipe, Objective, Recipe, Schedule
from dit_eval.diffusion.trained import USUAL_OF_FLOW, flow_settings
from dit_eval.flops.kept import count_network
from dit_eval.models.config import BlockDesign, DiTConfig
from dit_eval.models.names import DIT_NAMES
from dit_eval.results.settings import MOST_IMAGES, MOST_SEED, Sampler, SamplingSettings
from dit_eval.study.plan import Cell, Data, Guide, Training

_LONGEST_NAME = 120  # characters of a file name that people read; file systems end at 255 bytes, endings included
# What keys say of sampling, by the names that they have always had. Options that came later enter a key only where they
# are not the usual ones, so that folders of earlier versions are gone on with.
_KEYED = {
    "num_images": "num_samples", "num_sampling_steps": "num_sampling_steps", "sampler": "sampler",
    "cfg_scale": "cfg_scale", "cfg_channels": "cfg_channels", "labels": "labels", "rounding": "rounding", "vae": "vae",
    "precision": "precision", "compiled": "compile",
}  # fmt: skip


Seeds = Annotated[tuple[Annotated[int, Meta(ge=0, le=MOST_SEED)], ...], Meta(description="integers from 0 to 2^63 - 1")]


@dataclass(frozen=True, kw_only=True)
class TrainingRules:
    """What a plan says of all its trainings.

    Attributes
    ----------
    recipe : of DDPM, with `objective` in its place
    objective : where cells name none
    flow : of the trainings of flows
    """

    recipe: Recipe
    objective: Objective = "ddpm"
    flow: FlowRecipe = field(default_factory=FlowRecipe)
    seeds: tuple[int, ...] = ()
    label_dropout: float = 0.1
    save_every: int = Schedule.save_every
    log_every: int = Schedule.log_every


@dataclass(frozen=True, kw_only=True)
class Combinations:
    """A `[[cells]]`: every combination of these values is a cell. Each may be one value or a list."""

    models: Annotated[tuple[str, ...], Meta(description='names of models, or "all"')]
    blocks: Annotated[tuple[BlockDesign, ...], Meta(description="names of block designs")] = ("adaln-zero",)
    training_steps: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=MOST_STEPS)], ...], Meta(description=f"integers from 1 to {MOST_STEPS:,}")
    ]
    sampling_steps: Annotated[tuple[int | str, ...], Meta(description="numbers of steps")]
    cfg_scales: Annotated[
        tuple[Annotated[float, Meta(ge=1)], ...], Meta(description="guidance scales of 1.0 (no guidance) or more")
    ] = (1.0,)
    num_samples: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=MOST_IMAGES)], ...], Meta(description=f"integers from 1 to {MOST_IMAGES:,}")
    ] = ()
    samplers: Annotated[tuple[Sampler, ...], Meta(description="names of samplers")] = ()
    rtols: Annotated[
        tuple[Annotated[float, Meta(gt=0)], ...], Meta(description="errors allowed of ode-dopri5, as [sampling] rtol")
    ] = ()
    objectives: Annotated[tuple[Objective, ...], Meta(description="what is learned, ddpm or flow")] = ()
    vaes: Annotated[tuple[str, ...], Meta(description="names of decoders")] = ()
    seeds: Seeds = ()
    guide: Annotated[str, Meta(description="model of the plan that guides in place of no label")] | None = None
    guide_training_steps: (
        Annotated[int, Meta(ge=1, le=MOST_STEPS, description="of the guide; default: as long as the model")] | None
    ) = None

    @property
    def size(self) -> int:
        """Number of cells, but for seeds that the plan gives for all of them."""
        size = 1
        for each in dataclasses.fields(self):
            values = getattr(self, each.name)
            size *= max(1, len(values)) if isinstance(values, tuple) else 1
        return size


@dataclass(kw_only=True)
class Expansion:
    """Collects the cells of a plan, and the trainings that they need."""

    data: Data
    configs: Mapping[str, DiTConfig]
    rules: TrainingRules
    sampling: SamplingSettings
    keep_samples: bool
    sampling_seeds: tuple[int, ...] = ()
    trainings: dict[str, Training] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def all_models(self) -> tuple[str, ...]:
        """The plan's own models, or else the paper's."""
        own = tuple(name for name in self.configs if name not in DIT_NAMES)
        return own or tuple(self.configs)

    def add(self, these: Combinations) -> None:
        """All combinations, in the order of their lists."""
        steps = [str(spacing) for spacing in these.sampling_steps]
        counts = these.num_samples or (self.sampling.num_images,)
        decoders, objectives = these.vaes or (self.sampling.vae,), these.objectives or (self.rules.objective,)
        runs = product(these.models, these.blocks, self.seeds_of(these), objectives)
        for model, block, (seed, noise), objective in runs:
            run = self._training(model, block, seed, these.training_steps, objective)
            for length, spacing, scale, count, vae, usual in product(
                these.training_steps, steps, these.cfg_scales, counts, decoders, self._rules(these, run)
            ):
                sampling = dataclasses.replace(
                    usual,
                    num_sampling_steps=spacing,
                    cfg_scale=scale,
                    cfg_channels=None if scale == 1.0 else self.sampling.cfg_channels,
                    guidance_interval=None if scale == 1.0 else self.sampling.guidance_interval,
                    num_images=count,
                    vae=vae,
                    global_seed=noise,
                )
                self._cell(run, length, sampling, None if scale == 1.0 else self._guide(these, run, length))

    def seeds_of(self, these: Combinations) -> list[tuple[int, int]]:
        """Each seed of training with each of sampling, which is that of the training where the plan says none.

        Cells with seeds of their own have them of training and sampling alike.
        """
        if these.seeds:
            return [(seed, seed) for seed in these.seeds]
        trainings = self.rules.seeds or (0,)
        return [(seed, noise) for seed in trainings for noise in self.sampling_seeds or (seed,)]

    def samplers(self, these: Combinations, objective: Objective) -> tuple[Sampler, ...]:
        """Those of some cells, or else the plan's, or else the usual one of what is learned."""
        usual: Sampler = "ddpm" if objective == "ddpm" else USUAL_OF_FLOW
        return these.samplers or (self.sampling.sampler or usual,)

    def _rules(self, these: Combinations, run: Training) -> Iterator[SamplingSettings]:
        """The plan's settings for each sampler, and tolerance, with what follows from the training."""
        for sampler in self.samplers(these, run.recipe.objective):
            # An option that the plan's one sampler does not use is a mistake; of several, some may.
            usual = self.sampling.by(sampler) if these.samplers else dataclasses.replace(self.sampling, sampler=sampler)
            settings = dataclasses.replace(usual, **flow_settings(run.recipe.flow, sampler))
            for rtol in these.rtols or (settings.rtol,):
                yield dataclasses.replace(settings, rtol=rtol)

    def _guide(self, these: Combinations, run: Training, length: int) -> Guide | None:
        """The weaker model that guides a cell in place of no label, which is trained as the cell's own."""
        if these.guide is None:
            return None
        steps = these.guide_training_steps or length
        guide = self._training(these.guide, "adaln-zero", run.recipe.global_seed, (steps,), run.recipe.objective)
        return Guide(training=guide.key, training_steps=steps, config=guide.config, gflops=guide.gflops)

    def _training(
        self, model: str, block: BlockDesign, seed: int, lengths: tuple[int, ...], objective: Objective
    ) -> Training:
        config = dataclasses.replace(self.configs[model], block=block, label_dropout=self.rules.label_dropout)
        flow = self.rules.flow if objective == "flow" else None
        recipe = dataclasses.replace(self.rules.recipe, global_seed=seed, flow=flow)
        # Data given at run time are not part of the key; `train` itself refuses a folder of other data.
        key = _key(
            [model, block if block != "adaln-zero" else "", "flow" if flow else "", f"seed{seed}"],
            {
                "config": config.to_dict(),
                "recipe": recipe.described(),
                "data": _name_of(self.data.train),
            },
        )
        known = self.trainings.get(key)
        self.trainings[key] = Training(
            key=key,
            model=model,
            config=config,
            recipe=recipe,
            steps=tuple(sorted({*lengths, *(known.steps if known else ())})),
            gflops=known.gflops if known else _count(config),
            save_every=self.rules.save_every,
            log_every=self.rules.log_every,
        )
        return self.trainings[key]

    def _cell(self, run: Training, training_steps: int, sampling: SamplingSettings, guide: Guide | None) -> None:
        stem = run.key.rpartition("-")[0]
        steps, scale = sampling.num_sampling_steps, sampling.cfg_scale
        seed = sampling.global_seed
        own_seed = {} if seed == run.recipe.global_seed else {"sampling_seed": seed}
        key = _key(
            [stem, f"{training_steps:07d}", f"s{steps}", f"cfg{scale:g}", f"draw{seed}" if own_seed else ""],
            {
                "training": run.key,
                "training_steps": training_steps,
                **own_seed,
                **_keyed_sampling(sampling, self.data),
                **_keyed_measure(self.data),
                **({"guide": [guide.training, guide.training_steps]} if guide else {}),
            },
        )
        self.cells.setdefault(
            key,
            Cell(
                key=key,
                training=run.key,
                model=run.model,
                config=run.config,
                gflops=run.gflops,
                training_steps=training_steps,
                training_seed=run.recipe.global_seed,
                sampling=sampling,
                keep_samples=self.keep_samples,
                objective=run.recipe.objective,
                guide=guide,
            ),
        )


def recorded(task: Training | Cell) -> dict[str, Any]:
    """A task as the file says it that notes its end: the names that such files have always had."""
    record = dataclasses.asdict(task) | {"config": task.config.to_dict()}
    if isinstance(task, Training):
        record["recipe"] = task.recipe.described()
    if isinstance(task, Cell):
        sampling = record.pop("sampling")
        del record["objective"]  # the training's
        if task.guide is None:
            del record["guide"]
        keep_samples = record.pop("keep_samples")
        record |= {name: sampling[ours] for ours, name in _KEYED.items()}
        record |= {"vae": task.vae, "seed": task.seed, "keep_samples": keep_samples}
        if record["training_seed"] == task.seed:
            del record["training_seed"]
    return record


def _keyed_sampling(sampling: SamplingSettings, data: Data) -> dict[str, Any]:
    """What a cell's key says of how images are drawn."""
    values, usual = dataclasses.asdict(sampling), dataclasses.asdict(SamplingSettings())
    keyed = {name: values.pop(ours) for ours, name in _KEYED.items()}
    if data.space == "pixel":
        keyed["vae"] = None
    del values["global_seed"]  # part of the training's key, unless it is another one
    return keyed | {name: value for name, value in values.items() if value != usual[name]}


def _keyed_measure(data: Data) -> dict[str, Any]:
    """What a cell's key says of how samples are scored."""
    keyed: dict[str, Any] = {"ref": _name_of(data.ref), "extractor": data.extractor}
    if data.backend != "torch":
        keyed["backend"] = data.backend
    if data.metrics is not None:
        keyed["metrics"] = sorted(data.metrics)
    if data.intervals:
        keyed["intervals"] = True
    return keyed


def _key(words: list[str], settings: Mapping[str, Any]) -> str:
    """A file name: words that people can read, and a digest of everything."""
    text = json.dumps(settings, sort_keys=True)
    readable = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in words if word)
    return f"{readable[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _name_of(location: str | None) -> str | None:
    """What tells data apart in keys: the name without the folder, so that a study can be moved."""
    return None if location is None else Path(location).name


def _count(config: DiTConfig) -> float:
    count = count_network(config.to_dict())
    if count is None:
        raise RuntimeError(f"{config} cannot be counted.")
    return count.gflops
