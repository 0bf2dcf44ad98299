"""Plan files: TOML to a plan, mistakes with line and key.

The keys of a table are the fields of the settings that it stands for, each stated once, where it acts: `Data`,
`Recipe`, `SamplingSettings`, `Combinations`, `TaskResources`, `Speed`.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from dit_eval.diffusion.flow import number_of_points
from dit_eval.diffusion.recipe import FlowRecipe, Objective, Recipe, Schedule
from dit_eval.diffusion.spacing import respaced_timesteps
from dit_eval.diffusion.trained import flow_settings
from dit_eval.features import NETWORKS
from dit_eval.features.load import network_named
from dit_eval.metrics.choose import check_metrics
from dit_eval.models.config import DiTConfig, named_config
from dit_eval.models.latent_space import LatentSpace
from dit_eval.models.names import DIT_NAMES, parse_name
from dit_eval.results.settings import LABEL_RULES, OF_SOME_SAMPLERS, SamplingSettings, is_flow
from dit_eval.study.expand import Combinations, Expansion, Seeds, TrainingRules
from dit_eval.study.plan import Data, Plan, PlanError, Rule, Speed, TaskResources
from dit_eval.study.toml_table import Table
from dit_eval.system.reading import read_text
from dit_eval.system.settings import Setting, settings_of
from dit_eval.system.text import did_you_mean
from dit_eval.system.toml import parse_toml

PLAN_FOLDER = Path(__file__).with_name("plans")
_MAX_FILE = 1 << 18  # bytes of a plan
_MAX_CELLS = 100_000

# What `[sampling]` may say, by the plan's names, and what it says of itself where the command line has another default.
_NAMES = {"num_images": "num_samples", "compiled": "compile"}
_OF_MODEL_OR_CELL = {
    "weights", "image_size", "num_classes", "block", "num_sampling_steps", "cfg_scale", "global_seed", "guide_ckpt",
    "path", "prediction", "time",
}  # fmt: skip
_OF_LATENTS = {"vae", "vae_tiling"}
_DECODER = "mse"


@dataclass(frozen=True, kw_only=True)
class _PlanTable:
    """The tables of a plan."""

    name: str
    about: str = ""
    data: dict[str, Any]
    models: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    cells: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    resources: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    cost: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """`[models."mini-S/4"]`."""

    depth: Annotated[int, Meta(ge=1)]
    hidden_size: Annotated[int, Meta(ge=1)]
    num_heads: Annotated[int, Meta(ge=1)]
    patch_size: Annotated[int, Meta(ge=1)]


@dataclass(frozen=True, kw_only=True)
class _BesideRecipe:
    """What `[training]` says beside the recipe and the schedule of a run."""

    label_dropout: Annotated[float, Meta(ge=0, lt=1, description="share of labels that are left out")] = (
        TrainingRules.label_dropout
    )
    objective: Annotated[Objective, Meta(description="what is learned, ddpm or flow")] = TrainingRules.objective
    seeds: Seeds = ()


@dataclass(frozen=True, kw_only=True)
class _BesideSampling:
    """What `[sampling]` says beside how images are drawn."""

    keep_samples: Annotated[bool, Meta(description="keep a sample file when it is scored")] = True
    seeds: Seeds = ()


def embedded_plans() -> dict[str, Path]:
    """The plans that come with the package, by name."""
    return {path.stem: path for path in sorted(PLAN_FOLDER.glob("*.toml"))}


def load_plan(plan: str | os.PathLike[str]) -> Plan:
    """Read a plan: a file, or the name of an embedded one.

    Raises
    ------
    FileNotFoundError
        If it is neither.
    PlanError
        If the plan cannot be carried out; with line and key.
    """
    path = Path(plan)
    if path.is_file():
        if path.stat().st_size > _MAX_FILE:
            raise PlanError(f"{path}: {path.stat().st_size:,} bytes; a plan may have {_MAX_FILE:,}.")
        try:
            text = io.StringIO(read_text(path, "a plan", max_size=_MAX_FILE), newline=None).read()
        except ValueError as error:
            raise PlanError(str(error)) from None
        return parse_plan(text, path)
    known = embedded_plans()
    if os.fspath(plan) in known:
        embedded = known[os.fspath(plan)]
        return parse_plan(read_text(embedded, "a plan"), embedded)
    hint = did_you_mean(path.name.removesuffix(".toml"), known)
    raise FileNotFoundError(f"{plan}: neither a file nor an embedded plan; known: {', '.join(known)}.{hint}")


def parse_plan(text: str, path: Path) -> Plan:
    """A plan from its text; `path` is for messages, and where relative paths in it start. Errors as `load_plan`."""
    try:
        values = parse_toml(text, path)
    except ValueError as error:
        raise PlanError(str(error)) from None
    top = Table(values=values, path=path, text=text)
    said = _PlanTable(**top.read(settings_of(_PlanTable)))
    top.check_printable("name", said.name)
    top.check_printable("about", said.about)
    data = _data(top.inner("data", said.data), path.parent)
    configs = _configs(top.inner("models", said.models), data)
    training = top.inner("training", said.training)
    sampling, beside = _sampling(top.inner("sampling", said.sampling), data)
    tasks = Expansion(
        data=data,
        configs=configs,
        rules=_training(training),
        sampling=sampling,
        keep_samples=beside.keep_samples,
        sampling_seeds=beside.seeds,
    )
    if not said.cells:
        raise top.error("cells", "missing; expected tables, [[cells]]")
    for table in top.inner_list("cells", said.cells):
        these = _combinations(table, tasks)
        try:
            tasks.add(these)
        except ValueError as error:  # options that do not go together
            raise table.error(None, str(error)) from None
    plan = Plan(
        name=said.name,
        about=said.about,
        text=text,
        path=path,
        data=data,
        trainings=tuple(tasks.trainings.values()),
        cells=tuple(tasks.cells.values()),
        speed=None if said.cost is None else _speed(top.inner("cost", said.cost)),
        rules=tuple(_rule(table, configs) for table in top.inner_list("resources", said.resources)),
    )
    _check_flow_is_learned(training, plan)
    for name in OF_SOME_SAMPLERS:
        if getattr(sampling, name) is not None and all(getattr(cell.sampling, name) is None for cell in plan.cells):
            raise top.inner("sampling", said.sampling).error(name, "no sampler of the plan uses it")
    for run in plan.trainings:
        if run.recipe.batch_size % (size := plan.resources(run).size):
            raise training.error("batch_size", f"{run.recipe.batch_size} does not divide among {size} processes")
    return plan


def _data(table: Table, folder: Path) -> Data:
    """`[data]`. A path in it starts at the plan's folder."""
    pixels = table.values.get("space") != "latent"
    values = table.read(each for each in settings_of(Data) if pixels or each.name != "channels")
    data = Data(**values)
    data = dataclasses.replace(data, train=_located(folder, data.train), ref=_located(folder, data.ref))
    if not pixels and data.image_size % LatentSpace.factor:
        factor = LatentSpace.factor
        raise table.error("image_size", f"expected a multiple of {factor}, for latents; got {data.image_size}")
    if pixels and data.channels not in (1, 3):
        raise table.error("channels", f"expected 1 or 3, as images have; got {data.channels}")
    _check_network(table, data)
    return data


