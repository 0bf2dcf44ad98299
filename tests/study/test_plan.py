"""Plans: what they mean, what they cost, and where they are wrong, to the line and the key."""

import dataclasses
import math
import re
import tomllib
from pathlib import Path

import pytest

from dit_eval.diffusion.recipe import FlowRecipe
from dit_eval.diffusion.spacing import respaced_timesteps
from dit_eval.features import NETWORKS
from dit_eval.flops.compute import gpu_hours, sampling_gflops, training_gflops
from dit_eval.models.names import DIT_NAMES
from dit_eval.results.settings import SamplingSettings
from dit_eval.study.expand import recorded
from dit_eval.study.pace import predicted_hours, work_gflops
from dit_eval.study.plan import PlanError
from dit_eval.study.plan_file import embedded_plans, load_plan, parse_plan

PIXELS = """\
name = "test"
about = "A plan on digits"

[data]
train = "digits"
ref = "digits"
extractor = "digits"
space = "pixel"
image_size = 8
channels = 1
num_classes = 10

[models]
"mini-S/4" = { depth = 1, hidden_size = 8, num_heads = 2, patch_size = 4 }

[models."mini-B/2"]
depth = 2
hidden_size = 16
num_heads = 2
patch_size = 2

[training]
learning_rate = 1e-3
betas = [0.9, 0.99]
batch_size = 16
log_every = 5

[sampling]
num_samples = 32
labels = "balanced"

[[cells]]
models = "all"
training_steps = [10, 20]
sampling_steps = [4, 8]

[[cells]]
models = "mini-B/2"
blocks = ["adaln", "in-context"]
training_steps = 20
sampling_steps = "ddim10"
cfg_scales = [1, 1.5]

[[resources]]
threads = 1
slurm = { partition = "cpu" }

[[resources]]
task = "cell"
models = ["mini-B/2"]
processes = 2

[cost]
device = "a core"
tflops = 0.02
source = "a guess"
"""

LATENTS = """\
name = "latents"

[data]
space = "latent"
image_size = 256
num_classes = 1000

[[cells]]
models = ["DiT-S/8", "DiT-S/4"]
training_steps = [1000, 2000]
sampling_steps = [16, 250]
cfg_scales = [1.0, 1.5]
vaes = ["ema", "mse"]
"""

PATH = Path("plans/test.toml")


def changed(text, *changes):
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


def plan_of(text=PIXELS, *changes):
    return parse_plan(changed(text, *changes), PATH)


def mistake(text):
    with pytest.raises(PlanError) as error:
        parse_plan(text, PATH)
    return str(error.value)


# ---- what a plan means


def test_cells_are_all_combinations_in_the_order_of_the_file():
    plan = plan_of()
    assert (plan.name, plan.about, plan.data.train, plan.data.extractor) == (
        "test",
        "A plan on digits",
        "digits",
        "digits",
    )
    found = [
        (c.model, c.config.block, c.training_steps, c.num_sampling_steps, c.sampling.cfg_scale, c.num_samples)
        for c in plan.cells
    ]
    first = [
        (model, "adaln-zero", steps, spacing, 1.0, 32)
        for model in ("mini-S/4", "mini-B/2")
        for steps in (10, 20)
        for spacing in ("4", "8")
    ]
    second = [("mini-B/2", block, 20, "ddim10", scale, 32) for block in ("adaln", "in-context") for scale in (1.0, 1.5)]
    assert found == first + second
    assert [(t.model, t.config.block, t.steps) for t in plan.trainings] == [
        ("mini-S/4", "adaln-zero", (10, 20)),
        ("mini-B/2", "adaln-zero", (10, 20)),
        ("mini-B/2", "adaln", (20,)),
        ("mini-B/2", "in-context", (20,)),
    ]
    trainings = {t.key: t for t in plan.trainings}
    for cell in plan.cells:
        run = trainings[cell.training]
        assert (run.model, run.config) == (cell.model, cell.config)
        assert cell.training_steps in run.steps
        assert plan.task(cell.key) is cell
    assert plan.tasks == [*plan.trainings, *plan.cells]
    keys = [task.key for task in plan.tasks]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", key) for key in keys), "file names anywhere"
    with pytest.raises(ValueError, match="has no task nothing; the plan was changed since"):
        plan.task("nothing")


def test_the_rest_is_as_in_the_plan_or_the_papers():
    plan = plan_of()
    run, cell = plan.trainings[0], plan.cells[0]
    assert (run.recipe.learning_rate, run.recipe.betas, run.recipe.batch_size) == (1e-3, (0.9, 0.99), 16)
    assert (run.recipe.ema_decay, run.recipe.flip, run.save_every, run.log_every) == (0.9999, 0.5, 50_000, 5)
    assert (run.config.label_dropout, run.config.space, run.config.in_channels, run.config.input_size) == (
        0.1,
        "pixel",
        1,
        8,
    )
    assert (
        cell.sampling.labels,
        cell.sampling.sampler,
        cell.sampling.rounding,
        cell.sampling.precision,
        cell.keep_samples,
    ) == (
        "balanced",
        "ddpm",
        "dit",
        "fp32",
        True,
    )
    assert {c.sampling.cfg_channels for c in plan.cells if c.sampling.cfg_scale > 1} == {1}
    assert {c.sampling.cfg_channels for c in plan.cells if c.sampling.cfg_scale == 1} == {None}
    assert {c.vae for c in plan.cells} == {None}
    paper = parse_plan(LATENTS, PATH)
    assert (paper.data.train, paper.data.ref, paper.speed) == (None, None, None)
    assert {c.sampling.cfg_channels for c in paper.cells if c.sampling.cfg_scale > 1} == {3}
    assert {c.num_samples for c in paper.cells} == {50_000}
    assert (paper.trainings[0].config.hidden_size, paper.trainings[0].recipe.batch_size) == (384, 256)


def test_a_cell_that_two_groups_name_is_one():
    text = PIXELS + '\n[[cells]]\nmodels = ["mini-S/4"]\ntraining_steps = [20, 30]\nsampling_steps = ["8"]\n'
    plan, before = parse_plan(text, PATH), plan_of()
    assert len(plan.cells) == len(before.cells) + 1
    assert [c.key for c in plan.cells[:-1]] == [c.key for c in before.cells]
    assert plan.trainings[0].steps == (10, 20, 30)
    assert len(plan_of(PIXELS, ("training_steps = [10, 20]", "training_steps = [10, 10, 20]")).cells) == len(
        before.cells
    )
    # No guidance is no guidance, on however many channels it would have been.
    assert len({c.key for c in before.cells}) == len(before.cells)


