"""A sweep: settings of sampling tried coarse to fine on few images, and the best confirmed on many of fresh noise.

The best of many candidates is best by chance, too, and its score on the noise of the search says so of itself. So what
a sweep reports is scored again: on images of another seed, as many as are published.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.evaluation import evaluate
from dit_eval.images import open_images
from dit_eval.metrics import METRICS
from dit_eval.results.eval_result import EvalResult, Selection
from dit_eval.results.parse import json_text
from dit_eval.results.settings import EvaluationSettings, SamplingSettings
from dit_eval.study.search import Axes, Candidate, Found, search
from dit_eval.system.assets import sha256_of
from dit_eval.system.files import atomic_file
from dit_eval.system.run_folder import RunFolder
from dit_eval.system.seals import read_sealed, sealed
from dit_eval.system.where import Where

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor
    from dit_eval.models.choose import ModelChoice

MOST_CANDIDATES = 1_000  # of 10,000 images each: no sweep that ends


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep is.

    Attributes
    ----------
    axes : what is varied
    base : all else of sampling; its seed is that of the search, its number of images that of the confirmation
    model : see `dit_eval.models.choose.choose_model`
    metric : key of the metric that decides
    search_images : of each candidate
    rounds : see `dit_eval.study.search.search`
    ref : file of the reference batch
    settings : how images are scored

    Raises
    ------
    ValueError
        If settings do not go together, or there are too few candidates, or too many.
    """

    axes: Axes
    base: SamplingSettings
    model: str | None
    metric: str
    search_images: int
    rounds: int
    ref: str
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        if self.search_images > self.base.num_images:
            raise ValueError(
                f"`search_images` {self.search_images:,}: expected at most `num_images`, {self.base.num_images:,}, by "
                "which the best is confirmed."
            )
        if self.axes.size > MOST_CANDIDATES:
            raise ValueError(f"{self.axes.size:,} candidates; expected at most {MOST_CANDIDATES:,}. Give fewer values.")
        count = len(self.coarse)
        if count < 2:
            raise ValueError(
                f"{count} candidate: nothing to choose from. Give two values or more of `cfg_scales`, `steps`, "
                "`intervals`, `sets` or `ckpt`."
            )

    @cached_property
    def coarse(self) -> list[Candidate]:
        """Every combination, with the seed and the number of images of the search."""
        return self.axes.combinations(dataclasses.replace(self.base, num_images=self.search_images))

    def confirmed(self, best: Candidate) -> Candidate:
        """The same with as many images as are reported, from noise that the search has not seen."""
        seed = self.base.global_seed + 1
        sampling = dataclasses.replace(best.sampling, num_images=self.base.num_images, global_seed=seed)
        return dataclasses.replace(best, sampling=sampling)

    def worth(self, result: EvalResult) -> float:
        """Less is better; ValueError if the result has no such number."""
        value = result.scores.get(self.metric)
        if value is None:
            raise ValueError(f"`by` {self.metric}: these samples and this reference do not give it.")
        better = next(metric.better for metric in METRICS if metric.key == self.metric)
        return value if better == "lower" else -value


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a sweep.

    Attributes
    ----------
    found : of the search
    searched : the best of it, on the noise of the search
    confirmed : the same settings on fresh noise
    results : the file with all results
    """

    found: Found
    searched: EvalResult
    confirmed: EvalResult
    results: Path


def run_sweep(
    plan: Plan,
    folder: Path,
    *,
    network: FeatureExtractor,
    where: Where | None = None,
    batch_size: int | None = None,
    keep_samples: bool = False,
    quiet: bool = False,
) -> Outcome:
    """Do what is missing of a sweep; called by every process of it.

    The folder holds a file for each candidate that is done, so that the same call goes on after a crash, and ends with
    the same results. Another checkpoint, reference, network or setting is another candidate.

    Parameters
    ----------
    network : that scores, loaded
    where : device that draws, processes; `on_note` is called in process 0 with a line for each candidate
    batch_size : images at once in each process; None for the usual
    keep_samples : keep the images of all candidates; those of the confirmation are kept in any case
    quiet : show no progress on stderr

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `dit_eval.sample` and `dit_eval.evaluate`; also if another process is at the folder.
    """
    where = where or Where()
    world, say = where.world, where.on_note or (lambda _: None)
    with RunFolder(folder, doing="sweeping there", settings="sweep.json") as files:
        world.from_first(files.claim)
        one = _Scored(plan, folder, network, where=where, batch_size=batch_size, quiet=quiet)
        world.from_first(one.check)

        def worth_of(candidate: Candidate) -> float:
            result = one.result(candidate, keep=keep_samples)
            worth = plan.worth(result)
            if world.rank == 0:
                say(f"{candidate.name}: {plan.metric} {abs(worth):.4f}")
            return worth

        found = search(plan.coarse, worth_of, rounds=plan.rounds)
        confirmed = one.result(plan.confirmed(found.best), keep=True)
        chosen = Selection(
            metric=plan.metric,
            num_samples=plan.search_images,
            candidates=len(found.worth),
            seed=plan.base.global_seed,
            fresh_noise=True,
        )
        tried = {each: one.result(each, keep=keep_samples) for each in found.worth}
        flattered = dataclasses.replace(chosen, fresh_noise=False)
        tried[found.best] = dataclasses.replace(tried[found.best], selected_by=flattered)
        confirmed = dataclasses.replace(confirmed, selected_by=chosen)
        if world.rank == 0:
            with atomic_file(folder / "results.jsonl", own=True) as file:
                file.write("".join(f"{each.to_json()}\n" for each in [*tried.values(), confirmed]).encode())
    return Outcome(found=found, searched=tried[found.best], confirmed=confirmed, results=folder / "results.jsonl")


class _Scored:
    """Candidates drawn and scored, each once, in a folder."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        network: FeatureExtractor,
        *,
        where: Where,
        batch_size: int | None,
        quiet: bool,
    ) -> None:
        self._plan, self._folder, self._network, self._world = plan, folder, network, where.world
        self._device, self._batch_size, self._quiet = where.world.device(where.device), batch_size, quiet
        self._read: dict[str, EvalResult] = {}
        self._sums: dict[Path, str] = {}
        self._references: dict[str, Any] = {}

    def check(self) -> None:
        """All mistakes that show before the first image, of any candidate.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such reference or model, or they do not go together.
        """
        ref = open_images(self._plan.ref, role="ref", network=self._network.name)
        for candidate in self._plan.coarse:
            side = self.choice(candidate).config.image_size
            if ref.image_size not in (None, (side, side)):
                height, width = ref.image_size
                raise ValueError(
                    f"`ref` {self._plan.ref}: images of {width}x{height} px; {candidate.name} draws {side}x{side}. "
                    "Take the reference of that resolution."
                )

    def choice(self, candidate: Candidate) -> ModelChoice:
        """The network that a candidate is drawn from. Errors as `dit_eval.diffusion.load.choose_and_check`."""
        from dit_eval.diffusion.load import choose_and_check

        return choose_and_check(self._plan.model, candidate.ckpt, candidate.sampling, device=self._device)

    def result(self, candidate: Candidate, *, keep: bool) -> EvalResult:
        """Its scores: those that are there, or made now; `keep` its samples."""
        choice = self._world.from_first(lambda: self.choice(candidate))
        key = self._world.from_first(lambda: self._key(candidate, choice))
        if key not in self._read:
            there = self._world.from_first(lambda: self._done(key))
            self._read[key] = there or self._made(candidate, choice, key)
        if not keep and self._world.rank == 0:
            self._samples(key).unlink(missing_ok=True)
        return self._read[key]

    def _made(self, candidate: Candidate, choice: ModelChoice, key: str) -> EvalResult:
        from dit_eval.diffusion.load import load_sampler
        from dit_eval.diffusion.sampler import usual_batch_size
        from dit_eval.sampling import draw_samples

        samples = self._samples(key)
        self._world.from_first(lambda: samples.parent.mkdir(parents=True, exist_ok=True))
        sampler, labels = load_sampler(choice, candidate.sampling, device=self._device, world=self._world, quiet=True)
        size = self._batch_size or usual_batch_size(self._device)
        draw_samples(samples, sampler=sampler, labels=labels, batch_size=size, world=self._world, quiet=self._quiet)
        result = evaluate(
            samples,
            ref=self._plan.ref,
            network=self._network,
            settings=self._plan.settings,
            where=Where(world=self._world, cache=self._folder / "cache", cache_gen=False, references=self._references),
            quiet=True,
        )
        gen = dataclasses.replace(result.gen, path=samples.relative_to(self._folder).as_posix())
        result = dataclasses.replace(result, gen=gen)
        if self._world.rank == 0:
            path = self._folder / "done" / f"{key}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, own=True) as file:
                file.write(json_text(sealed({"candidate": candidate.name, "result": result.to_dict()})).encode())
        return result

    def _samples(self, key: str) -> Path:
        return self._folder / "samples" / f"{key}.npz"

    def _done(self, key: str) -> EvalResult | None:
        """What was noted of it; None if nothing was, or it is damaged, and so is made again."""
        path = self._folder / "done" / f"{key}.json"
        if not path.exists():
            return None
        try:
            return EvalResult.from_json(json.dumps(read_sealed(path).get("result")))
        except ValueError:
            return None

    def _sha256(self, path: Path) -> str:
        """Of a file, which is gigabytes and is read once."""
        if path not in self._sums:
            self._sums[path] = sha256_of(path)
        return self._sums[path]

    def _key(self, candidate: Candidate, choice: ModelChoice) -> str:
        """A file name: what people look for, and a digest of all that decides the scores."""
        sampling = candidate.sampling
        what = {
            "sampling": dataclasses.asdict(candidate.sampling),
            "model": choice.name,
            "checkpoint": choice.public.name if choice.public is not None else self._sha256(choice.path),
            "reference": self._sha256(Path(self._plan.ref)),
            "files": [
                self._sha256(Path(name))
                for name in (sampling.guide_ckpt, sampling.vae, sampling.labels)
                if name is not None and Path(name).is_file()
            ],
            "network": [self._network.name, self._network.weights_sha256],
            "settings": {
                name: value for name, value in dataclasses.asdict(self._plan.settings).items() if name != "batch_size"
            },
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        steps = str(sampling.num_sampling_steps).replace(",", "-")
        return f"s{steps}-cfg{sampling.cfg_scale:g}-n{sampling.num_images}-seed{sampling.global_seed}-{digest}"
