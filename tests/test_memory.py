"""Files that would take far more memory than they have bytes, or start another program, for every reader of them."""

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from safetensors.torch import save_file

from dit_eval.checks.findings.counts import _classes
from dit_eval.cli import main
from dit_eval.diffusion.data import CorruptImage, open_npz, read_image
from dit_eval.features.graph_def import read_constants
from dit_eval.images import from_dataset, open_images
from dit_eval.images.decoding import FORMATS, decode
from dit_eval.models import vae_files
from dit_eval.study.plan_file import load_plan
from dit_eval.system.tensors import load_tensors

MIB = 1 << 20
SIDE = 13_000
DARK = np.zeros((8, 8, 3), np.uint8)


@contextlib.contextmanager
def at_most(size):
    """So many bytes of address space beyond those that this process has: one that wants more gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_the_bound_bounds():
    with at_most(64 * MIB), pytest.raises(MemoryError):
        bytearray(512 * MIB)


def encoded(kind):
    file = io.BytesIO()
    Image.fromarray(DARK).save(file, kind)
    return bytearray(file.getvalue())


# ---- images: scoring, training and encoding


def large(kind, width=SIDE, height=SIDE):
    """A small file that says it has so many pixels."""
    if kind == "PPM":
        return b"P6 %d %d 255\n" % (width, height) + bytes(100)
    if kind == "WEBP":
        size = struct.pack("<I", width - 1 | height - 1 << 14)
        return b"RIFF" + struct.pack("<I", 26) + b"WEBPVP8L" + struct.pack("<I", 5) + b"\x2f" + size + bytes(9)
    data = encoded(kind)
    if kind == "PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    else:
        for tag, value in ((256, width), (257, height)):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[at : at + 4] = struct.pack("<I", value)
    return bytes(data)


def extended_webp():
    canvas = (SIDE - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas


def lossy_webp():
    data = encoded("WEBP")
    assert data[12:16] == b"VP8 "
    data[26:30] = struct.pack("<HH", SIDE, SIDE)
    return bytes(data)


LARGE = {kind: large(kind) for kind in FORMATS} | {"WEBP, extended": extended_webp(), "WEBP, lossy": lossy_webp()}


@pytest.mark.parametrize("kind", LARGE)
def test_images_of_13_000_x_13_000_pixels_are_refused_before_they_take_memory(tmp_path, kind):
    path = tmp_path / "1.png"
    path.write_bytes(LARGE[kind])
    with (
        at_most(64 * MIB),
        pytest.raises(CorruptImage, match=r"1\.png: 13000 x 13000 px; an image may have 67,108,864"),
    ):
        read_image(path, 8)


def test_a_strip_of_one_row_is_not_scaled_to_gigabytes(tmp_path):
    path = tmp_path / "1.png"
    Image.new("L", (200_000, 1)).save(path)
    with (
        at_most(64 * MIB),
        pytest.raises(CorruptImage, match=r"200000 x 1 px, scaled to 51200000 x 256 px; an image may"),
    ):
        read_image(path, 256)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(started) print\nshowpage\n%%EOF\n"
# With a preview of Windows, and as other formats of Pillow begin.
NO_IMAGES = {
    "PostScript": POSTSCRIPT,
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(POSTSCRIPT)) + bytes(20) + POSTSCRIPT,
    "PDF": b"%PDF-1.4\n",
    "ICO": bytes(encoded("ICO")),
    "TGA": bytes(encoded("TGA")),
    "PCX": bytes(encoded("PCX")),
    "XPM": b'/* XPM */\nstatic char *x[] = {"8 8 1 1", "  c #000000"};\n',
}


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program of its name that leaves a file behind; the file."""
    (tmp_path / "bin").mkdir()
    mark = tmp_path / "ghostscript-ran"
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!/bin/sh\ntouch {mark}\necho 10\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return mark


def commands(folder):
    """Of the three that read image files."""
    sizes = ["--depth", "1", "--hidden-size", "16", "--num-heads", "2", "--patch-size", "2"]
    return {
        "train": ["train", *sizes, "--data", folder, "--image-size", "8", "--steps", "1", "--batch-size", "1"],
        "encode": ["encode", folder, "--image-size", "8", "--vae", folder.parent / "vae"],
        "evaluate": ["evaluate", folder, "--ref", "digits", "--extractor", "digits", "--no-results"],
    }


