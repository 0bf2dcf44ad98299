"""Plan files: TOML to a plan, mistakes with line and key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from dit_eval.diffusion.recipe import Recipe
from dit_eval.diffusion.spacing import respaced_timesteps
from dit_eval.features import NETWORKS
from dit_eval.features.load import network_named
from dit_eval.flops.kept import count_network
from dit_eval.metrics.choose import check_metrics
from dit_eval.models.config import BLOCK_DESIGNS, DiTConfig, named_config
from dit_eval.models.names import DIT_NAMES, parse_name
from dit_eval.study.plan import Cell, Data, Plan, PlanError, Speed, TaskResources, Training
from dit_eval.system.text import did_you_mean, nearest, reason, shown

PLAN_FOLDER = Path(__file__).with_name("plans")
_MAX_FILE = 1 << 18  # bytes of a plan
_MAX_CELLS = 100_000
_LONGEST_NAME = 120  # characters of a file name that people read; file systems end at 255 bytes, endings included
_SIZES = ("depth", "hidden_size", "num_heads", "patch_size")


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
            return parse_plan(path.read_text(encoding="utf-8"), path)
        except UnicodeDecodeError as error:
            raise PlanError(f"{path}: not UTF-8 text ({error}).") from None
    known = embedded_plans()
    if os.fspath(plan) in known:
        embedded = known[os.fspath(plan)]
        return parse_plan(embedded.read_text(encoding="utf-8"), embedded)
    hint = did_you_mean(path.name.removesuffix(".toml"), known)
    raise FileNotFoundError(f"{plan}: neither a file nor an embedded plan; known: {', '.join(known)}.{hint}")


def parse_plan(text: str, path: Path) -> Plan:
    """A plan from its text; `path` is for messages, and where relative paths in it start. Errors as `load_plan`."""
    try:
        values = tomllib.loads(text)
    except (RecursionError, ValueError) as error:  # brackets within brackets; a number of thousands of digits
        raise PlanError(f"{path}: not TOML ({reason(error)}).") from None
    top = _Table(values, (), _Lines(text, path))
    name, about = top.words("name"), top.words("about", "")
    data = _data(top.table("data"), path.parent)
    configs = _configs(top.table("models", {}), data)
    training, sampling = top.table("training", {}), top.table("sampling", {})
    tasks = _Tasks(data, configs, _recipe(training), _sampling(sampling, data))
    for group in top.tables("cells"):
        tasks.add(group)
    speed = _speed(top.table("cost")) if "cost" in values else None
    rules = tuple(_rule(rule, configs) for rule in top.tables("resources", []))
    top.finish()
    plan = Plan(
        name=name,
        about=about,
        text=text,
        path=path,
        data=data,
        trainings=tasks.trainings(),
        cells=tuple(tasks.cells.values()),
        speed=speed,
        rules=rules,
    )
    for run in plan.trainings:
        if run.recipe.batch_size % (size := plan.resources(run).size):
            raise training.error("batch_size", f"{run.recipe.batch_size} does not divide among {size} processes")
    return plan


class _Lines:
    """Where each key of a TOML text stands."""

    _HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(#.*)?$")
    _NAME = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
    _KEY = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str | int, ...], int] = {}
        table: tuple[str | int, ...] = ()
        counts: dict[str, int] = {}
        for number, whole in enumerate(text.splitlines(), start=1):
            line = whole[:200]  # a header or key is there; both patterns take the square of a length
            if header := self._HEADER.match(line):
                try:
                    names = list(_nested_names(tomllib.loads(f"[{header[2]}]")))
                except tomllib.TOMLDecodeError:  # a line of a list that looks like a header
                    continue
                table = tuple(names)
                if header[1] == "[[":
                    counts[header[2]] = counts.get(header[2], -1) + 1
                    table = (*table, counts[header[2]])
                self._lines.setdefault(table, number)
            elif key := self._KEY.match(line):
                try:
                    names = list(_nested_names(tomllib.loads(f"[{key[1]}]")))
                except tomllib.TOMLDecodeError:  # a line of a text that looks like a key
                    continue
                for depth in range(len(names)):
                    self._lines.setdefault((*table, *names[: depth + 1]), number)

    def of(self, keys: tuple[str | int, ...]) -> int:
        """The line of a key, or of the table that it would be in."""
        while keys and keys not in self._lines:
            keys = keys[:-1]
        return self._lines.get(keys, 1)


def _nested_names(table: Mapping[str, Any]) -> Iterator[str]:
    for name, inner in table.items():
        yield name
        yield from _nested_names(inner)


class _Table:
    """A table of a plan that is read key by key, so that what nobody has read is a mistake."""

    _MISSING: Any = object()

    def __init__(self, values: Mapping[str, Any], keys: tuple[str | int, ...], lines: _Lines) -> None:
        self._values, self._keys, self._lines = values, keys, lines
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def error(self, key: str | None, text: str) -> PlanError:
        keys = self._keys if key is None else (*self._keys, key)
        # Lists of tables count from 1 where people read them.
        where = "".join(f"[{k + 1}]" if isinstance(k, int) else f".{_within(k, 80)}" for k in keys).lstrip(".")
        end = "" if text.endswith("?") else "."
        return PlanError(f"{self._lines.path}, line {self._lines.of(keys)}: {where}: {_within(text, 1000)}{end}")

    def value(self, key: str, needed: str, kinds: tuple[type, ...], default: Any = _MISSING) -> Any:
        self._known.append(key)
        if key not in self._values:
            if default is self._MISSING:
                raise self.error(key, f"missing; needed {needed}")
            return default
        value = self._values[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.error(key, f"found {_shown(value)}; needed {needed}")
        if isinstance(value, int) and abs(value) >> 63:
            raise self.error(key, "found a number of more than 64 bits")
        return value

    def text(self, key: str, default: Any = _MISSING) -> Any:
        return self.value(key, "a text", (str,), default)

    def words(self, key: str, default: Any = _MISSING) -> Any:
        """A text that terminals show."""
        text = self.text(key, default)
        if not all(line.isprintable() for line in text.split("\n")):
            raise self.error(key, f"found {ascii(text)[:80]}; needed characters that can be printed")
        return text

    def choice(self, key: str, known: Iterable[str], default: Any = _MISSING) -> Any:
        value, known = self.text(key, default), tuple(known)
        if value is not default and value not in known:
            raise self.error(key, f"unknown {value!r}; known: {', '.join(known)}{_did_you_mean(value, known)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return self.value(key, "true or false", (bool,), default)

    def integer(self, key: str, default: Any = _MISSING, *, least: int = 1) -> Any:
        value = self.value(key, f"an integer, {least} or more", (int,), default)
        if value is not default and value < least:
            raise self.error(key, f"found {value}; needed {least} or more")
        return value

    def number(self, key: str, default: Any = _MISSING) -> Any:
        return self.value(key, "a number", (int, float), default)

    def many(self, key: str, needed: str, kinds: tuple[type, ...], default: Any = _MISSING) -> list[Any]:
        """A value or a list of them, none twice."""
        if key not in self._values and default is not self._MISSING:
            self._known.append(key)
            return default
        values = self.value(key, needed, (*kinds, list))
        values = values if isinstance(values, list) else [values]
        wrong = [v for v in values if not isinstance(v, kinds) or isinstance(v, bool)]
        if wrong or not values:
            raise self.error(key, f"found {_shown(wrong[0] if wrong else '[]')}; needed {needed}, or a list of such")
        if any(isinstance(v, int) and abs(v) >> 63 for v in values):
            raise self.error(key, "found a number of more than 64 bits")
        return list(dict.fromkeys(values))

    def table(self, key: str, default: Any = _MISSING) -> _Table:
        values = self.value(key, "a table", (dict,), default)
        return _Table(values, (*self._keys, key), self._lines)

    def tables(self, key: str, default: Any = _MISSING) -> list[_Table]:
        values = self.value(key, f"tables, [[{key}]]", (list,), default)
        if not all(isinstance(v, dict) for v in values) or (default is self._MISSING and not values):
            raise self.error(key, f"needed tables, [[{key}]]")
        return [_Table(v, (*self._keys, key, i), self._lines) for i, v in enumerate(values)]

    def finish(self, also: Iterable[str] = ()) -> None:
        """Complain of the first key that nobody has asked for; `also` are known keys that are not there."""
        known = list(dict.fromkeys([*self._known, *also]))
        for key in self._values:
            if key not in known:
                raise self.error(key, f"unknown key; known here: {', '.join(known)}{_did_you_mean(key, known)}")


def _shown(value: Any) -> str:
    """A value as a message shows it; Python writes no integer of thousands of digits."""
    try:
        return _within(repr(value), 80)
    except ValueError:
        return "a number of thousands of digits"


def _within(text: str, length: int) -> str:
    """A text that is not longer than people read, none of whose characters moves the cursor."""
    return shown(text if len(text) <= length else f"{text[:length]}...")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"


def _data(table: _Table, folder: Path) -> Data:
    """`[data]`. A path in it starts at the plan's folder."""

    def location(key: str) -> str | None:
        text = table.text(key, None)
        return os.fspath(folder / text) if text and (folder / text).exists() else text

    space = table.choice("space", ("latent", "pixel"))
    data = Data(
        train=location("train"),
        ref=location("ref"),
        space=space,
        image_size=table.integer("image_size"),
        channels=table.integer("channels", 3) if space == "pixel" else 4,
        num_classes=table.integer("num_classes"),
        **_network(table),
    )
    if space == "latent" and data.image_size % 8:
        raise table.error("image_size", f"found {data.image_size}; latents need a multiple of 8")
    if data.channels not in (1, 3) and space == "pixel":
        raise table.error("channels", f"found {data.channels}; images have 1 or 3")
    table.finish()
    return data


