"""What public repositories write and ship: each layout gives the number that the same images give, or says why not."""

import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from dit_eval.evaluation import evaluate
from dit_eval.features.extract import extract_features
from dit_eval.images import from_batches, open_images
from dit_eval.images.pair import TwoReferences

NOTES = (Path(__file__).parents[2] / "dit_eval/images/README.md").read_text(encoding="utf-8")
GEN, REF, VAL = slice(0, 250), slice(250, 500), slice(100, 400)


@pytest.fixture(scope="module")
def known(digits, digits_extractor):
    """Statistics of the reference by NumPy, and FID of the samples against them by SciPy."""

    def statistics(part):
        rows = extract_features(from_batches([digits.images[part]]), digits_extractor, keep_spatial=True)
        pool, spatial = (rows.features(name).astype(np.float64) for name in ("pool", "spatial"))
        return pool.mean(0), np.cov(pool.T), spatial.mean(0), np.cov(spatial.T)

    mu, sigma, mu_s, sigma_s = statistics(REF)
    mine, other, _, _ = statistics(GEN)
    root = scipy.linalg.sqrtm(sigma @ other).real
    fid = ((mu - mine) ** 2).sum() + np.trace(sigma + other - 2 * root)
    return {"mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s, "fid": fid}


def pngs(folder, images, names):
    for image, name in zip(images, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def zipped(path, folder):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder).as_posix())
        archive.writestr("dataset.json", '{"labels": null}')
    return path


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