def _located(folder: Path, text: str | None) -> str | None:
    """A path as seen from here, if it is one that starts at the plan's folder; else the text as it is."""
    # `os.path` takes what can be no path, as it is too long, for one of nothing.
    return os.fspath(folder / text) if text and os.path.exists(folder / text) else text


def _check_network(table: Table, data: Data) -> None:
    """That there is the feature network of `[data]`, and that it has the backend and gives the metrics."""
    table.check_choice("extractor", data.extractor, [network.name for network in NETWORKS])
    backends = network_named(data.extractor).backends
    table.check_choice("backend", data.backend, [backend.name for backend in backends])
    try:
        check_metrics(data.metrics, data.extractor)
    except ValueError as error:
        raise table.error("metrics", str(error).replace("`network`", "`extractor`")) from None


def _configs(models: Table, data: Data) -> dict[str, DiTConfig]:
    """Every model that cells may name: those of the plan, and the paper's where the data are latents."""
    configs = {}
    if data.space == "latent":
        for name in DIT_NAMES:
            if data.input_size % int(name.rpartition("/")[2]) == 0:  # small latents have no patches of 8
                config = named_config(name, image_size=data.image_size)
                configs[name] = dataclasses.replace(config, num_classes=data.num_classes)
    asked = models.read(
        Setting(name=name, type=dict[str, Any], default=None, help="", bounds={}) for name in models.values
    )
    for name, sizes in asked.items():
        configs[name] = _config(models, name, sizes, data)
    return configs