@pytest.fixture(scope="module")
def small_vae(tmp_path_factory):
    from diffusers import AutoencoderKL

    small = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "sample_size": 64}
    path = tmp_path_factory.mktemp("vae") / "vae"
    AutoencoderKL.from_config(vae_files.SD_CONFIG | small).save_pretrained(path)
    return path


@pytest.mark.parametrize("command", ["train", "encode", "evaluate"])
@pytest.mark.parametrize("kind", ["PostScript", "EPS with a preview", "13,000 x 13,000 pixels"])
def test_commands_read_image_files_by_a_fixed_list_of_formats(
    ghostscript, small_vae, tmp_path, monkeypatch, capsys, command, kind
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_vae, tmp_path / "vae")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_bytes(NO_IMAGES.get(kind) or large("PNG"))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("pixels were made"))
    arguments = commands(folder)[command]
    if command != "evaluate":
        arguments += ["--out", tmp_path / "out", "--device", "cpu"]
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    error = capsys.readouterr().err
    assert exit_.value.code == 2, error
    said = "13000 x 13000 px" if kind not in NO_IMAGES else "cannot be read as an image|neither PNG nor JPEG"
    assert any(text in error for text in said.split("|")), error
    assert "1.png" in error
    assert not ghostscript.exists()


def test_pillow_alone_would_start_it(ghostscript, tmp_path):
    """So that the test above tests something."""
    (tmp_path / "1.png").write_bytes(POSTSCRIPT)
    with contextlib.suppress(OSError), Image.open(tmp_path / "1.png") as image:
        image.load()
    assert ghostscript.exists()


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_formats_beyond_the_list_are_no_images(kind):
    with pytest.raises(ValueError, match=r"^x: cannot be read as an image"):
        decode(NO_IMAGES[kind], "x", formats=tuple(FORMATS), max_pixels=1 << 20)