def test_a_long_name_makes_names_that_a_file_can_have():
    name = f"{'x' * 500}-S/4"
    plan = parse_plan(PIXELS.replace("mini-S/4", name), PATH)
    keys = [task.key for task in plan.tasks]
    assert any(key.startswith("xxx") for key in keys)
    assert len({*keys}) == len(keys)
    assert max(map(len, keys)) <= 129, "120 characters, a hyphen and 8 of a digest"


def test_all_models_are_the_plans_own_or_else_the_papers():
    text = changed(LATENTS, ('models = ["DiT-S/8", "DiT-S/4"]', 'models = "all"'), ("vaes", "# vaes"))
    assert [t.model for t in parse_plan(text, PATH).trainings] == list(DIT_NAMES)
    own = text + '\n[models."tiny-S/8"]\ndepth = 1\nhidden_size = 8\nnum_heads = 2\npatch_size = 8\n'
    plan = parse_plan(own, PATH)
    assert [t.model for t in plan.trainings] == ["tiny-S/8"]
    config = plan.trainings[0].config
    assert (config.input_size, config.in_channels, config.space) == (32, 4, "latent")
    both = parse_plan(changed(own, ('models = "all"', 'models = ["tiny-S/8", "DiT-B/2"]')), PATH)
    assert [t.model for t in both.trainings] == ["tiny-S/8", "DiT-B/2"]


def test_seeds_are_trainings_of_their_own():
    plan = plan_of(PIXELS, ("sampling_steps = [4, 8]", "sampling_steps = 4\nseeds = [0, 7]"))
    seeded = [t for t in plan.trainings if t.config.block == "adaln-zero"]
    assert [t.recipe.global_seed for t in seeded] == [0, 7, 0, 7]
    assert all(plan.task(c.training).recipe.global_seed == c.seed for c in plan.cells)
    assert "seed 7" in next(c.name for c in plan.cells if c.seed == 7)


def seeded(training="", sampling="", cells=""):
    """Cells of a plan with seeds in those tables."""
    lines = [("[training]", training), ("[sampling]", sampling), ("[[cells]]", cells)]
    return plan_of(PIXELS, *[(head, f"{head}\n{line}") for head, line in lines if line])


def test_each_seed_of_training_is_sampled_with_each_seed():
    """Told apart in [training] and [sampling]; the keys of cells whose two seeds are one are those of before."""
    both = seeded(training="seeds = [0, 3]", sampling="seeds = [0, 1]")
    pairs = {(cell.training_seed, cell.seed) for cell in both.cells}
    assert pairs == {(0, 0), (0, 1), (3, 0), (3, 1)}
    assert all(both.task(cell.training).recipe.global_seed == cell.training_seed for cell in both.cells)
    assert len({cell.key for cell in both.cells}) == len(both.cells) == 4 * len(seeded().cells)
    assert {cell.key for cell in seeded().cells} < {cell.key for cell in both.cells}
    alike = seeded(cells="seeds = [0, 3]")
    assert {c.key for c in alike.cells} < {c.key for c in seeded(training="seeds = [0, 3]").cells}
    assert {(c.training_seed, c.seed) for c in seeded(sampling="seeds = 5").cells} == {(0, 5)}
    own = seeded(training="seeds = [0, 3]", sampling="seeds = [0, 1]", cells="seeds = 7")
    assert {(c.training_seed, c.seed) for c in own.cells} == {(7, 7), *pairs}
    drawn = next(cell for cell in both.cells if (cell.training_seed, cell.seed) == (3, 1))
    assert "seed 3" in drawn.name
    assert "sampling seed 1" in drawn.name
    assert recorded(drawn)["training_seed"] == 3
    assert (drawn.seed, drawn.sampling.global_seed) == (1, 1)


@pytest.mark.parametrize("table", ["training", "sampling"])
def test_mistakes_in_seeds_are_named(table):
    text = changed(PIXELS, (f"[{table}]", f'[{table}]\nseeds = [0, "one"]'))
    assert f"{table}.seeds: expected integers from 0 to 2^63 - 1; got 'one'." in mistake(text)
    assert f"{table}.seeds: expected" in mistake(changed(PIXELS, (f"[{table}]", f"[{table}]\nseeds = -1")))


def test_small_latents_leave_out_the_models_that_do_not_fit():
    text = changed(LATENTS, ("image_size = 256", "image_size = 32"), ('["DiT-S/8", "DiT-S/4"]', '"DiT-S/4"'))
    assert [t.config.input_size for t in parse_plan(text, PATH).trainings] == [4]
    assert "cells[1].models: expected one of DiT-S/2, DiT-S/4" in mistake(changed(text, ('"DiT-S/4"', '"DiT-S/8"')))


# ---- keys


def keys(plan):
    return [t.key for t in plan.trainings], [c.key for c in plan.cells]


@pytest.mark.parametrize(
    "change",
    [
        ("learning_rate = 1e-3", "learning_rate = 2e-3"),
        ("betas = [0.9, 0.99]", "betas = [0.9, 0.95]"),
        ("batch_size = 16", "batch_size = 32"),
        ("log_every = 5", "ema_decay = 0.99"),
        ("log_every = 5", "ema_warm_up = true"),
        ("log_every = 5", "flip = 0.0"),
        ("log_every = 5", "warm_up = 3"),
        ("log_every = 5", "decay_steps = 20"),
        ("log_every = 5", "weight_decay = 0.1"),
        ("log_every = 5", 'precision = "bf16"'),
        ("log_every = 5", "compile = true"),
        ("log_every = 5", "label_dropout = 0.2"),
        ('train = "digits"', 'train = "digits-heldout"'),
        ("num_classes = 10", "num_classes = 11"),
        ("channels = 1", "channels = 3"),
        ("image_size = 8", "image_size = 16"),
    ],
)
def test_what_changes_the_weights_changes_every_key(change):
    for mine, theirs in zip(keys(plan_of()), keys(plan_of(PIXELS, change)), strict=True):
        assert len(mine) == len(theirs)
        assert not set(mine) & set(theirs)