def _config(models: Table, name: str, sizes: Mapping[str, Any], data: Data) -> DiTConfig:
    """A model of the plan's own."""
    if name in DIT_NAMES:
        raise models.error(name, "a name of the paper, whose sizes are known; choose another for other sizes")
    parts = parse_name(name)
    if parts is None or not parts.is_plain:
        raise models.error(name, "expected a name such as mini-XL/2: a family, a size (S, B, L, XL), a patch")
    table = models.inner(name, sizes)
    values = table.read(settings_of(_Sizes))
    if values["patch_size"] != parts.patch:
        raise table.error("patch_size", f"expected {parts.patch}, as in the name {name}; got {values['patch_size']}")
    try:
        return DiTConfig(
            **values,
            num_classes=data.num_classes,
            input_size=data.input_size,
            in_channels=data.input_channels,
            space=data.space,
        )
    except ValueError as error:
        raise models.error(name, str(error)) from None


def _training(table: Table) -> TrainingRules:
    """`[training]`: the fields of `Recipe` without the seed, which cells have, of a flow, and what else a run needs."""
    recipe = [each for each in settings_of(Recipe) if each.name not in ("global_seed", "flow")]
    flow = settings_of(FlowRecipe)
    schedule = [each for each in settings_of(Schedule) if each.name in ("save_every", "log_every")]
    values = table.read([*recipe, *settings_of(_BesideRecipe), *schedule, *flow])
    given = {each.name: values.pop(each.name) for each in recipe if each.name in values}
    of_flow = {each.name: values.pop(each.name) for each in flow if each.name in values}
    try:
        return TrainingRules(recipe=Recipe(**given), flow=FlowRecipe(**of_flow), **values)
    except ValueError as error:
        raise table.error(None, str(error)) from None


def _check_flow_is_learned(table: Table, plan: Plan) -> None:
    """PlanError if `[training]` says of flows what no training of the plan learns."""
    given = next((each.name for each in settings_of(FlowRecipe) if each.name in table.values), None)
    if given is not None and all(run.recipe.flow is None for run in plan.trainings):
        raise table.error(given, 'of flows, and the plan trains none; expected objective = "flow" as well')


def _sampling(table: Table, data: Data) -> tuple[SamplingSettings, _BesideSampling]:
    """`[sampling]`: how the images of every cell are drawn, with which seeds, and whether they are kept."""
    ours = {_NAMES.get(each.name, each.name): each for each in settings_of(SamplingSettings)}
    absent = _OF_MODEL_OR_CELL | (_OF_LATENTS if data.space == "pixel" else set())
    known = [dataclasses.replace(each, name=name) for name, each in ours.items() if each.name not in absent]
    known = [dataclasses.replace(each, type=Literal[LABEL_RULES]) if each.name == "labels" else each for each in known]
    more = settings_of(_BesideSampling)
    values = table.read([*known, *more])
    beside = _BesideSampling(**{each.name: values.pop(each.name) for each in more if each.name in values})
    channels = values.setdefault("cfg_channels", min(3, data.input_channels))
    if channels > data.input_channels:
        raise table.error("cfg_channels", f"expected at most {data.input_channels}, as the models have; got {channels}")
    given = {"vae": _DECODER, **{ours[name].name: value for name, value in values.items()}}
    try:
        return SamplingSettings(**given), beside
    except ValueError as error:
        raise table.error(None, str(error)) from None


