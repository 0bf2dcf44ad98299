"""Files made to do harm, for every reader but those of images (see test_inputs.py), given to the command line."""

import io
import json
import os
import pickle
import re
import struct
import tracemalloc
import zipfile

import fuzz_seeds
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_vae import write_names

from dit_eval.cli import main

IMAGES = np.zeros((5, 8, 8, 3), np.uint8)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("a-pickle-ran",))


def header(shape, descr="|u1", version=b"\1\0"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + text


def zipped(path, members, packing=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members:
            archive.writestr(name, data)


def npz(*members, packing=zipfile.ZIP_DEFLATED):
    return lambda: zipped("x.npz", members, packing)


def images(data):
    return npz(("arr_0.npy", data))


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def written(name, data):
    def make():
        with open(name, "wb") as file:
            file.write(data() if callable(data) else data)

    return make


def sized(name, size):
    def make():
        with open(name, "wb") as file:
            file.truncate(size)

    return make


def claims(size):
    """A directory that says the images have another size, and a header that agrees."""

    def make():
        zipped("x.npz", [("arr_0.npy", header((size // 192, 8, 8, 3)))])
        with open("x.npz", "rb") as file:
            data = bytearray(file.read())
        at = data.index(b"PK\1\2") + 24
        data[at : at + 4] = struct.pack("<I", size // 192 * 192 + len(header((size // 192, 8, 8, 3))))
        written("x.npz", bytes(data))()

    return make


def checkpoint(make):
    return lambda: torch.save(make(), "x.pt")


def graph(*fields):
    """A GraphDef of one constant with these fields in its tensor."""

    def part(key, content):
        return bytes([key << 3 | 2]) + number(len(content)) + content

    tensor = part(5, part(1, b"value") + part(2, part(8, b"\x08\x01" + b"".join(part(k, v) for k, v in fields))))
    return written("x.pb", part(1, part(1, b"c") + part(2, b"Const") + tensor))


def number(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def dimension(value):
    return b"\x12" + number(len(number(value)) + 1) + b"\x08" + number(value)


def packed_checkpoint():
    torch.save({"x_embedder.proj.weight": torch.zeros(1 << 20)}, "y.pt")
    with zipfile.ZipFile("y.pt") as archive:
        zipped("x.pt", [(info.filename, archive.read(info)) for info in archive.infolist()])


def resized_checkpoint():
    """A tensor of a terabyte on four bytes of storage."""
    torch.save({"x": torch.zeros(4)}, "y.pt")
    with zipfile.ZipFile("y.pt") as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    small, large = b"K\x04\x85", b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85"
    members = [(name, data.replace(small, large, 1) if name.endswith(".pkl") else data) for name, data in members]
    zipped("x.pt", members, zipfile.ZIP_STORED)


def plan(change):
    return written("x.toml", lambda: change(fuzz_seeds.plan_seeds()[0]))


def result(**changes):
    return written("x.jsonl", lambda: json.dumps(json.loads(fuzz_seeds.result_seeds()[0]) | changes).encode())


def pickled(make, protocol=4):
    return written("x.pkl", lambda: pickle.dumps(make(), protocol=protocol))


def laughs():
    """Ten to the thirtieth texts, by ten references to ten references."""
    value = ["ha"]
    for _ in range(14):
        value = [value] * 10
    return value


def within_itself():
    value = []
    value.append(value)
    return value


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tc_codecs\nencode\n(X\1\0\0\0bX\6\0\0\0latin1tRtR"
DOUBLE = b"cnumpy\ndtype\n(X\2\0\0\0f8K\0K\1tR"
# A text of a megabyte that becomes bytes a thousand times, all of them kept.
AGAIN = b"\x80\2]q\0X\0\0\x10\0" + b"x" * (1 << 20) + b"q\1" + b"0" + (
    b"c_codecs\nencode\n(h\1X\6\0\0\0latin1tRa" * 1000) + b"."  # fmt: skip
NPZ = ("evaluate", "x.npz", "--ref", "digits", "--extractor", "digits", "--no-results")
REF = ("evaluate", "good.npz", "--ref", "x.npz", "--extractor", "digits", "--no-results")
PICKLE = ("evaluate", "good.npz", "--ref", "x.pkl", "--extractor", "digits", "--no-results")
WEIGHTS = ("evaluate", "good.npz", "--ref", "good.npz", "--no-results", "--device", "cpu", "--weights")
SAMPLE = ("sample", "--model", "DiT-S/8", "--vae", "vae.safetensors", "--device", "cpu", "--out", "y.npz", "--ckpt")
PLAN = ("study", "status", "x.toml", "--out", "y")
REPORT = ("report", "--results", "x.jsonl", "--out", "y")
LOSSES = ("report", "--losses", "x.jsonl", "--out", "y")

HOSTILE = {
    # npz
    "npz: pickle for images": (NPZ, images(npy(np.array([Evil()], object))), r"x\.npz: arr_0 is an object array"),
    "npz: pickle for statistics": (
        REF, npz(("mu.npy", npy(np.array([Evil()], object))), ("sigma.npy", npy(np.eye(1)))), r"mu is an object array",
    ),
    "npz: pickle without a header": (NPZ, images(pickle.dumps(Evil())), r"x\.npz: arr_0 cannot be read"),
    "npz: code in a header": (
        NPZ, images(header("__import__('os').mkdir('a-pickle-ran')")), r"x\.npz: arr_0 cannot be read",
    ),
    "npz: brackets in a header": (NPZ, images(header("(" * 9000)), r"x\.npz: arr_0 cannot be read"),
    "npz: header of gigabytes": (
        NPZ, images(b"\x93NUMPY\2\0" + struct.pack("<I", 3 << 30) + bytes(1 << 24)), r"x\.npz: arr_0 cannot be read",
    ),
    "npz: negative shape": (NPZ, images(header((-5, -8, 8, 3)) + bytes(960)), r"arr_0 has a shape that no array has"),
    "npz: shape that wraps around": (NPZ, images(header((1 << 39, 1 << 25, 1, 3))), r"arr_0 has \d+ bytes where its"),
    "npz: shape of thousands of digits": (NPZ, images(header(f"({'9' * 4000}, 8, 8, 3)")), r"a shape that no array"),
    "npz: more promised than deflate can give": (NPZ, claims(1 << 30), r"arr_0 promises 1,073,741,\d+ bytes"),
    "npz: an image of gigapixels": (
        NPZ, images(header((1, 1 << 13, 1 << 12, 3)) + bytes(3 << 25)), r"an image may have 16,777,216 pixels",
    ),
    "npz: statistics of many features": (
        REF,
        npz(("mu.npy", npy(np.zeros(5000))), ("sigma.npy", header((5000, 5000), "<f8") + bytes(200_000_000))),
        r"x\.npz: mu has shape \(5000,\).*with D from 1 to 4,096",
    ),
    "npz: the images twice": (
        NPZ, npz(("arr_0.npy", npy(IMAGES)), ("arr_0.npy", npy(IMAGES + 9))), r"x\.npz: holds arr_0 twice",
    ),
    "npz: paths out": (NPZ, npz(("../../arr_0.npy", npy(IMAGES))), r"no arr_0 .*keys found: \.\./\.\./arr_0"),
    "npz: names that move the cursor": (NPZ, npz(("\x1b[2J.npy", npy(IMAGES))), r"keys found: \\x1b\[2J"),
    "npz: bzip2 inside": (
        NPZ, npz(("arr_0.npy", npy(IMAGES)), packing=zipfile.ZIP_BZIP2), r"arr_0 is packed by method 12",
    ),
    "npz: a directory of gigabytes": (
        NPZ, written("x.npz", b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 1 << 31, 0, 0)), r"x\.npz: not a zip",
    ),
    "npz: a text of gigabytes": (
        NPZ,
        npz(("arr_0.npy", npy(IMAGES)), ("sample_run.npy", header((), "<U10000000") + bytes(40_000_000))),
        r"sample_run is <U10000000 \(\); needed one JSON text",
    ),
    "npz: brackets for a run": (
        NPZ, npz(("arr_0.npy", npy(IMAGES)), ("sample_run.npy", npy(np.array("[" * 100_000)))), r"sample_run: Not the",
    ),
    "npz: a device": (NPZ, lambda: os.symlink("/dev/zero", "x.npz"), r"x\.npz: not a plain file"),
    "npz: a pipe": (NPZ, lambda: os.mkfifo("x.npz"), r"x\.npz: not a plain file"),
    # pickles of statistics
    "pickle: a call": (PICKLE, pickled(Evil), r"x\.pkl: it asks for (posix|os)\.mkdir; .*Nothing was run"),
    "pickle: a call in text": (PICKLE, pickled(Evil, 0), r"x\.pkl: it asks for (posix|os)\.mkdir"),
    "pickle: a call among statistics": (
        PICKLE, pickled(lambda: {"mu": np.zeros(2), "sigma": np.eye(2), "x": Evil()}), r"it asks for (posix|os)\.mkdir",
    ),
    "pickle: an instance": (
        PICKLE, written("x.pkl", b"(S'a-pickle-ran'\nios\nmkdir\n."), r"x\.pkl: it has the instruction INST",
    ),
    "pickle: an object": (
        PICKLE, written("x.pkl", b"(cnumpy\ndtype\nS'f8'\no."), r"x\.pkl: it has the instruction OBJ",
    ),
    "pickle: a new object": (
        PICKLE, written("x.pkl", b"\x80\2cnumpy\nndarray\nK\1\x85\x81."), r"x\.pkl: it has the instruction NEWOBJ",
    ),
    "pickle: a registered function": (PICKLE, written("x.pkl", b"\x80\2\x82\1)R."), r"the instruction EXT1"),
    "pickle: something elsewhere": (PICKLE, written("x.pkl", b"Pwhere\n."), r"the instruction PERSID"),
    "pickle: code by a name on the stack": (
        PICKLE,
        written("x.pkl", b"\x80\4\x8c\x08builtins\x8c\4exec\x93\x8c\4evil\x85R."),
        r"x\.pkl: it asks for builtins\.exec",
    ),
    "pickle: a name that is no text": (PICKLE, written("x.pkl", b"\x80\4]]\x93."), r"something that has no name"),
    "pickle: a name within NumPy": (
        PICKLE, written("x.pkl", b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR."), r"it asks for numpy\.core.*fromfile",
    ),
    "pickle: an array of a class of its own": (
        PICKLE, pickled(lambda: np.zeros(2).view(np.recarray)), r"it asks for numpy\.recarray|numpy\.rec",
    ),
    "pickle: the state of a function": (
        PICKLE, written("x.pkl", b"\x80\2cnumpy\ndtype\n}b."), r"it sets the state of numpy\.dtype",
    ),
    "pickle: a call of what is no function": (PICKLE, written("x.pkl", b"\x80\2]K\1\x85R."), r"calls what is no func"),
    "pickle: objects in an array": (PICKLE, pickled(lambda: np.array([Evil()], object)), r"an array is of 'O8'"),
    "pickle: a dtype of brackets": (
        PICKLE, written("x.pkl", b"\x80\2cnumpy\ndtype\n" + b"]" * 9 + b"\x85R."), r"x\.pkl: ",
    ),
    "pickle: an array of terabytes": (
        PICKLE,
        written("x.pkl", b"\x80\2" + ARRAY + b"(K\1\x8a\6\0\0\0\0\x80\0\x85" + DOUBLE + b"\x89C\x0812345678tb."),
        r"an array of 8 bytes where its shape promises 549755813888",
    ),
    "pickle: bytes of exabytes": (
        PICKLE, written("x.pkl", b"\x80\4\x8e" + (1 << 60).to_bytes(8, "little") + b"x."), r"x\.pkl: not a whole",
    ),
    "pickle: a text as bytes again and again": (PICKLE, written("x.pkl", AGAIN), r"its texts become more bytes"),
    "pickle: a billion laughs": (PICKLE, pickled(laughs), r"it holds more values, or deeper ones"),
    "pickle: a list in itself": (PICKLE, pickled(within_itself), r"it holds more values, or deeper ones"),
    "pickle: brackets": (PICKLE, written("x.pkl", b"]" * 50_000 + b"a" * 49_999 + b"."), r"deeper ones"),
    "pickle: a number of thousands of digits": (PICKLE, written("x.pkl", b"L" + b"9" * 9000 + b"L\n."), r"not a whole"),
    "pickle: a number of kilobytes": (
        PICKLE, written("x.pkl", b"\x80\2\x8b\x00\x20\0\0" + b"\x7f" * 8192 + b"."), r"x\.pkl: it holds int",
    ),
    "pickle: instructions without end": (PICKLE, written("x.pkl", b"N0" * 100_000 + b"."), r"more than 100,000 instr"),
    "pickle: a name that moves the cursor": (
        PICKLE, written("x.pkl", b"c\x1b[2Jevil\nx\n."), r"it asks for \\x1b\[2Jevil\.x",
    ),
    "pickle: a tensor": (PICKLE, pickled(lambda: {"mu": torch.zeros(2)}), r"it asks for torch\._utils"),
    "pickle: no end": (PICKLE, written("x.pkl", b"\x80\2]"), r"x\.pkl: not a whole pickle"),
    "pickle: a stack that is empty": (PICKLE, written("x.pkl", b"."), r"x\.pkl: not a whole pickle"),
    "pickle: a mark that is none": (PICKLE, written("x.pkl", b"\x80\2]u."), r"x\.pkl: "),
    "pickle: statistics of many features": (
        PICKLE, pickled(lambda: {"mu": np.zeros(5000), "sigma": np.eye(2)}), r"mu has shape \(5000,\)",
    ),
    "pickle: a mean of integers": (
        PICKLE, pickled(lambda: {"mu": np.zeros(2, int), "sigma": np.eye(2)}), r"mu is int64; needed floating point",
    ),
    "pickle: a pipe": (PICKLE, lambda: os.mkfifo("x.pkl"), r"x\.pkl: not a plain file"),
    "pickle: a large file": (PICKLE, sized("x.pkl", 1 << 30 | 1), r"x\.pkl: 1,073,741,825 bytes"),
    # GraphDef
    "GraphDef: a field longer than the file": (
        (*WEIGHTS, "x.pb"), written("x.pb", b"\x0a" + number(1 << 62) + b"x"), r"x\.pb: not a frozen TensorFlow graph",
    ),
    "GraphDef: one value for billions": (
        (*WEIGHTS, "x.pb"), graph((2, dimension(1 << 30)), (5, bytes(4))), r"constants of more than 67,108,864 values",
    ),
    "GraphDef: a shape that wraps around": (
        (*WEIGHTS, "x.pb"), graph((2, dimension((1 << 31) - 1) * 9), (4, bytes(4))), r"constants of more than",
    ),
    "GraphDef: a number without an end": ((*WEIGHTS, "x.pb"), written("x.pb", b"\xff" * 99), r"number without an end"),
    "GraphDef: a large file": ((*WEIGHTS, "x.pb"), sized("x.pb", 1 << 29 | 1), r"x\.pb: 536,870,913 bytes; a frozen"),
    # weights
    "weights: pickle": ((*WEIGHTS, "x.pt"), checkpoint(lambda: {"x": Evil()}), r"x\.pt: not a PyTorch state dict"),
    "weights: a device": ((*WEIGHTS, "x.pt"), lambda: os.symlink("/dev/zero", "x.pt"), r"--weights x\.pt: no such"),
    # checkpoints
    "checkpoint: pickle": ((*SAMPLE, "x.pt"), checkpoint(lambda: {"x": Evil()}), r"x\.pt: not a PyTorch or"),
    "checkpoint: plain pickle": (
        (*SAMPLE, "x.pt"), written("x.pt", pickle.dumps({"x": Evil()})), r"x\.pt: not a PyTorch or safetensors",
    ),
    "checkpoint: a list": ((*SAMPLE, "x.pt"), checkpoint(lambda: [1]), r"x\.pt: holds list; needed a state dict"),
    "checkpoint: numbers for names": (
        (*SAMPLE, "x.pt"), checkpoint(lambda: {1: torch.zeros(1)}), r"x\.pt: not a checkpoint of a DiT \(found 1,",
    ),
    "checkpoint: a tensor without values": (
        (*SAMPLE, "x.pt"),
        checkpoint(lambda: {"x_embedder.proj.weight": torch.zeros(3, device="meta")}),
        r"x\.pt: .*a tensor without values",
    ),
    "checkpoint: a name that moves the cursor": (
        (*SAMPLE, "x.pt"),
        checkpoint(lambda: {"x_embedder.proj.weight": torch.zeros(1), "\x1b[2J": torch.zeros(1)}),
        r"unknown \\x1b\[2J",
    ),
    "checkpoint: packed tensors": ((*SAMPLE, "x.pt"), packed_checkpoint, r"its tensors are packed"),
    "checkpoint: a terabyte on four numbers": ((*SAMPLE, "x.pt"), resized_checkpoint, r"x\.pt: not a "),
    "checkpoint: a header of exabytes": (
        (*SAMPLE, "x.safetensors"), written("x.safetensors", b"\xff" * 16), r"x\.safetensors: .*cannot be read",
    ),
    "checkpoint: brackets in a header": (
        (*SAMPLE, "x.safetensors"),
        written("x.safetensors", (200_000).to_bytes(8, "little") + b"[" * 200_000),
        r"x\.safetensors: .*cannot be read",
    ),
    "checkpoint: a network that nobody builds": (
        ("sample", "--out", "y.npz", "--ckpt", "x.safetensors"),
        lambda: save_file(
            {"x": torch.zeros(1)},
            "x.safetensors",
            metadata={"dit_eval.config": '{"depth": 9999999, "hidden_size": 8, "num_heads": 2, "patch_size": 4}'},
        ),
        r"its configuration cannot be read \(Found depth 9999999; needed an integer from 1 to 1,000",
    ),
    # plans
    "plan: brackets": (PLAN, written("x.toml", b"name = " + b"[" * 50_000), r"x\.toml: not TOML"),
    "plan: a number of thousands of digits": (PLAN, written("x.toml", b"name = " + b"9" * 5000), r"x\.toml: not TOML"),
    "plan: hexadecimal": (PLAN, written("x.toml", b"name = 0x" + b"f" * 5000), r"a number of thousands of digits"),
    "plan: no text": (PLAN, written("x.toml", b"\xff\xfe\0"), r"x\.toml: not UTF-8 text"),
    "plan: megabytes": (PLAN, written("x.toml", b"#" * (1 << 19)), r"x\.toml: 524,288 bytes; a plan may have 262,144"),
    "plan: a network that nobody builds": (
        PLAN, plan(lambda text: text.replace(b"depth = 1\n", b"depth = 1000000000\n")), r"Found depth 1000000000",
    ),
    "plan: a million cells": (
        PLAN,
        plan(lambda text: text.replace(b"seeds = [0, 1]", b"seeds = " + str([*range(30_000)]).encode())),
        r"240,000 combinations; a plan may have 100,000 cells",
    ),
    "plan: a key that moves the cursor": (
        PLAN,
        plan(lambda text: text.replace(b"depth = 1\n", b'depth = 1\n"\\u001b[2J" = 1\n')),
        r"\\x1b\[2J: unknown key",
    ),
    "plan: a name that moves the cursor": (
        PLAN,
        plan(lambda text: text.replace(b'name = "small"', b'name = "\\u001b]0;evil\\u0007"')),
        r"name: expected characters that can be printed; got '\\x1b\]0;evil\\x07'",
    ),
    "plan: a key of kilobytes": (
        PLAN, plan(lambda text: text.replace(b"depth = 1\n", b"depth = 1\n" + b"a" * 9000 + b" = 1\n")), r"aaa\.\.\.: ",
    ),
    # results and loss logs
    "results: brackets": (REPORT, written("x.jsonl", b"[" * 100_000), r"x\.jsonl, line 1: Not an evaluation result"),
    "results: a key of megabytes": (REPORT, result(**{"k" * (8 << 20): 1}), r"line 1: Not an evaluation result \("),
    "results: a list for a number": (REPORT, result(num_reference=[1]), r"num_reference is \[1\], needed an integer"),
    "results: a number beyond floats": (REPORT, result(fid=10**400), r"fid is 1000.*needed a number"),
    "results: half a character": (
        REPORT, result(protocol="\ud800"), r"x\.jsonl, line 1: Not an evaluation result",
    ),
    "loss log: half a character": (
        LOSSES, written("x.jsonl", b'{"model": "\\ud800", "loss": 1, "step": 1}'), r"line 1: Not a line",
    ),
    "results: a device": (REPORT, lambda: os.symlink("/dev/zero", "x.jsonl"), r"x\.jsonl: (not a plain|no such) file"),
    "loss log: a number beyond floats": (
        LOSSES, written("x.jsonl", b'{"model": "x", "loss": 1, "step": 1' + b"0" * 400 + b"}"), r"line 1: Not a line",
    ),
    "loss log: a pipe": (LOSSES, lambda: os.mkfifo("x.jsonl"), r"x\.jsonl: (not a plain|no such) file"),
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    np.savez("good.npz", arr_0=IMAGES)
    write_names(tmp_path / "vae.safetensors")  # whose weights are read after the checkpoint
    return tmp_path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_give_one_clear_message_and_run_nothing(here, capsys, case):
    arguments, make, message = HOSTILE[case]
    make()
    tracemalloc.start()
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    captured = capsys.readouterr()
    text = captured.err.split("dit-eval: error: ")[-1]
    assert (exit_.value.code, captured.out) == (2, ""), captured.err
    assert re.search(message, text), text
    assert "Traceback" not in captured.err
    assert text.replace("\n", "").isprintable()
    assert len(text) < 2000
    assert not (here / "a-pickle-ran").exists()
    assert peak < 256e6, "with the packages that the command loads"


def test_the_table_is_long():
    assert len(HOSTILE) >= 25