def test_sizes_change_the_keys_of_their_model_only():
    mine, theirs = keys(plan_of()), keys(plan_of(PIXELS, ("depth = 1", "depth = 2")))
    for one, other in zip(mine, theirs, strict=True):
        assert {k for k in one if k.startswith("mini-B")} == {k for k in other if k.startswith("mini-B")}
        assert not {k for k in one if k.startswith("mini-S")} & {k for k in other if k.startswith("mini-S")}


@pytest.mark.parametrize(
    "change",
    [
        ("num_samples = 32", "num_samples = 33"),
        ('labels = "balanced"', 'labels = "random"'),
        ('labels = "balanced"', 'sampler = "ddim"'),
        ('labels = "balanced"', 'rounding = "truncate"'),
        ('labels = "balanced"', 'precision = "bf16"'),
        ('labels = "balanced"', "compile = true"),
        ('ref = "digits"', 'ref = "digits-heldout"'),
        ('extractor = "digits"', 'extractor = "inception"'),
        ('extractor = "digits"', 'extractor = "clip"'),
        ('extractor = "digits"', 'extractor = "digits"\nmetrics = ["fid", "coverage"]'),
        ('extractor = "digits"', 'extractor = "digits"\nintervals = true'),
    ],
)
def test_what_changes_results_only_keeps_the_trainings(change):
    mine, theirs = keys(plan_of()), keys(plan_of(PIXELS, change))
    assert mine[0] == theirs[0]
    assert not set(mine[1]) & set(theirs[1])


def test_a_plan_asks_for_any_network_and_its_metrics():
    def data(lines):
        return plan_of(PIXELS, ('extractor = "digits"', lines)).data

    for network in NETWORKS:
        found = data(f'extractor = "{network.name}"')
        assert (found.extractor, found.backend, found.metrics) == (network.name, "torch", None)
        for backend in network.backends:
            assert data(f'extractor = "{network.name}"\nbackend = "{backend.name}"').backend == backend.name
    assert data('extractor = "dinov2"\nmetrics = ["fd-dinov2", "kid"]').metrics == ("fd-dinov2", "kid")
    assert data('extractor = "clip"\nmetrics = "cmmd"').metrics == ("cmmd",)
    assert data("").extractor == "inception"


def test_every_option_of_sampling_is_a_key_of_plans():
    decided_elsewhere = {
        "weights", "image_size", "num_classes", "block", "num_sampling_steps", "cfg_scale", "global_seed", "guide_ckpt",
        "path", "prediction", "time",
    }  # fmt: skip
    found = mistake(changed(LATENTS, ("[[cells]]", "[sampling]\nzzzz = 3\n\n[[cells]]")))
    known = set(found.partition("known here: ")[2].rstrip(".").split(", "))
    names = {"num_images": "num_samples", "compiled": "compile"}
    options = {each.name for each in dataclasses.fields(SamplingSettings)} - decided_elsewhere
    assert known == {names.get(name, name) for name in options} | {"keep_samples", "seeds"}


def sampled(sampling="", cells="", *, scales="[1.0, 1.5]", steps="[16, 250]"):
    """The text of a plan of latents with more said of its sampling and its cells."""
    return changed(
        LATENTS,
        ("cfg_scales = [1.0, 1.5]", f"cfg_scales = {scales}"),
        ("sampling_steps = [16, 250]", f"sampling_steps = {steps}"),
        ("[[cells]]", f"[sampling]\n{sampling}\n\n[[cells]]\n{cells}"),
    )


def test_cells_by_several_samplers():
    usual = parse_plan(LATENTS, PATH)
    several = parse_plan(sampled(cells='samplers = ["ddpm", "ode-heun", "sde-euler"]'), PATH)
    assert len(several.cells) == 3 * len(usual.cells)
    assert keys(usual)[0] == keys(several)[0]
    assert set(keys(usual)[1]) < set(keys(several)[1]), "those of DDPM are the same cells"
    for cell in several.cells:
        flow = cell.sampling.sampler != "ddpm"
        assert (cell.sampling.time, cell.sampling.path) == ("ddpm" if flow else None, None)
        assert (cell.sampling.sampler in cell.name) == flow
        steps, guidance = int(cell.num_sampling_steps), 1 if cell.sampling.cfg_scale == 1.0 else 2
        expected = {"ddpm": steps, "ode-heun": 2 * (steps - 1), "sde-euler": steps}[cell.sampling.sampler]
        asked = cell.workload.evaluations
        assert (asked, asked + cell.workload.guided_evaluations) == (expected, guidance * expected)
        assert cell.workload.sampling == pytest.approx(cell.gflops * guidance * expected * cell.num_samples)
    whole = parse_plan(sampled('sampler = "ode-euler"', scales="2.0"), PATH)
    inside = parse_plan(sampled('sampler = "ode-euler"\nguidance_interval = [0.2, 0.6]', scales="2.0"), PATH)
    for one, other in zip(inside.cells, whole.cells, strict=True):
        steps = int(one.num_sampling_steps) - 1
        assert one.workload.evaluations == other.workload.evaluations == steps
        assert 0 < one.workload.guided_evaluations < other.workload.guided_evaluations == steps
    assert not set(keys(inside)[1]) & set(keys(whole)[1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (sampled("atol = 0.1"), "`atol` 0.1: the sampler ddpm does not use it"),
        (sampled("atol = 0.1", 'samplers = ["ddpm", "ode-heun"]'), "sampling.atol: no sampler of the plan uses it"),
        (sampled('sampler = "ode-euler"\nguidance_interval = [0.5, 2.0]'), "the time of a flow ends at 1"),
        (sampled("guidance_interval = [0.5, 2.0]", 'samplers = "ode-euler"'), "the time of a flow ends at 1"),
        (sampled(cells='samplers = "heun"'), "samplers"),
        (sampled(cells='samplers = "sde-euler"', steps='"ddim50"'), "takes a whole number"),
    ],
    ids=lambda value: value[-20:],
)
def test_samplers_that_do_not_go_with_the_rest_are_told(text, said):
    assert said in mistake(text)


ONE_MODEL = ('models = ["DiT-S/8", "DiT-S/4"]', 'models = "DiT-S/4"')


