"""Training against a plain loop and the released trainer; exact after kill -9; the same on one process and on two."""

import dataclasses
import functools
import json
import math
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
import torch
from dit_goldens import seeded_state
from filelock import FileLock
from flow_training_goldens import MODEL as FLOW_MODEL
from flow_training_goldens import REPA, SIT, flow_batches, name_of
from safetensors import safe_open
from safetensors.torch import load_file
from training_goldens import MODEL, training_batches

from dit_eval.cli import main
from dit_eval.diffusion.data import ArrayData, open_npz
from dit_eval.diffusion.flow import PATHS
from dit_eval.diffusion.objective import objective_of
from dit_eval.diffusion.process import Diffusion
from dit_eval.diffusion.recipe import Execution, FlowRecipe, Recipe, Schedule
from dit_eval.diffusion.trainer import Batch, Trainer, draw_batch
from dit_eval.flops.kept import Count, count_network
from dit_eval.images.npz import open_batch
from dit_eval.models.checkpoints import NOTES_KEY, load_dit, save_dit, stored_config, training_notes
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.report.figures import FIGURES
from dit_eval.report.points import published_points, read_losses, read_measured
from dit_eval.report.setting import settings
from dit_eval.system.assets import asset
from dit_eval.training import TrainingRun, train

GOLDENS = Path(__file__).parent / "goldens"
LATENTS = str(Path(__file__).parent / "goldens" / "first_edition" / "latents" / "whole")
SIZES = ["--depth", "1", "--hidden-size", "16", "--num-heads", "2", "--patch-size", "2"]
STEPS, SAVES = 12, (5, 9)


