"""Numbers of other protocols are those of their programs, from the same pass as ADM's, and never pass for ADM's."""

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch_fidelity
from golden_sets import image_set
from PIL import Image
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

import dit_eval
from dit_eval.cli import main
from dit_eval.features.digits import DigitsExtractor
from dit_eval.metrics.choose import check_metrics
from dit_eval.metrics.kid import kernel_distance
from dit_eval.metrics.metric import Sides
from dit_eval.metrics.permuted_score import permuted_inception_score
from dit_eval.metrics.torch_fidelity import TORCH_FIDELITY_METRICS
from dit_eval.report.points import measured_points
from dit_eval.results.badge import CONVOLUTIONS_SHA256, by_other_protocol, make_badge, protocol_name
from dit_eval.results.eval_result import EvalResult, ExtractorInfo, ImageSource
from dit_eval.summary import FeatureSummary, RunningStats

FID = TORCH_FIDELITY_METRICS[0]
THEIRS = {  # key of ours -> of torch-fidelity's
    "fid_torch_fidelity": "frechet_inception_distance",
    "inception_score_torch_fidelity": "inception_score_mean",
    "inception_score_torch_fidelity_std": "inception_score_std",
    "precision_torch_fidelity": "precision",
    "recall_torch_fidelity": "recall",
}


class DigitsForTorchFidelity(FeatureExtractorBase):
    """The digits network as torch-fidelity takes one."""

    @staticmethod
    def get_provided_features_list():
        return ("pool", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return {"isc": "logits"}.get(metric, "pool")

    @staticmethod
    def can_be_compiled():
        return False

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)
        self.network = DigitsExtractor(device="cpu")

    def forward(self, images):
        found = self.network(images.permute(0, 2, 3, 1).contiguous().numpy())
        features = {"pool": found.pool, "logits": np.log(found.class_probs)}
        return tuple(torch.from_numpy(features[name]) for name in self.features_list)


def as_png(images, folder, name="{:05d}.png"):
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(index))
    return folder