def learned(training="", cells="", **more):
    """`sampled`, with more said of its training, and one model."""
    return changed(sampled(cells=cells, **more), ONE_MODEL, ("[sampling]", f"[training]\n{training}\n\n[sampling]"))


def test_a_plan_compares_ddpm_with_flows():
    usual = parse_plan(changed(LATENTS, ONE_MODEL), PATH)
    both = parse_plan(learned('path = "gvp"\nprediction = "noise"', 'objectives = ["ddpm", "flow"]'), PATH)
    assert set(keys(usual)[0]) < set(keys(both)[0])
    assert set(keys(usual)[1]) < set(keys(both)[1]), "those of DDPM are the same tasks"
    assert len(both.cells) == 2 * len(usual.cells)
    ddpm, flow = both.trainings
    assert (ddpm.recipe.flow, ddpm.label) == (None, "DiT-S/4")
    assert (flow.recipe.flow, flow.label) == (FlowRecipe(path="gvp", prediction="noise"), "DiT-S/4 flow")
    for cell in both.cells:
        way = (cell.sampling.sampler, cell.sampling.path, cell.sampling.prediction, cell.sampling.time)
        assert way == (
            ("ddpm", None, None, None) if cell.training == ddpm.key else ("sde-euler", "gvp", "noise", "sit")
        )
    alone = parse_plan(learned('objective = "flow"\npath = "gvp"\nprediction = "noise"'), PATH)
    assert set(keys(alone)[1]) == {cell.key for cell in both.cells if cell.training == flow.key}
    other = parse_plan(learned('objective = "flow"\ntime_sampling = "logit-normal"'), PATH)
    assert not set(keys(other)[0]) & set(keys(both)[0])


def test_a_solver_that_chooses_its_steps_has_several_tolerances():
    plan = parse_plan(sampled(cells='samplers = "ode-dopri5"\nrtols = [0.1, 1e-3]', steps="2", scales="1.0"), PATH)
    assert sorted({cell.sampling.rtol for cell in plan.cells}) == [1e-3, 0.1]
    assert len({cell.key for cell in plan.cells}) == len(plan.cells) == 2 * 2 * 2 * 2
    assert "ode-dopri5 to 0.1" in plan.cells[0].name


def test_a_weaker_model_of_the_plan_guides():
    plain = parse_plan(learned(scales="[1.0, 2.0]"), PATH)
    plan = parse_plan(learned(cells='guide = "DiT-S/8"\nguide_training_steps = 500', scales="[1.0, 2.0]"), PATH)
    strong, weak = plan.trainings
    assert (weak.model, weak.steps) == ("DiT-S/8", (500,))
    unguided = {cell.key for cell in plain.cells if cell.sampling.cfg_scale == 1.0}
    assert {cell.key for cell in plan.cells if cell.guide is None} == unguided
    guided = [cell for cell in plan.cells if cell.guide]
    assert not {cell.key for cell in guided} & set(keys(plain)[1])
    for cell in guided:
        assert cell.weights == [(strong.key, cell.training_steps), (weak.key, 500)]
        steps = cell.num_samples * int(cell.num_sampling_steps)
        # The guide's passes cost what the guide costs.
        assert cell.workload.sampling == pytest.approx(steps * (strong.gflops + weak.gflops), rel=1e-12)
    same = parse_plan(learned(cells='guide = "DiT-S/8"', scales="2.0"), PATH)
    assert all(cell.guide.training_steps == cell.training_steps for cell in same.cells)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (learned('path = "gvp"'), "training.path: of flows, and the plan trains none"),
        (learned('objective = "flow"\nloss_weight = "velocity"'), "the error of a velocity has no weight"),
        (learned('objective = "flows"'), "training.objective: expected one of ddpm, flow; got 'flows'"),
        (learned('path = "circle"', 'objectives = "flow"'), "training.path: expected one of linear, gvp, vp"),
        (learned('path = "vp"\ntime = "repa"', 'objectives = "flow"'), "REPA has no such path"),
        (
            learned(cells='objectives = ["ddpm", "flow"]\nsamplers = "ddim"'),
            "cells[1].samplers: ddim: the weights were trained as a flow",
        ),
        (sampled(cells="rtols = 0.1"), "`rtol` 0.1: the sampler ddpm does not use it"),
        (sampled(cells='samplers = "ode-dopri5"\nrtols = 0', steps="2"), "cells[1].rtols"),
        (sampled(cells='guide = "DiT-S/9"'), "cells[1].guide: expected one of"),
        (sampled(cells="guide_training_steps = 5"), "cells[1].guide_training_steps: of a guide, and there is none"),
        (sampled(cells='guide = "DiT-S/8"', scales="1.0"), "cells[1].guide: there is no guidance"),
        (sampled(cells='guide = "DiT-S/4"', scales="2.0"), "after as many steps is the model itself"),
    ],
    ids=lambda value: value[-25:],
)
def test_mistakes_about_flows_and_guides_are_told(text, said):
    assert said in mistake(text)


def test_options_of_later_editions_enter_keys_where_they_are_asked_for():
    def with_tiling(value):
        return parse_plan(changed(LATENTS, ("[[cells]]", f"[sampling]\nvae_tiling = {value}\n\n[[cells]]")), PATH)

    usual = parse_plan(LATENTS, PATH)
    assert keys(with_tiling("false")) == keys(usual)
    tiled = with_tiling("true")
    assert all(cell.sampling.vae_tiling for cell in tiled.cells)
    assert keys(tiled)[0] == keys(usual)[0]
    assert not set(keys(tiled)[1]) & set(keys(usual)[1])


def test_what_a_finished_cell_says_of_itself_has_the_names_of_the_first_edition():
    cell = parse_plan(LATENTS, PATH).cells[-1]
    assert list(recorded(cell)) == [
        "key", "training", "model", "config", "gflops", "training_steps", "num_samples", "num_sampling_steps",
        "sampler", "cfg_scale", "cfg_channels", "labels", "rounding", "vae", "precision", "compile", "seed",
        "keep_samples",
    ]  # fmt: skip
    assert recorded(cell)["vae"] == "mse"
    assert recorded(plan_of().cells[0])["vae"] is None