def command(out, *more, steps=STEPS):
    data = ["--data", str(asset("digits").path), "--grey", "--no-flips"]
    recipe = ["--steps", str(steps), "--batch-size", "8", "--lr", "1e-3", "--log-every", "4", "--save-at", "5,9"]
    return ["train", *SIZES, *data, *recipe, "--device", "cpu", "--out", str(out), *map(str, more)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower on several threads, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return exit_.value.code or 0, captured.out, captured.err


def tiny(**settings):
    shape = {"depth": 1, "hidden_size": 16, "num_heads": 2, "patch_size": 2, "input_size": 8, "num_classes": 10}
    return DiTConfig(**shape | {"in_channels": 1, "space": "pixel"} | settings)


def training_of(data, recipe, **schedule):
    return TrainingRun(config=tiny(), data=data, recipe=recipe, schedule=Schedule(**schedule))


@pytest.fixture(scope="module")
def data():
    return open_npz(asset("digits").path, channels=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run in one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(command(out))
    assert not exit_.value.code
    return out


def close(path, other):
    """Two files of weights are the same but for rounding.

    Biases of the keys are left out: softmax cancels them, so that their gradient is rounding, which AdamW scales up.
    """
    files = [load_file(path), load_file(other)]
    for state in files:
        for name in [name for name in state if name.endswith("qkv.bias")]:
            query, _, value = state.pop(name).chunk(3)
            state |= {f"{name}, queries": query, f"{name}, values": value}
    assert files[0].keys() == files[1].keys()
    for name, weights in files[0].items():
        torch.testing.assert_close(files[1][name], weights, rtol=1e-4, atol=1e-6, msg=name)


def same_run(one, other):
    """Every checkpoint bit for bit, and the log byte for byte."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names == sorted(path.name for path in other.glob("*.safetensors"))
    assert len(names) == 2 * (len(SAVES) + 1) + 1
    for name in names:
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    assert (one / "log.jsonl").read_text() == (other / "log.jsonl").read_text()
    assert not [path for path in other.iterdir() if path.name.endswith(".part")]


# ---- the recipe


def test_the_defaults_are_the_papers():
    recipe = Recipe()
    assert (recipe.learning_rate, recipe.betas, recipe.weight_decay) == (1e-4, (0.9, 0.999), 0.0)
    assert (recipe.batch_size, recipe.ema_decay, recipe.flip) == (256, 0.9999, 0.5)
    assert {recipe.learning_rate_at(step) for step in (0, 1, 400_000)} == {1e-4}, "constant, no warm-up"
    assert {recipe.ema_decay_at(step) for step in (0, 1, 400_000)} == {0.9999}
    assert (recipe.precision, recipe.compile) == ("fp32", False)
    assert tiny().label_dropout == 0.1


def test_what_small_scales_need():
    recipe = Recipe(learning_rate=1.0, warm_up=4, decay_steps=100, ema_decay=0.999, ema_warm_up=True)
    rates = [recipe.learning_rate_at(step) for step in (0, 1, 3, 50, 100, 500)]
    np.testing.assert_allclose(rates[:2], [0.25, 0.5 * 0.5 * (1 + np.cos(np.pi / 100))], rtol=1e-12)
    np.testing.assert_allclose(rates[3:], [0.5, 0, 0], atol=1e-15)
    assert [recipe.ema_decay_at(step) for step in (0, 90, 10**6)] == [0.1, 0.91, 0.999]


def plain_loop(config, recipe, data, steps):
    """The recipe written out: AdamW of torch, averages by hand, no buffer, no resuming."""
    torch.manual_seed(recipe.global_seed)
    model = DiT(config)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        batch = draw_batch(data, config, recipe, step=step, positions=range(recipe.batch_size))
        model.eval()
        terms = Diffusion().training_losses(
            lambda x, t, y=batch.labels: model(x, t, y), batch.x0, batch.timesteps, batch.noise
        )
        optimizer.zero_grad()
        terms["loss"].mean().backward()
        optimizer.step()
        for name, p in model.named_parameters():
            average[name] = recipe.ema_decay * average[name] + (1 - recipe.ema_decay) * p.detach()
        losses.append([terms[name].mean().item() for name in ("loss", "mse", "vb")])
    return dict(model.named_parameters()), average, np.array(losses)


def test_a_run_is_the_plain_loop(data, tmp_path):
    config, recipe = tiny(), Recipe(learning_rate=1e-3, batch_size=16, ema_decay=0.9)
    end = train(tmp_path / "run", training_of(data, recipe, steps=8, log_every=2))
    model, average, losses = plain_loop(config, recipe, data, 8)
    untrained = DiT(config).final_layer.linear.weight
    assert (load_file(end.model)["final_layer.linear.weight"] - untrained).abs().max() > 1e-3, "it has learned"
    for file, expected in ((end.model, model), (end.ema, average)):
        for name, value in load_file(file).items():
            torch.testing.assert_close(value, expected[name].detach(), rtol=1e-6, atol=1e-7)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    logged = np.array([[line[name] for name in ("loss", "mse", "vb")] for line in lines])
    np.testing.assert_allclose(logged, losses.reshape(4, 2, 3).mean(1), rtol=1e-5)
    np.testing.assert_allclose(logged[:, 0], logged[:, 1] + logged[:, 2], rtol=1e-5)


def test_steps_are_those_of_the_released_trainer():
    config = DiTConfig(**MODEL)
    trainer = Trainer(config, Recipe(batch_size=8))
    start = seeded_state(trainer.model.state_dict())
    for network in (trainer.model, trainer.ema):
        network.load_state_dict(start)
    losses = []
    for x0, timesteps, labels, noise in training_batches():
        losses.append(trainer.step(Batch(x0=x0, labels=labels, timesteps=timesteps, noise=noise)).tolist())
    expected = json.loads((GOLDENS / "training.json").read_text())["losses"]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    with np.load(GOLDENS / "training.npz") as goldens:
        golden = {name: torch.from_numpy(goldens[name]) for name in goldens.files}
    rows = torch.ones(3 * MODEL["hidden_size"], dtype=torch.bool)
    rows[MODEL["hidden_size"] : 2 * MODEL["hidden_size"]] = False
    for name, start_value in start.items():
        ours, average = trainer.model.state_dict()[name], trainer.ema.state_dict()[name]
        theirs, their_average = golden[f"model/{name}"], golden[f"ema/{name}"]
        # By 5e-8 the average moves in one step; with another decay it would be off by ten times that. The released one
        # multiplies the fixed position table too, which rounds its values of up to 1.
        assert (average - their_average).abs().max() <= 3e-7, name
        if name == "pos_embed":
            assert torch.equal(ours, theirs)
            continue
        if name.endswith("qkv.bias"):
            # Softmax cancels a bias of the keys: its gradient is rounding, and AdamW scales it.
            ours, theirs, start_value = ours[rows], theirs[rows], start_value[rows]
        # AdamW's steps are of one size however small a gradient is; some of the timestep's waves hardly have any.
        tolerance = 1e-2 if name == "t_embedder.mlp.0.weight" else 1e-3
        assert (ours - theirs).norm() < tolerance * (theirs - start_value).norm(), name


def given_times(batch, flow):
    """The times that a flow's objective makes of the numbers that the released trainers were given."""
    draws = zip(batch["uniform"].tolist(), batch["normal"].tolist(), strict=True)
    times = objective_of(flow).times(
        [SimpleNamespace(random=lambda u=u: u, standard_normal=lambda n=n: n) for u, n in draws]
    )
    # A uniform number is the time in REPA's, which is 1 less ours.
    return torch.from_numpy(1 - times if flow.time == "repa" and flow.time_sampling == "uniform" else times)


@pytest.mark.parametrize("case", [*SIT, *REPA], ids=name_of)
def test_losses_of_flows_are_those_of_the_released_trainers(case):
    flow = FlowRecipe(**case)
    trainer = Trainer(DiTConfig(**FLOW_MODEL, learn_sigma=flow.time == "sit"), Recipe(flow=flow))
    trainer.model.load_state_dict(seeded_state(trainer.model.state_dict()))
    losses = []
    for batch in flow_batches():
        given = {name: batch[name] for name in ("x0", "labels", "noise")}
        losses.append(trainer.step(Batch(**given, timesteps=given_times(batch, flow))).item())
    expected = json.loads((GOLDENS / "flow_training.json").read_text())["losses"][name_of(case)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("path", ["linear", "gvp", "vp"])
def test_times_of_flows_are_drawn_as_asked(path):
    generators = [np.random.default_rng(seed) for seed in range(2000)]
    uniform = objective_of(FlowRecipe(path=path)).times(generators)
    assert 0 <= uniform.min() < uniform.max() <= 1
    assert np.quantile(uniform, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.04)
    drawn = objective_of(FlowRecipe(path=path, time_sampling="logit-normal")).times(generators)
    ratios = [math.log(level.sigma / level.alpha) for level in map(PATHS[path], drawn)]
    assert np.quantile(ratios, [0.159, 0.5, 0.841]) == pytest.approx([-1, 0, 1], abs=0.1), "of noise to data"
    score = objective_of(FlowRecipe(path=path, prediction="score")).times(generators)
    assert score.max() <= 1 - (1e-5 if path == "vp" else 1e-3)


@pytest.mark.parametrize("recipe", [Recipe(batch_size=64, flip=0.5), Recipe(batch_size=64, flow=FlowRecipe())])
def test_a_batch_depends_on_seed_step_and_position_only(data, recipe):
    config = tiny()
    batch = draw_batch(data, config, recipe, step=7, positions=range(64))
    half = draw_batch(data, config, recipe, step=7, positions=range(32, 64))
    for name in ("x0", "labels", "timesteps", "noise"):
        assert torch.equal(getattr(half, name), getattr(batch, name)[32:])
        for other in (
            draw_batch(data, config, recipe, step=8, positions=range(64)),
            draw_batch(data, config, dataclasses.replace(recipe, global_seed=1), step=7, positions=range(64)),
        ):
            assert not torch.equal(getattr(other, name), getattr(batch, name))
    assert abs(batch.noise.mean()) < 0.1
    assert abs(batch.noise.std() - 1) < 0.05


def test_every_image_once_in_a_pass_and_shares_as_asked():
    count = 1000
    images = np.zeros((count, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = np.arange(count) % 256, np.arange(count) // 256
    images[:, 0, 1, 0] = 255 - images[:, 0, 0, 0]  # its mirror image is another image
    data = ArrayData(images=images, labels=np.zeros(count, np.int64), identity={})
    config = tiny(input_size=2, num_classes=1)
    passes = []
    for first in (0, 50):
        batches = [
            draw_batch(data, config, Recipe(batch_size=20), step=step, positions=range(20))
            for step in range(first, first + 50)
        ]
        x0 = torch.cat([b.x0 for b in batches])
        pixels = ((x0 + 1) * 127.5).round().long()
        low, high = pixels[:, 0, 0].unbind(1)  # of which one is 255 less the other
        row = pixels[:, 0, 1]
        mirrored = row[:, 1] > row[:, 0]
        known = (row.sum(1) > 0).nonzero().flatten()  # images 256 and later say which way round they are
        index = torch.where(mirrored, high, low) + 256 * row.sum(1)
        assert len(set(index[known].tolist())) == len(known) == count - 256, "each image once"
        passes.append(index[known].tolist())
        assert 0.42 < mirrored[known].float().mean() < 0.58
        dropped = torch.cat([b.labels for b in batches]) == 1
        assert 0.06 < dropped.float().mean() < 0.14
        times = torch.cat([b.timesteps for b in batches])
        assert times.min() >= 0
        assert times.max() <= 999
        assert 440 < times.float().mean() < 560
    assert passes[0] != passes[1], "another order in the next pass"
    assert sorted(passes[0]) == sorted(passes[1])


def test_micro_batches_and_threads_change_nothing_but_rounding(data, tmp_path):
    asked = training_of(data, Recipe(learning_rate=1e-3, batch_size=16), steps=4)
    plain = train(tmp_path / "a", asked)
    threads = train(tmp_path / "b", asked, execution=Execution(num_workers=3))
    pieces = train(tmp_path / "c", asked, execution=Execution(micro_batch=5))
    for name, value in load_file(plain.model).items():
        assert torch.equal(load_file(threads.model)[name], value)
    close(plain.model, pieces.model)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"compile": True}])
@pytest.mark.slow
def test_bf16_and_compiled_stay_near(data, tmp_path, monkeypatch, settings):
    # The tracing and the gradients of torch.compile, without the half minute that its C++ compiler takes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    ends = {
        name: train(tmp_path / name, training_of(data, recipe, steps=6, log_every=6))
        for name, recipe in (
            ("plain", Recipe(learning_rate=1e-3, batch_size=16)),
            ("other", Recipe(learning_rate=1e-3, batch_size=16, **settings)),
        )
    }
    assert ends["other"].loss == pytest.approx(ends["plain"].loss, rel=1e-2)
    assert load_file(ends["other"].model)["final_layer.linear.weight"].dtype == torch.float32


# ---- the files


def test_checkpoints_load_and_say_how_they_were_made(whole):
    for kind in ("ema", "model"):
        for step in (*SAVES, STEPS):
            path = whole / f"{kind}-{step:07d}.safetensors"
            config = stored_config(path)
            assert (config.depth, config.space, config.in_channels, config.num_classes) == (1, "pixel", 1, 10)
            load_dit(path, config)
            with safe_open(path, framework="pt") as file:
                notes = json.loads(file.metadata()["dit_eval.training"])
            assert (notes["step"], notes["weights"]) == (step, kind)
            assert (notes["recipe"]["learning_rate"], notes["recipe"]["batch_size"]) == (1e-3, 8)
            assert notes["data"]["images"] == 1297
            assert notes["environment"]["packages"]["torch"]


def test_sample_takes_a_checkpoint(whole, tmp_path, capsys):
    out = tmp_path / "samples.npz"
    ckpt = ["--ckpt", whole / f"ema-{STEPS:07d}.safetensors"]
    options = ["--num-fid-samples", 4, "--num-sampling-steps", 4, "--cfg-scale", 1.0, "--device", "cpu"]
    code, output, _ = run(capsys, "sample", *ckpt, *options, "--out", out)
    assert code == 0
    assert "4 images, 8 px" in output


@pytest.fixture(scope="module")
def sampled(whole, tmp_path_factory):
    """Sample files of the averaged weights at each checkpoint of a run, under a name of the user's own."""
    folder = tmp_path_factory.mktemp("sampled")
    options = ["--num-fid-samples", 64, "--num-sampling-steps", 4, "--cfg-scale", 1.0, "--device", "cpu"]
    for step in (*SAVES, STEPS):
        ckpt = ["--ckpt", whole / f"ema-{step:07d}.safetensors", "--model", "mini-S/2"]
        with pytest.raises(SystemExit) as exit_:
            main(list(map(str, ["sample", *ckpt, *options, "--out", folder / f"{step}.npz"])))
        assert not exit_.value.code
    return folder


def test_samples_say_how_long_their_model_was_trained(sampled):
    for step in (*SAVES, STEPS):
        made = open_batch(sampled / f"{step}.npz", role="gen").run
        assert (made.model, made.training_steps, made.training_batch_size) == ("mini-S/2", step, 8)


def test_the_report_draws_the_curve_of_a_training(sampled, capsys):
    lines = sampled / "results.jsonl"
    for step in (*SAVES, STEPS):
        request = ["--ref", asset("digits").path, "--extractor", "digits", "--device", "cpu", "--metrics", "fid"]
        code, _, error = run(capsys, "evaluate", sampled / f"{step}.npz", *request, "--results", lines)
        assert code == 0, error
    points, _ = read_measured(lines, count=count_network)
    assert points["training_steps"].tolist() == [5, 9, 12]
    gflops = points["gflops"].iloc[0]
    assert points["training_gflops"].tolist() == pytest.approx([gflops * 8 * 3 * step for step in (5, 9, 12)])
    (digits,) = [s for s in settings(pandas.concat([published_points(), points])) if not s.is_papers]
    drawn = {item.name: item.draw(digits) for item in FIGURES if item.needs == "points"}
    for name, number, xs in (
        ("figure6", 0, [5.0, 9.0, 12.0]),
        ("figure9", 0, points["training_gflops"].tolist()),
        ("figure12", 1, points["training_gflops"].tolist()),
    ):
        lines = drawn[name].figure.axes[number].lines
        joined = [line for line in lines if len(line.get_xydata()) == 3 and line.get_linestyle() != "None"]
        assert len(joined) == 1, name
        assert joined[0].get_xdata().tolist() == pytest.approx(xs)
        assert joined[0].get_ydata().tolist() == points["fid"].tolist()
    plt.close("all")


def test_the_report_takes_the_log_and_the_folder_that_train_writes(data, tmp_path, capsys, monkeypatch):
    reported = {}
    out = tmp_path / "warm"
    request = training_of(data, Recipe(batch_size=8), steps=12, log_every=4)
    train(out, request, on_progress=lambda step, _, loss: reported.update({step: loss}))
    losses = read_losses(out / "log.jsonl")
    assert losses["model"].unique().tolist() == ["warm"], "no model of the paper: the folder names it"
    assert dict(zip(losses["step"], losses["loss"], strict=True)) == {step: reported[step] for step in (4, 8, 12)}
    assert (losses["mse"] + losses["vb"]).tolist() == pytest.approx(losses["loss"].tolist(), rel=1e-6)
    pandas.testing.assert_frame_equal(read_losses(out), losses)
    pandas.testing.assert_frame_equal(read_losses([out, out / "log.jsonl"]), losses)

    # The command draws it; the paper's figures and counts, which take a while, are on something else.
    monkeypatch.setattr("dit_eval.report.tables.paper.count_named", lambda *_: Count(gflops=1.0, params_m=1.0))
    monkeypatch.setattr("dit_eval.report.page.FIGURES", [item for item in FIGURES if item.needs == "losses"])
    shutil.copytree(out, tmp_path / "cold")
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, "report", "--out", "drawn", "--losses", "warm/log.jsonl", "--losses", "cold", "cold")
    assert code == 0, error
    assert Path("drawn/figures/figure13.pdf").is_file()
    table = pandas.read_csv("drawn/data/losses.csv")
    expected = [reported[step] for step in (4, 8, 12)]
    assert table.groupby("model")["loss"].apply(list).to_dict() == {"cold": expected, "warm": expected}