def test_plug_ins_of_other_formats_are_not_even_imported(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(POSTSCRIPT)
    code = (
        "import sys\nfrom pathlib import Path\nfrom dit_eval.diffusion.data import read_image\n"
        "try: read_image(Path(sys.argv[1]), 8)\nexcept ValueError: pass\n"
        "sys.exit(','.join(name for name in sys.modules if 'EpsImage' in name) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 0


# ---- weights


class Call:
    """What a pickle calls when it is read."""

    def __init__(self, function, *arguments):
        self._parts = function, arguments

    def __reduce__(self):
        return self._parts


def moved_storage():
    """A tensor that begins behind the end of its storage."""
    torch.save({"x": torch.zeros(4)}, "y.pt")
    with zipfile.ZipFile("y.pt") as archive, zipfile.ZipFile("x.pt", "w", zipfile.ZIP_STORED) as out:
        for info in archive.infolist():
            data = archive.read(info)
            if info.filename.endswith(".pkl"):
                data = data.replace(b"QK\x00K\x04\x85", b"QJ\xff\xff\xff\x7fK\x04\x85", 1)
                assert b"\xff\xff\xff\x7f" in data
            out.writestr(info.filename, data)


def saved(value, **options):
    return lambda: torch.save({"x": value()}, "x.pt", **options)


def header_of(size):
    def make():
        with open("x.safetensors", "wb") as file:
            file.write(struct.pack("<Q", size) + b'{"x":' + b"[" * (size - 5))

    return make


def written(name, data):
    def make():
        with open(name, "wb") as file:
            file.write(data)

    return make


VALUES = torch.zeros(100_000)
OLD = {"_use_new_zipfile_serialization": False}
WEIGHTS = {
    "stride 0": (saved(lambda: torch.zeros(1).expand(1 << 40)), r"^'x' is a view of 4,398,046,511,104 bytes on 4;"),
    "stride 0, old file": (saved(lambda: torch.zeros(1).expand(1 << 40), **OLD), r"^'x' is a view of 4,398,046,511,"),
    "stride 0 in a list": (saved(lambda: [{"y": torch.zeros(1).expand(1 << 40)}]), r"^'y' is a view of 4,398,046,"),
    "stride 0 in settings": (
        saved(lambda: argparse.Namespace(y=torch.zeros(1).expand(1 << 40))), r"^'y' is a view of 4,398,046,511,104",
    ),
    "rows that overlap": (
        saved(lambda: torch.zeros(10_000).as_strided((5_000, 5_000), (1, 1))), r"^'x' is a view of 100,000,000 bytes",
    ),
    "a hundred views of one storage": (
        saved(lambda: [VALUES[: 99_999 - k] for k in range(100)]), r"^its tensors share their values many times over",
    ),
    "begins behind its storage": (moved_storage, r"storage"),
    "a bytearray": (saved(lambda: Call(bytearray, 6 << 30)), r"^its pickle makes a bytearray, which may be of any"),
    "a bytearray, old file": (saved(lambda: Call(bytearray, 6 << 30), **OLD), r"^its pickle makes a bytearray"),
    "a tensor without values": (saved(lambda: Call(torch.FloatTensor, 1 << 22)), r"^its tensors have more bytes"),
    "a header of 5 MB": (header_of(5_000_000), r"^it cannot be read: a header of 5,000,000 bytes, of which 4,"),
    "a zip by its beginning alone": (written("x.pt", b"PK\3\4" + bytes(1000)), r"not a zip"),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_tensors_take_no_more_memory_than_their_file(tmp_path, monkeypatch, case):
    make, message = WEIGHTS[case]
    monkeypatch.chdir(tmp_path)
    make()
    (path,) = tmp_path.glob("x.*")
    with at_most(256 * MIB), pytest.raises(ValueError, match=message):
        load_tensors(path, containers=(argparse.Namespace,))


def test_a_pickle_of_millions_of_lists_is_not_made(tmp_path, monkeypatch):
    monkeypatch.setattr("dit_eval.system.tensors._MAX_STEPS", 10_000)
    for number, options in enumerate(({}, OLD)):
        torch.save({"x": [[]] * 3, "y": [[] for _ in range(10_000)]}, tmp_path / f"{number}.pt", **options)
        with pytest.raises(
            ValueError, match=r"^its pickle has more than 10,000 instructions; save its state dict alone"
        ):
            load_tensors(tmp_path / f"{number}.pt")


def test_tensors_that_share_values_as_models_do_are_read(tmp_path):
    """Tied weights, parts of a flat parameter, steps, a buffer of one row that was expanded."""
    values = torch.arange(1000.0)
    state = {"a": values, "b": values, "c": values[:500], "d": values[500:].view(50, 10).T, "e": values[::2]}
    state |= {"position_ids": torch.arange(7).expand(3, -1), "f": torch.nn.Parameter(values), "none": torch.zeros(0)}
    torch.save({"model": state, "ema": state}, tmp_path / "x.pt")
    loaded = load_tensors(tmp_path / "x.pt")
    for name, value in state.items():
        assert torch.equal(loaded["ema"][name], value)
    save_file({"x": values}, tmp_path / "x.safetensors")
    assert torch.equal(load_tensors(tmp_path / "x.safetensors")["x"], values)


# ---- GraphDef


def number(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def part(key, content):
    return bytes([key << 3 | 2]) + number(len(content)) + content


def constant(name, size, values=bytes(4), one_by_one=False):
    values = b"".join(b"\x2d" + values[k : k + 4] for k in range(0, len(values), 4)) if one_by_one else part(5, values)
    tensor = b"\x08\x01" + part(2, part(2, b"\x08" + number(size))) + values
    return part(1, part(1, name) + part(2, b"Const") + part(5, part(1, b"value") + part(2, part(8, tensor))))


GRAPHS = {
    "one value for 2^25": (constant(b"x", 1 << 25), r"or 1,048,576 repeated ones"),
    "each of many a single value": (
        b"".join(constant(b"%d" % k, 1 << 18) for k in range(255)), r"or 1,048,576 repeated ones",
    ),
    "millions of values one by one": (constant(b"x", 1 << 20, bytes(4 << 20), True), r"a message of more than 65,536"),
    "millions of fields": (part(1, b"\x0a\0" * (4 << 20)), r"a message of more than 65,536 fields"),
    "millions of nodes": (b"\x0a\0" * (4 << 20), r"a message of more than 65,536 fields"),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_takes_memory_in_proportion_to_its_file(tmp_path, case):
    data, message = GRAPHS[case]
    (tmp_path / "x.pb").write_bytes(data)
    with at_most(128 * MIB), pytest.raises(ValueError, match=message):
        read_constants(tmp_path / "x.pb")


def test_a_value_may_stand_for_those_that_follow(tmp_path):
    (tmp_path / "x.pb").write_bytes(constant(b"x", 5, struct.pack("<2f", 1, 2)) + constant(b"y", 2048))
    found = read_constants(tmp_path / "x.pb")
    np.testing.assert_array_equal(found["x"], [1, 2, 2, 2, 2])
    np.testing.assert_array_equal(found["y"], np.zeros(2048))


# ---- plans

DOTS = ".".join("a" * 60_000)
PLANS = {
    "a key of 60,000 parts": (f"name = 'x'\n{DOTS} = 1", r"line 2: a key of more than 16 parts \(a\.a\.a"),
    "a header of 60,000 parts": (f"[{DOTS}]", r"line 1: a key of more than 16 parts"),
    "a key within a table": (f"x = {{{DOTS} = 1}}", r"line 1: a key of more than 16 parts"),
    "quoted parts": (" . ".join(['"\\""', "'b'", "c"] * 20) + " = 1", r"line 1: a key of more than 16 parts"),
    "tables in tables": ("name = " + "{a.b.c.d.e.f.g.h = " * 200 + "1" + "}" * 200, r"name: expected a text; got list"),
    "quotes after backslashes": ('"\\' * 100_000, r"not TOML"),
    "a name of 200,000 letters": ("a" * 200_000, r"not TOML"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_takes_memory_in_proportion_to_its_file(tmp_path, case):
    text, message = PLANS[case]
    (tmp_path / "x.toml").write_text(text)
    with at_most(128 * MIB), pytest.raises(ValueError, match=message):
        load_plan(tmp_path / "x.toml")


# ---- labels

LABELS = {
    "4e10": (np.array([0, 1, 40_000_000_000]), "label 40000000000 in arr_1 of 3 images"),
    "65,536": (np.array([0, 1, 1 << 16]), "label 65536 in arr_1 of 3 images"),
    "beyond 64 bits with a sign": (np.array([0, 1, (1 << 63) + 5], np.uint64), "values that are no numbers of classes"),
    "2^63 - 1": (np.array([0, 1, (1 << 63) - 1]), "values that are no numbers of classes"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_not_trained_on_that_need_a_table_of_gigabytes(tmp_path, case):
    labels, message = LABELS[case]
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((3, 8, 8, 3), np.uint8), arr_1=labels)
    with at_most(128 * MIB), pytest.raises(ValueError, match=message):
        open_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("side", ["gen", "ref"])
def test_large_labels_make_no_large_histogram(tmp_path, monkeypatch, capsys, side):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("gen", "ref"):
        labels = np.arange(300) % 3 * (20_000_000_000 if name == side else 1)
        np.savez(f"{name}.npz", arr_0=rng.integers(0, 256, (300, 8, 8, 3), np.uint8), arr_1=labels)
    files = ["gen.npz", "--ref", "ref.npz", "--extractor", "digits"]
    with at_most(512 * MIB):
        for arguments in (["diagnose", *files], ["classes", *files]):
            with contextlib.suppress(SystemExit):
                main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "MemoryError" not in captured.err
    assert captured.out


@pytest.mark.parametrize("said", [1 << 62, -1, "x", [1], {}, None, 1.5])
def test_a_run_may_say_any_number_of_classes(said):
    labels = np.arange(300) % 3
    run = SimpleNamespace(network={"num_classes": said})
    images = SimpleNamespace(labels=labels, run=run)
    case = SimpleNamespace(gen=images, ref=SimpleNamespace(labels=labels), expect=None)
    with at_most(64 * MIB):
        assert list(_classes(case)) == []


# ---- saved datasets

ARROW = "data-00000-of-00001.arrow"


@pytest.fixture(scope="module")
def saved_dataset(tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    columns = {"image": [{"bytes": bytes(encoded("PNG")), "path": None}] * 3, "label": [1, 2, 0]}
    path = tmp_path_factory.mktemp("saved") / "x"
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(path)
    return path


def described(name="state.json", **changes):
    def change(path):
        (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | changes))

    return change


def names(*files):
    return described(_data_files=[{"filename": name} for name in files])


def pipe(path):
    (path / ARROW).unlink()
    os.mkfifo(path / ARROW)


def packed(path):
    import pyarrow

    data = pyarrow.ipc.open_stream((path / ARROW).read_bytes()).read_all()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with (
        pyarrow.OSFile(str(path / ARROW), "wb") as file,
        pyarrow.ipc.new_stream(file, data.schema, options=options) as out,
    ):
        out.write_table(data)


def offsets(path):
    """A row that begins a gigabyte behind the end."""
    data, size = (path / ARROW).read_bytes(), len(encoded("PNG"))
    begins = np.array([0, size, 2 * size, 3 * size], "<i4").tobytes()
    assert data.count(begins) == 1
    (path / ARROW).write_bytes(data.replace(begins, np.array([0, size, 1 << 30, (1 << 30) + 5], "<i4").tobytes()))


def text(name, content):
    return lambda path: (path / name).write_text(content)


DATASETS = {
    "a file of another folder": (names(f"../saved/{ARROW}"), r"state\.json names '\.\./saved/data.*a file of the"),
    "a device": (names("/dev/zero"), r"state\.json names '/dev/zero'; expected a file of the folder itself"),
    "a share": (names(r"\\host\x"), r"state\.json names .*; expected a file of the folder itself"),
    "an address": (names("http:x"), r"state\.json names 'http:x'; expected a file of the folder itself"),
    "the folder": (names("."), r"state\.json names '\.'; expected a file of the folder itself"),
    "a name that moves the cursor": (names("\x1b[2J"), r"\\x1b\[2J is missing"),
    "no name": (names(None), r"state\.json names None; expected a file of the folder itself"),
    "no files": (described(_data_files=None), r"state\.json names None"),
    "a number for a file": (described(_data_files=[3]), r"state\.json names None"),
    "an empty list": (names(), r"cannot be read as a dataset"),
    "a name of 5,000 characters": (names("a" * 5000), r"a{80} is missing"),
    "a name twice": (text("state.json", '{"a": 1, "a": 2}'), r"state\.json: not JSON \(a stands in it twice"),
    "a pipe": (pipe, r"data-00000-of-00001\.arrow is no plain file"),
    "a file that is gone": (lambda path: (path / ARROW).unlink(), r"data-00000-of-00001\.arrow is missing"),
    "packed data": (packed, r"data-00000-of-00001\.arrow is packed, which save_to_disk never does"),
    "a row behind the end": (offsets, r"Length spanned by binary offsets \(1073741829\) larger than values array"),
    "a description of megabytes": (text("dataset_info.json", " " * (5 << 20)), r"dataset_info\.json: more than 4,194,"),
    "brackets": (text("state.json", "[" * 100_000), r"state\.json: not JSON \(maximum recursion depth"),
    "a list": (text("dataset_info.json", "[]"), r"dataset_info\.json: holds a list; expected what save_to_disk writes"),
    "another format": (described(_format_type="nonsense"), r"Format type should be one of"),
    "odd settings of a format": (described(_format_kwargs=[1]), r"cannot be read as a dataset"),
    "features within features": (
        text("dataset_info.json", '{"features": ' + '{"a":' * 300 + "1" + "}" * 301), r"cannot be read as a dataset",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DATASETS)
def test_saved_datasets_are_checked_before_the_library_opens_them(saved_dataset, tmp_path, case):
    change, message = DATASETS[case]
    shutil.copytree(saved_dataset, tmp_path / "x")
    change(tmp_path / "x")
    with at_most(512 * MIB), pytest.raises(ValueError, match=message) as error:
        open_images(tmp_path / "x", role="gen")
    assert str(error.value).isprintable()
    assert "save_to_disk" in str(error.value)


def test_the_files_of_a_saved_dataset_may_be_links(saved_dataset, tmp_path):
    """As the caches of Hugging Face keep them."""
    shutil.copytree(saved_dataset, tmp_path / "x")
    (tmp_path / "x" / ARROW).rename(tmp_path / "blob")
    (tmp_path / "x" / ARROW).symlink_to(tmp_path / "blob")
    images = open_images(tmp_path / "x", role="gen")
    np.testing.assert_array_equal(next(images.batches(3)), np.stack([DARK] * 3))
    np.testing.assert_array_equal(images.labels, [1, 2, 0])


def test_labels_of_a_dataset_fit_into_64_bits_with_a_sign(saved_dataset):
    datasets = pytest.importorskip("datasets")
    data = datasets.load_from_disk(str(saved_dataset)).remove_columns("label")
    for last, dtype in ((1 << 63, np.uint64), (5, np.uint64), (5, np.uint8)):
        both = datasets.concatenate_datasets([data, datasets.Dataset.from_dict({"y": np.full(3, last, dtype)})], axis=1)
        if last == 5:
            assert from_dataset(both, label_column="y").labels.dtype == np.int64
            continue
        with pytest.raises(ValueError, match=r"y holds 9223372036854775808; needed labels of at most 63 bits"):
            from_dataset(both, label_column="y")