def test_the_usual_backend_and_metrics_leave_the_keys():
    # Study folders of earlier versions are gone on with.
    by_name = ('extractor = "digits"', 'extractor = "digits"\nbackend = "torch"')
    assert keys(plan_of(PIXELS, by_name)) == keys(plan_of())
    without = ('extractor = "digits"', 'extractor = "digits"\nintervals = false')
    assert keys(plan_of(PIXELS, without)) == keys(plan_of())
    tensorflow = ('extractor = "digits"', 'extractor = "inception"\nbackend = "tensorflow"')
    torch = ('extractor = "digits"', 'extractor = "inception"')
    assert not set(keys(plan_of(PIXELS, tensorflow))[1]) & set(keys(plan_of(PIXELS, torch))[1])
    one, other = ((torch[0], f"{torch[1]}\nmetrics = [{names}]") for names in ('"fid", "is"', '"is", "fid"'))
    assert keys(plan_of(PIXELS, one)) == keys(plan_of(PIXELS, other))


@pytest.mark.parametrize(
    "change",
    [
        ("training_steps = [10, 20]", "training_steps = [10, 20, 400]"),
        ("log_every = 5", "log_every = 7\nsave_every = 3"),
        ('labels = "balanced"', 'labels = "balanced"\nkeep_samples = false'),
        ("threads = 1", "threads = 2\nbatch_size = 7\nprocesses = 2"),
        ('about = "A plan on digits"', 'about = "Another text"'),
        ("tflops = 0.02", "tflops = 2"),
        ("sampling_steps = [4, 8]", "sampling_steps = [4, 8, 16]"),
        ('models = "all"', 'models = ["mini-B/2", "mini-S/4"]'),
    ],
)
def test_what_changes_no_result_keeps_the_keys(change):
    mine, theirs = keys(plan_of()), keys(plan_of(PIXELS, change))
    assert set(mine[0]) == set(theirs[0])
    assert set(mine[1]) <= set(theirs[1])


def test_guidance_channels_are_part_of_guided_cells_only():
    colours = changed(PIXELS, ("channels = 1", "channels = 3"))
    one, two = (parse_plan(changed(colours, ("num_samples", f"cfg_channels = {n}\nnum_samples")), PATH) for n in (1, 2))
    for a, b in zip(one.cells, two.cells, strict=True):
        assert (a.key == b.key) == (a.sampling.cfg_scale == 1.0)


def test_data_are_found_beside_the_plan_and_may_be_moved_with_it(tmp_path):
    found = []
    for place in ("here", "there"):
        folder = tmp_path / place
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "images.npz").write_bytes(b"")
        text = changed(PIXELS, ('train = "digits"', 'train = "files/images.npz"'))
        (folder / "plan.toml").write_text(text)
        plan = load_plan(folder / "plan.toml")
        assert plan.data.train == str(folder / "files" / "images.npz")
        found.append(keys(plan))
    absolute = changed(PIXELS, ('train = "digits"', f'train = "{tmp_path / "here" / "files" / "images.npz"}"'))
    found.append(keys(parse_plan(absolute, PATH)))
    assert found[0] == found[1] == found[2]


# ---- resources


def test_later_resources_go_over_earlier_ones():
    plan = plan_of()
    small, large = (next(c for c in plan.cells if c.model == model) for model in ("mini-S/4", "mini-B/2"))
    assert (plan.resources(small).processes, plan.resources(large).processes) == (1, 2)
    assert {plan.resources(run).processes for run in plan.trainings} == {1}
    assert {plan.resources(task).threads for task in plan.tasks} == {1}
    assert plan.resources(large).size == 2
    text = (
        PIXELS
        + """
[[resources]]
task = "training"
models = "mini-S/4"
nodes = 2
processes = 4
minutes = 30
micro_batch = 2
num_workers = 0
slurm = { partition = "gpu", gpus_per_node = 4 }

[[resources]]
task = "training"
batch_size = 5

[resources.slurm]
account = "us"
"""
    )
    plan = parse_plan(text, PATH)
    run, other = plan.trainings[:2]
    found = plan.resources(run)
    assert (found.nodes, found.processes, found.size, found.minutes, found.threads) == (2, 4, 8, 30, 1)
    assert (found.micro_batch, found.num_workers, found.batch_size) == (2, 0, 5)
    assert found.slurm == {"partition": "gpu", "gpus_per_node": 4, "account": "us"}
    assert plan.resources(other).slurm == {"partition": "cpu", "account": "us"}
    assert plan.resources(plan.cells[0]).slurm == {"partition": "cpu"}
    assert plan.resources(plan.cells[0]).batch_size == 32


# ---- cost


def test_work_is_the_closed_form():
    plan = plan_of()
    for run in plan.trainings:
        expected = training_gflops(run.gflops, steps=20, batch_size=16)
        assert work_gflops(run) == pytest.approx(expected, rel=1e-12)
        assert expected == pytest.approx(3 * 20 * 16 * run.gflops, rel=1e-12)
    for cell in plan.cells:
        steps = len(respaced_timesteps(cell.num_sampling_steps))
        guided = cell.sampling.cfg_scale > 1
        each = sampling_gflops(cell.gflops, num_sampling_steps=steps, guided=guided)
        assert work_gflops(cell) == pytest.approx(32 * each, rel=1e-12)
        assert work_gflops(cell) == pytest.approx(32 * steps * (2 if guided else 1) * cell.gflops, rel=1e-12)
    total = sum(task.workload.training + task.workload.sampling for task in plan.tasks)
    assert total == pytest.approx(sum(map(work_gflops, plan.tasks)), rel=1e-12)
    assert predicted_hours(plan) == pytest.approx(gpu_hours(total, achieved_tflops=0.02), rel=1e-12)
    assert predicted_hours(plan, [plan.cells[0]]) == pytest.approx(work_gflops(plan.cells[0]) * 2 / 20 / 3600)
    assert predicted_hours(parse_plan(LATENTS, PATH)) is None, "no speed is known"
    scored = plan_of(PIXELS, ("tflops = 0.02", "tflops = 0.02\nscored_per_second = 4"))
    images = sum(cell.num_samples for cell in scored.cells)
    assert predicted_hours(scored) - predicted_hours(plan) == pytest.approx(images / 4 / 3600)
    assert predicted_hours(scored, list(scored.trainings)) == predicted_hours(plan, list(plan.trainings))