def theirs(gen, ref, **changes):
    """What torch-fidelity itself says of two folders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it starts more workers than a small machine has cores
        return torch_fidelity.calculate_metrics(
            **{"input1": str(gen), "input2": str(ref), "isc": True, "fid": True, "kid": True, "prc": True}
            | {"cuda": False, "cache": False, "verbose": False}
            | changes
        )


@pytest.fixture(scope="module")
def folders(digits, tmp_path_factory):
    """1,013 and 1,009 noisy digits as PNG, the samples of seven classes and class-ordered."""
    rng, base = np.random.RandomState(0), tmp_path_factory.mktemp("png")

    def noisy(rows, most):
        images = digits.images[rows].astype(int) + rng.randint(0, most, (len(rows), *digits.images.shape[1:]))
        return images.clip(0, 255).astype(np.uint8)

    rows = rng.choice(np.flatnonzero(digits.labels < 7), 1_013)  # so that recall is below precision
    rows = rows[np.argsort(digits.labels[rows], kind="stable")]
    return as_png(noisy(rows, 90), base / "gen"), as_png(noisy(rng.randint(0, 500, 1_009), 30), base / "ref")


@pytest.fixture(scope="module", autouse=True)
def _registered():
    torch_fidelity.register_feature_extractor("digits", DigitsForTorchFidelity)


@pytest.fixture(scope="module")
def black_box(folders):
    return theirs(*folders, feature_extractor="digits")


def scored(gen, ref, *protocols, **changes):
    settings = dit_eval.EvaluationSettings(protocol=protocols or None, **changes)
    return dit_eval.evaluate(gen, ref=ref, network="digits", settings=settings, quiet=True)


@pytest.fixture(scope="module")
def result(folders):
    return scored(*folders, "adm", "torch-fidelity", "torch-fidelity-beta", "meanflow")


@pytest.mark.slow
def test_torch_fidelity_itself_gives_the_same_of_the_same_folders(result, black_box):
    assert result.fid_torch_fidelity == pytest.approx(black_box["frechet_inception_distance"], rel=1e-6)
    for key in ("inception_score_torch_fidelity", "inception_score_torch_fidelity_std"):
        assert result.scores[key] == pytest.approx(black_box[THEIRS[key]], abs=1e-5)
    for key in ("precision_torch_fidelity", "recall_torch_fidelity"):
        assert result.scores[key] == pytest.approx(black_box[THEIRS[key]], abs=1e-7)  # theirs is of float32
    assert 0.05 < result.recall_torch_fidelity < result.precision_torch_fidelity - 0.05
    # Theirs is in float32, ours in float64.
    assert result.kid == pytest.approx(black_box["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert result.kid_std == pytest.approx(black_box["kernel_inception_distance_std"], rel=1e-3, abs=1e-6)


def test_the_beta_exchanges_precision_and_recall(result):
    assert result.precision_torch_fidelity_beta == result.recall_torch_fidelity
    assert result.recall_torch_fidelity_beta == result.precision_torch_fidelity


def test_the_order_of_classes_is_of_no_matter_to_the_permuted_scores(result):
    """As MAR and JiT write their folders."""
    assert result.inception_score_torch_fidelity == pytest.approx(result.inception_score_order_free, rel=0.1)
    assert result.inception_score_meanflow == pytest.approx(result.inception_score_torch_fidelity, rel=0.02)


@pytest.mark.slow
def test_one_pass_gives_what_each_protocol_gives_alone(folders):
    together = scored(*folders, "adm", "torch-fidelity-beta", "meanflow", num_images=300)
    assert together.protocol == scored(*folders, num_images=300).protocol
    for protocols in ((), ("adm",), ("torch-fidelity-beta",), ("meanflow",)):
        alone = scored(*folders, *protocols, num_images=300)
        computed = {key: value for key, value in alone.scores.items() if value is not None}
        assert computed == {key: together.scores[key] for key in computed}
        assert (alone.fid is None) == (protocols not in ((), ("adm",)))


def test_each_number_says_of_which_protocol_it_is(folders, result):
    text = str(result)
    for name, arrow, value in (
        ("FID-1013 (digits)", "↓", result.fid),
        ("torch-fidelity FID-1013 (digits)", "↓", result.fid_torch_fidelity),
        ("torch-fidelity Inception Score (digits)", "↑", result.inception_score_torch_fidelity),
        ("torch-fidelity-beta Precision (digits)", "↑", result.recall_torch_fidelity),
        ("meanflow Inception Score (digits)", "↑", result.inception_score_meanflow),
    ):
        assert re.search(rf"^  {re.escape(name)} +{arrow} +{value:.2f}$", text, re.MULTILINE), name
    line = json.loads(result.to_json())
    assert EvalResult.from_json(result.to_json()).scores == result.scores
    assert set(line["protocols"]) == {
        *("kid", "torch-fidelity-fid", "torch-fidelity-is", "torch-fidelity-precision", "torch-fidelity-recall"),
        *("torch-fidelity-beta-precision", "torch-fidelity-beta-recall", "meanflow-is"),
    }
    assert "exchanged" in line["protocols"]["torch-fidelity-beta-recall"]
    point = measured_points([("one", result)], count=lambda _: None)
    assert point["fid"].item() == result.fid
    assert point["fid_torch_fidelity"].item() == result.fid_torch_fidelity


def test_lines_and_print_without_it_are_as_before(folders):
    found = scored(*folders, num_images=50)
    assert not [key for key in json.loads(found.to_json()) if "torch_fidelity" in key or "meanflow" in key]
    assert found.protocols == {}
    assert "torch-fidelity" not in str(found)
    widest = max(map(len, re.findall(r"^  (\S.*?) +[↓↑] ", str(found), re.MULTILINE)))
    assert widest == len("Inception Score (digits)")


@pytest.mark.parametrize(
    ("precision", "weights", "label", "reason"),
    [
        ("fp32", True, "torch-fidelity", "torch-fidelity"),
        ("fp32", False, "torch-fidelity except weights (unknown)", "torch-fidelity"),
        ("bf16", True, "torch-fidelity with features in bf16", "torch-fidelity with features in bf16"),
    ],
)
def test_numbers_of_another_protocol_alone_are_not_as_published(precision, weights, label, reason):
    info = ExtractorInfo(name="inception", weights_sha256="0", backend="torch", precision=precision, device="cpu")
    info = replace(info, convolutions_sha256=CONVOLUTIONS_SHA256 if weights else "0")
    images = ImageSource(path="a", sha256="1", num_images=50_000, image_size=(8, 8), statistics="computed")
    usual = make_badge(extractor=info, gen=images, ref=images, distances="adm-float16", needs_classifier=False)
    badge = by_other_protocol(usual, "torch-fidelity")
    assert (badge.protocol.as_published, badge.protocol.reason) == (False, reason)
    assert not badge.comparable
    assert protocol_name(badge, "inception", "torch-fidelity") == label
    assert protocol_name(badge, "digits", "torch-fidelity") == "digits"


def test_files_are_taken_in_plain_order(folders, tmp_path):
    """Of 2.png and 10.png, torch-fidelity takes 10.png first, and the sampler counted 2.png first."""
    images = [np.asarray(Image.open(path)) for path in sorted(folders[0].iterdir())[::8]]
    padded, plain = as_png(images, tmp_path / "padded"), as_png(images, tmp_path / "plain", "{}.png")
    protocols = ("adm", "torch-fidelity", "meanflow")
    usual, found = (scored(gen, folders[1], *protocols) for gen in (padded, plain))
    assert found.inception_score == usual.inception_score
    assert found.inception_score_meanflow == usual.inception_score_meanflow
    expected = theirs(plain, folders[1], feature_extractor="digits", fid=False, kid=False, prc=False)
    assert found.inception_score_torch_fidelity == pytest.approx(expected["inception_score_mean"], abs=1e-5)
    assert abs(found.inception_score_torch_fidelity - usual.inception_score_torch_fidelity) > 1e-4


@pytest.mark.parametrize("num", [10, 64, 1_003])
def test_scores_are_those_of_the_programs(num):
    """Against torch-fidelity's function, and NumPy's of the formula that the JAX programs have."""
    rng = np.random.default_rng(num)
    logits = rng.normal(0, 4, (num, 21)).astype(np.float32)
    logits[0] = [120] + [-120] * 20  # whose softmax has zeros in float32
    probs = torch.from_numpy(logits).softmax(dim=1).numpy()
    expected = isc_features_to_metric(torch.from_numpy(logits))
    found = permuted_inception_score(probs)
    assert found.mean == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert found.std == pytest.approx(expected["inception_score_std"], rel=1e-5)

    shuffled = probs.astype(np.float64)[np.random.RandomState(2020).permutation(num)]
    each = []
    for part in shuffled[: num // 10 * 10].reshape(10, num // 10, 21):
        q = part.mean(axis=0)
        each.append(np.exp(np.mean([(p * (np.log(p + 1e-10) - np.log(q + 1e-10))).sum() for p in part])))
    found = permuted_inception_score(probs, drop_rest=True, added_in_logarithms=1e-10)
    assert found.mean == pytest.approx(np.mean(each), rel=1e-12)
    assert found.std == pytest.approx(np.std(each), rel=1e-9)


def test_fid_has_their_drift_of_means():
    """A mean in float32 is off by more than 1e-6 of the distance where there are many images."""
    rng = np.random.default_rng(0)
    sides = {
        "gen": 0.05 * rng.random((60_000, 8), np.float32) + 3,
        "ref": 0.05 * rng.random((9_000, 8), np.float32) + 3.01,
    }
    summaries = {}
    for role, rows in sides.items():
        running = RunningStats(8)
        running.update(rows)
        summaries[role] = FeatureSummary(pool=running.finalize(), pool_features=rows)
    both = [fid_features_to_statistics(torch.from_numpy(rows)) for rows in sides.values()]
    expected = fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
    found = FID.score(Sides(**summaries)).values["fid_torch_fidelity"]
    assert found == pytest.approx(expected, rel=1e-6)
    stored = FID.score(Sides(**summaries, stored=True)).values["fid_torch_fidelity"]
    assert stored != pytest.approx(expected, rel=1e-6), "the mean of a file is taken as it is"


@pytest.mark.slow
def test_black_box_with_inception(inception_files, kept_inception, tmp_path):
    sets = {"gen": image_set("gen-64")[:24], "ref": image_set("ref-64")[:20]}
    gen, ref = (as_png(images, tmp_path / role) for role, images in sets.items())
    settings = dit_eval.EvaluationSettings(protocol=("adm", "torch-fidelity"))
    found = dit_eval.evaluate(gen, ref=ref, network=kept_inception, settings=settings, quiet=True)
    expected = theirs(
        *(gen, ref),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_files.pth),
        kid_subset_size=10,
    )
    assert found.fid_torch_fidelity == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)
    for key in list(THEIRS)[1:]:
        assert found.scores[key] == pytest.approx(expected[THEIRS[key]], abs=1e-5)
    features = {role: kept_inception(images).pool for role, images in sets.items()}
    kid = kernel_distance(**features, subset_size=10)
    assert kid.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4, abs=1e-6)
    assert kid.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "network", "protocols", "said"),
    [
        (None, "inception", ("torch-fidelty",), "known: adm, torch-fidelity, .* Did you mean 'torch-fidelity'"),
        (None, "inception", (), r"Unknown protocol \(none\)"),
        (("fid",), "inception", ("meanflow",), "names the metrics meanflow-is, and `metrics` fid. Pass one"),
        (None, "dinov2", ("torch-fidelity",), "is about the features of Inception, not of dinov2"),
        (None, "clip", ("adm",), "not of clip"),
    ],
)
def test_what_cannot_be_is_refused_before_any_file_is_there(names, network, protocols, said):
    with pytest.raises(ValueError, match=said):
        check_metrics(names, network, protocols)


def test_too_few_images_are_named(digits):
    found = scored(digits.images[:5], digits.images, "torch-fidelity")
    assert any("Inception Score takes 10 splits" in text for text in found.warnings)
    assert (found.scores.get("inception_score_torch_fidelity"), found.fid_torch_fidelity > 0) == (None, True)


def test_the_command_takes_it_and_metrics_take_its_names(digits, tmp_path, capsys):
    np.savez(tmp_path / "gen.npz", arr_0=digits.images[:300])
    line = ["evaluate", str(tmp_path / "gen.npz"), "--ref", "digits", "--extractor", "digits", "--no-results"]
    for words, said in (
        (("--protocol", "ADM,torch-fidelity"), "torch-fidelity FID-300"),
        (("--metrics", "torch-fidelity-is"), "torch-fidelity Inception Score"),
        (("--protocol", "meanflow", "--dry-run"), "the time of meanflow-is"),
        (("--protocol", "torch-fidelity", "--metrics", "is"), "--protocol"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*line, *words])
        assert said in "".join(capsys.readouterr())
        assert ended.value.code == (2 if "is" in words else 0)