def test_the_log_of_a_model_of_the_paper_has_its_name(tmp_path):
    def written(folder, *lines, **config):
        (tmp_path / folder).mkdir()
        # Table 1 of the paper: DiT-B has 12 layers, width 768, 12 heads.
        shape = {"depth": 12, "hidden_size": 768, "num_heads": 12, "patch_size": 4}
        (tmp_path / folder / "run.json").write_text(json.dumps({"config": shape | config}))
        path = tmp_path / folder / "log.jsonl"
        path.write_text("".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in lines))
        return path

    one, two = written("one", (100, 0.2), (200, 0.1)), written("two", (100, 0.3), (100, 0.4))
    losses = read_losses(one)
    assert losses[["model", "step", "loss"]].to_numpy().tolist() == [["DiT-B/4", 100, 0.2], ["DiT-B/4", 200, 0.1]]
    design = written("design", (100, 0.5), block="cross-attention")
    assert read_losses(design)["model"].tolist() == ["DiT-B/4 cross-attention"]
    # Two runs of one model are two curves; of two lines of a step the later counts, as after a crash.
    both = read_losses([one, two.parent, design])
    assert both[["model", "step", "loss"]].to_numpy().tolist() == [
        ["DiT-B/4 (one)", 100, 0.2],
        ["DiT-B/4 (one)", 200, 0.1],
        ["DiT-B/4 (two)", 100, 0.4],
        ["DiT-B/4 cross-attention", 100, 0.5],
    ]
    moved = tmp_path / "baseline.jsonl"
    shutil.copy(one, moved)
    assert read_losses(moved)["model"].unique().tolist() == ["baseline"]
    for damage in ("{", "[]", '{"config": 1}', '{"config": {"depth": 0}}', "\xff"):
        (one.parent / "run.json").write_text(damage, encoding="latin-1")
        assert read_losses(one)["model"].unique().tolist() == ["one"]
    with pytest.raises(FileNotFoundError, match=r"holds neither log\.jsonl, .* nor losses\.jsonl"):
        read_losses(tmp_path)