def test_gflops_are_the_papers():
    gflops = {t.model: t.gflops for t in parse_plan(LATENTS, PATH).trainings}
    assert gflops["DiT-S/8"] == pytest.approx(0.36, abs=0.005)  # Table 4
    assert gflops["DiT-S/4"] == pytest.approx(1.41, abs=0.005)


def test_sections_of_steps_count_all_of_them():
    plan = plan_of(PIXELS, ('"ddim10"', '"10,15,20"'))
    cell = plan.cells[-1]
    assert (cell.num_sampling_steps, cell.workload.num_sampling_steps) == ("10,15,20", 45)


def test_a_name_that_can_be_no_path_is_taken_as_a_name():
    name = "a" * 9_000
    assert parse_plan(changed(PIXELS, ('ref = "digits"', f'ref = "{name}"')), PATH).data.ref == name


@pytest.mark.parametrize("name", sorted(embedded_plans()))
def test_embedded_plans_load_and_cost_something(name):
    plan = load_plan(name)
    assert plan.name == name
    assert plan.trainings
    assert plan.cells
    for task in plan.tasks:
        assert 0 < work_gflops(task) < math.inf
        assert plan.resources(task).size >= 1
    hours = predicted_hours(plan)
    assert hours is None or 0 < hours < math.inf
    assert load_plan(embedded_plans()[name]) == plan


def test_a_plan_that_is_nowhere():
    with pytest.raises(FileNotFoundError, match=r"digits-smal: neither a file .* Did you mean 'digits-small'\?"):
        load_plan("digits-smal")


# ---- mistakes: (what is changed, text on the line that is wrong, key, message)

