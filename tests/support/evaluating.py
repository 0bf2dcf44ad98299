"""Scores opened sets with a loaded network, with options by name in place of their groups."""

import dataclasses

from dit_eval.evaluation import score
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.settings import EvaluationSettings
from dit_eval.system.where import Where


def evaluate(*, gen, ref, extractor, metrics=None, **options):
    names = {f.name for f in dataclasses.fields(EvaluationSettings)}
    settings = {name: options.pop(name) for name in list(options) if name in names}
    return score(
        gen=gen,
        ref=ref,
        network=extractor,
        settings=EvaluationSettings(metrics=None if metrics is None else tuple(metrics), **settings),
        where=Where(**options),
    )


def with_scores(result: EvalResult, **scores):
    """The result with other scores."""
    return dataclasses.replace(result, scores=result.scores | scores)