def test_samples_say_which_set_of_weights_their_file_holds(whole, tmp_path, capsys):
    options = ["--num-fid-samples", 2, "--num-sampling-steps", 1, "--device", "cpu"]
    for kind in ("ema", "model"):
        out = tmp_path / f"{kind}.npz"
        ckpt = whole / f"{kind}-{STEPS:07d}.safetensors"
        code, _, error = run(capsys, "sample", "--ckpt", ckpt, "--out", out, *options)
        assert code == 0, error
        assert open_batch(out, role="gen").run.weights == kind
    out = tmp_path / "other.npz"
    ckpt = whole / f"ema-{STEPS:07d}.safetensors"
    code, _, error = run(capsys, "sample", "--ckpt", ckpt, "--weights", "model", "--out", out, *options)
    assert code == 2
    assert (
        f"holds averaged weights (ema), and --weights model asks for the others: pass the file model-{STEPS:07d}"
        in error
    )


def test_a_name_of_ones_own_needs_the_patch_size_of_the_checkpoint(whole, tmp_path, capsys):
    options = ["--num-fid-samples", 4, "--device", "cpu", "--out", tmp_path / "samples.npz"]
    ckpt = whole / f"ema-{STEPS:07d}.safetensors"
    code, _, error = run(capsys, "sample", "--ckpt", ckpt, "--model", "mini-S/4", *options)
    assert code == 2
    assert "of another model (patch_size 2, asked for 4)" in error
    torch.save({"x_embedder.proj.weight": torch.zeros(1)}, tmp_path / "other.pt")
    code, _, error = run(capsys, "sample", "--ckpt", tmp_path / "other.pt", "--model", "mini-S/4", *options)
    assert code == 2
    assert "does not say its configuration, and mini-S/4 is no model of the paper" in error