MISTAKES = [
    # [data]
    ((('[data]\ntrain = "digits"\n', "[dat]\n"),), 'name = "test"', "data", "missing; expected a table"),
    ((("name = ", "nam = "),), "nam = ", "name", "missing; expected a text"),
    ((("about = ", "abut = "),), "abut = ", "abut", "unknown key; known here: .* did you mean 'about'?"),
    ((('space = "pixel"\n', ""),), "[data]", "data.space", "missing; expected one of latent, pixel"),
    (
        (('"pixel"', '"pixels"'),),
        "space",
        "data.space",
        "expected one of latent, pixel; got 'pixels'; did you mean 'pixel'?",
    ),
    ((("image_size = 8", 'image_size = "8"'),), "image_size", "data.image_size", "expected an integer .* got '8'"),
    ((("image_size = 8", "image_size = 0"),), "image_size", "data.image_size", "expected at least 1; got 0"),
    ((("image_size = 8", "image_size = 8.5"),), "image_size", "data.image_size", "expected an integer .* got 8.5"),
    (
        (("num_classes = 10", "num_classes = true"),),
        "num_classes",
        "data.num_classes",
        "expected an integer .* got True",
    ),
    ((("num_classes = 10", "num_classes = -3"),), "num_classes", "data.num_classes", "expected at least 1; got -3"),
    ((("channels = 1", "channels = 2"),), "channels", "data.channels", "expected 1 or 3, as images have; got 2"),
    ((("channels", "chanels"),), "chanels", "data.chanels", "unknown key; .* did you mean 'channels'?"),
    ((('extractor = "digits"', 'extractor = "incepton"'),), "extractor", "data.extractor", "did you mean 'inception'?"),
    (
        (('extractor = "digits"', 'extractor = "digits"\nbackend = "tensorflow"'),),
        "backend",
        "data.backend",
        "expected one of torch; got 'tensorflow'",
    ),
    (
        (('extractor = "digits"', 'extractor = "digits"\nmetrics = ["fid", "cmmd"]'),),
        "metrics",
        "data.metrics",
        "cmmd is not defined on the features of digits .* Pass `extractor` clip for cmmd",
    ),
    (
        (('extractor = "digits"', 'extractor = "digits"\nmetrics = "fdi"'),),
        "metrics",
        "data.metrics",
        "Unknown metric fdi; .* Did you mean 'fid'?",
    ),
    ((('train = "digits"', "train = 5"),), "train =", "data.train", "expected a text; got 5"),
    # [models]
    ((('"mini-S/4" =', '"mini-M/4" ='),), '"mini-M/4"', "models.mini-M/4", "expected a name such as mini-XL/2"),
    ((('"mini-S/4" =', '"mini" ='),), '"mini" =', "models.mini", "expected a name such as mini-XL/2"),
    (
        (('"mini-S/4" =', '"mini-S/2" ='),),
        '"mini-S/2"',
        "models.mini-S/2.patch_size",
        "expected 2, as in the name mini-S/2; got 4",
    ),
    (
        (("patch_size = 2\n", "patch_size = 4\n"),),
        "patch_size = 4\n",
        "models.mini-B/2.patch_size",
        "expected 2, as in the name mini-B/2; got 4",
    ),
    (
        (('"mini-B/2"]', '"mini-B/3"]'), ("patch_size = 2\n", "patch_size = 3\n"), ('"mini-B/2"', '"mini-B/3"')),
        '[models."mini-B/3"]',
        "models.mini-B/3",
        "does not divide into patches of 3",
    ),
    ((("num_heads = 2\n", "num_heads = 3\n"),), '[models."mini-B/2"]', "models.mini-B/2", "Hidden size 16: needed"),
    ((("depth = 2\n", ""),), '[models."mini-B/2"]', "models.mini-B/2.depth", "missing; expected an integer"),
    ((("depth = 2\n", "depth = 0\n"),), "depth = 0", "models.mini-B/2.depth", "expected at least 1; got 0"),
    (
        (("hidden_size = 16", "width = 16"),),
        '[models."mini-B/2"]',
        "models.mini-B/2.hidden_size",
        "missing; expected an integer",
    ),
    (
        (("hidden_size = 16", "hidden_size = 16\nhidden = 3"),),
        "hidden = 3",
        "models.mini-B/2.hidden",
        "did you mean 'hidden_size'?",
    ),
    ((('"mini-S/4" =', '"mini-S/4x" ='),), '"mini-S/4x"', "models.mini-S/4x", "expected a name such as"),
    ((('"mini-S/4" = {', '"mini-S/4" = 5 # {'),), '"mini-S/4"', "models.mini-S/4", "expected a table .* got 5"),
    # [training]
    ((("learning_rate", "learning_rat"),), "learning_rat ", "training.learning_rat", "did you mean 'learning_rate'?"),
    ((("1e-3", '"1e-3"'),), "learning_rate", "training.learning_rate", "expected a number .* got '1e-3'"),
    ((("1e-3", "0"),), "learning_rate", "training.learning_rate", "expected more than 0; got 0"),
    ((("1e-3", "nan"),), "learning_rate", "training.learning_rate", "expected more than 0; got nan"),
    ((("[0.9, 0.99]", "[0.9]"),), "betas", "training.betas", "expected a list of 2 numbers, each .* got [0.9]"),
    ((("[0.9, 0.99]", "[0.9, 1.0]"),), "betas", "training.betas", "each at least 0 and less than 1; got [0.9, 1.0]"),
    (
        (("[0.9, 0.99]", "[0.9, true]"),),
        "betas",
        "training.betas",
        "expected a list of 2 numbers, each .* got [0.9, True]",
    ),
    ((("batch_size = 16", "batch_size = 0"),), "batch_size = 0", "training.batch_size", "expected at least 1; got 0"),
    ((("log_every = 5", "log_every = 0"),), "log_every", "training.log_every", "expected at least 1; got 0"),
    ((("log_every = 5", "decay_steps = 0"),), "decay_steps", "training.decay_steps", "expected at least 1; got 0"),
    ((("log_every = 5", "warm_up = -1"),), "warm_up", "training.warm_up", "expected at least 0; got -1"),
    (
        (("log_every = 5", "ema_decay = 1.0"),),
        "ema_decay",
        "training.ema_decay",
        "less than 1; got 1.0",
    ),
    ((("log_every = 5", "flip = 2"),), "flip", "training.flip", "expected at least 0 and at most 1; got 2"),
    ((("log_every = 5", "weight_decay = -1"),), "weight_decay", "training.weight_decay", "at least 0; got -1"),
    ((("log_every = 5", "ema_warm_up = 1"),), "ema_warm_up", "training.ema_warm_up", "expected true or false; got 1"),
    ((("log_every = 5", 'precision = "fp16"'),), "precision", "training.precision", "expected one of fp32, tf32, bf16"),
    (
        (("log_every = 5", "label_dropout = 1"),),
        "label_dropout",
        "training.label_dropout",
        "expected at least 0 and less than 1; got 1",
    ),
    ((("log_every = 5", "global_seed = 1"),), "global_seed", "training.global_seed", "unknown key"),
    # [sampling]
    ((('"balanced"', '"balancd"'),), "labels", "sampling.labels", "did you mean 'balanced'?"),
    ((("num_samples = 32", "num_samples = 0"),), "num_samples", "sampling.num_samples", "expected at least 1; got 0"),
    (
        (("num_samples = 32", "cfg_channels = 2"),),
        "cfg_channels",
        "sampling.cfg_channels",
        "expected at most 1, as the models have; got 2",
    ),
    ((("num_samples = 32", 'vae = "ema"'),), "vae", "sampling.vae", "unknown key"),
    ((("num_samples = 32", "keep_samples = 0"),), "keep_samples", "sampling.keep_samples", "expected true or false"),
    # [[cells]]
    ((('models = "all"', 'models = "mini-S/8"'),), "mini-S/8", "cells[1].models", "did you mean 'mini-S/4'?"),
    ((('models = "all"', "models = []"),), "models = []", "cells[1].models", "expected names of models .* got []"),
    ((('models = "all"', 'models = ["all", 3]'),), '["all", 3]', "cells[1].models", "expected names .* got 3"),
    ((('models = "all"\n', ""),), "[[cells]]", "cells[1].models", "missing; expected names of models"),
    (
        (("training_steps = [10, 20]", "training_steps = 0"),),
        "= 0",
        "cells[1].training_steps",
        "expected integers from 1 to 100,000,000; got 0",
    ),
    ((("training_steps = [10, 20]", "training_steps = []"),), "= []", "cells[1].training_steps", "expected integers"),
    ((("[10, 20]", "[10, true]"),), "true", "cells[1].training_steps", "expected integers .* got True"),
    ((("[10, 20]", "[10, 2.5]"),), "2.5", "cells[1].training_steps", "expected integers .* got 2.5"),
    ((("[4, 8]", "[4, -8]"),), "[4, -8]", "cells[1].sampling_steps", "needed at least 1"),
    ((("[4, 8]", "[0]"),), "[0]", "cells[1].sampling_steps", "needed at least 1 in every section"),
    ((("[4, 8]", "1001"),), "1001", "cells[1].sampling_steps", "a section of 1000 steps cannot give 1001"),
    ((("[4, 8]", "[\n  4,\n  1001,\n]"),), "sampling_steps = [", "cells[1].sampling_steps", "cannot give 1001"),
    ((('"ddim10"', '"ddim37"'),), "ddim37", "cells[2].sampling_steps", "nearest are ddim36 and ddim38"),
    ((('"ddim10"', '"abc"'),), "abc", "cells[2].sampling_steps", "needed a number such as"),
    ((("[1, 1.5]", "[1, 0.5]"),), "0.5", "cells[2].cfg_scales", "1.0 (no guidance) or more; got 0.5"),
    ((("[1, 1.5]", "[1, inf]"),), "inf", "cells[2].cfg_scales", "expected a finite number; got inf"),
    ((("[1, 1.5]", '"1.5"'),), "cfg_scales", "cells[2].cfg_scales", "expected guidance scales .* got '1.5'"),
    (
        (("log_every = 5", "label_dropout = 0"),),
        "cfg_scales",
        "cells[2].cfg_scales",
        "guidance needs [training] label_dropout above 0",
    ),
    ((('"in-context"]', '"in-contex"]'),), "in-contex", "cells[2].blocks", "did you mean 'in-context'?"),
    ((("cfg_scales", "seeds = -1\ncfg_scales"),), "seeds", "cells[2].seeds", "from 0 to 2^63 - 1; got -1"),
    (
        (("cfg_scales", "seeds = 9223372036854775808\ncfg_scales"),),
        "seeds",
        "cells[2].seeds",
        "from 0 to 2^63 - 1; got 9",
    ),
    (
        (("[10, 20]", "[10, 1_000_000_000_000]"),),
        "1_000",
        "cells[1].training_steps",
        "to 100,000,000; got 1000000000000",
    ),
    (
        (("num_samples = 32", "num_samples = 1_000_000_000_000"),),
        "1_000",
        "sampling.num_samples",
        "at most 10,000,000;",
    ),
    ((("batch_size = 16", "batch_size = 1_000_000_000_000"),), "1_000", "training.batch_size", "at most 1,000,000;"),
    ((("processes = 2", "processes = 1_000_000_000_000"),), "1_000", "resources[2].processes", "at most 1,024;"),
    ((("cfg_scales", 'vaes = "ema"\ncfg_scales'),), "vaes", "cells[2].vaes", "unknown key"),
    ((("cfg_scales", "cfg_scale"),), "cfg_scale ", "cells[2].cfg_scale", "did you mean 'cfg_scales'?"),
    # [[resources]]
    ((('task = "cell"', 'task = "cells"'),), 'task = "cells"', "resources[2].task", "did you mean 'cell'?"),
    ((('["mini-B/2"]\nproc', '["mini-B"]\nproc'),), '["mini-B"]', "resources[2].models", "did you mean 'mini-B/2'?"),
    ((("processes = 2", "processes = 0"),), "processes", "resources[2].processes", "expected at least 1; got 0"),
    (
        (("processes = 2", "gpus = 2"),),
        "gpus",
        "resources[2].gpus",
        "unknown key; known here: task, models, nodes, processes, minutes, slurm",
    ),
    ((("threads = 1", "threads = true"),), "threads", "resources[1].threads", "expected an integer .* got True"),
    ((("slurm = {", 'slurm = "gpu" # {'),), "slurm", "resources[1].slurm", "expected a table; got 'gpu'"),
    ((('task = "cell"\n', ""), ("processes = 2", "processes = 3")), "batch_size", "training.batch_size", "16 does not"),
    # [cost]
    ((("tflops = 0.02", "tflops = 0"),), "tflops", "cost.tflops", "expected more than 0 .* got 0"),
    ((("tflops = 0.02", "tflops = inf"),), "tflops", "cost.tflops", "expected a finite number; got inf"),
    ((("tflops = 0.02", 'tflops = "fast"'),), "tflops", "cost.tflops", "expected a number .* got 'fast'"),
    ((('source = "a guess"\n', ""),), "[cost]", "cost.source", "missing; expected a text"),
    ((('source = "a guess"', 'source = "a guess"\nwatts = 3'),), "watts", "cost.watts", "unknown key"),
]


