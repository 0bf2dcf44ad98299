"""Make ``witnesses.json`` and ``witnesses.npz``: what the witnesses' sources say about seeded features and images.

    python tests/goldens/make_witness_goldens.py PART PATH...

PART and its PATHs (checkouts) are one of

    prdc generative-evaluation-prdc
    kid MMD-GAN dgm-eval
    dgm dgm-eval dinov2
    transformers
    cmmd google-research scenic cmmd-pytorch

Each part runs in an environment that its source can live in, and adds its section to the files. See README.md beside
this file.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import importlib.metadata
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import witness_goldens as given

# Commit, files, and SHA-256 of these one after the other.
SOURCES = {
    "clovaai/generative-evaluation-prdc": (
        "e320c1d2811d33081361a08f595b43830b78641c",
        ["prdc/prdc.py"],
        "9af64e54c0b2e7a28b5d08a7fa241729e294a9a1c30a7bffd7d0adf7d4031826",
    ),
    "mbinkowski/MMD-GAN": (
        "678bb5e2d5f7b0bb8dd5c3591d7759e1bb3f8018",
        ["gan/compute_scores.py"],
        "b932e41a4b77f0c95dc749e1abecfad904b60a3e2a485609652b3225947ba575",
    ),
    "layer6ai-labs/dgm-eval": (
        "74c79f7527fbf38fdccfbac51f25d759bc02ab07",
        ["dgm_eval/metrics/fd.py", "dgm_eval/metrics/mmd.py", "dgm_eval/models/dinov2.py", "dgm_eval/models/encoder.py",
         "dgm_eval/resizer.py"],
        "278b8085359a3145d4c83a10a4690193510e6168b34145a1af58899f69ee3983",
    ),
    "facebookresearch/dinov2": (
        "b8931f7bf91576930313be2c6d6af376033b35f0",
        ["dinov2/hub/backbones.py", "dinov2/models/vision_transformer.py"],
        "5e87801aeacf273e56561942502f51dab7ea39cc8da474dc14c43dcb41e42f12",
    ),
    "google-research/google-research": (
        "4c4299485319ed72ef782020c81784be5468924e (distance.py), 5b09c22d73a9d35eb6c5d2a99b95677a45053466",
        ["cmmd/distance.py", "cmmd/embedding.py"],
        "5710062d04127a881226ccfcdb0ee110ab6f90b8c7b0a45805eab360d2d260db",
    ),
    "google-research/scenic": (
        "4a38d475ee89cb821078c0e2bf2065ee030e1535",
        ["scenic/projects/baselines/clip/layers.py", "scenic/projects/baselines/clip/model.py"],
        "fddc28d0a65f108cfabd7657103814dbfaf091d9d283662ffd18f95df85ade6f",
    ),
    "sayakpaul/cmmd-pytorch": (
        "f7673a9f46320ac958878c19f7686e203376ad9d",
        ["distance.py", "io_util.py"],
        "a0ac0ffab97a237d56f94967805c5dd5a4e506d6045d96a68b344de99d6f56fc",
    ),
}  # fmt: skip
IMAGE_SIZES = (64, 224, 256)


def check(repository: str, root: Path) -> dict[str, Any]:
    """The source as `witnesses.json` names it; ends here if its files are not the ones that were read."""
    commit, files, sha256 = SOURCES[repository]
    found = hashlib.sha256(b"".join((root / file).read_bytes() for file in files)).hexdigest()
    if found != sha256:
        sys.exit(f"{repository}: these files have SHA-256 {found}; needed {sha256}, commit {commit}.")
    sys.path.insert(0, str(root.resolve()))
    return {"repository": repository, "commit": commit, "files": files, "sha256": sha256}


def without_init(name: str, folder: Path) -> None:
    """Let the modules of a package be imported without its ``__init__``, which imports every network it knows."""
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def prdc(root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    source = check("clovaai/generative-evaluation-prdc", root)
    gen, ref = given.prdc_features()
    found = importlib.import_module("prdc").compute_prdc(real_features=ref, fake_features=gen, nearest_k=5)
    same = importlib.import_module("prdc").compute_prdc(real_features=ref, fake_features=ref, nearest_k=5)
    metrics = {"gen against ref": found, "ref against itself": same}
    return {
        "sources": [source],
        "packages": versions("scikit-learn", "numpy"),
        "k": 5,
        **{case: {name: float(value) for name, value in values.items()} for case, values in metrics.items()},
    }, {}


def kid(mmd_gan: Path, dgm: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Three programs on the same subsets: torch-fidelity draws them by RandomState(2020), the others by np.random."""
    sources = [check("mbinkowski/MMD-GAN", mmd_gan), check("layer6ai-labs/dgm-eval", dgm)]
    sys.path.insert(0, str(mmd_gan / "gan"))
    without_init("dgm_eval", dgm / "dgm_eval")
    without_init("dgm_eval.metrics", dgm / "dgm_eval" / "metrics")
    fidelity = importlib.import_module("torch_fidelity.metric_kid").kid_features_to_metric
    original = importlib.import_module("compute_scores").polynomial_mmd_averages
    stein = importlib.import_module("dgm_eval.metrics.mmd").compute_mmd
    gen, ref = given.kid_features()
    found = {}
    for dtype in (np.float32, np.float64):
        sides = gen.astype(dtype), ref.astype(dtype)
        by_fidelity = fidelity(*map(torch.from_numpy, sides), verbose=False)
        np.random.seed(2020)
        by_original = original(*sides, n_subsets=100, subset_size=1000, ret_var=False)
        np.random.seed(2020)
        by_stein = stein(*sides)
        found[dtype.__name__] = {
            "torch-fidelity": list(by_fidelity.values()),
            "MMD-GAN": [float(by_original.mean()), float(by_original.std())],
            "dgm-eval": [float(by_stein.mean()), float(by_stein.std())],
        }
    return {
        "sources": sources,
        "packages": versions("torch-fidelity", "scikit-learn", "numpy"),
        "subsets": 100,
        "subset size": 1000,
        "seed": 2020,
        "mean and standard deviation": found,
    }, {}