def test_files_of_other_makers_say_nothing_on_training(tmp_path):
    model = DiT(tiny())
    torch.save(model.state_dict(), tmp_path / "released.pt")
    save_dit(tmp_path / "ours.safetensors", model)
    assert training_notes(tmp_path / "released.pt") is None
    assert training_notes(tmp_path / "ours.safetensors") is None
    for text in (
        "{",
        "[]",
        '{"step": 5}',
        '{"step": 0, "recipe": {"batch_size": 8}}',
        '{"step": 5, "recipe": {"batch_size": 8}, "weights": "both"}',
    ):
        save_dit(tmp_path / "broken.safetensors", model, notes={NOTES_KEY: text})
        with pytest.raises(ValueError, match=r"broken.safetensors: its notes on training cannot be read"):
            training_notes(tmp_path / "broken.safetensors")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        training_notes(tmp_path / "nothing.safetensors")


def test_the_command_reports(tmp_path, capsys):
    out = tmp_path / "run"
    code, output, error = run(capsys, *command(out, steps=9))
    assert code == 0
    assert re.fullmatch(
        rf"{re.escape(str(out))}/ema-0000009\.safetensors: 9 steps, loss [\d.]+, [\d.]+ images/s\n", output
    )
    code, output, error = run(capsys, *command(out, steps=9))
    assert code == 0
    assert "complete already, 9 steps" in error


# ---- going on


def test_going_on_gives_the_same_bits(whole, tmp_path, capsys):
    # Stops at 5 and 9, between lines of the log: their losses have to be kept.
    out = tmp_path / "run"
    for steps in (5, 9, STEPS):
        options = command(out, steps=steps)
        options[options.index("5,9")] = "5"
        assert run(capsys, *options)[0] == 0
    same_run(whole, out)


# Each other file, in-process: tests/system/test_run_folder.py.
@pytest.mark.parametrize("at", ["state.safetensors"])
def test_killed_while_a_file_is_written(forks, whole, tmp_path, capsys, at):
    out = tmp_path / "run"
    assert forks(command(out), die_in="replace", at=at)["statuses"] == [-9]
    assert not (out / f"ema-{STEPS:07d}.safetensors").exists()
    assert run(capsys, *command(out))[0] == 0
    same_run(whole, out)


@pytest.mark.parametrize("kill_after", [0.005])
def test_killed_anywhere(forks, whole, tmp_path, capsys, kill_after):
    out = tmp_path / "run"
    for watched in ("/ema-0000005*", "/ema-0000009*"):
        forks(command(out), kill_after=kill_after, pieces=1, watch=watched, victims="all")
    with open(out / "log.jsonl", "a") as file:
        file.write('{"step": 12, "lo')  # a line cut short, as a power cut leaves it
    assert run(capsys, *command(out))[0] == 0
    same_run(whole, out)


FLOW = ["--objective", "flow", "--time-sampling", "logit-normal"]


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """The folder of an uninterrupted run that trains a flow."""
    out = tmp_path_factory.mktemp("flow") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(command(out, *FLOW))
    assert not exit_.value.code
    return out