def _network(table: _Table) -> dict[str, Any]:
    """What `[data]` says of the feature network and of the metrics on it."""
    network = network_named(table.choice("extractor", [network.name for network in NETWORKS], "inception"))
    backend = table.choice("backend", [backend.name for backend in network.backends], network.backends[0].name)
    metrics = table.many("metrics", "names of metrics", (str,)) if "metrics" in table else None
    try:
        check_metrics(metrics, network.name)
    except ValueError as error:
        raise table.error("metrics", str(error).rstrip(".")) from None
    return {"extractor": network.name, "backend": backend, "metrics": None if metrics is None else tuple(metrics)}


def _configs(models: _Table, data: Data) -> dict[str, DiTConfig]:
    """Every model that cells may name: those of the plan, and the paper's where the data are latents."""
    common: dict[str, Any] = {"num_classes": data.num_classes}
    configs = {}
    if data.space == "latent":
        for name in DIT_NAMES:
            if data.image_size // 8 % int(name.rpartition("/")[2]) == 0:  # small latents have no patches of 8
                configs[name] = dataclasses.replace(named_config(name, image_size=data.image_size), **common)
    side = data.image_size // (8 if data.space == "latent" else 1)
    for name in models:
        table = models.table(name)
        if name in DIT_NAMES:
            raise models.error(name, "a name of the paper, whose sizes are known; choose another for other sizes")
        parts = parse_name(name)
        if parts is None or not parts.is_plain:
            raise models.error(name, "needed a name such as mini-XL/2: a family, a size (S, B, L, XL), a patch")
        sizes = {key: table.integer(key) for key in _SIZES}
        if sizes["patch_size"] != parts.patch:
            raise table.error("patch_size", f"found {sizes['patch_size']}, and {name} in the name")
        table.finish()
        try:
            configs[name] = DiTConfig(**sizes, **common, input_size=side, in_channels=data.channels, space=data.space)
        except ValueError as error:
            raise models.error(name, str(error).rstrip(".")) from None
    models.finish()
    return configs