def dgm(dgm_root: Path, dinov2_root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    sources = [check("layer6ai-labs/dgm-eval", dgm_root), check("facebookresearch/dinov2", dinov2_root)]
    for package in ("dgm_eval", "dgm_eval.metrics", "dgm_eval.models"):
        without_init(package, dgm_root.joinpath(*package.split(".")))
    distance = importlib.import_module("dgm_eval.metrics.fd").compute_FD_with_reps
    encoder_class = importlib.import_module("dgm_eval.models.dinov2").DINOv2Encoder
    hub = importlib.import_module("dinov2.hub.backbones")
    transformers = importlib.import_module("dinov2.models.vision_transformer")

    large, layers = transformers.vit_large, importlib.import_module("dinov2.layers")
    block = partial(layers.NestedTensorBlock, attn_class=layers.MemEffAttention)  # as in vit_large
    size = {"embed_dim": given.WIDTH, "depth": given.DEPTH, "num_heads": given.WIDTH // 64, "mlp_ratio": 4}
    narrow = partial(transformers.DinoVisionTransformer, **size, block_fn=block)

    def encoder(full_size: bool) -> torch.nn.Module:
        """dgm-eval's encoder, with seeded weights where torch.hub would fetch the published ones."""

        def load(repository: str, name: str) -> torch.nn.Module:
            transformers.vit_large = large if full_size else narrow
            model = getattr(hub, name)(pretrained=False)
            shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
            model.load_state_dict(given.seeded_weights(shapes))
            layouts[full_size] = shapes
            return model

        torch.hub.load = load
        return encoder_class().eval()

    from PIL import Image

    layouts: dict[bool, dict[str, list[int]]] = {}
    arrays = {}
    net = encoder(full_size=False)
    with torch.no_grad():
        for size in IMAGE_SIZES:
            batch = torch.stack([net.transform(Image.fromarray(image)) for image in given.images(size)])
            arrays[f"dinov2/{size}"] = net(batch).numpy()
        net = encoder(full_size=True)
        batch = torch.stack([net.transform(Image.fromarray(image)) for image in given.images(256, 2)])
        arrays["dinov2/full size"] = net(batch).numpy()
    gen, ref = (rows.astype(np.float64) for rows in given.frechet_features())  # the type in which dgm-eval keeps them
    return {
        "sources": sources,
        "packages": versions("torch", "torchvision", "pillow", "scipy", "numpy"),
        "fd": float(distance(ref, gen)),
        "layout": layouts[True],
    }, arrays


def cmmd(research: Path, scenic: Path, port: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The original in JAX; images are read by the port's copy of its reader, which needs no TensorFlow pipeline."""
    sources = [
        check("google-research/google-research", research),
        check("google-research/scenic", scenic),
        check("sayakpaul/cmmd-pytorch", port),
    ]
    jax = importlib.import_module("jax")
    mmd = importlib.import_module("cmmd.distance").mmd
    clip = importlib.import_module("scenic.projects.baselines.clip.model")
    embedding = importlib.import_module("cmmd.embedding")
    reader = importlib.import_module("io_util")
    port_mmd = importlib.import_module("distance").mmd
    from PIL import Image

    gen, ref = given.cmmd_features()
    found = {"float32": float(mmd(ref, gen)), "float32, the port in PyTorch": float(port_mmd(ref, gen))}
    arrays = {}
    published = dict(clip.CONFIGS["vit_l14_336px"])
    narrow = {"vision_features": given.WIDTH, "vision_num_layers": given.DEPTH, "embed_dim": given.EMBEDDING}
    for name, config in (("narrow", published | narrow), ("full size", published)):
        clip.CONFIGS["vit_l14_336px"] = config
        shapes = given.clip_shapes(config["vision_features"], config["vision_num_layers"], config["embed_dim"])
        weights = given.openai_layout(given.seeded_weights(shapes), config["vision_num_layers"])
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "vit_l14_336px.npy", {key: value.numpy() for key, value in weights.items()})
            clip.load_model_vars.__defaults__ = (None, folder)
            model = embedding.ClipEmbeddingModel()
            cases = {"full size": given.images(256, 2)} if name == "full size" else {
                **{str(size): given.images(size) for size in IMAGE_SIZES}, "256 x 200": given.images(256)[:, :, 17:217],
            }  # fmt: skip
            for case, images in cases.items():
                pictures = Path(folder) / case
                pictures.mkdir()
                for i, image in enumerate(images):
                    Image.fromarray(image).save(pictures / f"{i}.png")
                arrays[f"clip/{case}"] = reader.compute_embeddings_for_dir(str(pictures), model, batch_size=2)
    jax.config.update("jax_enable_x64", True)
    found["float64"] = float(mmd(ref.astype(np.float64), gen.astype(np.float64)))
    return {
        "sources": sources,
        "packages": versions("jax", "flax", "pillow", "numpy"),
        "cmmd": found,
    }, arrays


def transformers() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Layout of the published CLIP, and the embeddings of the same images by the library that its file is for."""
    library = importlib.import_module("transformers")
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
             "patch_size": 14, "image_size": 336, "projection_dim": 768}  # fmt: skip
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
            "projection_dim": 768}  # fmt: skip
    with torch.device("meta"):
        model = library.CLIPModel(library.CLIPConfig(vision_config=large, text_config=text, projection_dim=768))
    layout = {key: list(value.shape) for key, value in model.state_dict().items()}
    narrow = large | {
        "hidden_size": given.WIDTH,
        "intermediate_size": 4 * given.WIDTH,
        "num_hidden_layers": given.DEPTH,
        "num_attention_heads": given.WIDTH // 64,
        "projection_dim": given.EMBEDDING,
    }
    net = library.CLIPVisionModelWithProjection(library.CLIPVisionConfig(**narrow)).eval()
    net.load_state_dict(given.seeded_weights(given.clip_shapes()))
    processor = library.CLIPImageProcessor(do_resize=False, do_center_crop=False)
    from PIL import Image

    pictures = [Image.fromarray(image).resize((336, 336), Image.Resampling.BICUBIC) for image in given.images(256)]
    with torch.no_grad():
        embeddings = net(**processor(pictures, return_tensors="pt")).image_embeds
    embeddings /= embeddings.norm(dim=-1, keepdim=True)
    return {"packages": versions("transformers", "torch"), "layout": layout}, {"transformers/256": embeddings.numpy()}


def versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}


def main() -> None:
    part, paths = sys.argv[1], [Path(path) for path in sys.argv[2:]]
    makers = {"prdc": prdc, "kid": kid, "dgm": dgm, "cmmd": cmmd, "transformers": transformers}
    section, arrays = makers[part](*paths)
    text, kept = HERE / "witnesses.json", HERE / "witnesses.npz"
    sections = json.loads(text.read_text()) if text.exists() else {}
    sections[part] = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), **section}
    text.write_text(json.dumps(dict(sorted(sections.items())), indent=1) + "\n")
    if arrays:
        with np.load(kept) if kept.exists() else tempfile.TemporaryDirectory() as before:
            known = {} if isinstance(before, str) else {key: before[key] for key in before.files}
        np.savez_compressed(kept, **known | {key: value.astype(np.float32) for key, value in arrays.items()})
    shown = {key: value for key, value in section.items() if key not in ("layout", "sources")}
    sys.stdout.write(json.dumps(shown, indent=1) + "\n" + ", ".join(arrays) + "\n")


if __name__ == "__main__":
    main()
