"""The Inception network: layouts, engines, and files that are not it."""

import pickle

import numpy as np
import pytest
import torch
from golden_sets import image_set
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from dit_eval.features.graph_def import read_constants
from dit_eval.features.inception import TorchInception, resize_like_tensorflow
from dit_eval.features.inception_weights import read_state_dict

PARTS = ("pool", "spatial", "class_probs")


def relative_error(found, expected):
    """Largest element-wise difference, relative to the feature's scale."""
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parity
def test_pb_and_pth_of_the_same_weights_give_identical_features(inception_files, torch_inception):
    # The test files are written with a name mapping of their own, so this checks ours as well.
    from_pb, from_pth = read_state_dict(inception_files.pb), read_state_dict(inception_files.pth)
    assert from_pb.keys() == from_pth.keys()
    assert all(torch.equal(from_pb[key], from_pth[key]) for key in from_pth)
    images = image_set("gen-64")[:3]
    expected, found = torch_inception(images), TorchInception(weights=inception_files.pb)(images)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


@pytest.mark.parametrize(("name", "crop"), [("gen-64", (64, 64)), ("gen-256", (256, 256)), ("gen-256", (200, 77))])
@pytest.mark.parity
def test_torch_and_tensorflow_agree(inception_files, torch_inception, name, crop):
    from dit_eval.features.tensorflow import TensorflowInception

    images = np.ascontiguousarray(image_set(name)[:3, : crop[0], : crop[1]])
    ours, original = torch_inception(images), TensorflowInception(weights=inception_files.pb)(images)
    for part in PARTS:
        assert getattr(ours, part).dtype == np.float32
        assert getattr(ours, part).shape == getattr(original, part).shape
        assert relative_error(getattr(ours, part), getattr(original, part)) < 1e-4


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch(torch_inception):
    images = image_set("gen-64")[:9]  # more than a mini-batch of a CPU
    together = torch_inception(images)
    for size in (1, 5):
        parts = [torch_inception(images[i : i + size]) for i in range(0, 9, size)]
        for part in PARTS:
            apart = np.concatenate([getattr(p, part) for p in parts])
            assert relative_error(apart, getattr(together, part)) < 1e-5  # other kernels for other batch sizes


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (299, 299), (512, 512), (200, 77), (1, 1)])
@pytest.mark.parity
def test_the_resize_is_that_of_tensorflow_1(size):
    import tensorflow as tf

    images = np.random.RandomState(0).randint(0, 256, (2, *size, 3), dtype=np.uint8)
    expected = tf.compat.v1.image.resize_bilinear(tf.constant(images, tf.float32), (299, 299)).numpy()
    found = resize_like_tensorflow(torch.from_numpy(images), 299).permute(0, 2, 3, 1).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)  # of 255: some ulps


def test_features_are_those_of_the_plain_network(inception_files, torch_inception):
    # Neither folded nor fused, resized and pooled by torch-fidelity itself.
    plain = FeatureExtractorInceptionV3("plain", ["2048", "logits_unbiased"], str(inception_files.pth)).eval()
    spatial = []
    plain.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, out: spatial.append(out[:, :7]))
    images = image_set("gen-256")[:5]
    with torch.inference_mode():
        pool, logits = plain(torch.from_numpy(images).permute(0, 3, 1, 2))
    found = torch_inception(images)
    assert relative_error(found.pool, pool.numpy()) < 1e-4
    assert relative_error(found.spatial, spatial[0].permute(0, 2, 3, 1).flatten(1).numpy()) < 1e-4
    assert relative_error(found.class_probs, torch.softmax(logits, 1).numpy()) < 1e-4


@pytest.mark.slow
def test_features_do_not_depend_on_the_number_of_threads(torch_inception):
    # So that one process with all cores and several with a share each give the same result.
    # With one thread these are mini-batches of 8, with three of 4.
    images, threads = image_set("gen-64")[:18], torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(torch_inception(images))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for part in PARTS:
        for other in found[1:]:
            np.testing.assert_array_equal(getattr(other, part), getattr(found[0], part))


@pytest.mark.parametrize(("precision", "bits"), [("bf16", 8), ("fp16", 11)])
@pytest.mark.slow
def test_half_precision_is_close_and_not_equal(inception_files, torch_inception, precision, bits):
    half = TorchInception(weights=inception_files.pth, precision=precision)
    images = image_set("gen-64")[:2]
    exact, found = torch_inception(images), half(images)
    assert half.precision == precision
    for part in PARTS:
        assert getattr(found, part).dtype == np.float32
        # About a hundred roundings in a row, each of half a unit in the last of so many bits.
        assert 0 < relative_error(getattr(found, part), getattr(exact, part)) < 50 * 2.0**-bits