# Who writes it -> how; the labels that there are, of the classes in their order.
SAMPLES = {
    "ADM, MDT, MaskDiT: arr_0 and arr_1": lambda at, x, y: npz(at / "samples_50000x256x256x3.npz", arr_0=x, arr_1=y),
    "DiT, SiT, REPA, RAE, DDT, PixNerd: arr_0": lambda at, x, y: npz(at / "output.npz", arr_0=x),
    "DiT, SiT, REPA, REPA-E, RAE: a folder of {:06d}.png": lambda at, x, y: pngs(
        at / "png", x, [f"{k:06d}.png" for k in range(len(x))]
    ),
    "MAR, JiT, FractalGen: {:05d}.png, class-ordered": lambda at, x, y: pngs(
        at / "png", x[np.argsort(y, kind="stable")], [f"{k:05d}.png" for k in range(len(x))]
    ),
    "EDM2: --subdirs": lambda at, x, y: pngs(
        at / "out", x, [f"{k // 1000 * 1000:06d}/{k:06d}.png" for k in range(900, 900 + len(x))]
    ),
    "EDM2: dataset_tool.py": lambda at, x, y: zipped(
        at / "img.zip", pngs(at / "out", x, [f"{k // 1000:05d}/img{k:08d}.png" for k in range(900, 900 + len(x))])
    ),
    "class folders": lambda at, x, y: pngs(at / "png", x, [f"n{y[k]:08d}/{k}.png" for k in range(len(x))]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_each_layout_give_the_same_number(tmp_path, digits, digits_extractor, known, name):
    images, labels = digits.images[GEN], digits.labels[GEN]
    gen = open_images(SAMPLES[name](tmp_path, images, labels), role="gen")
    ref = npz(tmp_path / "ref.npz", mu=known["mu"], sigma=known["sigma"])
    found = evaluate(gen, ref=open_images(ref, role="ref"), network=digits_extractor, metrics=["fid"], quiet=True)
    assert found.fid == pytest.approx(known["fid"], rel=1e-7)
    if "arr_1" in name or name == "class folders":
        np.testing.assert_array_equal(np.sort(gen.labels), np.sort(labels))
    else:
        assert gen.labels is None, "folders of a numbered series are no classes"


def pickled(path, given):
    path.write_bytes(pickle.dumps(given))
    return path


def pool(known, one_row=False):
    return {"mu": known["mu"][None] if one_row else known["mu"], "sigma": known["sigma"]}


# Who ships it -> how.
REFERENCES = {
    "ADM: VIRTUAL_imagenet256_labeled.npz": lambda at, k, x: npz(
        at / "VIRTUAL_imagenet256_labeled.npz",
        **{"arr_0": x[::5], "mu_clip": k["mu"][:3], "sigma_clip": k["sigma"][:3, :3]},
        **{key: k[key] for key in ("mu", "sigma", "mu_s", "sigma_s")},
    ),
    "MAR, JiT, FractalGen, pytorch-fid, U-ViT, EDM: mu, sigma": lambda at, k, x: npz(at / "stats.npz", **pool(k)),
    "MeanFlow, iMF, pMF, Drifting: ref_mu, ref_sigma": lambda at, k, x: npz(
        at / "imagenet_256_fid_stats.npz", ref_mu=k["mu"], ref_sigma=k["sigma"]
    ),
    "a mean of one row": lambda at, k, x: npz(at / "stats.npz", **pool(k, one_row=True)),
    "EDM2: img512.pkl": lambda at, k, x: pickled(
        at / "img512.pkl", {"num_images": 250, "fid": pool(k), "fd_dinov2": {"mu": np.ones(4), "sigma": np.eye(4)}}
    ).with_name("img512.pkl#fid"),
    "FD-Loss: paper_ref_stats.pkl": lambda at, k, x: pickled(
        at / "paper_ref_stats.pkl", {"jit_in256_stats.npz": pool(k), "guided_diffusion_stats.npz": pool(k)}
    ).with_name("paper_ref_stats.pkl#jit_in256_stats.npz"),
    "RAE: val_256.npz, images alone": lambda at, k, x: npz(at / "val_256.npz", arr_0=x),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_references_of_each_layout_give_the_same_number(tmp_path, monkeypatch, digits, digits_extractor, known, name):
    # The embedded network stands for Inception, of which these files are.
    monkeypatch.setattr(type(digits_extractor), "name", "inception", raising=False)
    ref = open_images(REFERENCES[name](tmp_path, known, digits.images[REF]), role="ref")
    gen = open_images(npz(tmp_path / "gen.npz", arr_0=digits.images[GEN]), role="gen")
    found = evaluate(gen, ref=ref, network=digits_extractor, quiet=True)
    assert found.fid == pytest.approx(known["fid"], rel=1e-6)
    holds_images = "VIRTUAL" in name or "images alone" in name
    assert (found.sfid is not None, found.precision is not None) == (holds_images, holds_images)
    if not holds_images:
        assert any("sfid" in warning and "not computed" in warning for warning in found.warnings)


def test_two_files_of_drifting_are_one_reference(tmp_path, digits, digits_extractor, known):
    statistics = npz(tmp_path / "imagenet_256_fid_stats.npz", ref_mu=known["mu"], ref_sigma=known["sigma"])
    images = npz(tmp_path / "imagenet_val_prc_arr0.npz", arr_0=digits.images[VAL])
    gen = open_images(npz(tmp_path / "gen.npz", arr_0=digits.images[GEN]), role="gen")
    pair = TwoReferences(statistics=open_images(statistics, role="ref"), images=open_images(images, role="ref"))
    found = evaluate(gen, ref=pair, network=digits_extractor, metrics=["fid", "precision", "recall"], quiet=True)
    alone = evaluate(
        gen, ref=open_images(images, role="ref"), network=digits_extractor, metrics=["precision", "recall"], quiet=True
    )
    assert found.fid == pytest.approx(known["fid"], rel=1e-7)
    assert (found.precision, found.recall) == (alone.precision, alone.recall)


def features(at, x):
    return npz(at / "features.npz", features=np.ones((9, 64)), logits=np.ones((9, 1008)))


def dgm_eval(at, x):
    return npz(at / "reps.npz", reps=np.ones((9, 64)), model=np.array("x", object), hparams=np.array({}, object))


def tensor(at, x):
    torch.save(torch.from_numpy(x), at / "samples.pt")
    return at / "samples.pt"


def npy(at, x):
    np.save(at / "samples.npy", x)
    return at / "samples.npy"


def webp(at, x):
    (at / "webp").mkdir()
    Image.fromarray(x[0]).save(at / "webp" / "0.webp")
    return at / "webp"


REFUSED = {
    "features of Drifting's forks": (features, "no arr_0 in the file; keys found: features, logits"),
    "representations of dgm-eval": (dgm_eval, "no arr_0 in the file; keys found: hparams, model, reps"),
    "score_sde: samples": (lambda at, x: npz(at / "x.npz", samples=x), "no arr_0 .*: samples. .*np.savez"),
    "images": (lambda at, x: npz(at / "x.npz", images=x), "no arr_0 .*: images. .*np.savez"),
    "batches as arrays": (lambda at, x: npz(at / "x.npz", arr_0=x[:9], arr_1=x[9:]), "arr_1"),
    "npy": (npy, "a single .npy array, not an .npz. Save it again"),
    "NCHW": (lambda at, x: npz(at / "x.npz", arr_0=x.transpose(0, 3, 1, 2)), r"transpose with \(0, 2, 3, 1\)"),
    "floats": (lambda at, x: npz(at / "x.npz", arr_0=x / 255), "arr_0 is float64; needed uint8 in 0..255. Quantise"),
    "WebP": (webp, "a .webp file; needed PNG"),
    "a tensor": (tensor, "no arr_0 in the file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_says_why(tmp_path, digits, name):
    write, said = REFUSED[name]
    path = write(tmp_path, digits.images[:20])
    with pytest.raises(ValueError, match=said):
        evaluate(path, ref="digits", network="digits", quiet=True)


def test_statistics_of_networks_that_are_not_run_are_refused(tmp_path, digits, digits_extractor):
    given = {"mu": np.ones(64), "sigma": np.eye(64)}
    bundle = pickled(tmp_path / "x.pkl", {"convnext_in256_t224_stats.npz": given, "fd_dinov2": given})
    with pytest.raises(ValueError, match=r"holds no statistics of the network inception: convnext_in256_t224_stats"):
        open_images(bundle, role="ref")
    named = open_images(f"{bundle}#convnext_in256_t224_stats.npz", role="ref")
    gen = open_images(npz(tmp_path / "gen.npz", arr_0=digits.images[GEN]), role="gen")
    with pytest.raises(ValueError, match=r"of the network convnextv2-base \(FD-Loss\), not digits"):
        evaluate(gen, ref=named, network=digits_extractor, quiet=True)


def test_the_notes_have_every_repository():
    table = NOTES.partition("## Whose files work how")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1
    for name in (
        *("DiT", "SiT", "REPA", "REPA-E", "REG", "DDT", "PixNerd", "RAE", "LightningDiT", "MAR", "FractalGen", "JiT"),
        *("MeanFlow", "iMF", "pMF", "DiM", "U-ViT", "py-meanflow", "flow_matching", "Drifting", "W-Flow", "FD-Loss"),
        *("VAR", "LlamaGen", "TiTok", "RAR", "MDT", "U-DiT", "MaskDiT", "DiG", "EDM2", "LakonLab"),
    ):
        assert any(re.search(rf"(?<![\w-]){name}(?![\w-])", row.split("|")[1]) for row in rows), name