def _combinations(table: Table, tasks: Expansion) -> Combinations:
    """A `[[cells]]`, whose models and steps there are; "all" models are the plan's own, or else the paper's."""
    latents = tasks.data.space == "latent"
    these = Combinations(**table.read(each for each in settings_of(Combinations) if latents or each.name != "vaes"))
    if these.models == ("all",):
        these = dataclasses.replace(these, models=tasks.all_models or these.models)
    _check_models(table, these.models, tasks.configs)
    for objective in these.objectives or (tasks.rules.objective,):
        for sampler in tasks.samplers(these, objective):
            _check_spacings(table, these.sampling_steps, sampler)
            try:
                flow_settings(tasks.rules.flow if objective == "flow" else None, sampler)
            except ValueError as error:
                raise table.error("samplers", str(error).replace("`sampler` ", "")) from None
    _check_guide(table, these, tasks)
    if max(these.cfg_scales) > 1.0 and not tasks.rules.label_dropout:
        raise table.error("cfg_scales", "guidance needs [training] label_dropout above 0")
    size = these.size * (1 if these.seeds else len(tasks.seeds_of(these)))
    if size + len(tasks.cells) > _MAX_CELLS:
        raise table.error(None, f"{size:,} combinations; a plan may have {_MAX_CELLS:,} cells")
    return these


def _check_guide(table: Table, these: Combinations, tasks: Expansion) -> None:
    """That there is a guide where more is said of one, and that it guides, and not itself."""
    if these.guide is None:
        if these.guide_training_steps is not None:
            raise table.error("guide_training_steps", "of a guide, and there is none; expected a model, guide = NAME")
        return
    table.check_choice("guide", these.guide, tasks.configs, if_none="none; give sizes in [models]")
    if max(these.cfg_scales) == 1.0:
        raise table.error("guide", "there is no guidance at cfg_scales 1.0; expected a larger scale")
    lengths = {these.guide_training_steps} if these.guide_training_steps else set(these.training_steps)
    if these.guide in these.models and "adaln-zero" in these.blocks and lengths & set(these.training_steps):
        raise table.error("guide", f"{these.guide} after as many steps is the model itself; expected a weaker one")


def _check_spacings(table: Table, spacings: Iterable[int | str], sampler: str) -> None:
    for spacing in spacings:
        try:
            if is_flow(sampler):
                number_of_points(str(spacing), sampler)
            else:
                respaced_timesteps(str(spacing))
        except ValueError as error:
            raise table.error("sampling_steps", str(error)) from None


def _check_models(table: Table, models: Iterable[str], configs: Mapping[str, DiTConfig]) -> None:
    for name in models:
        table.check_choice("models", name, configs, if_none="none; give sizes in [models]")


def _speed(table: Table) -> Speed:
    """`[cost]`."""
    speed = Speed(**table.read(settings_of(Speed)))
    table.check_printable("device", speed.device)
    table.check_printable("source", speed.source)
    return speed


def _rule(table: Table, configs: Mapping[str, DiTConfig]) -> Rule:
    """A `[[resources]]`: kind of task, models, values."""
    which = [each for each in settings_of(Rule) if each.name in ("task", "models")]
    values = table.read([*which, *settings_of(TaskResources)])
    given = {each.name: values.pop(each.name) for each in which if each.name in values}
    rule = Rule(**given, resources=values)
    _check_models(table, rule.models or (), configs)
    return rule