def test_an_impossible_precision_is_named_before_the_weights_are_read(tmp_path):
    with pytest.raises(ValueError, match="tf32 is arithmetic of NVIDIA GPUs"):
        TorchInception(weights=tmp_path / "absent.pth", precision="tf32")
    with pytest.raises(ValueError, match=r"Unknown precision 'fp8'; known: fp32, tf32, bf16, fp16"):
        TorchInception(weights=tmp_path / "absent.pth", precision="fp8")


@pytest.mark.parity
def test_constants_are_read_as_tensorflow_reads_them(inception_files):
    import tensorflow as tf

    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(inception_files.pb.read_bytes())
    expected = {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in definition.node
        if node.op == "Const" and node.attr["dtype"].type == 1
    }
    found = read_constants(inception_files.pb)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    assert any(len(n.attr["value"].tensor.float_val) == 1 for n in definition.node if n.op == "Const")


class Evil:
    def __reduce__(self):
        return (print, ("a pickle ran",))


def _random_bytes(path):
    path.write_bytes(np.random.RandomState(0).bytes(5000))


def _truncated(path, source):
    path.write_bytes(source.read_bytes()[:-100_000])


def _pickle(path):
    torch.save({"a": Evil()}, path)


def _plain_pickle(path):
    path.write_bytes(pickle.dumps({"a": 1}))


def _other_network(path):
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3), "fc.weight": torch.zeros(1000, 2048)}, path)


def _wrong_classes(path, source):
    state = torch.load(source, weights_only=True)
    torch.save(state | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, path)


def _not_a_dict(path):
    torch.save([1, 2], path)


@pytest.mark.parametrize(
    ("make", "ending", "message"),
    [
        (_random_bytes, ".pth", "not a PyTorch state dict"),
        (lambda p, s: _truncated(p, s.pth), ".pth", "not a PyTorch state dict"),
        (_pickle, ".pth", "not a PyTorch state dict"),
        (_plain_pickle, ".pth", "not a PyTorch state dict|needed a plain state dict"),
        (_not_a_dict, ".pth", "holds list, needed a plain state dict"),
        (_other_network, ".pth", "not the weights of the 2015 Inception"),
        (lambda p, s: _wrong_classes(p, s.pth), ".pth", "not the weights of the 2015 Inception.*1,008"),
        (_random_bytes, ".pb", "not a frozen TensorFlow graph"),
        pytest.param(
            lambda p, s: _truncated(p, s.pb), ".pb", "not a frozen TensorFlow graph", marks=pytest.mark.parity
        ),
        (lambda p: p.write_bytes(b""), ".pb", "not a frozen TensorFlow graph"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_a_file_that_is_not_the_network_is_named(tmp_path, inception_files, capsys, make, ending, message):
    path = tmp_path / f"file{ending}"
    make(path, inception_files) if make.__code__.co_argcount == 2 else make(path)
    with pytest.raises(ValueError, match=message) as error:
        TorchInception(weights=path)
    assert str(path) in str(error.value)
    assert "a pickle ran" not in capsys.readouterr().out


@pytest.mark.parity
def test_the_tensorflow_backend_asks_for_the_graph(inception_files):
    from dit_eval.features.tensorflow import TensorflowInception

    with pytest.raises(ValueError, match=r"needs classify_image_graph_def\.pb"):
        TensorflowInception(weights=inception_files.pth)


@pytest.mark.parity
def test_tensorflow_runs_in_float32_and_leaves_its_switch():
    import tensorflow as tf

    from dit_eval.features.tensorflow import TensorflowInception

    class Session:
        """Notes the switch, then fails."""

        def run(self, *_):
            seen.append(tf.config.experimental.tensor_float_32_execution_enabled())
            raise KeyError

    seen = []
    extractor = TensorflowInception.__new__(TensorflowInception)
    extractor._session, extractor._outputs, extractor._images = Session(), (), ""
    extractor._switches = tf.compat.v1.config.experimental
    assert tf.config.experimental.tensor_float_32_execution_enabled(), "its default"
    with pytest.raises(KeyError):
        extractor(np.zeros((1, 8, 8, 3), np.uint8))
    assert seen == [False]
    assert tf.config.experimental.tensor_float_32_execution_enabled()