@dataclass(frozen=True)
class _TrainingRules:
    """`[training]`: the fields of `Recipe`, and what else a run needs."""

    recipe: Recipe
    label_dropout: float
    save_every: int
    log_every: int


def _recipe(table: _Table) -> _TrainingRules:
    values: dict[str, Any] = {}
    for each in dataclasses.fields(Recipe):
        if each.name == "global_seed" or each.name not in table:  # cells have seeds
            continue
        if isinstance(each.default, bool):
            values[each.name] = table.flag(each.name, each.default)
        elif each.name == "decay_steps" or isinstance(each.default, int):
            values[each.name] = table.integer(each.name, least=0)
        elif isinstance(each.default, float):
            values[each.name] = float(table.number(each.name))
        elif each.name == "betas":
            betas = table.many("betas", "two numbers", (int, float))
            values["betas"] = tuple(map(float, betas))
        else:
            values[each.name] = table.text(each.name)
        if each.name == "betas" and len(values["betas"]) != 2:
            raise table.error("betas", "needed two different numbers")
        try:
            Recipe(**{each.name: values[each.name]})
        except ValueError as error:
            raise table.error(each.name, str(error).removeprefix(f"{each.name}: ")) from None
    dropout = table.number("label_dropout", 0.1)
    if not 0 <= dropout < 1:
        raise table.error("label_dropout", f"found {dropout}; needed 0 or more, and less than 1")
    save_every, log_every = table.integer("save_every", 50_000), table.integer("log_every", 100)
    table.finish(also=[each.name for each in dataclasses.fields(Recipe) if each.name != "global_seed"])
    return _TrainingRules(Recipe(**values), float(dropout), save_every, log_every)