def test_a_flow_that_goes_on_gives_the_same_bits(flow, whole, tmp_path, capsys):
    out = tmp_path / "run"
    for steps in (5, STEPS):
        options = command(out, *FLOW, steps=steps)
        options[options.index("5,9")] = "5" if steps == 5 else "5,9"
        assert run(capsys, *options)[0] == 0
    same_run(flow, out)
    lines = [json.loads(line) for line in (flow / "log.jsonl").read_text().splitlines()]
    assert lines[-1].keys() == {"step", "loss", "learning_rate"}
    notes = training_notes(flow / f"ema-{STEPS:07d}.safetensors")
    assert notes["recipe"]["flow"] == dataclasses.asdict(FlowRecipe(time_sampling="logit-normal"))
    assert "flow" not in training_notes(whole / f"ema-{STEPS:07d}.safetensors")["recipe"], "as earlier editions"


@pytest.mark.parametrize(
    ("options", "said"), [([], "recipe flow: None, {'path': 'linear'"), (FLOW[:2], "'time_sampling': 'uniform'")]
)
def test_another_objective_in_the_folder_is_refused(flow, capsys, options, said):
    before = {path: path.read_bytes() for path in flow.iterdir()}
    code, _, error = run(capsys, *command(flow, *options))
    assert code == 2
    assert said in error
    assert {path: path.read_bytes() for path in flow.iterdir()} == before


@pytest.mark.slow
def test_two_processes_train_the_same_flow(flow, forks, tmp_path):
    out = tmp_path / "run"
    assert forks(command(out, *FLOW), ranks=2)["statuses"] == [0, 0]
    near(flow, out)


def drawn_from(folder, capsys, out, *options):
    ckpt = folder / f"ema-{STEPS:07d}.safetensors"
    usual = ["--num-images", 4, "--num-sampling-steps", 4, "--device", "cpu"]
    return run(capsys, "sample", "--ckpt", ckpt, *usual, "--out", out, *options)


def test_samples_of_a_flow_need_no_options(flow, tmp_path, capsys):
    out = tmp_path / "samples.npz"
    code, _, error = drawn_from(flow, capsys, out, "--cfg-scale", 1.0)
    assert code == 0, error
    made = open_batch(out, role="gen").run
    assert (made.sampler, made.path, made.prediction, made.time) == ("sde-euler", "linear", "velocity", "sit")
    asked = ["--sampler", "sde-euler", "--path", "linear", "--time", "sit"]
    code, _, error = drawn_from(flow, capsys, out, "--cfg-scale", 1.0, *asked)
    assert code == 0, error
    assert "complete already" in error, "the same run, in words"
    guide = ["--guide-ckpt", flow / "ema-0000005.safetensors", "--sampler", "ode-heun"]
    assert drawn_from(flow, capsys, tmp_path / "guided.npz", *guide)[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sampler", "ddpm"], "--sampler ddpm: the weights were trained as a flow"),
        (["--sampler", "ddim"], "Take sde-euler, ode-heun or another sampler of flows."),
        (["--path", "gvp"], "trained with --path linear; asked for gvp. Leave it out"),
        (["--prediction", "noise"], "trained with --prediction velocity; asked for noise"),
        (["--time", "repa"], "trained with --time sit; asked for repa"),
        (["--sampler", "ode-heun", "--time", "ddpm"], "trained with --time sit; asked for ddpm"),
        (["--num-sampling-steps", "ddim50"], "takes a whole number from 2"),
        (["--guidance-interval", "0.5", "2"], "the time of a flow ends at 1"),
        (["--sampler", "ode-heun", "--last-step", "mean"], "the sampler ode-heun does not use it"),
        (["--guide-ckpt", "{whole}"], "predicts noise of DDPM; the model that it is to guide predicts velocity"),
    ],
    ids=str,
)
def test_what_contradicts_the_training_of_a_flow_is_refused(flow, whole, tmp_path, capsys, options, said):
    options = [each.format(whole=whole / f"ema-{STEPS:07d}.safetensors") for each in options]
    code, output, error = drawn_from(flow, capsys, tmp_path / "samples.npz", *options)
    assert (code, output) == (2, "")
    assert said in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--path", "gvp"], "--path gvp: the sampler ddpm does not use it"),
        (
            ["--sampler", "ode-euler"],
            "trained by DDPM, and the sampler ode-euler takes it for a flow's. Pass --time ddpm",
        ),
        (["--sampler", "ode-euler", "--time", "ddpm", "--guide-ckpt", "{flow}"], "predicts velocity of a flow"),
    ],
    ids=str,
)
def test_what_contradicts_the_training_of_ddpm_is_refused(flow, whole, tmp_path, capsys, options, said):
    options = [each.format(flow=flow / f"ema-{STEPS:07d}.safetensors") for each in options]
    code, output, error = drawn_from(whole, capsys, tmp_path / "samples.npz", *options)
    assert (code, output) == (2, "")
    assert said in error


