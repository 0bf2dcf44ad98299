"""The readers of samples, references, weights, plans and results, as the fuzzer calls them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from fuzz_changes import (
    change_bytes,
    change_json,
    change_npy,
    change_png,
    change_safetensors,
    change_tar,
    change_text,
    in_gzip,
    in_zip,
)
from fuzz_engine import Reader
from fuzz_seeds import (
    graph_seeds,
    image_seeds,
    loss_seeds,
    npz_seeds,
    pickle_seeds,
    plan_seeds,
    pytorch_seeds,
    result_seeds,
    safetensors_seeds,
    tar_seeds,
    tgz_seeds,
    tiny_config,
    zip_seeds,
)


def read_npz(path: Path) -> None:
    from dit_eval.images.npz import open_batch

    refused: ValueError | None = None
    for role in ("gen", "ref"):
        try:
            batch = open_batch(path, role=role)
            for images in batch.batches(2):
                assert images.shape[1:] == (*(batch.image_size or ()), 3)
            batch.sha256()
            if batch.run is not None:
                batch.run.summary()
        except ValueError as error:
            refused = error
    if refused is not None:
        raise refused


def read_pickle(path: Path) -> None:
    from dit_eval.images import open_images

    batch = open_images(path, role="ref")
    batch.sha256()
    assert batch.pool is not None
    assert np.isfinite(batch.pool.sigma).all()


def read_graph(path: Path) -> None:
    from dit_eval.features.inception_weights import read_state_dict

    read_state_dict(path)  # says what is missing in the small ones; the reader of constants has done its part by then


def read_constants(path: Path) -> None:
    from dit_eval.features.graph_def import read_constants

    for array in read_constants(path).values():
        array.sum()


def read_pytorch(path: Path) -> None:
    from dit_eval.models.checkpoints import load_dit

    load_dit(path, tiny_config())


def read_safetensors(path: Path) -> None:
    from dit_eval.models.checkpoints import load_dit, stored_config, training_notes

    training_notes(path)
    config = stored_config(path)
    load_dit(path, tiny_config())
    assert config is None or config.depth > 0


def read_feature_weights(path: Path) -> None:
    from dit_eval.features.inception_weights import read_state_dict
    from dit_eval.features.vit import read_weights

    read_state_dict(path)
    read_weights(path, "dinov2")


def read_plan(path: Path) -> None:
    from dit_eval.study.plan_file import load_plan

    plan = load_plan(path)
    for task in plan.tasks:
        plan.resources(task)


def read_results(path: Path) -> None:
    from dit_eval.flops.kept import count_network
    from dit_eval.report.points import read_measured
    from dit_eval.report.setting import settings

    points, _ = read_measured(path, count=count_network)
    settings(points)


def read_losses(path: Path) -> None:
    from dit_eval.report.points import read_losses

    read_losses(path)


def read_images(path: Path) -> None:
    from dit_eval.images import open_images

    images = open_images(path, role="gen")
    images.sha256()
    for batch in images.batches(2):
        assert batch.dtype == np.uint8


def read_folder(path: Path) -> None:
    read_images(path.parent)


KINDS = (
    Reader(name="npz", suffix=".npz", seeds=npz_seeds, mutate=partial(in_zip, change_npy), read=read_npz, weight=2.5),
    Reader(name="statistics pickle", suffix=".pkl", seeds=pickle_seeds, mutate=change_bytes, read=read_pickle),
    Reader(name="GraphDef", suffix=".pb", seeds=graph_seeds, mutate=change_bytes, read=read_constants, weight=1.5),
    Reader(name="Inception graph", suffix=".pb", seeds=graph_seeds, mutate=change_bytes, read=read_graph),
    Reader(name="PyTorch checkpoint", suffix=".pt", seeds=pytorch_seeds, mutate=partial(in_zip, change_bytes),
           read=read_pytorch),
    Reader(name="safetensors checkpoint", suffix=".safetensors", seeds=safetensors_seeds, mutate=change_safetensors,
           read=read_safetensors),
    Reader(name="feature weights", suffix=".pth", seeds=pytorch_seeds, mutate=partial(in_zip, change_bytes),
           read=read_feature_weights),
    Reader(name="plan", suffix=".toml", seeds=plan_seeds, mutate=change_text, read=read_plan),
    Reader(name="results", suffix=".jsonl", seeds=result_seeds, mutate=change_json, read=read_results, weight=1.2),
    Reader(name="loss log", suffix=".jsonl", seeds=loss_seeds, mutate=change_text, read=read_losses),
    Reader(name="folder", suffix=".png", seeds=image_seeds, mutate=change_png, read=read_folder),
    Reader(name="zip", suffix=".zip", seeds=zip_seeds, mutate=partial(in_zip, change_png), read=read_images),
    Reader(name="tar", suffix=".tar", seeds=tar_seeds, mutate=change_tar, read=read_images),
    Reader(name="tar.gz", suffix=".tar.gz", seeds=tgz_seeds, mutate=partial(in_gzip, change_tar), read=read_images),
)  # fmt: skip