def _sampling(table: _Table, data: Data) -> dict[str, Any]:
    """`[sampling]`: fields of every cell."""
    fields = {
        "num_samples": table.integer("num_samples", 50_000),
        "sampler": table.choice("sampler", ("ddpm", "ddim"), "ddpm"),
        "cfg_channels": table.integer("cfg_channels", min(3, data.channels)),
        "labels": table.choice("labels", ("random", "balanced"), "random"),
        "rounding": table.choice("rounding", ("dit", "truncate"), "dit"),
        "precision": table.choice("precision", ("fp32", "tf32", "bf16"), "fp32"),
        "compile": table.flag("compile", False),
        "keep_samples": table.flag("keep_samples", True),
        "vae": table.text("vae", "mse") if data.space == "latent" else None,
    }
    if fields["cfg_channels"] > data.channels:
        raise table.error("cfg_channels", f"found {fields['cfg_channels']}; the models have {data.channels}")
    table.finish()
    return fields


class _Tasks:
    """Collects the cells of a plan, and the trainings that they need."""

    def __init__(
        self, data: Data, configs: Mapping[str, DiTConfig], rules: _TrainingRules, sampling: Mapping[str, Any]
    ) -> None:
        self._data, self._configs, self._rules, self._sampling = data, configs, rules, sampling
        self._runs: dict[str, Training] = {}
        self.cells: dict[str, Cell] = {}

    def add(self, table: _Table) -> None:
        """All combinations of a `[[cells]]`; "all" models are the plan's own, or else the paper's."""
        models = table.many("models", 'names of models, or "all"', (str,))
        own = [name for name in self._configs if name not in DIT_NAMES]
        if models == ["all"] and self._configs:
            models = own or list(self._configs)
        for name in models:
            if name not in self._configs:
                known = ", ".join(self._configs) or "none; give sizes in [models]"
                raise table.error(
                    "models", f"unknown model {name!r}; known: {known}{_did_you_mean(name, self._configs)}"
                )
        blocks = table.many("blocks", "names of block designs", (str,), ["adaln-zero"])
        for block in blocks:
            if block not in BLOCK_DESIGNS:
                known = ", ".join(BLOCK_DESIGNS)
                raise table.error("blocks", f"unknown {block!r}; known: {known}{_did_you_mean(block, BLOCK_DESIGNS)}")
        lengths = self._positive(table, "training_steps")
        spacings = [str(s) for s in table.many("sampling_steps", "numbers of steps", (int, str))]
        for spacing in spacings:
            try:
                respaced_timesteps(spacing)
            except ValueError as error:
                raise table.error("sampling_steps", str(error).rstrip(".")) from None
        scales = [float(s) for s in table.many("cfg_scales", "guidance scales", (int, float), [1.0])]
        for scale in scales:
            if not 1.0 <= scale < float("inf"):
                raise table.error("cfg_scales", f"found {scale:g}; needed 1.0 (no guidance) or more")
        if max(scales) > 1.0 and not self._rules.label_dropout:
            raise table.error("cfg_scales", "guidance needs [training] label_dropout above 0")
        counts = self._positive(table, "num_samples", [self._sampling["num_samples"]])
        decoders = [self._sampling["vae"]]
        if self._data.space == "latent":
            decoders = table.many("vaes", "names of decoders", (str,), decoders)
        seeds = table.many("seeds", "integers", (int,), [0])
        if min(seeds) < 0:
            raise table.error("seeds", f"found {min(seeds)}; needed 0 or more")
        table.finish()
        lists = (models, blocks, seeds, lengths, spacings, scales, counts, decoders)
        if (size := math.prod(map(len, lists))) + len(self.cells) > _MAX_CELLS:
            raise table.error(None, f"{size:,} combinations; a plan may have {_MAX_CELLS:,} cells")
        for model, block, seed in product(models, blocks, seeds):
            run = self._training(model, block, seed, lengths, table)
            for steps, spacing, scale, count, vae in product(lengths, spacings, scales, counts, decoders):
                self._cell(
                    run,
                    training_steps=steps,
                    num_sampling_steps=spacing,
                    cfg_scale=scale,
                    cfg_channels=None if scale == 1.0 else self._sampling["cfg_channels"],
                    num_samples=count,
                    vae=vae,
                )

    def trainings(self) -> tuple[Training, ...]:
        return tuple(self._runs.values())

    @staticmethod
    def _positive(table: _Table, key: str, default: Any = _Table._MISSING) -> list[int]:
        values = table.many(key, "integers of 1 or more", (int,), default)
        if min(values) < 1:
            raise table.error(key, f"found {min(values)}; needed 1 or more")
        return values

    def _training(self, model: str, block: Any, seed: int, lengths: list[int], table: _Table) -> Training:
        try:
            config = dataclasses.replace(self._configs[model], block=block, label_dropout=self._rules.label_dropout)
        except ValueError as error:
            raise table.error("blocks", str(error).rstrip(".")) from None
        recipe = dataclasses.replace(self._rules.recipe, global_seed=seed)
        # Data given at run time are not part of the key; `train` itself refuses a folder of other data.
        key = _key(
            [model, block if block != "adaln-zero" else "", f"seed{seed}"],
            {"config": config, "recipe": recipe, "data": _name_of(self._data.train)},
        )
        known = self._runs.get(key)
        gflops = known.gflops if known else _count(config)
        self._runs[key] = Training(
            key=key,
            model=model,
            config=config,
            recipe=recipe,
            steps=tuple(sorted({*lengths, *(known.steps if known else ())})),
            gflops=gflops,
            save_every=self._rules.save_every,
            log_every=self._rules.log_every,
        )
        return self._runs[key]

    def _cell(self, run: Training, **fields: Any) -> None:
        settings = {**self._sampling, **fields}
        measured: dict[str, Any] = {"ref": _name_of(self._data.ref), "extractor": self._data.extractor}
        # Only where they are not the usual ones: keys of earlier plans stay.
        if self._data.backend != "torch":
            measured["backend"] = self._data.backend
        if self._data.metrics is not None:
            measured["metrics"] = sorted(self._data.metrics)
        seen = {name: value for name, value in settings.items() if name != "keep_samples"}
        words = [f"{fields['training_steps']:07d}", f"s{fields['num_sampling_steps']}", f"cfg{fields['cfg_scale']:g}"]
        stem = run.key.rpartition("-")[0]
        key = _key([stem, *words], {"training": run.key, **seen, **measured})
        self.cells.setdefault(
            key,
            Cell(
                key=key,
                training=run.key,
                model=run.model,
                config=run.config,
                gflops=run.gflops,
                seed=run.recipe.global_seed,
                **settings,
            ),
        )