@pytest.mark.parametrize(("changes", "marker", "key", "said"), MISTAKES)
def test_mistakes_are_named_with_line_and_key(changes, marker, key, said):
    text = changed(PIXELS, *changes)
    tomllib.loads(text)
    lines = [number for number, line in enumerate(text.splitlines(keepends=True), start=1) if marker in line]
    found = mistake(text)
    assert found.startswith(f"{PATH}, line {lines[0]}: {key}: "), found
    assert all(part in found for part in said.split(" .* ")), found
    assert "\n" not in found
    assert found.endswith((".", "?"))


LATENT_MISTAKES = [
    (
        ("image_size = 256", "image_size = 100"),
        "image_size",
        "data.image_size",
        "expected a multiple of 8, for latents; got 100",
    ),
    (("image_size = 256", "image_size = 256\nchannels = 4"), "channels", "data.channels", "unknown key"),
    (('"DiT-S/4"]', '"DiT-S4"]'), "DiT-S4", "cells[1].models", "did you mean 'DiT-S/4'?"),
    (('"mse"]', "3]"), "vaes", "cells[1].vaes", "expected names of decoders; got 3"),
    (
        ("[[cells]]", '[models."DiT-S/8"]\ndepth = 3\n\n[[cells]]'),
        '[models."DiT-S/8"]',
        "models.DiT-S/8",
        "of the paper",
    ),
]


@pytest.mark.parametrize(("change", "marker", "key", "said"), LATENT_MISTAKES)
def test_mistakes_in_plans_on_latents(change, marker, key, said):
    text = changed(LATENTS, change)
    lines = [number for number, line in enumerate(text.splitlines(), start=1) if marker in line]
    found = mistake(text)
    assert found.startswith(f"{PATH}, line {lines[0]}: {key}: "), found
    assert said in found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (changed(PIXELS, ("image_size = 8", "image_size 8")), "image_size 8"),
        (changed(PIXELS, ("image_size = 8", "image_size = eight")), "image_size = eight"),
        (changed(PIXELS, ("channels = 1", "image_size = 9")), "image_size = 9"),
        (changed(PIXELS, ("[training]", "[training")), "[training"),
    ],
)
def test_what_is_no_toml_is_said_with_its_line(text, line):
    number = text.splitlines().index(line) + 1
    found = mistake(text)
    assert found.startswith(f"{PATH}: not TOML (")
    assert f"line {number}" in found


def test_no_cells_and_no_models():
    without = PIXELS[: PIXELS.index("[[cells]]")]
    assert mistake(without).startswith(f"{PATH}, line 1: cells: missing; expected tables, [[cells]]")
    assert "cells: expected tables, [[cells]]" in mistake("cells = [3]\n" + without)
    bare = without[: without.index("[models]")] + without[without.index("[training]") :]
    found = mistake(bare + '[[cells]]\nmodels = "all"\ntraining_steps = 1\nsampling_steps = 1\n')
    assert "cells[1].models" in found
    assert "give sizes in [models]" in found


def test_keys_that_are_written_in_one_line_have_their_line():
    text = 'data.space = "pixel"\n"data" . image_size = 8\ndata.num_classes = 0\nname = "x"\n'
    assert mistake(text).startswith(f"{PATH}, line 3: data.num_classes: expected at least 1; got 0")


def test_texts_of_several_lines_do_not_mislead():
    about = 'about = """\n[training]\nlog_every = is written so\n[not a header\n' + "word" * 50 + '\n"""'
    text = changed(PIXELS, ('about = "A plan on digits"', about), ("num_samples = 32", "num_samples = 0"))
    number = text.splitlines().index("num_samples = 0") + 1
    assert mistake(text).startswith(f"{PATH}, line {number}: sampling.num_samples: expected at least 1; got 0")