def near(whole, out):
    """Checkpoints and log of another number of processes: rounding apart, the same."""
    for path in whole.glob("*.safetensors"):
        close(path, out / path.name)
    lines = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, out)]
    for one, other in zip(*lines, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.processes
def test_two_processes_by_torchrun_train_the_same(whole, tmp_path):
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "dit_eval", *command(out)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("12 steps, loss") == 1, "one process speaks"
    near(whole, out)


DEADLY_STEP = """\
import os
import signal

from dit_eval.cli import main
from dit_eval.diffusion.trainer import Trainer

step = Trainer.step


def deadly(self, batch):
    if self.steps == 7 and os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch)


Trainer.step = deadly
main()
"""


@pytest.mark.processes
def test_a_process_of_torchrun_is_killed(forks, tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY_STEP)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    one, cut = tmp_path / "one", tmp_path / "cut"
    ended = subprocess.run(
        [*torchrun, tmp_path / "deadly.py", *command(cut)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode != 0
    assert ended.stderr.count("dit-eval: error") <= 1, "torchrun itself tells the others to end, perhaps before"
    assert "gloo" not in ended.stderr
    assert "/dit_eval/" not in ended.stderr, "no traceback of ours"
    assert (cut / "state.safetensors").exists()
    for out in (one, cut):
        assert forks(command(out), ranks=2)["statuses"] == [0, 0]
    same_run(one, cut)


def test_two_processes_killed_and_continued_by_two_and_by_one(forks, whole, tmp_path, capsys):
    two, cut = tmp_path / "two", tmp_path / "cut"
    assert forks(command(two), ranks=2)["statuses"] == [0, 0]
    near(whole, two)
    killed = forks(command(cut), ranks=2, kill_after=0.0, pieces=1, watch="/ema-0000005*", victims="one")
    assert killed["stderr"].count("dit-eval: error: another process of this run has ended") <= 1
    assert "Traceback" not in killed["stderr"]
    assert not (cut / f"ema-{STEPS:07d}.safetensors").exists()
    assert forks(command(cut), ranks=2)["statuses"] == [0, 0]
    same_run(two, cut)
    forks(command(tmp_path / "mixed", steps=9), ranks=2)
    assert run(capsys, *command(tmp_path / "mixed"))[0] == 0
    near(whole, tmp_path / "mixed")


# ---- refusals


def test_another_run_in_the_folder_is_refused(whole, tmp_path, capsys):
    before = {path: path.read_bytes() for path in whole.iterdir()}
    for change, said in (
        (["--lr", "2e-3"], "recipe learning_rate: 0.002, 0.001"),
        (["--global-seed", "3"], "recipe global_seed: 3, 0"),
        (["--depth", "2"], "config depth: 2, 1"),
        (["--data", asset("digits-heldout").path], "data images: 500, 1297"),
    ):
        code, output, error = run(capsys, *command(whole, *change))
        assert (code, output) == (2, "")
        assert said in error
        assert "Name another --out" in error
    code, _, error = run(capsys, *command(whole, steps=10))
    assert code == 2
    assert "has done 12 steps, 10 were asked for" in error
    assert {path: path.read_bytes() for path in whole.iterdir()} == before, "nothing is touched"


def test_another_process_at_it_is_refused(whole, capsys):
    with FileLock(whole / "lock"):
        code, _, error = run(capsys, *command(whole))
    assert code == 2
    assert "another process is training there" in error


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(data, tmp_path, monkeypatch):
    step, out = Trainer.step, tmp_path / "run"
    asked = training_of(data, Recipe(batch_size=8), steps=10, save_at=(3,), log_every=100)

    def poisoned(self, batch):
        if self.steps == 5:
            with torch.no_grad():
                self.model.final_layer.linear.bias.fill_(float("nan"))
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(ValueError, match=r"Step 6: the loss is nan. The latest checkpoint is kept"):
        train(out, asked)
    assert sorted(p.name for p in out.glob("*.safetensors")) == [
        "ema-0000003.safetensors",
        "model-0000003.safetensors",
        "state.safetensors",
    ]
    monkeypatch.undo()
    end = train(out, asked)
    whole = train(tmp_path / "whole", asked)
    assert all(torch.equal(load_file(end.ema)[name], value) for name, value in load_file(whole.ema).items())


def test_a_disk_too_small_is_noticed_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("a step was done"))
    monkeypatch.setattr("dit_eval.training.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    code, _, error = run(capsys, *command(tmp_path / "run"))
    assert code == 2
    assert "are free; needed" in error


def test_weights_that_are_gone_are_named(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(capsys, *command(out, steps=9))[0] == 0
    (out / "ema-0000009.safetensors").unlink()
    code, _, error = run(capsys, *command(out))
    assert code == 2
    assert "ema-0000009.safetensors: gone" in error


@pytest.fixture(scope="module")
def odd_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    np.savez(folder / "colour.npz", arr_0=rng.integers(0, 256, (4, 8, 8, 3), np.uint8))
    np.savez(folder / "oblong.npz", arr_0=np.zeros((4, 8, 6, 3), np.uint8))
    np.savez(folder / "negative.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8), arr_1=np.array([0, 1, -1, 2]))
    np.savez(folder / "empty.npz", arr_1=np.zeros(4))
    (folder / "nothing").mkdir()
    (folder / "begun.parts").mkdir()
    return folder


DIGITS = ["--data", str(asset("digits").path)]
FLOWS = ["--objective", "flow"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "DiT-B4", *DIGITS], "Unknown model 'DiT-B4'.* Did you mean 'DiT-B/4'"),
        (["--model", "DiT-B/4", *DIGITS], "images, and DiT-B/4 is a model of latents"),
        (["--model", "DiT-B/4", "--data", "{}"], "dit-eval encode .* --out LATENTS --image-size 256"),
        (["--model", "DiT-B/4", *SIZES, *DIGITS], "one of the two"),
        (DIGITS, "give all of --depth"),
        ([*SIZES[:6], *DIGITS], "give all of --depth"),
        ([*SIZES, "--data", "nowhere"], "nowhere: neither latents, nor an npz, nor a folder"),
        ([*SIZES, "--data", "{}/begun"], "`dit-eval encode` has not finished"),
        ([*SIZES, "--data", "{}/nothing"], "needs --image-size"),
        ([*SIZES, "--data", "{}/nothing", "--image-size", "8"], "no images there"),
        ([*SIZES, "--data", "{}/colour.npz", "--grey"], "its images have colours"),
        ([*SIZES, "--data", "{}/oblong.npz"], "images of 6 x 8 px; needed squares"),
        ([*SIZES, "--data", "{}/negative.npz"], "label -1"),
        ([*SIZES, "--data", "{}/empty.npz"], "no arr_0"),
        ([*SIZES, *DIGITS, "--image-size", "8"], "has its own size"),
        ([*SIZES, "--data", LATENTS, "--identity", "bytes"], "--identity is for a folder of images"),
        ([*SIZES, *DIGITS, "--num-classes", "5"], "labels up to 9; the model knows 5"),
        ([*SIZES, *DIGITS, "--patch-size", "3"], "does not divide into patches of 3"),
        ([*SIZES, *DIGITS, "--depth", "0"], "needed at least 1 of each"),
        ([*SIZES, *DIGITS, "--block", "zero"], "--block zero: unknown"),
        ([*SIZES, *DIGITS, "--lr", "0"], "--lr: expected more than 0; got 0.0"),
        ([*SIZES, *DIGITS, "--lr", "nan"], "--lr: expected more than 0; got nan"),
        ([*SIZES, *DIGITS, "--ema", "1"], "--ema: expected at least 0 and less than 1; got 1.0"),
        ([*SIZES, *DIGITS, "--batch-size", "0"], "--batch-size: expected at least 1; got 0"),
        ([*SIZES, *DIGITS, "--per-proc-batch-size", "0"], "--per-proc-batch-size: expected at least 1; got 0"),
        ([*SIZES, *DIGITS, "--steps", "0"], "--steps: expected at least 1; got 0"),
        ([*SIZES, *DIGITS, "--log-every", "0"], "--log-every: expected at least 1; got 0"),
        (
            [*SIZES, *DIGITS, "--steps", "10", "--save-at", "5,11"],
            "--save-at: expected steps from 1 to 10, .*; got 11",
        ),
        ([*SIZES, *DIGITS, "--save-at", "soon"], "--save-at: invalid"),
        ([*SIZES, *DIGITS, "--global-seed", "-1"], "--global-seed: expected at least 0; got -1"),
        ([*SIZES, *DIGITS, "--label-dropout", "1"], "--label-dropout 1.0"),
        ([*SIZES, *DIGITS, "--precision", "tf32", "--device", "cpu"], "tf32 is arithmetic of NVIDIA GPUs"),
        ([*SIZES, *DIGITS, "--warm-up", "-1"], "--warm-up: expected at least 0; got -1"),
        ([*SIZES, *DIGITS, "--num-workers", "-1"], "--num-workers: expected at least 0; got -1"),
        ([*SIZES, *DIGITS, "--path", "gvp"], "--path gvp: for flows; pass --objective flow"),
        ([*SIZES, *DIGITS, "--objective", "flows"], "--objective: .*'flows'.*ddpm"),
        ([*SIZES, *DIGITS, *FLOWS, "--path", "vp", "--time", "repa"], "--path vp: REPA has no such path"),
        ([*SIZES, *DIGITS, *FLOWS, "--loss-weight", "velocity"], "the error of a velocity has no weight"),
    ],
)
def test_mistakes_are_explained_before_any_work(odd_data, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("a step was done"))
    code, output, error = run(capsys, "train", *(a.format(odd_data) for a in arguments), "--out", tmp_path / "run")
    assert (code, output) == (2, ""), error
    assert re.search(said, error), error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("log.jsonl", r"log\.jsonl: a log that no run\.json belongs"),
        ("run.json", r"run\.json: written by another prog"),
    ],
)
def test_files_of_other_programs_are_not_written_over(tmp_path, capsys, monkeypatch, name, said):
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("a step was done"))
    (tmp_path / name).write_text('{"step": 1, "loss": 0.5}\n')
    code, _, error = run(capsys, *command(tmp_path))
    assert code == 2
    assert re.search(said, error), error
    assert (tmp_path / name).read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_batch_that_does_not_divide_is_refused(forks, tmp_path):
    job = forks(command(tmp_path / "run", "--batch-size", 7), ranks=2)
    assert job["statuses"] == [2, 2]
    assert job["stderr"].count("A batch of 7 does not divide among 2 processes") == 1


def test_the_position_table_is_left_alone(data):
    trainer = Trainer(tiny(), Recipe(batch_size=8))
    before = deepcopy(trainer.model.pos_embed)
    for step in range(3):
        trainer.step(draw_batch(data, trainer.config, trainer.recipe, step=step, positions=range(8)))
    assert torch.equal(trainer.ema.pos_embed, before)
    assert torch.equal(trainer.model.pos_embed, before)


def test_initial_weights_leave_the_generator_of_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Trainer(tiny(), Recipe(global_seed=9))
    assert torch.equal(torch.rand(3), expected)