def _key(words: list[str], settings: Mapping[str, Any]) -> str:
    """A file name: words that people can read, and a digest of everything."""

    def plain(value: Any) -> Any:
        return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value

    text = json.dumps({name: plain(value) for name, value in settings.items()}, sort_keys=True)
    readable = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", word) for word in words if word)
    return f"{readable[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _name_of(location: str | None) -> str | None:
    """What tells data apart in keys: the name without the folder, so that a study can be moved."""
    return None if location is None else Path(location).name


def _count(config: DiTConfig) -> float:
    count = count_network(dataclasses.asdict(config))
    if count is None:
        raise RuntimeError(f"{config} cannot be counted.")
    return count.gflops


def _speed(table: _Table) -> Speed:
    speed = Speed(device=table.words("device"), tflops=float(table.number("tflops")), source=table.words("source"))
    if not 0 < speed.tflops < float("inf"):
        raise table.error("tflops", f"found {speed.tflops:g}; needed more than 0, and a finite number")
    table.finish()
    return speed


def _rule(
    table: _Table, configs: Mapping[str, DiTConfig]
) -> tuple[str | None, tuple[str, ...] | None, Mapping[str, Any]]:
    """A `[[resources]]`: kind of task, models, values."""
    kind = table.choice("task", ("training", "cell"), None)
    models = tuple(table.many("models", "names of models", (str,))) if "models" in table else None
    for name in models or ():
        if name not in configs:
            raise table.error("models", f"unknown model {name!r}{_did_you_mean(name, configs)}")
    values: dict[str, Any] = {}
    for each in dataclasses.fields(TaskResources):
        if each.name == "slurm":
            values["slurm"] = dict(table.value("slurm", "a table of sbatch options", (dict,), {}))
        elif each.name in table:
            values[each.name] = table.integer(each.name, least=0 if each.name == "num_workers" else 1)
    table.finish(also=["models", *(each.name for each in dataclasses.fields(TaskResources))])
    return kind, models, values
